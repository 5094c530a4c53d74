"""Reads some units of a site through its index: two reads per unit and shard, and no more."""

import os
import stat
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arcee_lab.dump.folders.local import LocalFolder, inside
from arcee_lab.dump.format import unit_index
from arcee_lab.dump.format.manifest import Manifest, StoredFile, StoredSite
from arcee_lab.dump.format.sparse import SparseRows, index_dtype
from arcee_lab.errors import ShardDamaged, StoreDamaged
from arcee_lab.runs.json_text import reason

MOST_UNITS = 16  # beyond, whole arrays that are mapped once are faster than many reads
MOST_SHARDS = 64  # that are kept open; the system gives a process some 1,000 files
_PLAIN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
AVAILABLE = hasattr(os, "pread")  # not on Windows


class IndexedSite:
    """The shards of one site and their index, opened once.

    The index is what the manifest's checksum names, every read is within its file, and the token
    numbers that it brings rise and are within their shard. Values are not checked, as in all reads;
    `verify` compares checksums.

    Args:
        folder: The store.
        manifest: Its manifest, with an index for the site.
        site: The site.

    Raises:
        ShardDamaged: The index or a shard is missing, or is not the file that the manifest states.
    """

    def __init__(self, folder: LocalFolder, manifest: Manifest, site: StoredSite):
        self._folder, self._site, self._shards = folder, site, manifest.shards
        index = unit_index.read(
            folder, site, manifest.indexes[site.name], n_shards=len(self._shards)
        )
        self._offsets, self._starts = index.offsets, index.starts.tolist()
        self._parents: dict[str, Path] = {}
        self._files: list[int] = []
        if len(self._shards) <= MOST_SHARDS:
            weakref.finalize(self, _close, self._files)
            for shard in self._shards:
                self._files.append(self._open(shard.sites[site.name]))

    @property
    def n_open(self) -> int:
        """Files that it keeps open."""
        return len(self._files)

    def units(self, which: Sequence[int]) -> SparseRows:
        """The nonzeros of some units at all tokens: one row per unit, one column per token.

        Raises:
            ShardDamaged: A shard is damaged.
        """
        shards = range(len(self._shards))
        if self._files:
            parts = [self._read(self._files[n], n, which) for n in shards]
        else:
            parts = []
            for n in shards:
                opened = self._open(self._file(n))
                try:
                    parts.append(self._read(opened, n, which))
                finally:
                    os.close(opened)
        n_tokens = self._shards[-1].stop
        dtype = index_dtype(n_tokens)
        tokens = [rows[at][0] for at in range(len(which)) for rows in parts]
        values = [rows[at][1] for at in range(len(which)) for rows in parts]
        counts = np.array([len(piece) for piece in tokens]).reshape(len(which), -1).sum(axis=1)
        return SparseRows(
            offsets=np.concatenate(([0], np.cumsum(counts))),
            index=np.concatenate(tokens).astype(dtype),
            values=np.concatenate(values),
            width=n_tokens,
        )

    def _read(
        self, opened: int, number: int, which: Sequence[int]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """For each unit its token numbers in the store, and the bits of its values."""
        shard, file = self._shards[number], self._file(number)
        entry = index_dtype(len(shard))
        bits = np.dtype(f"u{self._site.torch_dtype.itemsize}")
        first, second = self._starts[number]
        rows = []
        try:
            for unit in which:
                low, high = int(self._offsets[unit, number]), int(self._offsets[unit + 1, number])
                if not low <= high <= (file.nonzeros or 0):
                    raise StoreDamaged(f"its index has the entries {low} to {high} for unit {unit}")
                inner = _array(opened, entry, first + low * entry.itemsize, high - low)
                if len(inner) and (inner[-1] >= len(shard) or (inner[1:] <= inner[:-1]).any()):
                    raise StoreDamaged(f"the tokens of unit {unit} do not rise within the shard")
                values = _array(opened, bits, second + low * bits.itemsize, high - low)
                rows.append((inner.astype(np.int64) + shard.start, values))
        except (ValueError, OSError, OverflowError) as error:
            raise ShardDamaged(f"{self._folder}/{file.path}", reason(error)) from error
        return rows

    def _file(self, number: int) -> StoredFile:
        return self._shards[number].sites[self._site.name]

    def _open(self, file: StoredFile) -> int:
        name = f"{self._folder}/{file.path}"
        parent, _, last = file.path.rpartition("/")
        try:
            # Folders are checked once; the system itself refuses a link as the last part.
            if parent not in self._parents:
                root = self._folder.path
                self._parents[parent] = inside(root, parent) if parent else root
            opened = os.open(os.path.join(self._parents[parent], last), _PLAIN)
        except FileNotFoundError:
            raise ShardDamaged(name, "it is missing") from None
        except (ValueError, OSError) as error:
            raise ShardDamaged(name, reason(error)) from error
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.bytes:
            os.close(opened)
            raise ShardDamaged(name, f"it has {found.st_size} bytes; expected {file.bytes}")
        return opened


def _array(opened: int, dtype: np.dtype, at: int, count: int) -> np.ndarray:
    if at < 0:
        raise StoreDamaged(f"its index names byte {at}")
    raw = os.pread(opened, count * dtype.itemsize, at)
    if len(raw) != count * dtype.itemsize:
        raise StoreDamaged(f"it ends after byte {at + len(raw)}")
    return np.frombuffer(raw, dtype)


def _close(files: list[int]) -> None:
    for opened in files:
        os.close(opened)
