"""Errors that a user can fix. :func:`utils.launch.run` shows each in one line and exits with code 2."""


class UserError(Exception):
    """Wrong input or settings: the message says in one line what is wrong, where, and what to do."""


class OptionError(UserError):
    """A command-line option, or a combination of them, that cannot work."""


class CheckpointError(UserError):
    """A checkpoint that is missing, unreadable, or made for something else."""


class DataError(UserError):
    """A dataset that is missing, damaged, or does not fit the command."""


class DamagedFramesError(DataError):
    """Frames of one video cannot be read; others of it may."""


class ModelError(UserError):
    """A setting that the method cannot work with."""


class TrainingError(UserError):
    """A run that cannot go on: its numbers or data are broken, or one of its processes is gone."""
