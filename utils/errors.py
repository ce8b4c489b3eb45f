"""Exceptions of the utils package; ``launch.run`` shows them in one line."""


class OptionError(ValueError):
    """A command-line option, or a combination of them, that cannot work."""


class CheckpointError(ValueError):
    """A checkpoint that is missing, unreadable, or made for something else."""


class TrainingError(RuntimeError):
    """A training that must not go on: its numbers or its data are broken, or a process of it is lost."""
