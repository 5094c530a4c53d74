"""The activations of a forward, handed on site by site as the model computes them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from arcee_lab.dump.format.manifest import StoredSite
from arcee_lab.dump.writing.batching import Piece
from arcee_lab.dump.writing.shard_writer import SiteBatch
from arcee_lab.errors import SettingError
from arcee_lab.hooks.watch import Watch
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.attention import edits_of

Deliver = Callable[[str, int, SiteBatch], None]


class Recorder(Watch):
    """Hands every activation on and keeps none.

    On the CPU nothing is copied here: what flows on in the model is not changed any more, and that
    is checked. From a GPU each tensor is copied into pinned memory without waiting for it; sparse
    sites are transposed before, which is half of the writer's work.

    Args:
        anatomy: Of the model.
        sites: What is stored, by name, in forward order.
        stop: Whether forwards end at the last site.
        cast: Whether values are stored in another dtype than the model computes them in.

    Attributes:
        deliver: Takes a site, the bytes that wait with it, and its activations; set it before each
            forward. It may wait, which holds the model back.
        pieces: Which tokens of the batch belong where; set it before each forward.
    """

    _opened_by = "a dump of it"

    def __init__(
        self,
        anatomy: Anatomy,
        sites: Mapping[str, StoredSite],
        *,
        stop: bool,
        cast: bool,
    ):
        names = list(sites)
        super().__init__(anatomy, names, stop=names[-1] if stop else None)
        self._stored = sites
        self._cast = cast
        self.deliver: Deliver = _discard
        self.pieces: Sequence[Piece] = ()

    def _on_activation(self, name: str, x: Tensor) -> None:
        site = self._stored[name]
        if x.dtype != site.torch_dtype and not self._cast:
            raise SettingError(
                f"{name} is computed in {str(x.dtype).removeprefix('torch.')}, not in the model's "
                f"{site.dtype}; say what to store it in with store_dtype="
            )
        # For a capture the tensor itself counts its changes; a view of it shares the count.
        flat = x.detach().reshape(-1, site.width)
        if flat.device.type == "cpu":
            self.deliver(name, flat.nbytes, SiteBatch(flat, self.pieces, edits_of(flat)))
            return
        turned = flat.t().contiguous() if site.counts_nonzeros else flat
        pinned = turned.device.type == "cuda"
        host = torch.empty(turned.shape, dtype=turned.dtype, pin_memory=pinned)
        host.copy_(turned, non_blocking=pinned)
        ready = None
        if pinned:
            ready = torch.cuda.Event()
            ready.record(torch.cuda.current_stream(turned.device))
        host = host.t() if site.counts_nonzeros else host
        self.deliver(name, host.nbytes, SiteBatch(host, self.pieces, edits_of(host), ready))


def _discard(name: str, size: int, batch: SiteBatch) -> None:
    """What a rank does that computes with the others and does not write."""
