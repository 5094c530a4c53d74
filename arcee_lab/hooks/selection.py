"""Which part of an activation is kept: positions, heads, units, dtype."""

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SiteError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.attention_pattern import AttentionMatrices, AttentionPart
from arcee_lab.sites import Axes

Indices = tuple[int, ...]
Choice = int | Sequence[int] | Tensor | None


@dataclass(frozen=True)
class Selection:
    """A part of each captured activation, cut out on its device.

    Attributes:
        positions: Attended tokens to keep, counted within each sequence; negative ones from its
            end. A sequence too short for one gets NaN there: to look would stall the device.
        heads: Indices on the head or kv_head axis.
        units: Indices on the last axis (neurons, residual dimensions, ...).
        dtype: Floating dtype to store.
    """

    positions: Indices | None = None
    heads: Indices | None = None
    units: Indices | None = None
    dtype: torch.dtype | None = None

    @classmethod
    def of(
        cls,
        *,
        positions: Choice = None,
        heads: Choice = None,
        units: Choice = None,
        dtype: torch.dtype | None = None,
    ) -> "Selection":
        """Reads the arguments that `capture` and `plan` share.

        Raises:
            ValueError: If an index argument is empty or holds something that is no whole number.
        """
        if positions is heads is units is dtype is None:
            return WHOLE_SITE
        return cls(
            positions=indices(positions, what="positions"),
            heads=indices(heads, what="heads"),
            units=indices(units, what="units"),
            dtype=dtype,
        )

    @property
    def is_whole(self) -> bool:
        """Whether activations are kept uncut, so that equal storages stay shared."""
        return self.positions is None and self.heads is None and self.units is None

    def check(self, names: Sequence[str], anatomy: Anatomy) -> None:
        """Checks every index against the model before a forward runs.

        Raises:
            ValueError: For an index out of range, or a cut along an axis that a site lacks.
        """
        sites = anatomy.legend.sites()
        known = self.dtype is None or isinstance(self.dtype, torch.dtype)
        if not known or (self.dtype is not None and not self.dtype.is_floating_point):
            raise SiteError(
                f"dtype must be a floating dtype such as torch.float16; got {self.dtype!r}."
            )
        for name in names:
            axes = sites[name].axes
            if self.units is not None:
                if axes[-1] in ("k_pos", "1"):
                    raise SiteError(f"units cut a feature axis, and {name} has none: {axes}.")
                _check_range("units", self.units, name, axes[-1], anatomy.size(axes[-1]))
            if self.heads is not None:
                axis = head_axis(axes)
                if axis is None:
                    raise SiteError(f"heads cut the head axis, and {name} has none: {axes}.")
                _check_range("heads", self.heads, name, axes[axis], anatomy.size(axes[axis]))
            if self.positions is not None and position_axis(axes) is None:
                raise SiteError(f"positions cut the pos axis, and {name} has none: {axes}.")

    def shape(self, axes: Axes, sizes: dict[str, int]) -> tuple[int, ...]:
        """Shape that `cut` gives for an activation with these axes and sizes."""
        shape = [sizes[axis] for axis in axes]
        position, head = position_axis(axes), head_axis(axes)
        if self.positions is not None and position is not None:
            shape[position] = len(self.positions)
        if self.heads is not None and head is not None:
            shape[head] = len(self.heads)
        if self.units is not None:
            shape[-1] = len(self.units)
        return tuple(shape)

    def cut(self, x: Tensor, axes: Axes, real: Tensor | None) -> Tensor:
        """Cuts an activation; a cut is a new contiguous tensor and pins nothing else.

        Args:
            x: The activation.
            axes: Its axis words.
            real: `[batch, pos]`, True for attended tokens; needed if positions are given.
        """
        if self.units is not None:
            x = x.index_select(-1, _index(self.units, x))
        head = head_axis(axes)
        if self.heads is not None and head is not None:
            x = x.index_select(head, _index(self.heads, x))
        position = position_axis(axes)
        if self.positions is not None and position is not None:
            assert real is not None
            x = _take_positions(x, position, self.positions, real)
        return x if self.dtype is None else x.to(self.dtype)


WHOLE_SITE = Selection()


@dataclass(frozen=True)
class AttentionSelection:
    """The heads and queries that a selection leaves of scores and pattern in one call.

    Attributes:
        part: What has to be computed.
        hit: `[batch, chosen]`, whether the sequence has that query; None where all are kept.
    """

    part: AttentionPart
    hit: Tensor | None

    @classmethod
    def of(
        cls, selection: Selection, real: Tensor | None, device: torch.device
    ) -> "AttentionSelection":
        """Finds the part before anything is multiplied; `real` as for `Selection.cut`."""
        heads = None if selection.heads is None else torch.tensor(selection.heads, device=device)
        if selection.positions is None:
            return cls(AttentionPart(heads), None)
        assert real is not None
        where, hit = find_positions(selection.positions, real)
        return cls(AttentionPart(heads, where), hit)

    def take(
        self, matrices: AttentionMatrices, site: str
    ) -> Float[Tensor, "batch head q_pos k_pos"]:
        """Scores or pattern of the part; NaN for queries that a sequence lacks."""
        read = matrices.scores if site.endswith("hook_scores") else matrices.pattern
        x = read(self.part)
        return x if self.hit is None else torch.where(self.hit[:, None, :, None], x, torch.nan)


def head_axis(axes: Axes) -> int | None:
    """Index of the head or kv_head axis."""
    return next((i for i, axis in enumerate(axes) if axis in ("head", "kv_head")), None)


def position_axis(axes: Axes) -> int | None:
    """Index of the axis that counts the tokens of the call."""
    return next((i for i, axis in enumerate(axes) if axis in ("pos", "q_pos")), None)


def indices(value: Choice, *, what: str) -> Indices | None:
    """Reads an argument that is one whole number or several; `what` is its name in the error."""
    if value is None:
        return None
    given: Any = value.tolist() if isinstance(value, Tensor) else value
    try:
        items = list(given) if isinstance(given, Iterable) else [given]
        found = tuple(operator.index(i) for i in items)  # NumPy's whole numbers are such too
    except TypeError:
        items, found = [], ()
    if not found or any(isinstance(i, bool) for i in items):
        raise SiteError(
            f"{what} must be one or more whole numbers, e.g. {what}=[0, 5]; got {given!r}."
        )
    return found


def _check_range(what: str, chosen: Indices, name: str, axis: str, size: int) -> None:
    wrong = [i for i in chosen if not 0 <= i < size]
    if wrong:
        raise SiteError(
            f"{what} {wrong} out of range at {name}: expected 0 to {size - 1} ({axis})."
        )


def _index(chosen: Indices, x: Tensor) -> Tensor:
    return torch.tensor(chosen, device=x.device)


def find_positions(
    positions: Indices, real: Bool[Tensor, "batch pos"]
) -> tuple[Int[Tensor, "batch chosen"], Bool[Tensor, "batch chosen"]]:
    """Places of attended tokens in each row of a call, and whether the row has such a token."""
    rank = real.cumsum(dim=1) - 1
    count = real.sum(dim=1, keepdim=True)
    wanted = _index(positions, real)[None, :]
    wanted = torch.where(wanted < 0, count + wanted, wanted)  # [batch, chosen]
    hit = (rank[:, None, :] == wanted[:, :, None]) & real[:, None, :]
    return hit.int().argmax(dim=-1), hit.any(dim=-1)


def _take_positions(x: Tensor, axis: int, positions: Indices, real: Tensor) -> Tensor:
    where, hit = find_positions(positions, real)
    shape = [x.shape[0]] + [1] * (x.ndim - 1)
    shape[axis] = len(positions)
    index = where.view(shape).expand(*x.shape[:axis], len(positions), *x.shape[axis + 1 :])
    return torch.where(hit.view(shape), x.gather(axis, index), torch.nan)
