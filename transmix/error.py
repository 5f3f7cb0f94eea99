"""What the command line says in one line: the class of our errors, the one of settings, and what others say."""


class TransMixError(Exception):
    """An error with its remedy, in one line. Any other exception is a bug."""

    code = 2
    """Exit code of the command line: 2 for what cannot be done as asked, 1 for what failed on the way."""


def one_line(error: BaseException, named: bool = False) -> str:
    """Return what an error says, on one line of at most 300 letters; after the name of its class if `named`."""
    text, name = " ".join(str(error).split())[:300], type(error).__name__
    return f"{name}: {text}" if named else text or name


class RecipeError(TransMixError):
    """Invalid settings: the message names the setting, the problem and the remedy."""
