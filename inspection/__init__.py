"""What `python -m dataset.inspect` looks at: lists, LMDBs, leaks between them, frames, and pictures of both."""
