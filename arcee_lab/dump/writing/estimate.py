"""Estimates bytes, seconds and memory of a dump from a few of its batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from arcee_lab.dump.format.layouts import SPARSE_LAYOUTS, Builder
from arcee_lab.dump.format.manifest import BYTES_OF_TOKEN, index_bytes
from arcee_lab.dump.format.sparse import encoding_of
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.writing.batching import BatchPlan, BatchRow, PlannedShard
from arcee_lab.dump.writing.recorder import Recorder
from arcee_lab.dump.writing.shard_writer import SiteBatch
from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    import pandas as pd

_PROBES = 3
_HEADER = 4096  # bytes, of a file and of its record in the manifest
_AHEAD = 1.2  # how much denser the text may be than the sampled batches


@dataclass(frozen=True)
class SiteEstimate:
    """One site of an estimate.

    Attributes:
        site: Its name; neurons are stored as `hook_relu`.
        layout: Its layout.
        dtype: dtype of its stored values.
        density: Share of values that are not zero in the sampled batches; 1 if the layout stores
            every value.
        bytes: Expected size of all its files.
        dense_bytes: Size of all its values without an encoding.
    """

    site: str
    layout: str
    dtype: str
    density: float
    bytes: int
    dense_bytes: int


@dataclass(frozen=True, repr=False)
class DumpEstimate(Result):
    """Size and time of a dump.

    Attributes:
        sites: One entry per site.
        n_tokens: Tokens that are stored.
        n_documents: Documents they come from.
        n_windows: Windows that are computed.
        n_batches: Forwards.
        n_shards: Shards.
        bytes: Expected size of the store.
        seconds: Expected time at the machine's current load.
        memory: Most bytes that a shard and the queue take in addition to the model.
        n_probed: Tokens of the batches that were measured.
    """

    sites: tuple[SiteEstimate, ...]
    n_tokens: int
    n_documents: int
    n_windows: int
    n_batches: int
    n_shards: int
    bytes: int
    seconds: float
    memory: int
    n_probed: int

    @property
    def dense_bytes(self) -> int:
        """Size of all values without an encoding."""
        return sum(site.dense_bytes for site in self.sites)

    @property
    def most_bytes(self) -> int:
        """Required free space: a fifth more than the expected size."""
        return int(_AHEAD * self.bytes)

    def frame(self) -> "pd.DataFrame":
        """One row per site: site, layout, dtype, density, bytes, of_dense."""
        import pandas as pd

        rows = [
            (s.site, s.layout, s.dtype, s.density, s.bytes, s.bytes / max(1, s.dense_bytes))
            for s in self.sites
        ]
        columns = ["site", "layout", "dtype", "density", "bytes", "of_dense"]
        return pd.DataFrame(rows, columns=columns)

    @property
    def headline(self) -> str:
        """Tokens, size, time and memory, and how many tokens were measured."""
        return (
            f"{counted(self.n_tokens, 'token')} from {counted(self.n_documents, 'document')}, "
            f"{counted(len(self.sites), 'site')}: about {size(self.bytes)} "
            f"({self.bytes / max(1, self.dense_bytes):.0%} of dense) and {duration(self.seconds)}, "
            f"in {counted(self.n_shards, 'shard')} and {counted(self.n_batches, 'forward')}, with "
            f"up to {size(self.memory)} of memory in addition to the model "
            f"(measured on {counted(self.n_probed, 'token')})"
        )

    def __repr__(self) -> str:  # as `arcee-lab dump --dry-run` prints it
        return self.headline


def estimate(
    plan: BatchPlan,
    sites: Mapping[str, StoredSite],
    forward: Callable[[Sequence[BatchRow]], object],
    recorder: Recorder,
    *,
    threads: int,
    queue: int,
) -> DumpEstimate:
    """Computes a few batches and extrapolates from their densities and times.

    Args:
        plan: All batches.
        sites: The stored sites.
        forward: Runs the model on a batch.
        recorder: The active recorder of the model.
        threads: Threads that will convert.
        queue: Most bytes that may wait.
    """
    chosen = _spread(plan.shards)
    nonzeros = dict.fromkeys(sites, 0)
    converting = 0.0
    held: list[tuple[str, SiteBatch]] = []
    recorder.deliver = lambda name, size, batch: held.append((name, batch))
    n_probed, computing = 0, 0.0
    # The first forward of a process is slow; it is run twice and timed the second time.
    for at, (shard, rows) in enumerate([chosen[0], *chosen]):
        recorder.pieces = plan.pieces(shard, rows)
        held.clear()
        began = time.perf_counter()
        forward(rows)
        for _, batch in held:
            if batch.ready is not None:
                batch.ready.synchronize()
        elapsed = time.perf_counter() - began
        if at == 0:
            continue
        computing += elapsed
        n_probed += sum(piece.length for piece in recorder.pieces)
        began = time.perf_counter()
        for name, batch in held:
            nonzeros[name] += _count(sites[name], batch)
        converting += time.perf_counter() - began
    held.clear()
    rows_of = [
        _site(site, plan.shards, nonzeros[name] / max(1, n_probed * site.width))
        for name, site in sites.items()
    ]
    total = (
        sum(row.bytes for row in rows_of) + (BYTES_OF_TOKEN + 4 * len(plan.tags)) * plan.n_tokens
    )
    longest = max(len(shard) for shard in plan.shards)
    return DumpEstimate(
        sites=tuple(rows_of),
        n_tokens=plan.n_tokens,
        n_documents=plan.windows.n_documents,
        n_windows=len(plan.windows),
        n_batches=sum(len(shard.batches) for shard in plan.shards),
        n_shards=len(plan.shards),
        bytes=total,
        seconds=plan.n_tokens / n_probed * max(computing, converting / threads),
        memory=int(_AHEAD * total * longest / plan.n_tokens) + queue,
        n_probed=n_probed,
    )


def _spread(shards: Sequence[PlannedShard]) -> list[tuple[PlannedShard, Sequence[BatchRow]]]:
    """A few batches of medium length, spread over the shards."""
    step = max(1, len(shards) // _PROBES)
    chosen = shards[step // 2 :: step][:_PROBES]
    return [(shard, shard.batches[len(shard.batches) // 2]) for shard in chosen]


def _count(site: StoredSite, batch: SiteBatch) -> int:
    builder = Builder(site.layout, width=site.width, dtype=site.torch_dtype)
    rows = np.concatenate([np.arange(p.source, p.source + p.length) for p in batch.pieces])
    builder.add(batch.x.to(site.torch_dtype), rows=rows)
    block = builder.finish()
    return len(rows) * site.width if block.nonzeros is None else block.nonzeros


def largest_bytes(plan: BatchPlan, sites: Mapping[str, StoredSite]) -> int:
    """An upper bound of the size of a store: no value is zero, each file has a long header.

    Args:
        plan: All batches.
        sites: The stored sites.
    """
    total = (BYTES_OF_TOKEN + 4 * len(plan.tags)) * plan.n_tokens
    for shard in plan.shards:
        total += _HEADER
        for site in sites.values():
            offsets = 8 * (site.width + len(shard) + 2)
            total += _bytes(site, len(shard), 1.0) + offsets + _HEADER
    indexes = sum(index_bytes(site.width, len(plan.shards)) + _HEADER for site in sites.values())
    return total + indexes


def _site(site: StoredSite, shards: Sequence[PlannedShard], density: float) -> SiteEstimate:
    total = sum(_bytes(site, len(shard), density) for shard in shards)
    cells = sum(len(shard) for shard in shards) * site.width
    dense = cells * site.torch_dtype.itemsize
    return SiteEstimate(site.name, site.layout, site.dtype, density, total, dense)


def _bytes(site: StoredSite, length: int, density: float) -> int:
    """Bytes of a shard with this density, as `arcee_lab.dump.format.layouts` encodes it."""
    itemsize = site.torch_dtype.itemsize
    if site.layout == "int8":
        return length * (site.width + 4)
    if site.layout not in SPARSE_LAYOUTS:
        return length * site.width * itemsize
    nonzeros = round(density * length * site.width)
    halves = [(site.width, length)] + [(length, site.width)] * (site.layout == "both")
    total = 0
    for rows, width in halves:
        encoding = encoding_of(rows=rows, width=width, nonzeros=nonzeros, itemsize=itemsize)
        index = 2 if width <= 65_536 else 4
        total += {
            "index": nonzeros * (index + itemsize) + 8 * (rows + 1),
            "bitmap": rows * -(-width // 8) + nonzeros * itemsize + 8 * (rows + 1),
            "dense": rows * width * itemsize,
        }[encoding]
    return total


def size(n_bytes: int | float) -> str:
    """Bytes with a unit: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    raise AssertionError("the loop returns")


def duration(seconds: int | float) -> str:
    """Seconds with a unit: 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
