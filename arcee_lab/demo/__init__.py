"""The demo's world: generated text whose correct answers are known, and a model trained on it.

`documents` draws the texts, `Document` holds one with the tags of every word. The trained
checkpoint is in `checkpoint/`; `arcee_lab.load("demo")` reads it. Importing this package loads
neither torch nor transformers.
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.demo.document import Document, Slot, Word
    from arcee_lab.demo.world import KINDS, MIX, SPLITS, VERSION, documents, stream

__all__ = ["KINDS", "MIX", "SPLITS", "VERSION", "Document", "Slot", "Word", "documents", "stream"]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "document": ("Document", "Slot", "Word"),
        "world": ("KINDS", "MIX", "SPLITS", "VERSION", "documents", "stream"),
    },
)
