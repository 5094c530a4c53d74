"""Whether numbers that were read can be those of a measurement: names, shapes, bounds, and sums.

Each check gives a few words on what is wrong, or None; who reads a file turns them into an error.
"""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import torch

from arcee_lab.sparsity import registry
from arcee_lab.sparsity.core import every_token
from arcee_lab.sparsity.report.report import SparsityReport
from arcee_lab.sparsity.streamed.analysis import Shape, State


def wrong_tensors(found: State, wanted: State, kept: Mapping[str, int] | None = None) -> str | None:
    """Compares names, shapes and dtypes.

    Args:
        found: What was read.
        wanted: What an analysis makes; its values are not looked at.
        kept: Of tensors whose rows were cut, the most there may be, by name.
    """
    kept = kept or {}
    for name in [*wanted, *found]:
        if name not in found or name not in wanted:
            return f"{name} is {'missing' if name not in found else 'unknown'}"
        here, right = found[name], wanted[name]
        size, expected = list(here.shape), list(right.shape)
        if name in kept and size and size[0] <= kept[name]:
            expected[0] = size[0]
        if (size, here.dtype) != (expected, right.dtype):
            return f"{name} is {size} of {here.dtype}, expected {expected} of {right.dtype}"
    return None


def wrong_means(state: State, windows: int) -> str | None:
    """Looks at the sums of means (`exact`) over at most so many windows."""
    for name, x in state.items():
        if name.endswith(("_n", "_nn", "_ss", "_windows")) and bool((x < 0).any()):
            return f"{name} is negative"
        if "drawn_" in name:
            continue  # those of single tokens, checksums among them
        if name.endswith("_windows") and bool((x > windows).any()):
            return f"{name} counts more than {windows} windows"
    return None


def wrong_costs(costs: Any, names: set[str]) -> str | None:
    """Looks at seconds by name."""
    if not isinstance(costs, Mapping) or set(costs) != names:
        return f"its costs are not those of {', '.join(sorted(names))}"
    wrong = [name for name, seconds in costs.items() if not _is_real(seconds)]
    return f"its cost of {wrong[0]} is {costs[wrong[0]]!r}" if wrong else None


def wrong_states(report: SparsityReport) -> str | None:
    """Looks at all counts of a report whose facts are right, further results apart."""
    counts = report.states["core"]
    try:
        layers, d_mlp = counts["fired"].shape
        longest, vocab = len(counts["position_tokens"]), len(counts["id_tokens"])
    except (KeyError, ValueError, TypeError):
        return "core/fired, core/position_tokens or core/id_tokens is missing or misshapen"
    meta = torch.device("meta")
    shape = Shape(layers, 1, d_mlp, vocab, longest, every_token.KEPT)
    norms = {"norms": torch.zeros(layers, d_mlp, dtype=report.norms.dtype, device=meta)}
    why = wrong_tensors({"norms": report.norms}, norms)
    if why or not bool((report.norms >= 0).all()):  # NaN is not
        return why or "norms holds what is no length"
    if why := wrong_tensors(
        counts, every_token.new_state(shape, meta), every_token.kept_rows(counts)
    ):
        return f"core/{why}"
    if why := every_token.contradiction(counts):
        return why
    if not 0 < report.n_tokens >= report.n_shared:
        return f"it counts {report.n_tokens} tokens, {report.n_shared} of them in the share"
    for name, state in report.states.items():
        if name == "core":
            continue
        analysis = registry.streamed(name)
        why = wrong_tensors(state, analysis.init(shape, meta), analysis.kept)
        if why := why or wrong_means(state, report.n_windows):
            return f"{name}/{why}"
    return None


def wrong_facts(report: SparsityReport) -> str | None:
    """Looks at what a report says of itself."""
    for name in ("model", "label", "dtype", "device"):
        if not isinstance(getattr(report, name), str):
            return f"its {name} is {getattr(report, name)!r}, expected a text"
    leasts = {"n_documents": 0, "n_windows": 1, "share": 1, "stride": 1, "n_shared": 0}
    for name, least in leasts.items():
        if not _is_count(getattr(report, name), least):
            return f"its {name} is {getattr(report, name)!r}, expected a whole number from {least}"
    if not _is_real(report.seconds) or not report.seconds:
        return f"its seconds are {report.seconds!r}"
    weights = {part.name: getattr(report.weights, part.name) for part in fields(report.weights)}
    wrong = [name for name, value in weights.items() if not _is_count(value, 0)]
    if wrong:
        return f"its weights.{wrong[0]} is {weights[wrong[0]]!r}"
    later = set(registry.FURTHER) & set(report.costs) if isinstance(report.costs, dict) else set()
    return wrong_costs(report.costs, {"pass", *report.states} | later)


def _is_real(value: Any) -> bool:
    right = isinstance(value, int | float) and not isinstance(value, bool)
    return right and math.isfinite(value) and value >= 0


def _is_count(value: Any, least: int) -> bool:
    return type(value) is int and value >= least
