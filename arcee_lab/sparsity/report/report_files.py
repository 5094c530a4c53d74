"""A report on disk: tensors as safetensors, facts as JSON, tables as Parquet, figures as PNG."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from arcee_lab.runs import storage
from arcee_lab.sparsity import further_files, registry
from arcee_lab.sparsity.core import checking
from arcee_lab.sparsity.core.savings import Weights
from arcee_lab.sparsity.report.report import SparsityReport
from arcee_lab.sparsity.streamed.analysis import State, as_json

FACTS, COUNTS = "report.json", "counts.safetensors"
VERSION = 4
_FACTS = (
    "model",
    "label",
    "dtype",
    "device",
    "n_documents",
    "n_windows",
    "share",
    "stride",
    "n_shared",
)


def save(report: SparsityReport, folder: str | Path) -> list[Path]:
    """Writes a report; see `SparsityReport.save`."""
    from arcee_lab.views.figures.figure import png

    folder = Path(folder)
    tensors = {
        f"{name}/{key}": x.contiguous()
        for name, state in report.states.items()
        for key, x in state.items()
    }
    facts: dict[str, Any] = {name: getattr(report, name) for name in _FACTS}
    facts |= {"version": VERSION, "seconds": report.seconds, "costs": dict(report.costs)}
    facts |= {"weights": asdict(report.weights)}
    layers = report.frame("layers").to_dict(orient="records")
    files = [
        storage.write_atomic(
            folder / COUNTS, safetensors.torch.save(tensors | {"norms": report.norms.contiguous()})
        ),
        storage.write_json(folder / "summary.json", as_json(report.summary())),
        storage.write_json(folder / "layers.json", as_json(layers)),
    ]
    if report.further:
        files.append(further_files.save(report.further, folder))
    for name in ("neurons", "tokens", "costs", *report.results):
        frame = report.frame(name)
        files.append(storage.write_atomic(folder / f"{name}.parquet", frame.to_parquet))
    figures = {
        "sparsity": report.figure_layers,
        "rates": report.figure_rates,
        "tokens": report.figure_tokens,
        **{name: result.figure for name, result in report.results.items()},
    }
    for name, figure in figures.items():
        files.append(storage.write_atomic(folder / f"{name}.png", png(figure())))
    # The last one: where it is, all the others are.
    return [*files, storage.write_json(folder / FACTS, as_json(facts))]


def load(folder: str | Path) -> SparsityReport:
    """Reads a report; see `SparsityReport.load`."""
    folder = Path(folder)
    paths = [folder / FACTS, folder / COUNTS]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"{folder} holds no sparsity report: {missing[0]} is missing; expected a folder that "
            "report.save or arcee-lab sparsity wrote"
        )
    try:
        facts = json.loads(paths[0].read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(paths[1])
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"the report in {folder} is damaged: {error}") from error
    if not isinstance(facts, dict) or facts.get("version") != VERSION:
        raise ValueError(f"{paths[0]} is not of version {VERSION}; measure again")
    states: dict[str, State] = {}
    for path, tensor in tensors.items():
        if "/" in path:
            name, key = path.split("/", 1)
            states.setdefault(name, {})[key] = tensor
    unknown = [name for name in states if name != "core" and name not in registry.STREAMED]
    if unknown or "core" not in states or "norms" not in tensors:
        raise ValueError(f"{paths[1]} is damaged: {unknown or 'its core counts'} do not belong")
    try:
        report = SparsityReport(
            **{name: facts[name] for name in _FACTS},
            seconds=facts["seconds"],
            costs=facts["costs"],
            weights=Weights(**facts["weights"]),
            norms=tensors["norms"],
            states=states,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"{paths[0]} is damaged: {error}") from error
    for path, wrong in zip(paths, (checking.wrong_facts, checking.wrong_states), strict=True):
        if why := wrong(report):
            raise ValueError(f"{path} is damaged: {why}; measure again")
    return replace(report, further=further_files.load(folder))
