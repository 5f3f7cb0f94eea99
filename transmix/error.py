"""What the command line says in one line: the class of our errors, and the one of settings."""


class TransMixError(Exception):
    """What went wrong and what to do, in one line. Any other exception is a mistake in the program."""

    code = 2
    """Exit code of the command line: 2 for what cannot be done as asked, 1 for what failed on the way."""


class RecipeError(TransMixError):
    """Settings that cannot be used: which setting, what is wrong, what to do."""
