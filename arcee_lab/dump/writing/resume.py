"""Continues an interrupted dump: which shards are complete, and who may write the others.

A shard counts as complete once its record is in `progress/`, which is written after all its files.
The manifest, written last, replaces the records.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.format import unit_index
from arcee_lab.dump.format.manifest import MANIFEST, Manifest, StoredShard
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.writing.batching import PlannedShard
from arcee_lab.errors import FileError
from arcee_lab.runs.json_text import parse_json
from arcee_lab.runs.ranks import Ranks

PROGRESS = "progress"


def record_path(number: int) -> str:
    """Path of a shard's record until the store is finished."""
    return f"{PROGRESS}/{number:05d}.json"


def write_record(folder: Folder, shard: PlannedShard, stored: StoredShard) -> None:
    """Records that all files of a shard are in the folder."""
    text = json.dumps(stored.to_json(), indent=2)
    folder.write(record_path(shard.number), f"{text}\n".encode())


def read_record(
    folder: Folder, shard: PlannedShard, sites: tuple[StoredSite, ...]
) -> StoredShard | None:
    """The record of a shard, or None if the shard has to be computed.

    A record that is damaged, or whose files are missing or of another size, does not count.
    """
    path = record_path(shard.number)
    if folder.size(path) is None:
        return None
    try:
        stored = StoredShard.parse(parse_json(folder.read(path), path), path, sites)
    except ValueError:
        return None
    whole = all(folder.size(file.path) == file.bytes for file in stored.files)
    same = (stored.start, stored.stop) == (shard.start, shard.stop)
    return stored if whole and same else None


def unfinished(
    folder: Folder, shards: Sequence[PlannedShard], sites: tuple[StoredSite, ...]
) -> list[PlannedShard]:
    """The shards that are still to be computed, in order."""
    if folder.size(MANIFEST) is not None:
        return []
    return [shard for shard in shards if read_record(folder, shard, sites) is None]


def finish(
    folder: Folder,
    shards: Sequence[PlannedShard],
    sites: tuple[StoredSite, ...],
    manifest: Callable[[tuple[StoredShard, ...]], Manifest],
) -> None:
    """Writes the indexes and the manifest of all shards, and removes the records.

    Raises:
        FileError: A shard has no record, because its rank died.
    """
    if folder.size(MANIFEST) is None:
        stored = [read_record(folder, shard, sites) for shard in shards]
        missing = [s.number for s, record in zip(shards, stored, strict=True) if record is None]
        if missing:
            raise FileError(
                f"shards {missing[:8]} of {folder} were not written; expected all "
                f"{len(shards)}. Repeat the command: it computes only these."
            )
        records = tuple(record for record in stored if record is not None)
        files = {site.name: unit_index.write(folder, site, records) for site in sites}
        indexes = {name: file for name, file in files.items() if file is not None}
        replace(manifest(records), indexes=indexes).save(folder)
    folder.remove(PROGRESS)


@contextmanager
def single_writer(folder: Folder, ranks: Ranks, settings: dict[str, Any]) -> Iterator[None]:
    """Reserves a folder for the job and excludes all others inside the block.

    Raises:
        OtherRun: The folder belongs to another run.
        FileError: Another job is writing to it.
    """
    if ranks.first:
        folder.claim(settings)
        with folder.exclusive(ranks=ranks.size):
            ranks.barrier()
            yield
        return
    ranks.barrier()
    with folder.exclusive(first=False, ranks=ranks.size):
        yield


def agree_on_shards(ranks: Ranks, shards: Sequence[PlannedShard]) -> list[int]:
    """The numbers of the first rank's shards, so that all ranks use one list."""
    numbers = torch.tensor([shard.number for shard in shards], dtype=torch.int64)
    return ranks.gather({"shards": numbers})[0]["shards"].tolist()
