"""Values per token of all exemplars on disk: pages with them need no model."""

import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from arcee_lab.errors import OtherRun, SavedDamaged, SettingError
from arcee_lab.neurons.pages.excerpts import AFTER, BEFORE, check_span
from arcee_lab.neurons.pages.static import Written, claimed
from arcee_lab.neurons.pages.values import BATCH_SIZE, Spots, read_values
from arcee_lab.results import counted
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import read_json

FACTS = "values.json"
_AT_ONCE = 2 << 30  # bytes of values that one pass over the windows holds
_VERSION = 1


@dataclass(frozen=True)
class StoredValues:
    """Values per token of a run's exemplars, in a folder; a file per layer, read as asked.

    Attributes:
        folder: The folder.
        fingerprint: Of the model.
        n_tokens: N of the run.
        layers: Layers that are there.
        before: Tokens before each peak.
        after: Tokens after it.
    """

    folder: Path
    fingerprint: str
    n_tokens: int
    layers: tuple[int, ...]
    before: int
    after: int

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "StoredValues":
        """Opens what `write_values` wrote.

        Raises:
            SavedDamaged: The folder holds no values, or its facts were changed.
        """
        folder = Path(folder)
        try:
            facts = read_json(folder / FACTS)
            layers = tuple(facts["layers"])
            numbers = (facts["n_tokens"], facts["before"], facts["after"], *layers)
            if facts["version"] != _VERSION or any(type(x) is not int or x < 0 for x in numbers):
                raise ValueError
            check_span(facts["before"], facts["after"])
            return cls(
                folder,
                str(facts["fingerprint"]),
                facts["n_tokens"],
                layers,
                facts["before"],
                facts["after"],
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SavedDamaged(
                f"{folder} holds no values of neurons, or {FACTS} was changed; expected a folder "
                "that --values or al.neurons.write_values wrote. Write them again."
            ) from error

    def require_of(self, run: Any) -> None:
        """Refuses another run.

        Raises:
            OtherRun: The values are of another model or text.
        """
        if (run.fingerprint, run.n_tokens) != (self.fingerprint, self.n_tokens):
            raise OtherRun(
                f"values in {self.folder} are of another run than {run.model}, N = "
                f"{run.n_tokens:,} tokens; expected those of this run. Write them again."
            )

    def read(self, layer: int, unit: int) -> list[list[float]]:
        """The values of a neuron's exemplars: of the best ones, then of the strata from low up.

        Raises:
            SettingError: A layer that is not there.
            SavedDamaged: Its file is missing or was changed.
        """
        if layer not in self.layers:
            raise SettingError(
                f"layer is {layer}; {self.folder} has values of the layers "
                f"{', '.join(map(str, self.layers))}."
            )
        path = self.folder / _file_name(layer)
        try:
            with safe_open(path, framework="pt") as file:
                first, stop = file.get_slice("first")[unit : unit + 2].tolist()
                values = file.get_slice("values")
                if not 0 <= first <= stop <= values.get_shape()[0]:
                    raise ValueError
                return values[first:stop].tolist()
        except (OSError, ValueError, IndexError, SafetensorError) as error:
            raise SavedDamaged(
                f"{path} is missing or damaged; write the values again in a new folder."
            ) from error


def values_bytes(run: Any, *, before: int = BEFORE, after: int = AFTER) -> int:
    """What `write_values` takes on disk at most, without its small headers; nothing is computed.

    Args:
        run: What `al.neurons.exemplars` found.
        before: Tokens before each peak.
        after: Tokens after it.
    """
    width = min(before + after + 1, run.context)
    exemplars = sum(_count(run, layer) for layer in run.layers)
    return exemplars * width * 4 + len(run.layers) * (run.d_mlp + 1) * 8


def write_values(
    run: Any,
    model: Any,
    out: str | os.PathLike[str],
    *,
    before: int = BEFORE,
    after: int = AFTER,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = None,
) -> Written:
    """Computes the values around all exemplars of all neurons of a run, and stores them.

    The windows of exemplars are read once for as many layers as 2 GiB of values allow.
    `values_bytes` says in advance what the files take at most.

    Args:
        run: What `al.neurons.exemplars` found.
        model: The model that it is of.
        out: A new or empty folder, or one that holds the same of the same run.
        before: Tokens before each peak.
        after: Tokens after it.
        batch_size: Windows per forward.
        progress: Whether to show a bar per pass.

    Returns:
        The files: one per layer, and `values.json`.

    Raises:
        SettingError: A number of tokens out of its range.
        OtherRun: The model is not the one of the run.
        FileError: A folder in use or a full disk; then no file stays.
    """
    began = time.perf_counter()
    check_span(before, after)
    out = claimed(out, run, "values")
    width = min(before + after + 1, run.context)

    def fill(folder: Path) -> None:
        for layers in _groups(run, width):
            spots, firsts = _spots(run, layers, before, after)
            values = read_values(run, model, spots, batch_size=batch_size, progress=progress)
            if values.shape[1] < width:
                values = torch.nn.functional.pad(values, (0, width - values.shape[1]))
            for layer, first in zip(layers, firsts, strict=True):
                here = values[int(first[0]) : int(first[-1])].contiguous()
                file = {"values": here, "first": torch.from_numpy(first - first[0])}
                save_file(file, folder / _file_name(layer))
        facts = {
            "version": _VERSION,
            "model": run.model,
            "fingerprint": run.fingerprint,
            "n_tokens": run.n_tokens,
            "layers": list(run.layers),
            "before": before,
            "after": after,
        }
        storage.write_json(folder / FACTS, facts)

    files = storage.write_folder(out, fill)
    what = f"values of {counted(len(run.layers), 'layer')}"
    return Written(out, tuple(files), what, time.perf_counter() - began)


def _groups(run: Any, width: int) -> list[list[int]]:
    """Layers whose values are held together."""
    groups: list[list[int]] = []
    held = 0
    for layer in run.layers:
        size = _count(run, layer) * width * 4
        if not groups or held + size > _AT_ONCE:
            groups.append([])
            held = 0
        groups[-1].append(layer)
        held += size
    return groups


def _spots(run: Any, layers: list[int], before: int, after: int) -> tuple[Spots, list[np.ndarray]]:
    """What is to be computed, and where each neuron's begins, by layer."""
    lengths = np.diff(run.corpus.windows.bounds)
    rows: list[np.ndarray] = []
    firsts: list[np.ndarray] = []
    total = 0
    for layer in layers:
        sizes = []
        for unit in range(run.d_mlp):
            strata = itertools.chain.from_iterable(run.stratified(layer, unit))
            found = [(x.window, x.position) for x in (*run.top(layer, unit), *strata)]
            places = np.array(found, dtype=np.int64).reshape(-1, 2)
            rows.append(
                np.column_stack([np.full((len(places), 2), (layer, unit)), places])
                if len(places)
                else np.zeros((0, 4), dtype=np.int64)
            )
            sizes.append(len(places))
        firsts.append(np.cumsum([total, *sizes]))
        total = int(firsts[-1][-1])
    layer, unit, window, position = np.concatenate(rows).T
    start = np.maximum(position - before, 0)
    stop = np.minimum(position + after + 1, lengths[window])
    return Spots(layer, unit, window, start, stop - start), firsts


def _count(run: Any, layer: int) -> int:
    """Exemplars of a layer, of the largest and of the drawn ones."""
    kept = run.states[layer]
    return sum(int((kept[f"{name}_windows"] >= 0).sum()) for name in ("top", "drawn"))


def _file_name(layer: int) -> str:
    return f"layer-{layer:02d}.safetensors"
