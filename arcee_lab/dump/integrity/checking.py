"""Compares every file of a store with its manifest: checksums, shapes and counts."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from arcee_lab.dump.folders.folder import Folder, Written
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format import shard_files, sparse, unit_index
from arcee_lab.dump.format.block import TOKEN, UNIT, Block
from arcee_lab.dump.format.manifest import Manifest, StoredShard
from arcee_lab.dump.format.stored_file import StoredFile
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.errors import ShardDamaged, StoreDamaged
from arcee_lab.results import Result, counted
from arcee_lab.runs import storage
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.json_text import reason
from arcee_lab.runs.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

_CELLS = 1 << 26  # that are decoded at once


@dataclass(frozen=True)
class Damage:
    """One file of a store that does not match the manifest.

    Attributes:
        shard: Number of its shard; None for the index of a site.
        site: The site that it holds, or `tokens`.
        path: Its path in the store.
        why: What is wrong with it.
    """

    shard: int | None
    site: str
    path: str
    why: str


@dataclass(frozen=True, repr=False)
class Verification(Result):
    """The result of checking every file of a store.

    Attributes:
        store: Its folder.
        n_tokens: Tokens in the store.
        n_shards: Shards that were checked.
        n_files: Files that were checked.
        bytes: Their size according to the manifest.
        damages: What is wrong; empty for an intact store.
    """

    store: str
    n_tokens: int
    n_shards: int
    n_files: int
    bytes: int
    damages: tuple[Damage, ...]

    @property
    def intact(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damages

    def frame(self) -> "pd.DataFrame":
        """One row per damaged file: shard, site, path, why."""
        import pandas as pd

        rows = [(d.shard, d.site, d.path, d.why) for d in self.damages]
        frame = pd.DataFrame(rows, columns=["shard", "site", "path", "why"])
        return frame.astype({"shard": "Int64"})  # an index has none

    @property
    def headline(self) -> str:
        """What was checked, and how many files are damaged."""
        state = "intact" if self.intact else f"{counted(len(self.damages), 'file')} damaged"
        return (
            f"{self.store}: {counted(self.n_tokens, 'token')} in "
            f"{counted(self.n_shards, 'shard')}, {counted(self.n_files, 'file')}, "
            f"{counted(self.bytes, 'byte')}: {state}"
        )

    def __repr__(self) -> str:  # as `arcee-lab verify` prints it
        places = ["index" if d.shard is None else f"shard {d.shard}" for d in self.damages]
        lines = [f"  {at}, {d.path}: {d.why}" for at, d in zip(places, self.damages, strict=True)]
        return "\n".join([self.headline, *lines])

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.headline)}</p>" if self.intact else super()._repr_html_()


@checked
def verify(path: str | os.PathLike[str] | Folder, *, progress: bool | None = None) -> Verification:
    """Checks all checksums and counts of a store.

    For each file these are its size and checksum, the names, shapes and dtypes of its tensors, and
    the consistency of offsets, indices and counts.

    Args:
        path: The store, local or an fsspec URL.
        progress: Whether to show a progress bar.

    Returns:
        What is damaged.

    Raises:
        FileError: There is no store.
        StoreDamaged: The manifest itself is damaged.

    Example:
        >>> import arcee_lab as al
        >>> al.dump.verify(out).intact  # doctest: +SKIP
        True
    """
    folder = folder_of(path)
    manifest = Manifest.load(folder)
    damages = []
    with progress_bar(total=manifest.bytes, unit="B", unit_scale=True, show=progress) as bar:
        for number, shard in enumerate(manifest.shards):
            for site, file in _files(manifest, shard):
                why = _wrong(folder, manifest, shard, site, file)
                if why is not None:
                    name = "tokens" if site is None else site.name
                    damages.append(Damage(number, name, file.path, why))
                bar.update(file.bytes)
        hurt = {damage.site for damage in damages}
        for site in manifest.sites:
            file = manifest.indexes.get(site.name)
            if file is not None and (why := _wrong_index(folder, manifest, site, file, hurt)):
                damages.append(Damage(None, site.name, file.path, why))
    return Verification(
        store=str(folder),
        n_tokens=manifest.n_tokens,
        n_shards=len(manifest.shards),
        n_files=sum(len(shard.files) for shard in manifest.shards) + len(manifest.indexes),
        bytes=manifest.bytes,
        damages=tuple(damages),
    )


def _files(
    manifest: Manifest, shard: StoredShard
) -> Iterator[tuple[StoredSite | None, StoredFile]]:
    yield None, shard.tokens
    for site in manifest.sites:
        yield site, shard.sites[site.name]


def _wrong(
    folder: Folder,
    manifest: Manifest,
    shard: StoredShard,
    site: StoredSite | None,
    file: StoredFile,
) -> str | None:
    """What is wrong with a file, or None."""
    try:
        if (got := folder.size(file.path)) != file.bytes:
            return "it is missing" if got is None else f"it has {got} bytes, not {file.bytes}"
        local = folder.local(file.path, Written(file.bytes, file.sha256))
        if storage.sha256(local) != file.sha256:
            return "its checksum is not the manifest's"
        if site is None:
            tokens = shard_files.read_tokens(folder, file, length=len(shard), tags=manifest.tags)
            vocabulary = manifest.model["config"].get("vocab_size")
            if type(vocabulary) is int and len(tokens) and int(tokens.ids.max()) >= vocabulary:
                return f"it has token ids beyond the model's vocabulary of {vocabulary}"
        else:
            block = shard_files.read_block(folder, file, site, length=len(shard))
            _check_values(block, site)
            _count(block)
    except ShardDamaged as error:
        return error.why
    except (ValueError, OSError) as error:
        return reason(error)
    finally:
        folder.release(file.path)
    return None


def _wrong_index(
    folder: Folder, manifest: Manifest, site: StoredSite, file: StoredFile, hurt: set[str]
) -> str | None:
    """What is wrong with the index of a site, or None."""
    try:
        index = unit_index.read(folder, site, file, n_shards=len(manifest.shards))
        if site.name in hurt or not isinstance(folder, LocalFolder):
            return None  # it is the file that was written; there is nothing to compare it with
        if index != unit_index.build(folder, site, manifest.shards):
            return "it does not name the places where its shards hold their entries"
    except ShardDamaged as error:
        return error.why
    except (ValueError, OSError) as error:
        return reason(error)
    return None


def _check_values(block: Block, site: StoredSite) -> None:
    """Looks for numbers that no dump writes.

    Raises:
        StoreDamaged: NaN anywhere, or a relu(u) that is negative or infinite.
    """
    is_relu = site.name.endswith(".hook_relu")
    for name, tensor in block.tensors.items():
        if not tensor.is_floating_point():
            continue
        wrong = tensor.isnan()
        if name.endswith(".scales"):
            wrong = ~tensor.isfinite() | (tensor < 0)
        elif is_relu:
            wrong = ~(tensor.isfinite() & (tensor >= 0))
        if n := int(wrong.sum()):
            kind = "NaN, infinite or negative" if is_relu or name.endswith(".scales") else "NaN"
            raise StoreDamaged(f"its {name} hold {n} values that are {kind}; expected none")


def _count(block: Block) -> None:
    """Decodes a block completely, which checks it, and compares its two halves.

    Raises:
        StoreDamaged: Indices out of range or order, stored zeros, or halves that differ.
    """
    if block.nonzeros is None:
        return
    by_unit = np.zeros(block.width, dtype=np.int64)
    total = 0
    step = max(1, _CELLS // max(1, block.tokens))
    for start in range(0, block.width, step):
        rows = block.units(slice(start, start + step))
        by_unit[start : start + step] = rows.counts
        total += int(np.count_nonzero(rows.values))
    if total != block.nonzeros or by_unit.sum() != block.nonzeros:
        raise StoreDamaged(f"it has {total} nonzeros; expected {block.nonzeros}")
    if not any(name.startswith(TOKEN) for name in block.tensors):
        return
    assert any(name.startswith(UNIT) for name in block.tensors), "a sparse block is stored by unit"
    again = np.zeros(block.width, dtype=np.int64)
    step = max(1, _CELLS // max(1, block.width))
    for start in range(0, block.tokens, step):
        stop = min(start + step, block.tokens)
        rows: sparse.SparseRows = block.span(start, stop)
        again += np.bincount(rows.index, minlength=block.width)
    if not np.array_equal(again, by_unit):
        raise StoreDamaged("its halves by token and by unit count other nonzeros")
