"""Where the entries of each unit are in all shards of a site: one small file per site.

With it, one neuron is a few reads from files whose headers need not be parsed. It is made of the
shards' own offsets after all of them were written, so a store can do without it.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.format.block import UNIT
from arcee_lab.dump.format.manifest import StoredShard
from arcee_lab.dump.format.sparse import encoding_of
from arcee_lab.dump.format.stored_file import StoredFile
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.errors import ShardDamaged, StoreDamaged
from arcee_lab.runs.json_text import parse_json, reason


@dataclass(frozen=True)
class UnitIndex:
    """Places of the entries of one site.

    Attributes:
        offsets: uint32 [width + 1, shard]: the entries of unit u in shard s are those from
            offsets[u, s] to offsets[u + 1, s].
        starts: int64 [shard, 2]: the byte of the shard's file where the entries' token numbers
            begin, and where their values begin.
    """

    offsets: np.ndarray
    starts: np.ndarray

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, UnitIndex)
            and np.array_equal(self.offsets, other.offsets)
            and np.array_equal(self.starts, other.starts)
        )


def applies(site: StoredSite, shards: Sequence[StoredShard]) -> bool:
    """Whether all shards of a site list their entries by unit, so that an index can name them."""
    if site.layout not in ("neuron", "both") or not shards:
        return False
    counts = [shard.sites[site.name].nonzeros or 0 for shard in shards]
    return max(counts) < 2**32 and all(
        encoding_of(
            rows=site.width,
            width=len(shard),
            nonzeros=nonzeros,
            itemsize=site.torch_dtype.itemsize,
        )
        == "index"
        for shard, nonzeros in zip(shards, counts, strict=True)
    )


def build(folder: Folder, site: StoredSite, shards: Sequence[StoredShard]) -> UnitIndex:
    """Reads the offsets of all shards of a site for which `applies` holds.

    Raises:
        ShardDamaged: A shard cannot be read.
    """
    offsets = np.empty((site.width + 1, len(shards)), dtype=np.uint32)
    starts = np.empty((len(shards), 2), dtype=np.int64)
    for number, shard in enumerate(shards):
        file = shard.sites[site.name]
        try:
            path = folder.local(file.path)
            with safe_open(path, framework="np") as opened:
                offsets[:, number] = opened.get_tensor(UNIT + "offsets")
            with path.open("rb") as opened:
                (length,) = struct.unpack("<Q", opened.read(8))
                header = parse_json(opened.read(length), path)
            for column, name in enumerate(("index", "values")):
                starts[number, column] = 8 + length + header[UNIT + name]["data_offsets"][0]
        except (SafetensorError, ValueError, OSError, KeyError) as error:
            raise ShardDamaged(f"{folder}/{file.path}", reason(error)) from error
    return UnitIndex(offsets, starts)


def encoded(index: UnitIndex) -> bytes:
    """The bytes of its file; the same index gives the same bytes."""
    return save({"offsets": index.offsets, "starts": index.starts})


def write(folder: Folder, site: StoredSite, shards: Sequence[StoredShard]) -> StoredFile | None:
    """Writes the index of a site, where it applies and the folder is on this machine.

    Returns:
        The file's entry in the manifest, or None.
    """
    if not isinstance(folder, LocalFolder) or not applies(site, shards):
        return None
    path = f"index/{site.name}.safetensors"
    written = folder.write(path, encoded(build(folder, site, shards)))
    return StoredFile(path, written.bytes, written.sha256)


def read(folder: Folder, site: StoredSite, file: StoredFile, *, n_shards: int) -> UnitIndex:
    """Reads and checks the index of a site.

    Args:
        folder: The store.
        site: The site.
        file: The file's entry in the manifest.
        n_shards: Shards of the store.

    Raises:
        ShardDamaged: The file is missing, or is not the one that the manifest states.
    """
    name = f"{folder}/{file.path}"
    try:
        if (size := folder.size(file.path)) != file.bytes:
            what = "it is missing" if size is None else f"it has {size} bytes"
            raise StoreDamaged(f"{what}; expected {file.bytes} bytes")
        raw = folder.read(file.path)
        if sha256(raw).hexdigest() != file.sha256:
            raise StoreDamaged("its checksum is not the manifest's")
        tensors = load(raw)
    except (SafetensorError, ValueError, OSError) as error:
        raise ShardDamaged(name, reason(error)) from error
    expected = {
        "offsets": ((site.width + 1, n_shards), np.dtype(np.uint32)),
        "starts": ((n_shards, 2), np.dtype(np.int64)),
    }
    if (got := {key: (array.shape, array.dtype) for key, array in tensors.items()}) != expected:
        raise ShardDamaged(name, f"it holds {got}; expected {expected}")
    return UnitIndex(tensors["offsets"], tensors["starts"])
