"""Batches of stored activations, for training probes and dictionaries."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.sparse import SparseRows
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.errors import SettingError

if TYPE_CHECKING:
    from arcee_lab.dump.reading.reader import Reader

_SPAN = 4096  # tokens that are decoded together
_MIXED = 4  # spans whose tokens are shuffled together


class ActivationDataset(IterableDataset[dict[str, Tensor]]):
    """Batches of activations, with the columns that describe their tokens.

    A batch is a dict: each site under the name as given -> [batch, width]; `token` (its number in
    the store), `ids`, `positions`, `documents`, `windows` -> [batch]; each tag as `tag.NAME`.
    Padding is left out. Sparse sites are decoded when needed, never a whole shard at once.

    With `shuffle`, spans of 4,096 tokens come in random order from all shards, and the tokens of
    four spans are shuffled together. Order and content depend only on `seed`, `epoch` and the
    number of workers, which divide the spans among them. The last batch of four spans may be
    smaller.

    Args:
        store: The store.
        sites: Sites as `Store.tokens` takes them.
        batch_size: Tokens per batch.
        shuffle: Whether to shuffle tokens; otherwise they come in order.
        seed: Random seed of the order.
        first: Whether to include first positions, which models treat unlike any other.

    Attributes:
        epoch: Set it before each pass for another order.

    Raises:
        SettingError: A site that is not stored, or a batch size below 1.
    """

    def __init__(
        self,
        store: "Reader",
        sites: Sequence[str | int],
        *,
        batch_size: int,
        shuffle: bool,
        seed: int,
        first: bool,
    ):
        if batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; expected at least 1.")
        self.epoch = 0
        self._store = store
        self._sites = [(site, *store.find(site)) for site in sites]
        self._batch_size = batch_size
        self._shuffle = shuffle
        self._seed = seed
        self._first = first

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        spans = [
            (number, start, min(start + _SPAN, len(shard)))
            for number, shard in enumerate(self._store.manifest.shards)
            for start in range(0, len(shard), _SPAN)
        ]
        # The same in every worker, so that each span is in exactly one.
        order = np.random.default_rng((self._seed, self.epoch))
        if self._shuffle:
            spans = [spans[at] for at in order.permutation(len(spans))]
        worker = get_worker_info()
        share, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        within = np.random.default_rng((self._seed, self.epoch, share, workers))
        spans = spans[share::workers]
        for at in range(0, len(spans), _MIXED):
            yield from self._batches(spans[at : at + _MIXED], within)

    def _batches(
        self, spans: list[tuple[int, int, int]], random: np.random.Generator
    ) -> Iterator[dict[str, Tensor]]:
        shards = self._store.manifest.shards
        numbers = torch.cat(
            [torch.arange(shards[n].start + low, shards[n].start + high) for n, low, high in spans]
        )
        known = self._store.token_data()[numbers]
        counted = known.attended if self._first else known.attended & ~known.first
        kept = counted.nonzero()[:, 0]
        if self._shuffle:
            kept = kept[torch.from_numpy(random.permutation(len(kept)))]
        pools = [(name, squared, self._pool(site, spans)) for name, site, squared in self._sites]
        columns = {"token": numbers} | known.tensors()
        for place in kept.split(self._batch_size):
            batch = {name: column[place] for name, column in columns.items()}
            for name, squared, (rows, dtype) in pools:
                x = rows[place] if isinstance(rows, Tensor) else _dense(rows, place, dtype)
                batch[str(name)] = x.square() if squared else x
            yield batch

    def _pool(
        self, site: StoredSite, spans: list[tuple[int, int, int]]
    ) -> tuple[Tensor | SparseRows, torch.dtype]:
        read = self._store.span if site.counts_nonzeros else self._store.dense
        parts = [read(site.name, *span) for span in spans]
        pool = sparse.concat_rows(parts) if site.counts_nonzeros else torch.cat(parts)  # type: ignore[arg-type]
        return pool, site.value_dtype


def _dense(rows: SparseRows, place: Tensor, dtype: torch.dtype) -> Tensor:
    return sparse.from_bits(rows.take(place.numpy()).dense(), dtype)
