"""The manifest of an activation store: what it holds, from which model, in which files, as JSON.

A manifest may come from an untrusted source. `Manifest.parse` therefore checks the type and range
of every field, that no path leaves the folder, and that the shards cover each token once.
"""

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from operator import itemgetter, sub
from typing import Any

from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format.json_fields import MOST, Fields, short
from arcee_lab.dump.format.layouts import MOST_TOKENS, enough_bytes, least_bytes
from arcee_lab.dump.format.stored_file import StoredFile, read_file, read_files
from arcee_lab.dump.format.stored_site import MOST_LAYERS, StoredSite
from arcee_lab.errors import FileError, StoreDamaged
from arcee_lab.runs.json_text import parse_json

MANIFEST = "manifest.json"
FORMAT = "arcee_lab.dump"
VERSION = 2
_READ = (1, 2)  # version 1 has no indexes
BYTES_OF_TOKEN = 4 * 4 + 2  # ids, positions, documents, windows; attended, first
_LONGEST_HEADER = 4096  # bytes of the header of an index
_LARGEST = 2**28  # bytes of a manifest; a million shard files take less
_SHARD_FIELDS = itemgetter("start", "stop", "tokens", "sites")


def index_bytes(width: int, n_shards: int) -> int:
    """Bytes of the arrays of a site's index by unit; its file has a header besides."""
    return 4 * (width + 1) * n_shards + 16 * n_shards


def shard_path(what: str, number: int) -> str:
    """Path of a shard in the folder, for a site's name or `tokens`."""
    return f"{what}/{number:05d}.safetensors"


@dataclass(frozen=True)
class StoredShard:
    """A range of tokens.

    Attributes:
        start: Its first token.
        stop: The token after its last one.
        tokens: The file of ids, positions and so on.
        sites: Site name -> file.
    """

    start: int
    stop: int
    tokens: StoredFile
    sites: Mapping[str, StoredFile]

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def files(self) -> tuple[StoredFile, ...]:
        """All its files."""
        return (self.tokens, *self.sites.values())

    def to_json(self) -> dict[str, Any]:
        """The shard as JSON values; `parse` is the inverse."""
        return {
            "start": self.start,
            "stop": self.stop,
            "tokens": self.tokens.to_json(),
            "sites": {name: file.to_json() for name, file in self.sites.items()},
        }

    @classmethod
    def parse(cls, value: Any, where: str, sites: tuple[StoredSite, ...]) -> "StoredShard":
        """Checks JSON values and makes a shard of them.

        Args:
            value: The values.
            where: Their name in errors.
            sites: The sites that it must hold.

        Raises:
            StoreDamaged: A field is missing, unknown or out of range; it is named.
        """
        shards = _all_shards([value], sites, n_tags=0)
        return shards[0] if shards else _shard(value, where, sites, n_tags=0)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a store holds.

    Attributes:
        model: `name`, `fingerprint`, `dtype` and `config` of the model.
        tokenizer: `name` and `fingerprint`.
        data: Source of the texts, with a `fingerprint`.
        settings: What determines the batches, with a `seed`.
        versions: Package -> version.
        sites: What is stored, in forward order.
        shards: In the order of their tokens.
        tags: Name of a further number per token -> what its values mean, or None.
        indexes: Site -> its index by unit, for sites that have one; see
            `arcee_lab.dump.format.unit_index`.
    """

    model: Mapping[str, Any]
    tokenizer: Mapping[str, Any]
    data: Mapping[str, Any]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    sites: tuple[StoredSite, ...]
    shards: tuple[StoredShard, ...]
    tags: Mapping[str, tuple[str, ...] | None] = field(default_factory=dict)
    indexes: Mapping[str, StoredFile] = field(default_factory=dict)

    @property
    def n_tokens(self) -> int:
        """Tokens in the store."""
        return self.shards[-1].stop if self.shards else 0

    @property
    def bytes(self) -> int:
        """Bytes of all shard files, without indexes."""
        return sum(file.bytes for shard in self.shards for file in shard.files)

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values; `parse` is the inverse."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": dict(self.model),
            "tokenizer": dict(self.tokenizer),
            "data": dict(self.data),
            "settings": dict(self.settings),
            "versions": dict(self.versions),
            "tags": {name: labels and list(labels) for name, labels in self.tags.items()},
            "n_tokens": self.n_tokens,
            "sites": [
                {"name": s.name, "shape": list(s.shape), "dtype": s.dtype, "layout": s.layout}
                for s in self.sites
            ],
            "shards": [shard.to_json() for shard in self.shards],
            "indexes": {name: file.to_json() for name, file in self.indexes.items()},
        }

    def save(self, folder: str | os.PathLike[str] | Folder) -> None:
        """Writes `manifest.json` atomically, after all other files."""
        value = self.to_json()
        Manifest.parse(value)  # so that what is written can be read
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        folder_of(folder).write(MANIFEST, f"{text}\n".encode())

    @classmethod
    def load(cls, folder: str | os.PathLike[str] | Folder) -> "Manifest":
        """Reads and checks the manifest of a folder, local or at a URL.

        Raises:
            FileError: No store, or an unfinished one.
            StoreDamaged: A damaged manifest, or one of another format.
        """
        folder = folder_of(folder)
        path = f"{folder}/{MANIFEST}"
        if (size := folder.size(MANIFEST)) is None:
            kind = "holds no manifest.json" if folder.exists() else "is no folder"
            raise FileError(
                f"activation store {folder} {kind}; expected the folder of a finished dump. If the "
                "dump was interrupted, repeat its command first."
            )
        if size > _LARGEST:
            raise StoreDamaged(f"{path} is {size} bytes; expected at most {_LARGEST}.")
        try:
            raw = folder.read(MANIFEST)
        except (OSError, ValueError) as error:
            raise StoreDamaged(f"{path} is damaged: {error}; get the store again.") from error
        value = parse_json(
            raw, path, error=StoreDamaged, do="it is damaged, so get the store again"
        )
        try:
            return cls.parse(value)
        except ValueError as error:
            raise StoreDamaged(f"{path}: {error}") from error

    @classmethod
    def parse(cls, value: Any) -> "Manifest":
        """Checks JSON values and makes a manifest of them.

        Raises:
            StoreDamaged: A field is missing, unknown or out of range; it is named.
        """
        top = Fields(value, "the manifest")
        if top.text("format") != FORMAT:
            raise StoreDamaged(f"format is {value['format']!r}; expected {FORMAT!r}.")
        if (version := top.number("version")) not in _READ:
            raise StoreDamaged(
                f"format version is {version}; this arcee_lab reads versions "
                f"{' and '.join(map(str, _READ))}. Read it with the arcee_lab that wrote it, or "
                "with a newer one."
            )
        model = top.table("model", "name", "fingerprint", "dtype")
        if not isinstance(model.get("config"), dict):
            raise StoreDamaged("model.config is missing; expected the model's config.")
        if "num_hidden_layers" in model["config"]:
            Fields(model["config"], "model.config").number("num_hidden_layers", MOST_LAYERS)
        sites = tuple(StoredSite.parse(item, at) for at, item in enumerate(top.list("sites")))
        if len({site.name for site in sites}) < len(sites):
            raise StoreDamaged("two sites have one name; expected each once.")
        tags = {name: _labels(name, labels) for name, labels in top.table("tags").items()}
        items = top.list("shards")
        shards = _all_shards(items, sites, len(tags)) if items else ()
        if shards is None:
            shards = tuple(
                _shard(item, f"shard {at}", sites, len(tags)) for at, item in enumerate(items)
            )
        indexes = _indexes(top.table("indexes"), sites, len(shards)) if version > 1 else {}
        _check_cover(shards, top.number("n_tokens"), indexes.values())
        manifest = cls(
            model=model,
            tokenizer=top.table("tokenizer", "name", "fingerprint"),
            data=top.table("data", "fingerprint"),
            settings=top.table("settings"),
            versions=top.table("versions"),
            sites=sites,
            shards=shards,
            tags=tags,
            indexes=indexes,
        )
        top.done()
        return manifest


def _all_shards(
    items: list[Any], sites: tuple[StoredSite, ...], n_tags: int
) -> tuple[StoredShard, ...] | None:
    """All shards, checked together; None if `_shard` would refuse one of them, which then says why.

    Opening a store is little else than this, so the checks run over columns.
    """
    plain = [site for site in sites if not site.counts_nonzeros]
    counted = [site for site in sites if site.counts_nonzeros]
    try:
        if {*map(type, items)} != {dict} or {*map(len, items)} != {4}:
            return None
        starts, stops, tokens, files = zip(*map(_SHARD_FIELDS, items), strict=True)
        if {*map(type, files)} != {dict} or {*map(len, files)} != {len(sites)}:
            return None
        found = read_files(
            [*tokens, *(one[site.name] for site in plain for one in files)],
            [one[site.name] for site in counted for one in files],
        )
    except KeyError:
        return None
    if found is None or {*map(type, starts), *map(type, stops)} != {int}:
        return None
    lengths = [*map(sub, stops, starts)]
    if min(starts) < 0 or max(stops) > MOST or min(lengths) < 1 or max(lengths) > MOST_TOKENS:
        return None
    n = len(items)
    of_tokens, *columns = (found[at : at + n] for at in range(0, len(found), n))
    of_sites = {site.name: column for site, column in zip(plain + counted, columns, strict=True)}
    per_token = BYTES_OF_TOKEN + 4 * n_tags
    if any(file.bytes < per_token * m for file, m in zip(of_tokens, lengths, strict=True)):
        return None
    if not all(_fit(site, of_sites[site.name], lengths) for site in sites):
        return None
    names = [site.name for site in sites]
    rows = zip(*(of_sites[name] for name in names), strict=True) if names else repeat((), n)
    return tuple(
        StoredShard(start, stop, file, dict(zip(names, row, strict=True)))
        for start, stop, file, row in zip(starts, stops, of_tokens, rows, strict=True)
    )


def _fit(site: StoredSite, files: list[StoredFile], lengths: list[int]) -> bool:
    """Whether no file of a site states more nonzeros than it has cells, or too few bytes."""
    width, itemsize = site.width, site.torch_dtype.itemsize
    each, per_token, fixed = enough_bytes(site.layout, width=width, itemsize=itemsize)
    for file, length in zip(files, lengths, strict=True):
        nonzeros = file.nonzeros or 0
        if nonzeros > length * width:
            return False
        if file.bytes < each * nonzeros + per_token * length + fixed and file.bytes < least_bytes(
            site.layout, tokens=length, width=width, itemsize=itemsize, nonzeros=nonzeros
        ):
            return False
    return True


def _shard(value: Any, where: str, sites: tuple[StoredSite, ...], n_tags: int) -> StoredShard:
    fields = Fields(value, where)
    start, stop = fields.number("start"), fields.number("stop")
    if not start < stop <= start + MOST_TOKENS:
        raise StoreDamaged(f"{where}: tokens {start} to {stop}; expected 1 to {MOST_TOKENS}.")
    files = fields.table("sites")
    if set(files) != {site.name for site in sites}:
        raise StoreDamaged(f"{where} has files of {short(sorted(files))}; expected one per site.")
    length = stop - start
    tokens = read_file(fields.get("tokens", dict), f"{where}: tokens")
    of_sites = {
        site.name: read_file(
            files[site.name],
            f"{where}: {site.name}",
            most=length * site.width if site.counts_nonzeros else None,
        )
        for site in sites
    }
    fields.done()
    # Later reads are as large as the files, so the stated sizes must fit what they hold.
    _check_size(tokens, f"{where}: tokens", length * (BYTES_OF_TOKEN + 4 * n_tags))
    for site in sites:
        file = of_sites[site.name]
        least = least_bytes(
            site.layout,
            tokens=length,
            width=site.width,
            itemsize=site.torch_dtype.itemsize,
            nonzeros=file.nonzeros or 0,
        )
        _check_size(file, f"{where}: {site.name}", least)
    return StoredShard(start, stop, tokens, of_sites)


def _check_size(file: StoredFile, where: str, least: int) -> None:
    if file.bytes < least:
        raise StoreDamaged(
            f"{where}: bytes is {file.bytes}; expected at least {least} for its tokens and values."
        )


def _indexes(
    value: Mapping[str, Any], sites: tuple[StoredSite, ...], n_shards: int
) -> dict[str, StoredFile]:
    of_sites, indexes = {site.name: site for site in sites}, {}
    if unknown := sorted(value.keys() - of_sites.keys()):
        raise StoreDamaged(f"indexes names {short(unknown[0])}, which is not among its sites.")
    files = read_files([*value.values()], [])
    for at, (name, item) in enumerate(value.items()):
        where = f"the index of {name}"
        file = indexes[name] = files[at] if files else read_file(item, where)
        arrays = index_bytes(of_sites[name].width, n_shards)
        _check_size(file, where, arrays)
        if file.bytes > (most := arrays + _LONGEST_HEADER):
            raise StoreDamaged(f"{where}: bytes is {file.bytes}; expected at most {most}.")
    return indexes


def _check_cover(
    shards: tuple[StoredShard, ...], n_tokens: int, indexes: Iterable[StoredFile]
) -> None:
    at = 0
    for number, shard in enumerate(shards):
        if shard.start != at:
            what = "twice" if shard.start < at else "not at all"
            raise StoreDamaged(
                f"shard {number} starts at token {shard.start}; expected {at}, or the tokens "
                f"between are stored {what}."
            )
        at = shard.stop
    if at != n_tokens:
        raise StoreDamaged(f"the shards end at token {at}; expected n_tokens, {n_tokens}.")
    paths = [file.path.lower() for shard in shards for file in shard.files]
    paths += [file.path.lower() for file in indexes]
    if len(set(paths)) < len(paths):
        raise StoreDamaged("two shards or indexes name one file; expected each its own.")


def _labels(name: str, labels: Any) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise StoreDamaged(f"tag {short(name)}: expected a list of words, or null.")
    return tuple(labels)
