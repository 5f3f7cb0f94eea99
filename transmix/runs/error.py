"""Errors of runs on disk."""

from transmix.error import TransMixError


class CheckpointError(TransMixError):
    """A damaged checkpoint, or one that cannot be written; the message names the file and the reason."""


class RunError(TransMixError):
    """A run folder that cannot be used for this; the message gives the remedy.

    Args:
        message: one line.
        code: exit code of the command line.
    """

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code
