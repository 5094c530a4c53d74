"""nnsight around our models; the only part that imports it.

To import it replaces `torch.Tensor.backward` in the process for good, by one that behaves the same
outside of traces.
"""

from arcee_lab.trace.reading import Activations, read
from arcee_lab.trace.stock import StockPath, stock_path
from arcee_lab.trace.wrapping import to_nnsight

__all__ = ["Activations", "StockPath", "read", "stock_path", "to_nnsight"]
