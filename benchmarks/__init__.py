"""Ours beside straightforward versions of the same work: speed, memory, and what bounds them. See `__main__`."""
