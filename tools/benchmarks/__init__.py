"""Our code beside straightforward versions of the same work: time, memory, and the bound of each. See `__main__`."""
