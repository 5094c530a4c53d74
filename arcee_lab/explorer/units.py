"""Neurons and heads by name, as a selection holds them."""

import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.sites import head_name, unit_name

MOST = 64  # of a selection
_NAME = re.compile(r"L(\d{1,9})/([NH])(\d{1,9})")


class Unit(NamedTuple):
    """A neuron of an MLP, or a head of an attention.

    Attributes:
        layer: Its layer.
        number: Its number in the layer.
        is_head: Whether it is a head.
    """

    layer: int
    number: int
    is_head: bool

    def __str__(self) -> str:
        return (head_name if self.is_head else unit_name)(self.layer, self.number)

    @property
    def site(self) -> str:
        """The hook point that holds its value."""
        return f"layers.{self.layer}.{'self_attn.hook_z' if self.is_head else 'mlp.hook_post'}"


class Sizes(NamedTuple):
    """How many of each a model has.

    Attributes:
        layers: Layers.
        d_mlp: Neurons per layer.
        heads: Heads per layer.
    """

    layers: int
    d_mlp: int
    heads: int

    @classmethod
    def of(cls, anatomy: Anatomy) -> "Sizes":
        """Those of a model."""
        return cls(len(anatomy.backbone.layers), anatomy.size("d_mlp"), anatomy.size("head"))


def read_unit(given: Any, sizes: Sizes) -> Unit:
    """A neuron or a head: its name, `(layer, unit)`, or an object that a search found.

    Raises:
        SettingError: It is none of these, or the model does not have it.
    """
    unit = _parsed(given)
    if unit is None:
        raise SettingError(
            f"{str(given)[:80]!r} is no neuron and no head; expected a name such as 'L1/N32' or "
            "'L1/H3', or (layer, unit)."
        )
    most = sizes.heads if unit.is_head else sizes.d_mlp
    if not (0 <= unit.layer < sizes.layers and 0 <= unit.number < most):
        raise SettingError(
            f"{unit} is out of range; expected layers 0 to {sizes.layers - 1}, neurons 0 to "
            f"{sizes.d_mlp - 1} and heads 0 to {sizes.heads - 1}."
        )
    return unit


def _parsed(given: Any) -> Unit | None:
    if isinstance(given, Unit):
        return given
    if isinstance(given, str):
        named = _NAME.fullmatch(given)
        return named and Unit(int(named[1]), int(named[3]), named[2] == "H")
    if hasattr(given, "unit") and hasattr(given, "layer"):
        given = (given.layer, given.unit, "hook_z" in getattr(given, "site", ""))
    if not isinstance(given, Sequence) or len(given) not in (2, 3):
        return None
    layer, index, *kind = given
    if not all(isinstance(x, int) and not isinstance(x, bool) for x in (layer, index)):
        return None
    return Unit(layer, index, bool(kind and kind[0]))


def read_units(given: Any, sizes: Sizes) -> tuple[Unit, ...]:
    """A selection: one unit or several, each once, in their order.

    Raises:
        SettingError: One cannot be read, or there are more than `MOST`.
    """
    one = isinstance(given, str) or _parsed(given) is not None
    if not one and not isinstance(given, Iterable):
        raise SettingError(f"selection is {given!r:.80}; expected names such as 'L1/N32'.")
    listed = [given] if one else list(given)
    if len(listed) > MOST:
        raise SettingError(f"selection has {len(listed):,} units; expected at most {MOST}.")
    return tuple(dict.fromkeys(read_unit(unit, sizes) for unit in listed))
