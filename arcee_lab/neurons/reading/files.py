"""A run of exemplars on disk: one JSON file, the windows once, and one file per layer.

    exemplars.json          what was run, and the SHA-256 of every other file; written last
    windows.safetensors     ids, bounds, documents, domains, counted, pool
    layer-007.safetensors   the state of layer 7 (`state`)

Nothing of a file is used before its checksum, its shapes and its bounds have been compared. Layers
are read when they are asked for.
"""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.errors import OtherRun, SavedDamaged
from arcee_lab.neurons.reading import checking
from arcee_lab.neurons.reading.domains import Corpus
from arcee_lab.neurons.reading.facts import Facts
from arcee_lab.neurons.reading.state import State, new_state
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import read_json, reason

FILE, WINDOWS = "exemplars.json", "windows.safetensors"
FORMAT, VERSION = "arcee_lab.exemplars", 1
_WINDOWS = {
    "ids": torch.int32,
    "bounds": torch.int64,
    "documents": torch.int64,
    "domains": torch.int16,
    "counted": torch.uint8,
    "pool": torch.int64,
}


# Of int and State; named so here, a type checker at run time would read a layer too early.
class LayerFiles(Mapping[Any, Any]):
    """The states of a saved run by layer, each read and checked at its first use.

    Args:
        folder: Of the run.
        facts: What was run.
        lengths: Tokens of each window.
        digests: SHA-256 by file.
    """

    def __init__(self, folder: Path, facts: Facts, lengths: np.ndarray, digests: Mapping[str, str]):
        self._folder, self._facts, self._digests = folder, facts, digests
        self._lengths = torch.from_numpy(lengths)
        self._read: dict[int, State] = {}

    def __getitem__(self, layer: int) -> State:
        if layer not in self._read:
            name = layer_file(layer)
            tensors = _tensors(self._folder / name, self._digests[name])
            wanted = new_state(self._facts.places, self._facts.d_mlp, torch.device("meta"))
            sums = self._facts.n_tokens, self._facts.n_windows
            why = checking.other_shapes(tensors, wanted)
            why = why or checking.impossible(tensors, self._lengths, *sums)
            if why:
                raise damaged(self._folder / name, why)
            self._read[layer] = tensors
        return self._read[layer]

    def __iter__(self) -> Iterator[int]:
        return iter(self._facts.layers)

    def __len__(self) -> int:
        return len(self._facts.layers)


def layer_file(layer: int) -> str:
    """The file of a layer."""
    return f"layer-{layer:03d}.safetensors"


def write(
    folder: Path,
    facts: Facts,
    corpus: Corpus,
    counted: np.ndarray,
    pool: np.ndarray,
    states: Mapping[int, State],
) -> Path:
    """Writes a run, each file whole or not at all, and the JSON file last.

    Raises:
        OtherRun: The folder holds another run.
        NotWritten: The disk is full, or the folder is not writable.
    """
    said = facts.as_json()
    where = folder / FILE
    if where.is_file() and (theirs := _read_json(where).get("facts")) != said:
        storage.check_same_run(folder, theirs if isinstance(theirs, dict) else {}, said)
    storage.make_folder(folder)
    windows = corpus.windows
    arrays = {
        "ids": windows.ids.astype(np.int32),
        "bounds": windows.bounds.astype(np.int64),
        "documents": windows.documents.astype(np.int64),
        "domains": corpus.domains.astype(np.int16),
        "counted": counted.astype(np.uint8),
        "pool": pool.astype(np.int64),
    }
    digests = {
        WINDOWS: _write(folder / WINDOWS, {n: torch.from_numpy(x) for n, x in arrays.items()})
    }
    for layer in facts.layers:
        digests[layer_file(layer)] = _write(folder / layer_file(layer), states[layer])
    return storage.write_json(
        where,
        {
            "format": FORMAT,
            "version": VERSION,
            "facts": said,
            "bos_id": windows.bos_id,
            "pad_id": windows.pad_id,
            "domains": list(corpus.names),
            "sha256": digests,
        },
    )


def read(folder: Path) -> tuple[Facts, Corpus, np.ndarray, np.ndarray, LayerFiles]:
    """Reads what `write` wrote.

    Returns:
        Facts, text, which tokens count, the pool, and the states.

    Raises:
        SavedDamaged: The folder holds no run, or a damaged one.
        OtherRun: A later release wrote it.
    """
    where = folder / FILE
    if not where.is_file():
        raise SavedDamaged(
            f"{folder} holds no exemplars: {FILE} is missing; expected a folder that "
            "al.neurons.exemplars(..., out=) or `arcee-lab neurons` wrote to its end."
        )
    said = _read_json(where)
    if said.get("format") != FORMAT:
        raise damaged(where, f"it states the format {said.get('format')!r}, expected {FORMAT!r}")
    if said.get("version") != VERSION:
        raise OtherRun(
            f"{where} states the version {said.get('version')!r}, and this release reads "
            f"{VERSION}; run it again."
        )
    try:
        facts = Facts.from_json(said["facts"])
        digests = {name: str(digest) for name, digest in said["sha256"].items()}
        names = tuple(said["domains"])
        ids = {name: said[name] for name in ("bos_id", "pad_id")}
        right = all(isinstance(name, str) for name in names) and _are_ids(ids)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(where, str(error) or type(error).__name__) from None
    lacking = [n for n in (WINDOWS, *map(layer_file, facts.layers)) if n not in digests]
    absent = [name for name in digests if not lacking and not (folder / name).is_file()]
    if not right or lacking or absent:
        why = [*(f"it names no {n}" for n in lacking), *(f"{n} is missing" for n in absent)]
        raise damaged(where, why[0] if why else "its names or ids are of another type")
    tensors = _tensors(folder / WINDOWS, digests[WINDOWS])
    if why := _impossible_windows(tensors, facts, len(names)):
        raise damaged(folder / WINDOWS, why)
    arrays = {name: x.numpy() for name, x in tensors.items()}
    windows = Windows(arrays["ids"], arrays["bounds"], arrays["documents"], **ids)
    corpus = Corpus(windows, names, arrays["domains"])
    layers = LayerFiles(folder, facts, np.diff(windows.bounds), digests)
    return facts, corpus, arrays["counted"].astype(bool), arrays["pool"], layers


def damaged(path: Path, why: str) -> SavedDamaged:
    """The error of a file that nothing can be read from."""
    return SavedDamaged(
        f"{path} is damaged or was changed ({why}); copy the folder anew, or run it again."
    )


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    content = safetensors.torch.save({name: x.contiguous() for name, x in tensors.items()})
    storage.write_atomic(path, content)
    return hashlib.sha256(content).hexdigest()


def _tensors(path: Path, digest: str) -> State:
    try:
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest() != digest:
            raise damaged(path, "its SHA-256 is not the one in exemplars.json")
        return safetensors.torch.load(content)
    except (OSError, safetensors.SafetensorError) as error:
        raise damaged(path, reason(error)) from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        said = read_json(path)
    except SavedDamaged as error:
        raise damaged(path, "it is no JSON") from error
    if not isinstance(said, dict):
        raise damaged(path, "it holds no JSON object")
    return said


def _are_ids(ids: Mapping[str, Any]) -> bool:
    return type(ids["pad_id"]) is int and (ids["bos_id"] is None or type(ids["bos_id"]) is int)


def _impossible_windows(tensors: State, facts: Facts, domains: int) -> str | None:
    if set(tensors) != set(_WINDOWS):
        return "it holds other tensors"
    for name, dtype in _WINDOWS.items():
        if tensors[name].dtype != dtype or tensors[name].dim() != 1:
            return f"{name} is {list(tensors[name].shape)} of {tensors[name].dtype}"
    n, tokens = len(tensors["documents"]), len(tensors["ids"])
    bounds, pool = tensors["bounds"], tensors["pool"]
    if n < 1 or n < facts.n_windows or len(tensors["domains"]) != n:
        return "its numbers of windows differ"
    if len(bounds) != n + 1 or len(tensors["counted"]) != tokens:
        return "its numbers of tokens differ"
    if int(bounds[0]) != 0 or int(bounds[-1]) != tokens or bool((bounds.diff() < 1).any()):
        return "its bounds do not rise from 0 to its number of tokens"
    if int(bounds.diff().max()) != facts.context:
        return f"its longest window is not {facts.context} tokens long"
    if bool((tensors["ids"] < 0).any() or (tensors["documents"] < 0).any()):
        return "it holds negative numbers"
    if bool((tensors["domains"] < 0).any() or (tensors["domains"] >= domains).any()):
        return "its domains have no name"
    if len(pool) != facts.places.pool or bool((pool < 0).any() or (pool >= n).any()):
        return "its pool points outside of the windows"
    return None
