"""The errors of this package."""


class DataError(ValueError):
    """A dataset cannot be used; the message is one line that says what is wrong, where, and what to do."""


class DamagedFramesError(DataError):
    """Frames of a video cannot be read; others of it may do."""
