"""Shard files: written completely or not at all, and checked before they are used.

A shard is one safetensors file without metadata, so the same content gives the same bytes. Reading
maps the file: only the requested bytes are read.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from arcee_lab.dump.folders.folder import Folder, Written
from arcee_lab.dump.folders.open import folder_of
from arcee_lab.dump.format.block import TOKEN, UNIT, Block
from arcee_lab.dump.format.sparse import encoding_of, index_dtype
from arcee_lab.dump.format.stored_file import StoredFile
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.format.token_table import TokenTable
from arcee_lab.errors import ShardDamaged, StoreDamaged
from arcee_lab.runs.json_text import reason

_HALVES = {"neuron": (UNIT,), "both": (UNIT, TOKEN), "dense": (TOKEN,), "int8": (TOKEN,)}


def write(folder: str | Path | Folder, path: str, content: Block | TokenTable) -> StoredFile:
    """Writes one shard file atomically; its folder is created if it does not exist.

    Args:
        folder: The store; a path, an fsspec URL, or a folder.
        path: The file's path in the store; see `arcee_lab.dump.format.manifest.shard_path`.
        content: A site's block, or the tokens.

    Returns:
        The file's entry in the manifest.
    """
    tensors = content.tensors() if isinstance(content, TokenTable) else dict(content.tensors)
    nonzeros = None if isinstance(content, TokenTable) else content.nonzeros
    written = folder_of(folder).write(path, lambda part: save_file(tensors, part))
    return StoredFile(path, written.bytes, written.sha256, nonzeros)


def read_tokens(
    folder: str | Path | Folder, file: StoredFile, *, length: int, tags: Iterable[str]
) -> TokenTable:
    """Opens a shard of tokens.

    Raises:
        ShardDamaged: The file is missing, damaged, or does not match the manifest.
    """
    path, tensors = _open(folder_of(folder), file)
    try:
        return TokenTable.of(tensors, length=length, tags=tags)
    except ValueError as error:
        raise ShardDamaged(path, str(error)) from error


def read_block(
    folder: str | Path | Folder, file: StoredFile, site: StoredSite, *, length: int
) -> Block:
    """Opens a shard of a site and checks everything that reading it relies on, except the values.

    Raises:
        ShardDamaged: The file is missing, damaged, or does not match the manifest.
    """
    path, tensors = _open(folder_of(folder), file)
    try:
        _check(tensors, site, length, file.nonzeros)
    except ValueError as error:
        raise ShardDamaged(path, str(error)) from error
    return Block(tensors, length, site.width, site.torch_dtype, file.nonzeros)


def _open(folder: Folder, file: StoredFile) -> tuple[str, dict[str, Tensor]]:
    name = f"{folder}/{file.path}"
    try:
        size = folder.size(file.path)
    except ValueError as error:
        raise ShardDamaged(name, reason(error)) from error
    if size is None:
        raise ShardDamaged(name, "it is missing")
    if size != file.bytes:
        raise ShardDamaged(name, f"it has {size} bytes; expected {file.bytes}")
    try:
        path = folder.local(file.path, Written(file.bytes, file.sha256))
        with safe_open(path, framework="pt") as opened:  # bounds and lengths are checked here
            return name, {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:
        raise ShardDamaged(name, reason(error)) from error


def _check(
    tensors: Mapping[str, Tensor], site: StoredSite, length: int, nonzeros: int | None
) -> None:
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
    for prefix in _HALVES[site.layout]:
        rows, width = (site.width, length) if prefix == UNIT else (length, site.width)
        if nonzeros is None:
            encoding = site.layout
        else:
            encoding = encoding_of(
                rows=rows, width=width, nonzeros=nonzeros, itemsize=site.torch_dtype.itemsize
            )
        index = torch.uint16 if index_dtype(width).itemsize == 2 else torch.uint32
        entries = (nonzeros or 0,)
        shapes = {
            "dense": {"values": ((rows, width), site.torch_dtype)},
            "int8": {"values": ((rows, width), torch.int8), "scales": ((rows,), torch.float32)},
            "index": {
                "offsets": ((rows + 1,), torch.int64),
                "index": (entries, index),
                "values": (entries, site.torch_dtype),
            },
            "bitmap": {
                "offsets": ((rows + 1,), torch.int64),
                "bits": ((rows, -(-width // 8)), torch.uint8),
                "values": (entries, site.torch_dtype),
            },
        }[encoding]
        expected |= {prefix + name: shape for name, shape in shapes.items()}
    got = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    if got != expected:
        wrong = sorted(n for n in got.keys() | expected.keys() if got.get(n) != expected.get(n))
        raise StoreDamaged(
            f"its {wrong[0]} is {got.get(wrong[0])}; expected {expected.get(wrong[0])}"
        )
    for prefix in _HALVES[site.layout]:
        if prefix + "offsets" in tensors:
            _check_offsets(tensors[prefix + "offsets"].numpy(), nonzeros or 0)


def _check_offsets(offsets: np.ndarray, nonzeros: int) -> None:
    if offsets[0] != 0 or offsets[-1] != nonzeros or (offsets[1:] < offsets[:-1]).any():
        raise StoreDamaged(f"its offsets do not rise from 0 to its {nonzeros} nonzeros")
