"""What a dump will take, before it starts: bytes, seconds and memory, from a few of its batches."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from arcee_lab.dump.format.layouts import SPARSE_LAYOUTS, Builder
from arcee_lab.dump.format.manifest import BYTES_OF_TOKEN, StoredSite
from arcee_lab.dump.format.sparse import encoding_of
from arcee_lab.dump.writing.batching import BatchPlan, BatchRow, PlannedShard
from arcee_lab.dump.writing.recorder import Recorder
from arcee_lab.dump.writing.shard_writer import SiteBatch

_PROBES = 3
_AHEAD = 1.2  # how far the text may be denser than the batches that were looked at


@dataclass(frozen=True)
class SiteEstimate:
    """One site of an estimate.

    Attributes:
        site: Its name; neurons are stored as `hook_relu`.
        layout: How it lies.
        dtype: What its values are stored in.
        density: Share of values that are not zero in the batches that were looked at; 1 where the
            layout stores every value.
        bytes: Expected size of all its files.
        dense_bytes: What every value in its dtype takes.
    """

    site: str
    layout: str
    dtype: str
    density: float
    bytes: int
    dense_bytes: int


@dataclass(frozen=True, repr=False)
class DumpEstimate:
    """Size and time of a dump.

    Attributes:
        sites: One a site.
        n_tokens: Tokens that are stored.
        n_documents: Documents they come from.
        n_windows: Windows that are computed.
        n_batches: Forwards.
        n_shards: Shards.
        bytes: Expected size of the store.
        seconds: Expected time, on this machine as busy as it is.
        memory: Bytes that a shard and the queue take beside the model, at most.
        n_probed: Tokens of the batches that this was measured on.
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
        """What all values in their dtypes take."""
        return sum(site.dense_bytes for site in self.sites)

    @property
    def most_bytes(self) -> int:
        """What has to be free on the disk: the expectation and a fifth more."""
        return int(_AHEAD * self.bytes)

    def frame(self) -> pd.DataFrame:
        """One row a site: site, layout, dtype, density, bytes, of_dense."""
        rows = [
            (s.site, s.layout, s.dtype, s.density, s.bytes, s.bytes / max(1, s.dense_bytes))
            for s in self.sites
        ]
        columns = ["site", "layout", "dtype", "density", "bytes", "of_dense"]
        return pd.DataFrame(rows, columns=columns)

    def __repr__(self) -> str:
        return (
            f"{self.n_tokens:,} tokens of {self.n_documents:,} documents, {len(self.sites)} sites: "
            f"about {size(self.bytes)} ({self.bytes / max(1, self.dense_bytes):.0%} of dense) and "
            f"{duration(self.seconds)}, in {self.n_shards} shards and {self.n_batches:,} forwards, "
            f"with up to {size(self.memory)} of memory beside the model "
            f"(from {self.n_probed:,} tokens)"
        )

    def _repr_html_(self) -> str:
        return f"<p>{escape(repr(self))}</p>{self.frame().to_html(index=False, max_rows=20)}"


def estimate(
    plan: BatchPlan,
    sites: Mapping[str, StoredSite],
    forward: Callable[[Sequence[BatchRow]], object],
    recorder: Recorder,
    *,
    threads: int,
    queue: int,
) -> DumpEstimate:
    """Computes a few batches and goes by their densities and times.

    Args:
        plan: All batches.
        sites: What is stored.
        forward: Runs the model on a batch.
        recorder: The one that the model runs under.
        threads: Threads that will convert.
        queue: Bytes that may wait.
    """
    chosen = _spread(plan.shards)
    nonzeros = dict.fromkeys(sites, 0)
    converting = 0.0
    held: list[tuple[str, SiteBatch]] = []
    recorder.deliver = lambda name, size, batch: held.append((name, batch))
    n_probed, computing = 0, 0.0
    # The first forward of a process finds everything cold; it is run again for its time.
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
    """A few batches from all over, of middling length."""
    step = max(1, len(shards) // _PROBES)
    chosen = shards[step // 2 :: step][:_PROBES]
    return [(shard, shard.batches[len(shard.batches) // 2]) for shard in chosen]


def _count(site: StoredSite, batch: SiteBatch) -> int:
    builder = Builder(site.layout, width=site.width, dtype=site.torch_dtype)
    places = 0
    for piece in batch.pieces:
        x = batch.x[piece.source : piece.source + piece.length]
        builder.add(x.to(site.torch_dtype), at=places)
        places += piece.length
    block = builder.finish()
    return places * site.width if block.nonzeros is None else block.nonzeros


def _site(site: StoredSite, shards: Sequence[PlannedShard], density: float) -> SiteEstimate:
    total = sum(_bytes(site, len(shard), density) for shard in shards)
    cells = sum(len(shard) for shard in shards) * site.width
    dense = cells * site.torch_dtype.itemsize
    return SiteEstimate(site.name, site.layout, site.dtype, density, total, dense)


def _bytes(site: StoredSite, length: int, density: float) -> int:
    """Of a shard with a density: what `arcee_lab.dump.format.layouts` makes of it."""
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
    """Bytes in words: 3.2 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if n_bytes < 1000 or unit == "TB":
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.3g} {unit}"
        n_bytes /= 1000
    raise AssertionError("the loop returns")


def duration(seconds: int | float) -> str:
    """Seconds in words: 2 h 05 min."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"
