"""Neurons and sets of neurons, as callers write them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from arcee_lab.errors import SettingError
from arcee_lab.sites import unit_name


class Neuron(NamedTuple):
    """One neuron of the MLPs.

    Attributes:
        layer: Its layer.
        unit: Its index.
    """

    layer: int
    unit: int

    def __str__(self) -> str:
        return unit_name(self.layer, self.unit)


def sets_of(units: Any, *, layers: int, d_mlp: int) -> tuple[tuple[Neuron, ...], ...]:
    """What is ablated at once: each entry is a neuron, or a sequence of neurons.

    A neuron is `(layer, unit)`, "L1/N32", or an object with `layer` and `unit`, such as one found
    by `al.neurons.find`.

    Raises:
        SettingError: No neuron, one out of range, or one twice in a set.
    """
    if isinstance(units, str) or not isinstance(units, Iterable):
        units = [units]
    found = []
    for entry in units:
        several = _several(entry)
        members = tuple(
            neuron_of(one, layers=layers, d_mlp=d_mlp) for one in (entry if several else [entry])
        )
        if not members or len(set(members)) < len(members):
            raise SettingError(
                f"the set {[str(one) for one in members]} is empty or names a neuron twice; "
                "expected each once."
            )
        found.append(members)
    if not found:
        raise SettingError("units is empty; expected at least one neuron, such as (1, 32).")
    return tuple(found)


def _several(entry: Any) -> bool:
    """Whether an entry is a set of neurons, not one."""
    if isinstance(entry, str) or hasattr(entry, "unit"):
        return False
    pair = isinstance(entry, Sequence) and len(entry) == 2
    return isinstance(entry, Iterable) and not (pair and all(isinstance(x, int) for x in entry))


def neuron_of(given: Any, *, layers: int, d_mlp: int) -> Neuron:
    """One neuron: `(layer, unit)`, "L1/N32", or an object with `layer` and `unit`.

    Raises:
        SettingError: It is none of these, or out of range.
    """
    pair: Any = None
    if isinstance(given, str):
        named = re.fullmatch(r"L(\d{1,9})/N(\d{1,9})", given)
        pair = named and (int(named[1]), int(named[2]))
    elif hasattr(given, "unit"):
        site = getattr(given, "site", "mlp")
        pair = (given.layer, given.unit) if "mlp" in site else None
    elif isinstance(given, Sequence) and len(given) == 2:
        pair = tuple(given)
    if pair is None or not all(isinstance(x, int) and not isinstance(x, bool) for x in pair):
        raise SettingError(
            f"{given!r} is no neuron; expected (layer, unit), such as (1, 32), or 'L1/N32'."
        )
    layer, unit = pair
    if not 0 <= layer < layers or not 0 <= unit < d_mlp:
        raise SettingError(
            f"{unit_name(layer, unit)} is out of range; expected layers 0 to {layers - 1} and "
            f"neurons 0 to {d_mlp - 1}."
        )
    return Neuron(layer, unit)
