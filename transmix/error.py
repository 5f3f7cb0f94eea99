"""Base class of our errors, which the command line prints as one line; and the error for settings."""


class TransMixError(Exception):
    """An error with its remedy, in one line. Any other exception is a bug."""

    code = 2
    """Exit code of the command line: 2 for what cannot be done as asked, 1 for what failed on the way."""


class RecipeError(TransMixError):
    """Invalid settings: the message names the setting, the problem and the remedy."""
