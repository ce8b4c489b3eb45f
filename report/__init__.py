"""One self-contained HTML page about a run: ``python -m report RUN_DIR``."""
