"""The exception of the model package."""


class ModelError(ValueError):
    """A setting that the method cannot work with; the message says which, with the numbers."""
