"""Computes the damaged shards of a store again, and nothing else."""

import os
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

from arcee_lab.dump.config import DumpConfig
from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.dump.integrity.checking import Verification, verify
from arcee_lab.dump.writing.job import DumpJob, Texts
from arcee_lab.dump.writing.resume import read_record
from arcee_lab.dump.writing.tags import Tag
from arcee_lab.errors import FileError
from arcee_lab.runs.storage import RUN_FILE


def repair(
    path: str | os.PathLike[str] | Folder,
    model: Any,
    tokenizer: Any,
    texts: Texts,
    *,
    tags: Mapping[str, Tag] | None = None,
    found: Verification | None = None,
    progress: bool | None = None,
) -> Verification:
    """Makes the damaged files of a store again from the model and the texts it was made of.

    A file is put in place only if it has the checksum that the manifest states, so a repair cannot
    make a store worse, or mix two models. Nothing that the manifest names is opened: model,
    tokenizer and texts are those given here, and their fingerprints have to be the manifest's.

    Args:
        path: The store.
        model: The model that it is of.
        tokenizer: Its tokenizer.
        texts: The texts that it is of.
        tags: The tags that it holds.
        found: What `verify` found, where it has been asked already.
        progress: Whether to show a bar on stderr.

    Returns:
        The state of the store afterwards.

    Raises:
        ValueError: Another model, tokenizer or text, or a shard that comes out with other bits.
    """
    folder = folder_of(path)
    found = found or verify(folder, progress=progress)
    if found.intact:
        return found
    for damage in found.damages:
        folder.size(damage.path)  # refuses a place that leads out of the store
    manifest = Manifest.load(folder)
    config = config_of(manifest)
    if config.max_tokens is not None:  # texts may have no end, and a manifest ask for any number
        config = replace(config, max_tokens=min(config.max_tokens, max(1, manifest.n_tokens)))
    job = DumpJob(model, tokenizer, texts, config, tags=tags)
    _check_same(manifest, job)
    damaged = sorted({damage.shard for damage in found.damages})
    # A store that was copied without its run.json has no other writer.
    writers = folder.exclusive() if folder.size(RUN_FILE) is not None else nullcontext()
    with writers:
        for number in damaged:
            _repair_shard(folder, manifest, job, number, found, progress=progress)
    return verify(folder_of(str(path)) if not isinstance(path, Folder) else path)


def config_of(manifest: Manifest) -> DumpConfig:
    """The settings that a store was written with.

    Raises:
        ValueError: They are not those of a dump.
    """
    names = DumpConfig.__dataclass_fields__
    given = {name: value for name, value in manifest.settings.items() if name in names}
    try:
        return DumpConfig(**given)
    except (TypeError, ValueError) as error:
        raise FileError(f"the manifest's settings are not those of a dump: {error}") from error


def _check_same(manifest: Manifest, job: DumpJob) -> None:
    ours = job.provenance
    for what, theirs, got in (
        ("model", manifest.model, ours.model),
        ("tokenizer", manifest.tokenizer, ours.tokenizer),
        ("data", manifest.data, ours.data),
    ):
        if theirs["fingerprint"] != got["fingerprint"]:
            raise FileError(
                f"the store is of another {what} (its fingerprint is "
                f"{theirs['fingerprint'][:12]}..., this one's {got['fingerprint'][:12]}...); "
                "expected the very same. Give the one that the store was made of"
            )
    if tuple(job.sites.values()) != manifest.sites:
        raise FileError("the store's sites are not those that its settings give; dump it anew.")
    stored = [(shard.start, shard.stop) for shard in manifest.shards]
    if stored != [(shard.start, shard.stop) for shard in job.plan.shards]:
        raise FileError("the store's shards are not those that its settings give; dump it anew")


def _repair_shard(
    folder: Folder,
    manifest: Manifest,
    job: DumpJob,
    number: int,
    found: Verification,
    *,
    progress: bool | None,
) -> None:
    shard = job.plan.shards[number]
    with tempfile.TemporaryDirectory() as scratch:
        again = LocalFolder(scratch)
        job.compute(again, [shard], progress=progress)
        record = read_record(again, shard, tuple(job.sites.values()))
        assert record is not None, "a shard that was computed has a record"
        old = manifest.shards[number]
        made = {"tokens": record.tokens, **record.sites}
        due = {"tokens": old.tokens, **old.sites}
        for damage in found.damages:
            if damage.shard != number:
                continue
            if made[damage.site].sha256 != due[damage.site].sha256:
                raise FileError(
                    f"shard {number}, {damage.path}, comes out with other bits than the manifest "
                    f"states (written on {manifest.settings.get('device')} with "
                    f"{_versions(manifest)}); nothing was put in place. Repair it where it was "
                    "written, or dump anew"
                )
            folder.write(damage.path, again.read(made[damage.site].path))


def _versions(manifest: Manifest) -> str:
    return ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
