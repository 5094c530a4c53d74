"""The manifest of an activation store: what it holds, from which model, in which files, as JSON.

A manifest may come from an untrusted source. `Manifest.parse` therefore checks the type and range
of every field, that no path leaves the folder, and that the shards cover each token once.
"""

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from arcee_lab.dump.folders.folder import Folder
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format.json_fields import MOST, Fields, short
from arcee_lab.dump.format.layouts import LAYOUTS, MOST_TOKENS, SPARSE_LAYOUTS, least_bytes
from arcee_lab.errors import FileError, StoreDamaged
from arcee_lab.runs.json_text import parse_json

MANIFEST = "manifest.json"
FORMAT = "arcee_lab.dump"
VERSION = 2
_READ = (1, 2)  # version 1 has no indexes
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
BYTES_OF_TOKEN = 4 * 4 + 2  # ids, positions, documents, windows; attended, first
_RELU, _POST = ".mlp.hook_relu", ".mlp.hook_post"
MOST_LAYERS = 1024  # no decoder has a sixth of them
_MOST_AXES = 4
_LONGEST_PATH = 255
_LONGEST_HEADER = 4096  # bytes of the header of an index
_LARGEST = 2**28  # bytes of a manifest; a million shard files take less
_SHARD = ".safetensors"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*(/[A-Za-z0-9_\-][A-Za-z0-9_.\-]*)*")


def stored_as(site: str) -> str:
    """The site whose values a store keeps for `site`: relu(u) for relu(u)², else the site itself.

    Reading computes the square again, with the same rounding as the model's. relu(u) has the wider
    range: in float16 the square overflows from 256 on.
    """
    return site.removesuffix(_POST) + _RELU if site.endswith(_POST) else site


def index_bytes(width: int, n_shards: int) -> int:
    """Bytes of the arrays of a site's index by unit; its file has a header besides."""
    return 4 * (width + 1) * n_shards + 16 * n_shards


def shard_path(what: str, number: int) -> str:
    """Path of a shard in the folder, for a site's name or `tokens`."""
    return f"{what}/{number:05d}.safetensors"


@dataclass(frozen=True)
class StoredFile:
    """One file of a store.

    Attributes:
        path: Relative to the store's folder, with forward slashes.
        bytes: Its size.
        sha256: Its checksum.
        nonzeros: Values that are not zero; None for tokens and if the layout does not count them.
    """

    path: str
    bytes: int
    sha256: str
    nonzeros: int | None = None


@dataclass(frozen=True)
class StoredSite:
    """What is stored of one hook point.

    Attributes:
        name: Canonical name; neurons are stored as `hook_relu`, see `stored_as`.
        shape: Sizes of its axes after batch and pos.
        dtype: `bfloat16`, `float16` or `float32`.
        layout: See `arcee_lab.dump.format.layouts`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str

    @cached_property
    def width(self) -> int:
        """Values per token."""
        return math.prod(self.shape)

    @cached_property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as a torch.dtype."""
        return DTYPES[self.dtype]

    @property
    def value_dtype(self) -> torch.dtype:
        """The dtype of values that are read: float32 for int8, else the site's own."""
        return torch.float32 if self.layout == "int8" else self.torch_dtype

    @cached_property
    def counts_nonzeros(self) -> bool:
        """Whether its files state how many values are not zero."""
        return self.layout in SPARSE_LAYOUTS


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
            "tokens": _file_json(self.tokens),
            "sites": {name: _file_json(file) for name, file in self.sites.items()},
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
        return _shard(value, where, sites, n_tags=0)


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
            "indexes": {name: _file_json(file) for name, file in self.indexes.items()},
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
        sites = tuple(_site(item, at) for at, item in enumerate(top.list("sites")))
        if len({site.name for site in sites}) < len(sites):
            raise StoreDamaged("two sites have one name; expected each once.")
        tags = {name: _labels(name, labels) for name, labels in top.table("tags").items()}
        shards = tuple(
            _shard(item, f"shard {at}", sites, len(tags))
            for at, item in enumerate(top.list("shards"))
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


def _site(value: Any, at: int) -> StoredSite:
    fields = Fields(value, f"site {at}")
    name, shape = fields.text("name"), fields.list("shape")
    if len(name) > _LONGEST_PATH or not _PATH.fullmatch(name) or "/" in name:
        raise StoreDamaged(f"site {at}: {short(name)} is no hook point's name.")
    layer = re.match(r"layers\.([^.]*)", name)
    if layer and not (re.fullmatch(r"\d{1,4}", layer[1]) and int(layer[1]) < MOST_LAYERS):
        raise StoreDamaged(
            f"site {at}: {short(name)} is of no layer; expected 0 to {MOST_LAYERS - 1}."
        )
    sizes = all(type(size) is int and 0 < size < 2**31 for size in shape)
    if not 0 < len(shape) <= _MOST_AXES or not sizes:
        raise StoreDamaged(f"{name}: shape is {short(shape)}; expected positive sizes.")
    if math.prod(shape) >= 2**31:
        raise StoreDamaged(f"{name}: shape {short(shape)} has too many values per token.")
    dtype, layout = fields.text("dtype"), fields.text("layout")
    for what, got, known in (("dtype", dtype, DTYPES), ("layout", layout, LAYOUTS)):
        if got not in known:
            raise StoreDamaged(f"{name}: {what} is {short(got)}; expected {', '.join(known)}.")
    fields.done()
    return StoredSite(name, tuple(shape), dtype, layout)


def _shard(value: Any, where: str, sites: tuple[StoredSite, ...], n_tags: int) -> StoredShard:
    fields = Fields(value, where)
    start, stop = fields.number("start"), fields.number("stop")
    if not start < stop <= start + MOST_TOKENS:
        raise StoreDamaged(f"{where}: tokens {start} to {stop}; expected 1 to {MOST_TOKENS}.")
    files = fields.table("sites")
    if set(files) != {site.name for site in sites}:
        raise StoreDamaged(f"{where} has files of {short(sorted(files))}; expected one per site.")
    length = stop - start
    tokens = _file(fields.get("tokens", dict), f"{where}: tokens", most=None)
    of_sites = {
        site.name: _file(
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


def _file(value: Any, where: str, *, most: int | None) -> StoredFile:
    # A store has thousands of files, so one look says that all fields are right.
    try:
        path, size, sha256 = value["path"], value["bytes"], value["sha256"]
        nonzeros = None if most is None else value["nonzeros"]
        if (
            len(value) == (3 if most is None else 4)
            and type(path) is str
            and len(path) <= _LONGEST_PATH
            and _PATH.fullmatch(path)
            and path.endswith(_SHARD)
            and type(size) is int
            and 0 <= size <= MOST
            and _SHA256.fullmatch(sha256)
            and (most is None or (type(nonzeros) is int and 0 <= nonzeros <= most))
        ):
            return StoredFile(path, size, sha256, nonzeros)
    except (KeyError, TypeError):
        pass
    return _field_by_field(value, where, most=most)


def _field_by_field(value: Any, where: str, *, most: int | None) -> StoredFile:
    """Reads a file's record so that the error names the field that is wrong."""
    fields = Fields(value, where)
    path, sha256 = fields.text("path"), fields.text("sha256")
    named = len(path) <= _LONGEST_PATH and _PATH.fullmatch(path) and path.endswith(_SHARD)
    if not named:
        raise StoreDamaged(f"{where}: path {short(path)} is not a .safetensors file.")
    if not _SHA256.fullmatch(sha256):
        raise StoreDamaged(f"{where}: sha256 is {short(sha256)}; expected 64 hexadecimal digits.")
    nonzeros = None if most is None else fields.number("nonzeros", most)
    size = fields.number("bytes")
    fields.done()
    return StoredFile(path, size, sha256, nonzeros)


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
    for name, item in value.items():
        where = f"the index of {name}"
        file = indexes[name] = _file(item, where, most=None)
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


def _file_json(file: StoredFile) -> dict[str, Any]:
    value = {"path": file.path, "bytes": file.bytes, "sha256": file.sha256}
    return value if file.nonzeros is None else value | {"nonzeros": file.nonzeros}
