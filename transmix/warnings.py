"""The one category of our own warnings, so that they can be filtered or made errors by name."""


class TransMixWarning(UserWarning):
    """Something about mixing that goes on, but that the user would want to know."""
