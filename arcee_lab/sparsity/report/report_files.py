"""A report on disk: tensors as safetensors, facts as JSON, tables as Parquet, figures as PNG.

This module knows files and the parts of a report; what a report is, only `report` knows.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
from torch import Tensor

from arcee_lab.errors import OtherRun, SavedDamaged
from arcee_lab.results import Result
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import read_json, reason
from arcee_lab.runs.storage import as_json
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.core.checking import VERSION, written_by_another
from arcee_lab.sparsity.core.state import State
from arcee_lab.sparsity.report import validity
from arcee_lab.sparsity.sampled import result_files

if TYPE_CHECKING:
    import pandas as pd

REPORT, COUNTS = "report.json", "counts.safetensors"
FACTS = (
    "model",
    "label",
    "dtype",
    "device",
    "n_documents",
    "n_windows",
    "sample_every",
    "stride",
    "n_sampled",
    "seconds",
    "costs",
    "weights",
)


def write(
    folder: Path,
    *,
    facts: Mapping[str, Any],
    states: Mapping[str, State],
    norms: Tensor,
    further: Mapping[str, Result],
    summary: Mapping[str, Any],
    layers: Sequence[Mapping[str, Any]],
    frames: Mapping[str, "pd.DataFrame"],
    figures: Mapping[str, Callable[[], bytes]],
) -> list[Path]:
    """Writes the parts of a report, each whole or not at all.

    Args:
        folder: A folder that exists.
        facts: The fields named in `FACTS`, as JSON values.
        states: What was counted, by analysis.
        norms: ‖w_i‖, `[layer, d_mlp]`.
        further: Results of analyses with forward passes of their own.
        summary: The headline numbers.
        layers: One mapping per layer.
        frames: Tables, by file name.
        figures: What draws each picture as PNG, by file name.

    Returns:
        The files.
    """
    tensors = {
        f"{name}/{key}": x.contiguous()
        for name, state in states.items()
        for key, x in state.items()
    }
    content = safetensors.torch.save(tensors | {"norms": norms.contiguous()})
    files = [
        storage.write_atomic(folder / COUNTS, content),
        storage.write_json(folder / "summary.json", as_json(dict(summary))),
        storage.write_json(folder / "layers.json", as_json(list(layers))),
    ]
    if further:
        files.append(result_files.save(further, folder))
    for name, frame in frames.items():
        files.append(storage.write_atomic(folder / f"{name}.parquet", frame.to_parquet))
    for name, png in figures.items():
        files.append(storage.write_atomic(folder / f"{name}.png", png()))
    # The last one: where it is, all the others are.
    said = as_json({"version": VERSION, **facts})
    return [*files, storage.write_json(folder / REPORT, said)]


def read(folder: Path) -> dict[str, Any]:
    """Reads and checks what `write` wrote.

    Returns:
        The fields of a report: its facts, `states`, `norms` and `further`.

    Raises:
        ValueError: No report, one of another version, or a damaged one.
    """
    paths = [folder / REPORT, folder / COUNTS]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise SavedDamaged(
            f"{folder} holds no sparsity report: {missing[0]} is missing; expected a folder that "
            "report.save or arcee-lab sparsity wrote."
        )
    try:
        said = read_json(paths[0])
        tensors = safetensors.torch.load_file(paths[1])
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise SavedDamaged(
            f"the report in {folder} is damaged: {reason(error)}; measure again."
        ) from error
    if not isinstance(said, dict) or "version" not in said:
        raise SavedDamaged(f"{paths[0]} is damaged: it states no version; measure again.")
    if other := written_by_another(said["version"]):
        raise OtherRun(
            f"{paths[0]} {other} in format {said['version']!r}, and this release reads format "
            f"{VERSION}; measure again."
        )
    lacking = [name for name in FACTS if name not in said]
    if lacking:
        raise SavedDamaged(f"{paths[0]} is damaged: it lacks {lacking[0]}; measure again.")
    facts = {name: said[name] for name in FACTS}
    states: dict[str, State] = {}
    for path, tensor in tensors.items():
        if "/" in path:
            name, key = path.split("/", 1)
            states.setdefault(name, {})[key] = tensor
    unknown = [name for name in states if name != "core" and name not in registry.STREAMED]
    if unknown or "core" not in states or "norms" not in tensors:
        raise SavedDamaged(f"{paths[1]} is damaged: {unknown or 'its core counts'} do not belong.")
    norms = tensors["norms"]
    if why := validity.wrong_facts(facts, states):
        raise SavedDamaged(f"{paths[0]} is damaged: {why}; measure again.")
    sizes = {name: facts[name] for name in ("n_windows", "n_sampled")}
    if why := validity.wrong_states(states, norms, **sizes):
        raise SavedDamaged(f"{paths[1]} is damaged: {why}; measure again.")
    return {**facts, "states": states, "norms": norms, "further": result_files.load(folder)}
