"""Whether what a saved report holds can be the result of a measurement."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from arcee_lab.sparsity import registry
from arcee_lab.sparsity.core import every_token
from arcee_lab.sparsity.core.checking import (
    is_count,
    is_real,
    wrong_costs,
    wrong_means,
    wrong_tensors,
)
from arcee_lab.sparsity.core.state import Shape, State

_LEASTS = {"n_documents": 0, "n_windows": 1, "sample_every": 1, "stride": 1, "n_sampled": 0}


def wrong_facts(facts: Mapping[str, Any], states: Mapping[str, State]) -> str | None:
    """What a report says of itself that cannot be; None where all of it can.

    Args:
        facts: Its fields but for tensors, as JSON gave them.
        states: Its counts, whose names its costs must have.
    """
    for name in ("model", "label", "dtype", "device"):
        if not isinstance(facts[name], str):
            return f"its {name} is {facts[name]!r}, expected a text"
    for name, least in _LEASTS.items():
        if not is_count(facts[name], least):
            return f"its {name} is {facts[name]!r}, expected a whole number from {least}"
    if not is_real(facts["seconds"]) or not facts["seconds"]:
        return f"its seconds are {facts['seconds']!r}"
    weights = facts["weights"]
    if not isinstance(weights, dict):
        return f"its weights are {weights!r}"
    wrong = [name for name, value in weights.items() if not is_count(value, 0)]
    if wrong:
        return f"its weights.{wrong[0]} is {weights[wrong[0]]!r}"
    costs = facts["costs"]
    later = set(registry.FURTHER) & set(costs) if isinstance(costs, dict) else set()
    return wrong_costs(costs, {"pass", *states} | later)


def wrong_states(
    states: Mapping[str, State], norms: Tensor, *, n_windows: int, n_sampled: int
) -> str | None:
    """The first contradiction in the counts of a report; None if they agree.

    Args:
        states: By analysis.
        norms: ‖w_i‖, `[layer, d_mlp]`.
        n_windows: Windows that were read.
        n_sampled: Tokens of the sample.
    """
    counts = states["core"]
    try:
        layers, d_mlp = counts["fired"].shape
        longest, vocab = len(counts["position_tokens"]), len(counts["id_tokens"])
    except (KeyError, ValueError, TypeError):
        return "core/fired, core/position_tokens or core/id_tokens is missing or misshapen"
    meta = torch.device("meta")
    shape = Shape(layers, 1, d_mlp, vocab, longest, every_token.KEPT)
    expected = {"norms": torch.zeros(layers, d_mlp, dtype=torch.float32, device=meta)}
    why = wrong_tensors({"norms": norms}, expected)
    if why or not bool((norms >= 0).all()):  # NaN is not
        return why or "norms holds what is no length"
    new, kept = every_token.new_state(shape, meta), every_token.kept_rows(counts)
    if why := wrong_tensors(counts, new, kept):
        return f"core/{why}"
    if why := every_token.contradiction(counts):
        return why
    tokens = int(counts["tokens"][0])
    if not 0 < tokens >= n_sampled:
        return f"it counts {tokens} tokens, {n_sampled} of them in the sample"
    for name, state in states.items():
        if name == "core":
            continue
        analysis = registry.streamed(name)
        why = wrong_tensors(state, analysis.init(shape, meta), analysis.kept)
        if why := why or wrong_means(state, n_windows):
            return f"{name}/{why}"
    return None
