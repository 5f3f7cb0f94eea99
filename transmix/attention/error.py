"""The one error of reading attention: what was looked for, what was found, what to do."""

from transmix.error import TransMixError


class AttentionError(TransMixError, RuntimeError):
    """The class token's attention cannot be read, or was not there when it was asked for."""
