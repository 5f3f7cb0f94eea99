"""What can be wrong with a run on disk."""


class CheckpointError(Exception):
    """A checkpoint that is not whole, or cannot be written; the message says which file and why."""


class RunError(Exception):
    """A run folder that cannot be used as asked; the message says what to do.

    Args:
        message: one line.
        code: exit code of the command line: 2 for what cannot be done as asked, 1 for what failed on the way.
    """

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code
