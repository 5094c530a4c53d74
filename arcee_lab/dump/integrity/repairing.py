"""Computes the damaged shards of a store again: `plan_repair`, then one shard after the other."""

import os
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from arcee_lab.dump.config import DumpConfig
from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format import unit_index
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.dump.format.stored_file import StoredFile
from arcee_lab.dump.integrity.checking import Verification, verify
from arcee_lab.dump.writing.job import DumpJob, Texts
from arcee_lab.dump.writing.resume import read_record
from arcee_lab.dump.writing.tags import Tag
from arcee_lab.errors import OtherRun, StoreDamaged, TooFewTokens
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.storage import RUN_FILE


@checked
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
    """Computes the damaged files of a store again from its model and texts.

    A file is replaced only if the new one has the checksum that the manifest states, so a repair
    cannot make a store worse or mix two models. Nothing that the manifest names is opened: model,
    tokenizer and texts are the given ones, and their fingerprints must match the manifest.

    Args:
        path: The store.
        model: The model from which the store was made.
        tokenizer: Its tokenizer.
        texts: The texts from which the store was made.
        tags: The tags that it holds.
        found: The result of `verify`, if it was called before.
        progress: Whether to show a progress bar.

    Returns:
        The state of the store afterwards.

    Raises:
        OtherRun: Another model, tokenizer or text.
        StoreDamaged: A recomputed file does not match the checksum in the manifest.
    """
    folder = folder_of(path)
    found = found or verify(folder, progress=progress)
    if found.intact:
        return found
    manifest = Manifest.load(folder)
    planned = plan_repair(folder, manifest, found)
    config = config_of(manifest)
    if config.max_tokens is not None:  # texts may be endless, and a manifest may state any number
        config = replace(config, max_tokens=min(config.max_tokens, max(1, manifest.n_tokens)))
    try:
        job = DumpJob(model, tokenizer, texts, config, tags=tags)
    except TooFewTokens as error:
        raise OtherRun(
            f"the store is of another data (these texts hold {error.found:,} tokens, the store "
            f"{manifest.n_tokens:,}); expected the same. Pass the texts from which it was made."
        ) from error
    _check_same(manifest, job)
    # A store that was copied without its run.json has no other writer.
    exclusive = folder.exclusive() if folder.size(RUN_FILE) is not None else nullcontext()
    with exclusive:
        for shard in planned:
            _rewrite(folder, manifest, job, shard, progress=progress)
        _rewrite_indexes(folder, manifest, {d.site for d in found.damages if d.shard is None})
    return verify(folder_of(str(path)) if not isinstance(path, Folder) else path)


@dataclass(frozen=True)
class ShardRepair:
    """The damaged files of one shard.

    Attributes:
        number: The shard.
        files: `tokens` or a site -> the file as the manifest states it.
    """

    number: int
    files: Mapping[str, StoredFile]


def plan_repair(folder: Folder, manifest: Manifest, found: Verification) -> list[ShardRepair]:
    """Which files of which shards a repair replaces; indexes are made of shards afterwards.

    Args:
        folder: The store.
        manifest: Its manifest.
        found: The result of `verify`.

    Raises:
        FileError: A damaged file's path leads out of the store.
    """
    damaged: dict[int, dict[str, StoredFile]] = {}
    for damage in found.damages:
        folder.size(damage.path)  # refuses a path that leads out of the store
        if damage.shard is None:
            continue
        shard = manifest.shards[damage.shard]
        file = shard.tokens if damage.site == "tokens" else shard.sites[damage.site]
        damaged.setdefault(damage.shard, {})[damage.site] = file
    return [ShardRepair(number, damaged[number]) for number in sorted(damaged)]


def config_of(manifest: Manifest) -> DumpConfig:
    """The settings with which a store was written.

    Raises:
        StoreDamaged: They are not settings of a dump.
    """
    names = DumpConfig.__dataclass_fields__
    given = {name: value for name, value in manifest.settings.items() if name in names}
    try:
        return DumpConfig(**given)
    except (TypeError, ValueError) as error:
        raise StoreDamaged(f"the manifest's settings are not those of a dump: {error}") from error


def _check_same(manifest: Manifest, job: DumpJob) -> None:
    ours = job.provenance
    for what, theirs, got in (
        ("model", manifest.model, ours.model),
        ("tokenizer", manifest.tokenizer, ours.tokenizer),
        ("data", manifest.data, ours.data),
    ):
        if theirs["fingerprint"] != got["fingerprint"]:
            raise OtherRun(
                f"the store is of another {what} (its fingerprint is "
                f"{theirs['fingerprint'][:12]}..., this one's {got['fingerprint'][:12]}...); "
                "expected the same. Pass the one from which the store was made."
            )
    if tuple(job.sites.values()) != manifest.sites:
        raise StoreDamaged("the store's sites are not those that its settings give; dump it again.")
    stored = [(shard.start, shard.stop) for shard in manifest.shards]
    if stored != [(shard.start, shard.stop) for shard in job.plan.shards]:
        raise StoreDamaged(
            "the store's shards are not those that its settings give; dump it again."
        )


def _rewrite(
    folder: Folder,
    manifest: Manifest,
    job: DumpJob,
    repair: ShardRepair,
    *,
    progress: bool | None,
) -> None:
    """Computes a shard in a temporary folder and replaces its damaged files."""
    shard = job.plan.shards[repair.number]
    with tempfile.TemporaryDirectory() as scratch:
        new = LocalFolder(scratch)
        job.compute(new, [shard], progress=progress)
        record = read_record(new, shard, tuple(job.sites.values()))
        assert record is not None, "a computed shard has a record"
        computed = {"tokens": record.tokens, **record.sites}
        for name, file in repair.files.items():
            if computed[name].sha256 != file.sha256:
                raise StoreDamaged(
                    f"shard {repair.number}, {file.path}: the recomputed file does not match the "
                    "checksum in the manifest (written on "
                    f"{manifest.settings.get('device')} with {_versions(manifest)}). The damaged "
                    "file stays; repair it on the kind of machine that wrote it, or dump it again."
                )
            folder.write(file.path, new.read(computed[name].path))


def _rewrite_indexes(folder: Folder, manifest: Manifest, names: Iterable[str]) -> None:
    """Makes damaged indexes again, and replaces them.

    Raises:
        StoreDamaged: A new index does not match the checksum in the manifest.
    """
    sites = {site.name: site for site in manifest.sites}
    for name in sorted(names):
        file = manifest.indexes[name]
        raw = unit_index.encoded(unit_index.build(folder, sites[name], manifest.shards))
        if sha256(raw).hexdigest() != file.sha256:
            raise StoreDamaged(
                f"{file.path}: the index that its shards give does not match the checksum in the "
                "manifest. The damaged file stays; dump the store again."
            )
        folder.write(file.path, raw)


def _versions(manifest: Manifest) -> str:
    return ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
