"""Lets griffe read the sections `Example:` of our docstrings as it reads `Examples:`."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the sections, so that doctests are shown as code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for every object that griffe has read."""
        if obj.docstring:
            text = obj.docstring.value
            obj.docstring.value = text.replace("\nExample:\n", "\nExamples:\n")
