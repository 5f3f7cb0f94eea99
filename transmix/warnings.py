"""The one category of our own warnings, so that they can be filtered or made errors by name."""


class TransMixWarning(UserWarning):
    """Mixing goes on, but probably not as the user expects."""
