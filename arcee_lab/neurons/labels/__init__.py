"""Labels of texts, and of their tokens: from the demo, spans, BIO files, patterns, functions.

sources     `spans`, `regex`, `function`: labels of texts that the caller has
of_demo     `demo`: the truth of the demo's world
bio_file    `bio`: files with one word and its tag per line
labelled    `Labels`: texts with spans of characters; `LabelledTokens`: the same for tokens
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.neurons.labels.bio_file import bio
    from arcee_lab.neurons.labels.labelled import LabelledTokens, Labels
    from arcee_lab.neurons.labels.of_demo import demo
    from arcee_lab.neurons.labels.sources import function, regex, spans

__all__ = ["LabelledTokens", "Labels", "bio", "demo", "function", "regex", "spans"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "bio_file": ("bio",),
        "labelled": ("LabelledTokens", "Labels"),
        "of_demo": ("demo",),
        "sources": ("function", "regex", "spans"),
    },
)
