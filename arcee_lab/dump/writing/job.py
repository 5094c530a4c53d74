"""A dump from start to finish: many sites per forward, written while the next forward runs."""

import os
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from arcee_lab.data.limits import default_context, require_context, windows_of
from arcee_lab.data.windows import Windows
from arcee_lab.dump.config import DumpConfig
from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format.manifest import Manifest, StoredShard
from arcee_lab.dump.reading.store import Store, open
from arcee_lab.dump.writing.batching import BatchPlan, BatchRow, PlannedShard, plan_shards
from arcee_lab.dump.writing.estimate import DumpEstimate, estimate, largest_bytes, size
from arcee_lab.dump.writing.provenance import Provenance, stored_sites
from arcee_lab.dump.writing.recorder import Recorder
from arcee_lab.dump.writing.resume import (
    agree_on_shards,
    finish,
    single_writer,
    unfinished,
    write_record,
)
from arcee_lab.dump.writing.shard_writer import ShardWriter
from arcee_lab.dump.writing.tags import Tag, cut_tags
from arcee_lab.dump.writing.writer_threads import WriterThreads
from arcee_lab.errors import FileError, Interrupted, WrongType
from arcee_lab.hooks.tensor_parallel import shards_of
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.interrupt import GracefulInterrupt
from arcee_lab.runs.progress import progress_bar, shown
from arcee_lab.runs.ranks import Ranks, joined

Texts = Iterable[str] | Windows


@checked
def write(
    model: Any,
    tokenizer: Any,
    texts: Texts,
    out: str | os.PathLike[str],
    config: DumpConfig | None = None,
    *,
    tags: Mapping[str, Tag] | None = None,
    source: Mapping[str, Any] | None = None,
    progress: bool | None = None,
) -> Store:
    """Dumps the activations of many hook points while a model reads texts.

    After an interruption at any moment, the same call continues: complete shards stay, and the
    finished store has the same bytes as without the interruption. Ctrl-C finishes the current shard
    first. Under torchrun the ranks divide the shards among them; for a tensor-parallel model, the
    first rank writes.

    Args:
        model: An Arcee model, any head.
        tokenizer: Its tokenizer.
        texts: Documents, or windows from `arcee_lab.data.cut`.
        out: A folder, or an fsspec URL such as `s3://bucket/store`. A folder that holds another run
            or that another process is writing to is refused.
        config: What to dump.
        tags: Further numbers per token, by name.
        source: Source of the texts, as JSON values, for the manifest.
        progress: Whether to show a bar with tokens/s, bytes and time left on stderr.

    Returns:
        The store, open.

    Raises:
        OtherRun: The folder belongs to another run.
        FileError: The disk is full, or another process is writing to the folder.
        ModelError: An activation is NaN.
        ArceeLabError: Settings, sites or texts that cannot be used. Finished shards are kept.
        Interrupted: Ctrl-C was pressed; the current shard was finished.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = ["The dogs near the gate bark.", "The lamp finds the red king."]
        >>> store = al.dump.write(model, tokenizer, texts, out)  # doctest: +SKIP
        >>> store.neuron(2, 17).frame()  # doctest: +SKIP
    """
    job = DumpJob(model, tokenizer, texts, config, tags=tags, source=source)
    return job.run(out, progress=progress)


@checked
def plan(
    model: Any,
    tokenizer: Any,
    texts: Texts,
    config: DumpConfig | None = None,
    *,
    tags: Mapping[str, Tag] | None = None,
) -> DumpEstimate:
    """Estimates size, time and memory of `write` with the same arguments from a few batches.

    Raises:
        ArceeLabError: As for `write`.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> estimate = al.dump.plan(model, tokenizer, ["The dogs near the gate bark."])
        >>> estimate.bytes < estimate.dense_bytes
        True
    """
    return DumpJob(model, tokenizer, texts, config, tags=tags).estimate()


class DumpJob:
    """A dump whose texts are read and whose batches are planned.

    Args:
        model: As for `write`, like all others.
        tokenizer: Its tokenizer.
        texts: Documents or windows.
        config: What to dump.
        tags: Further numbers per token.
        source: Source of the texts.

    Attributes:
        config: What is dumped.
        plan: The batches.
        sites: The stored sites by name, in forward order.
        provenance: The manifest's facts about model, tokenizer, data and code.
        writer_seconds: CPU time of the threads that convert and write, after a run.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        texts: Texts,
        config: DumpConfig | None = None,
        *,
        tags: Mapping[str, Tag] | None = None,
        source: Mapping[str, Any] | None = None,
    ):
        if tokenizer is None:
            raise WrongType("tokenizer is None; expected the model's, which a store names.")
        self.config = config = config or DumpConfig()
        self._anatomy = anatomy_of(model)
        self._tokenizer = tokenizer
        self.sites = stored_sites(self._anatomy, config)
        context = config.context or default_context(self._anatomy.model)
        require_context(self._anatomy.model, context, "context")
        # For windows that are cut already, `context` still limits a packed row.
        packs = config.packed and isinstance(texts, Windows)
        windows = windows_of(
            self._anatomy.model,
            tokenizer,
            texts,
            context=None if packs else config.context,
            max_tokens=config.max_tokens,
            overlap=config.overlap,
        )
        columns, self._labels = cut_tags(windows, tags)
        self.plan = BatchPlan(
            windows,
            plan_shards(
                windows,
                batch_size=config.batch_size,
                shard_tokens=config.shard_tokens,
                packed=config.packed,
                context=context,
            ),
            config.packed,
            columns,
        )
        self.provenance = Provenance(self._anatomy, tokenizer, self.plan, config, source or {})
        self.writer_seconds = 0.0
        self._estimate: DumpEstimate | None = None

    def estimate(self) -> DumpEstimate:
        """Size, time and memory of the dump; measured once."""
        if self._estimate is None:
            with torch.no_grad(), self._recorder() as recorder:
                self._estimate = estimate(
                    self.plan,
                    self.sites,
                    self._forward,
                    recorder,
                    threads=self.config.threads,
                    queue=self.config.queue_mib << 20,
                )
        return self._estimate

    def manifest(self, shards: tuple[StoredShard, ...]) -> Manifest:
        """The manifest of the store with these shards."""
        given = self.provenance
        return Manifest(
            model=given.model,
            tokenizer=given.tokenizer,
            data=given.data,
            settings=given.run_settings,
            versions=given.versions,
            sites=tuple(self.sites.values()),
            shards=shards,
            tags=self._labels,
        )

    def run(self, out: str | os.PathLike[str] | Folder, *, progress: bool | None = None) -> Store:
        """Writes the missing shards; see `write`."""
        folder, sites = folder_of(out), tuple(self.sites.values())
        shards = self.plan.shards
        with joined(self._anatomy.model.device) as ranks, self._exclusive(folder, ranks):
            todo = agree_on_shards(ranks, unfinished(folder, shards, sites))
            if todo:
                self.check_space(folder, sum(len(shards[number]) for number in todo))
                # With a tensor-parallel model all ranks compute the same, and the first one writes.
                together = shards_of(self._anatomy) is not None
                mine = todo if together else ranks.share(todo)
                writes = ranks.first or not together
                self.compute(folder, [shards[n] for n in mine], writes=writes, progress=progress)
            ranks.barrier()
            if ranks.first:
                finish(folder, shards, sites, self.manifest)
            ranks.barrier()
        return open(folder, tokenizer=self._tokenizer)

    def check_space(self, folder: Folder, n_tokens: int) -> None:
        """Refuses a folder without enough free space for a number of tokens.

        Raises:
            FileError: Too little space is free.
        """
        free = folder.free_bytes()
        if free is None:
            return
        share = n_tokens / self.plan.n_tokens
        if largest_bytes(self.plan, self.sites) * share <= free:
            return  # without an estimate, which takes a few forwards
        needed = int(self.estimate().most_bytes * share)
        if needed > free:
            raise FileError(
                f"the dump needs up to {size(needed)} and {folder} has {size(free)} free; expected "
                "room for all of it. Choose another folder, fewer sites, or --max-tokens."
            )

    def compute(
        self,
        folder: Folder,
        shards: Sequence[PlannedShard],
        *,
        writes: bool = True,
        progress: bool | None = None,
    ) -> None:
        """Computes shards and writes their files and records.

        Args:
            folder: The folder to write to.
            shards: The shards.
            writes: False for a rank that only takes part in the computation.
            progress: Whether to show a bar.

        Raises:
            FileError: A file cannot be written.
            ModelError: An activation is NaN.
            Interrupted: Ctrl-C was pressed.
        """
        if not shards:
            return
        done: list[StoredShard] = []

        def finished(shard: PlannedShard, stored: StoredShard) -> None:
            write_record(folder, shard, stored)
            done.append(stored)

        lanes = {name: lane for lane, name in enumerate(self.sites)}
        writers = WriterThreads(threads=self.config.threads, limit=self.config.queue_mib << 20)
        bar = progress_bar(
            total=sum(len(shard) for shard in shards),
            unit="tok",
            unit_scale=True,
            show=shown(progress) and writes,
        )
        try:
            with (
                torch.no_grad(),
                bar,
                GracefulInterrupt() as interrupt,
                writers,
                self._recorder() as recorder,
            ):
                for number, shard in enumerate(shards):
                    if writes:
                        shard_writer = ShardWriter(
                            folder, shard, self.sites, self.plan.tokens(shard), finished
                        )
                        writers.put(0, 0, shard_writer.add_tokens)
                        recorder.deliver = partial(_deliver, writers, lanes, shard_writer)
                    for rows in shard.batches:
                        recorder.pieces = self.plan.pieces(shard, rows)
                        self._forward(rows)
                        bar.set_postfix_str(f"{size(_bytes(done))} written", refresh=False)
                        bar.update(sum(piece.length for piece in recorder.pieces))
                    if interrupt.requested and number + 1 < len(shards):
                        writers.drain()
                        raise Interrupted(
                            f"stopped after shard {shard.number + 1} of {len(self.plan.shards)}, "
                            f"which is complete in {folder}; repeat the same command to continue."
                        )
        finally:
            self.writer_seconds = writers.seconds

    def _exclusive(self, folder: Folder, ranks: Ranks) -> Any:
        return single_writer(folder, ranks, self.provenance.settings)

    def _recorder(self) -> Recorder:
        # Without logits the head, the largest matrix product of all, is not computed.
        stop = "hook_logits" not in self.sites
        return Recorder(
            self._anatomy, self.sites, stop=stop, cast=self.config.store_dtype is not None
        )

    def _forward(self, rows: Sequence[BatchRow]) -> None:
        model = self._anatomy.model if "hook_logits" in self.sites else self._anatomy.backbone
        model(**self.plan.inputs(rows).to(self._anatomy.model.device), use_cache=False)


def _deliver(
    writers: WriterThreads,
    lanes: Mapping[str, int],
    shard_writer: ShardWriter,
    name: str,
    n: int,
    batch: Any,
) -> None:
    writers.put(lanes[name], n, partial(shard_writer.add, name, batch))


def _bytes(shards: Sequence[StoredShard]) -> int:
    return sum(file.bytes for shard in shards for file in shard.files)
