"""One neuron's part of what other calls found about many: its effects, labels and ablation."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from arcee_lab.errors import UnknownName
from arcee_lab.neurons.pages.neuron_page import Scored, UnitEffects, UnitLabel
from arcee_lab.neurons.pages.token_text import TokenText
from arcee_lab.results import counted
from arcee_lab.sites import unit_name

if TYPE_CHECKING:
    from arcee_lab.neurons.ablation.outcome import Ablations
    from arcee_lab.neurons.search.found import Found, FoundUnit
    from arcee_lab.neurons.weights.result import Effects


def effects_of(
    found: "Effects | Mapping[int, Effects]", layer: int, unit: int, text: TokenText
) -> UnitEffects:
    """What a neuron writes and reads.

    Raises:
        UnknownName: It is not among those that were looked at.
    """
    if isinstance(found, Mapping):
        if layer not in found:
            raise UnknownName(
                f"effects has no layer {layer}; expected one of {', '.join(map(str, found))}."
            )
        found = found[layer]
    row = found.row(layer, unit)

    def scored(ids: Tensor, values: Tensor) -> Scored:
        numbers = zip(ids[row].tolist(), values[row].tolist(), strict=True)
        return tuple((text.one(number), value) for number, value in numbers)

    return UnitEffects(
        raises=scored(found.promoted, found.promoted_by),
        lowers=scored(found.suppressed, found.suppressed_by),
        kind=found.classes[row] or None,
        moments={
            name: float(getattr(found, name)[row]) for name in ("kurtosis", "skew", "variance")
        },
        nearest=scored(found.read, found.read_by),
    )


def raised(found: "Effects", layer: int, d_mlp: int, text: TokenText, most: int) -> list[list[str]]:
    """The tokens that each neuron of a layer raises most; none for one that was not looked at."""
    tokens: list[list[str]] = [[] for _ in range(d_mlp)]
    rows = (found.layers == layer).nonzero().flatten()
    ids = found.promoted[rows, :most].tolist()
    for unit, some in zip(found.units[rows].tolist(), ids, strict=True):
        tokens[unit] = [text.one(number) for number in some]
    return tokens


def kinds(found: "Effects", layer: int, d_mlp: int) -> list[str | None]:
    """The class of each neuron of a layer; None where there is none."""
    classes: list[str | None] = [None] * d_mlp
    rows = (found.layers == layer).nonzero().flatten().tolist()
    for row, unit in zip(rows, found.units[rows].tolist(), strict=True):
        classes[unit] = found.classes[row] or None
    return classes


def labels_of(found: "Found", layer: int, unit: int) -> tuple[UnitLabel, ...]:
    """The labels among whose best units a neuron is, the best score first."""
    labels = [
        UnitLabel(
            one.label,
            {"F1": one.f1, "AUPRC": one.auprc, "AUROC": one.auroc, "threshold": one.threshold},
            of.confirmed and one == of.best,
        )
        for of in found.labels
        for one in of.units
        if (one.layer, one.unit) == (layer, unit) and _of_neurons(one)
    ]
    ranked_by = found.rank_by.upper()
    return tuple(sorted(labels, key=lambda label: -label.scores[ranked_by]))


def best_labels(found: "Found", layer: int, d_mlp: int) -> list[UnitLabel | None]:
    """The best label of each neuron of a layer; None for one that is among no label's best."""
    named = {
        one.unit
        for of in found.labels
        for one in of.units
        if one.layer == layer and _of_neurons(one)
    }
    best: list[UnitLabel | None] = [None] * d_mlp
    for unit in named:
        best[unit] = labels_of(found, layer, unit)[0]
    return best


def _of_neurons(one: "FoundUnit") -> bool:
    return one.site.rsplit(".", 1)[-1] in ("hook_post", "hook_relu", "hook_pre") and not one.falling


def ablation_of(found: "Ablations", layer: int, unit: int) -> dict[str, float]:
    """What changes without one neuron, in nats per token.

    Raises:
        UnknownName: It was not ablated alone.
    """
    alone = [
        place
        for place, some in enumerate(found.sets)
        if [(one.layer, one.unit) for one in some] == [(layer, unit)]
    ]
    if not alone:
        raise UnknownName(
            f"{unit_name(layer, unit)} is not among these {counted(len(found.sets), 'ablation')}; "
            "expected it as a set of its own."
        )
    row = found.frame().iloc[alone[0]]
    facts = {"NLL change": "NLL", "NLL low": "NLL, 95 % from", "NLL high": "NLL, 95 % to"}
    facts |= {"KL": "KL", "KL low": "KL, 95 % from", "KL high": "KL, 95 % to"}
    return {shown: float(row[name]) for name, shown in facts.items()} | {
        "tokens": int(row["tokens"])
    }
