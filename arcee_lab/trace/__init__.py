"""nnsight around our models; the only part that imports it.

Importing it replaces `torch.Tensor.backward` in the process permanently, by a function that behaves
the same outside of traces.
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.trace.reading import Activations, read
    from arcee_lab.trace.stock import StockPath, stock_path
    from arcee_lab.trace.wrapping import to_nnsight

__all__ = [
    "Activations",
    "StockPath",
    "read",
    "stock_path",
    "to_nnsight",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "reading": ("Activations", "read"),
        "stock": ("StockPath", "stock_path"),
        "wrapping": ("to_nnsight",),
    },
)
