"""Griffe extension for mkdocstrings: an `Example:` in a docstring is code, as `Examples:` is, not a box of prose."""

from typing import Any

from griffe import Extension, Object


class Examples(Extension):
    """Lets Griffe see the section that it knows by its plural alone."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Rename the section."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("Example:\n", "Examples:\n")
