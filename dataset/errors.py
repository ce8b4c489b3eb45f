"""The error of this package."""


class DataError(ValueError):
    """A dataset cannot be used; the message is one line that says what is wrong, where, and what to do."""
