"""Writes one shard: receives activations batch by batch and writes a file per site."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.format import shard_files
from arcee_lab.dump.format.layouts import Builder
from arcee_lab.dump.format.manifest import StoredShard, shard_path
from arcee_lab.dump.format.stored_file import StoredFile
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.format.token_table import TokenTable
from arcee_lab.dump.writing.batching import Piece, PlannedShard
from arcee_lab.errors import ModelError, SiteError
from arcee_lab.model.attention import edits_of


@dataclass(frozen=True)
class SiteBatch:
    """The activations of one site in one forward.

    Attributes:
        x: [batch * pos, width] on the CPU; from a GPU a pinned copy, which is complete when `ready`
            is.
        pieces: Positions of the tokens in the shard.
        edits: How often `x` had been changed in place when it was recorded.
        ready: A CUDA event, or None.
    """

    x: Float[Tensor, "token width"]
    pieces: Sequence[Piece]
    edits: int | None = None
    ready: Any = None


@dataclass
class ShardWriter:
    """Writes one shard. Each site is added from one thread at a time.

    Attributes:
        folder: The store.
        shard: The planned shard.
        sites: The stored sites by name.
        tokens: Its token columns.
        done: Called once with the finished shard, when all its files are in the folder.
    """

    folder: Folder
    shard: PlannedShard
    sites: Mapping[str, StoredSite]
    tokens: TokenTable
    done: Callable[[PlannedShard, StoredShard], None]
    _builders: dict[str, Builder] = field(init=False)
    _files: dict[str, StoredFile] = field(default_factory=dict, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._builders = {
            name: Builder(
                site.layout,
                width=site.width,
                dtype=site.torch_dtype,
                refuse_infinite=name.endswith(".hook_relu"),  # its square is no number either
            )
            for name, site in self.sites.items()
        }

    def add_tokens(self) -> None:
        """Writes the file of token columns."""
        path = shard_path("tokens", self.shard.number)
        self._finished("", shard_files.write(self.folder, path, self.tokens))

    def add(self, name: str, batch: SiteBatch) -> None:
        """Converts one site's activations; after the last ones of the shard, writes its file.

        Raises:
            ModelError: A value is NaN.
            SiteError: A tensor was changed in place after it was recorded.
        """
        if batch.ready is not None:
            batch.ready.synchronize()
        builder = self._builders[name]
        x = batch.x.to(self.sites[name].torch_dtype)
        rows = np.concatenate([np.arange(p.source, p.source + p.length) for p in batch.pieces])
        at = np.concatenate([np.arange(p.at, p.at + p.length) for p in batch.pieces])
        if builder.add(x, rows=rows, at=at):
            raise self._no_numbers(name, x, batch.pieces)
        if edits_of(batch.x) != batch.edits:
            raise SiteError(
                f"{name} was changed in place after it was recorded, by a hook at a later site "
                "that holds the same tensor. Return a new tensor there."
            )
        if builder.tokens == len(self.shard):
            path = shard_path(name, self.shard.number)
            self._finished(name, shard_files.write(self.folder, path, builder.finish()))

    def _finished(self, name: str, file: StoredFile) -> None:
        with self._lock:
            self._files[name] = file
            if len(self._files) < 1 + len(self.sites):
                return
        files = dict(self._files)
        tokens = files.pop("")
        self.done(
            self.shard,
            StoredShard(
                self.shard.start,
                self.shard.stop,
                tokens,
                {name: files[name] for name in self.sites},
            ),
        )

    def _no_numbers(self, name: str, x: Tensor, pieces: Sequence[Piece]) -> ModelError:
        """The error for the first piece with a value that a store does not take."""
        wrong = ~x.isfinite() if name.endswith(".hook_relu") else x.isnan()
        counts = [int(wrong[p.source : p.source + p.length].sum()) for p in pieces]
        piece, count = next((p, n) for p, n in zip(pieces, counts, strict=True) if n)
        what = "NaN" if bool(x.isnan().any()) else "infinite values"
        here = slice(piece.at, piece.at + piece.length)
        windows = self.tokens.windows[here]
        documents = self.tokens.documents[here]
        return ModelError(
            f"{name} holds {count} {what} in windows {int(windows[0])} to {int(windows[-1])} "
            f"(documents {int(documents[0])} to {int(documents[-1])} of the text); expected "
            "numbers. Load the model in float32 or bfloat16, or check its weights; finished shards "
            "are kept, and the same command continues from there."
        )
