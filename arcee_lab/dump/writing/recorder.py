"""Records a forward: passes on each site's activations as the model computes them."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.writing.batching import Piece
from arcee_lab.dump.writing.shard_writer import SiteBatch
from arcee_lab.errors import SettingError
from arcee_lab.hooks.watch import Watch
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.attention import edits_of

Deliver = Callable[[str, int, SiteBatch], None]


class Recorder(Watch):
    """Passes every activation on and keeps none.

    On the CPU nothing is copied: the tensor must not be changed in place afterwards, which is
    checked. On a GPU each tensor is copied into pinned memory asynchronously; sparse sites are
    transposed first, which is half of the writer's work.

    Args:
        anatomy: Of the model.
        sites: The stored sites by name, in forward order.
        stop: Whether forwards end at the last site.
        cast: Whether values are stored in another dtype than the model computes them in.

    Attributes:
        deliver: Receives a site, the bytes of its activations, and these; set it before each
            forward. It may wait, which delays the model.
        pieces: Positions of the batch's tokens in the shard; set it before each forward.
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
                f"{site.dtype}; choose the stored dtype with store_dtype=."
            )
        # The tensor counts its in-place changes; a view of it shares the count.
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
    """For a rank that takes part in the computation and does not write."""
