"""The tab of typed text: values of the selected units at its tokens, and what fires at one."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.messages import Answer, Question, listed, text, whole
from arcee_lab.explorer.tabs.tab import Tab
from arcee_lab.explorer.units import MOST, Unit
from arcee_lab.recording.capturing import capture
from arcee_lab.sites import unit_name

_STRONGEST = 12


def _text(ground: Ground, *, text: str, names: list[str], at: int) -> Answer:
    ids, units = ground.ids(text), ground.units(names)
    length = ids.shape[1]
    at = length - 1 if at < 0 else min(at, length - 1)
    every = [f"layers.{layer}.mlp.hook_post" for layer in range(ground.sizes.layers)]
    sites = list(dict.fromkeys(unit.site for unit in units))
    with capture(ground.model, every, positions=[at]) as here:
        if sites:
            with capture(ground.model, sites) as found:
                ground.model(input_ids=ids, use_cache=False)
            values = torch.stack([value_of(unit, found[unit.site]) for unit in units])
        else:
            values = torch.zeros(0, length)
            ground.model(input_ids=ids, use_cache=False)
        there = torch.stack([here[site][0, 0].float().cpu() for site in every])
    return Answer(
        {
            "text": text,
            "tokens": ground.shown(ids[0].tolist()),
            "names": [str(unit) for unit in units],
            "at": at,
            "strongest": _strongest(ground, there),
        },
        (values.numpy().astype("<f4").tobytes(),),
    )


def value_of(unit: Unit, x: Tensor) -> Float[Tensor, " pos"]:
    """What a unit does at each token: relu(u)² of a neuron, the length of a head's output."""
    x = x[0, :, unit.number].float().cpu()
    return x.norm(dim=-1) if unit.is_head else x


def _strongest(ground: Ground, values: Float[Tensor, "layer d_mlp"]) -> list[list[Any]]:
    """The neurons that write most: name, value, length of what it adds, tokens it raises."""
    written = values * ground.written_lengths
    top = written.flatten().topk(min(_STRONGEST, written.numel()))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    rows = []
    for place, length in pairs:
        layer, unit = divmod(place, values.shape[1])
        if length > 0:
            value, raised = float(values[layer, unit]), ground.table.raised(place)
            rows.append([unit_name(layer, unit), value, length, raised])
    return rows


TAB = Tab(
    "text",
    "Text",
    {"text": Question(_text, {"text": text, "names": listed(MOST), "at": whole(-1, 10_000)})},
)
