"""What can be wrong with a run on disk."""

from transmix.error import TransMixError


class CheckpointError(TransMixError):
    """A checkpoint that is not whole, or cannot be written; the message says which file and why."""


class RunError(TransMixError):
    """A run folder that cannot be used as asked; the message says what to do.

    Args:
        message: one line.
        code: exit code of the command line.
    """

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code
