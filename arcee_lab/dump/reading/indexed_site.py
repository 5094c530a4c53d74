"""Reads some units of a site through its index: two reads per unit and shard, and no more."""

import itertools
import os
import stat
import weakref
from collections.abc import Sequence

import numpy as np

from arcee_lab.dump.folders.local import LocalFolder, inside
from arcee_lab.dump.format import unit_index
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.dump.format.sparse import SparseRows, index_dtype
from arcee_lab.dump.format.stored_file import StoredFile
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.errors import ShardDamaged, StoreDamaged
from arcee_lab.runs.json_text import reason

MOST_UNITS = 16  # beyond, whole arrays that are mapped once are faster than many reads
MOST_SHARDS = 64  # that are kept open; the system gives a process some 1,000 files
_PLAIN = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_ENTRY = np.dtype(np.uint16)  # of a token's number: a shard has 65,536 at the most
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
        files = [shard.sites[site.name] for shard in self._shards]
        self._nonzeros = np.array([file.nonzeros or 0 for file in files])
        self._begins = np.array([shard.start for shard in self._shards])
        self._lengths = np.array([shard.stop for shard in self._shards]) - self._begins
        self._parents: dict[str, str] = {}
        self._files: list[int] = []
        if len(self._shards) <= MOST_SHARDS:
            weakref.finalize(self, _close, self._files)
            for file in files:
                self._files.append(self._open(file))

    @property
    def n_open(self) -> int:
        """Files that it keeps open."""
        return len(self._files)

    def units(self, which: Sequence[int]) -> SparseRows:
        """The nonzeros of some units at all tokens: one row per unit, one column per token.

        Raises:
            ShardDamaged: A shard is damaged.
        """
        places = np.asarray(which)
        low = self._offsets[places].astype(np.int64)  # [unit, shard]
        counts = self._offsets[places + 1] - low
        wrong = (counts < 0) | (low + counts > self._nonzeros)
        if wrong.any():
            raise self._damage(
                self._file(int(np.argwhere(wrong)[0, 1])), "its index names entries beyond it"
            )
        tokens, values = self._read(low.tolist(), counts.tolist())
        cells = counts.ravel()  # how many entries each shard has, unit by unit
        wrong = tokens >= np.concatenate([self._lengths] * len(places)).repeat(cells)
        tokens = tokens + np.concatenate([self._begins] * len(places)).repeat(cells)
        offsets = np.zeros(len(places) + 1, dtype=np.int64)
        np.cumsum(counts.sum(axis=1), out=offsets[1:])
        falls = tokens[1:] <= tokens[:-1]
        if len(places) > 1:  # from one unit to the next they may
            inner = offsets[1:-1]
            falls[inner[(inner > 0) & (inner < len(tokens))] - 1] = False
        wrong[1:] |= falls
        if wrong.any():
            cell = int(np.searchsorted(cells.cumsum(), wrong.argmax(), side="right"))
            number = cell % len(self._shards)
            raise self._damage(self._file(number), "its tokens do not rise within it")
        n_tokens = self._shards[-1].stop
        return SparseRows(offsets, tokens.astype(index_dtype(n_tokens)), values, n_tokens)

    def _read(self, low: list[list[int]], counts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
        """Token numbers within the shards, and the bits of the values, unit by unit."""
        size = self._site.torch_dtype.itemsize
        tokens = [[b""] * len(self._shards) for _ in low]
        values = [[b""] * len(self._shards) for _ in low]
        for number, (first, second) in enumerate(self._starts):
            opened = self._files[number] if self._files else self._open(self._file(number))
            try:
                for unit, (places, many) in enumerate(zip(low, counts, strict=True)):
                    if count := many[number]:
                        at = places[number]
                        tokens[unit][number] = _bytes(opened, first + 2 * at, 2 * count)
                        values[unit][number] = _bytes(opened, second + size * at, size * count)
            except (ValueError, OSError, OverflowError) as error:
                raise self._damage(self._file(number), reason(error)) from error
            finally:
                if not self._files:
                    os.close(opened)
        joined = [b"".join(itertools.chain.from_iterable(part)) for part in (tokens, values)]
        return np.frombuffer(joined[0], _ENTRY), np.frombuffer(joined[1], np.dtype(f"u{size}"))

    def _damage(self, file: StoredFile, why: str) -> ShardDamaged:
        return ShardDamaged(f"{self._folder}/{file.path}", why)

    def _file(self, number: int) -> StoredFile:
        return self._shards[number].sites[self._site.name]

    def _open(self, file: StoredFile) -> int:
        parent, _, last = file.path.rpartition("/")
        try:
            # Folders are checked once; the system itself refuses a link as the last part.
            if parent not in self._parents:
                root = self._folder.path
                self._parents[parent] = os.fspath(inside(root, parent) if parent else root)
            opened = os.open(f"{self._parents[parent]}{os.sep}{last}", _PLAIN)
        except FileNotFoundError:
            raise self._damage(file, "it is missing") from None
        except (ValueError, OSError) as error:
            raise self._damage(file, reason(error)) from error
        found = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size != file.bytes:
            os.close(opened)
            raise self._damage(file, f"it has {found.st_size} bytes; expected {file.bytes}")
        return opened


def _bytes(opened: int, at: int, count: int) -> bytes:
    if at < 0:
        raise StoreDamaged(f"its index names byte {at}")
    raw = os.pread(opened, count, at)
    if len(raw) != count:
        raise StoreDamaged(f"it ends after byte {at + len(raw)}")
    return raw


def _close(files: list[int]) -> None:
    for opened in files:
        os.close(opened)
