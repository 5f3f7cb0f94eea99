"""The error of exporting a model."""

from transmix.error import TransMixError


class ExportError(TransMixError):
    """A model that cannot be exported or loaded as asked; the message says why and what to do."""
