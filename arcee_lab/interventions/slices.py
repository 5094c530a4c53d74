"""The part of an activation that an intervention changes, and the one place where it does."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from arcee_lab.errors import SiteError
from arcee_lab.hooks.selection import Indices, head_axis, position_axis
from arcee_lab.interventions.device_cache import Placed
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.sites import Axes


@dataclass(frozen=True)
class SitePart:
    """Heads and units of a site.

    Attributes:
        axes: Axis words of the site.
        heads: On the head or kv_head axis; None: all.
        units: On the last axis; None: all.
    """

    axes: Axes
    heads: Indices | None = None
    units: Indices | None = None

    @property
    def cuts(self) -> dict[int, Indices]:
        """Axis -> the indices taken of it."""
        cuts = {}
        head = head_axis(self.axes)
        if self.heads is not None and head is not None:
            cuts[head] = self.heads
        if self.units is not None:
            cuts[len(self.axes) - 1] = self.units
        return cuts

    def cut(self, x: Tensor, placed: Placed) -> Tensor:
        """The part of an activation; the activation itself where the part is the whole."""
        for axis, chosen in self.cuts.items():
            x = x.index_select(axis, placed.index(chosen, x.device))
        return x

    def put(self, x: Tensor, new: Tensor, placed: Placed) -> Tensor:
        """A new tensor: `x` with `new` in place of the part."""
        cuts = list(self.cuts.items())
        if not cuts:
            return new
        (axis, chosen), inner = cuts[0], cuts[1:]
        where = placed.index(chosen, x.device)
        if inner:
            within = SitePart(self.axes, units=self.units)
            new = within.put(x.index_select(axis, where), new, placed)
        return x.index_copy(axis, where, new)

    def fit(
        self, tensor: Tensor, anatomy: Anatomy, *, name: str, what: str, whole: bool = False
    ) -> Tensor:
        """Brings a tensor to a shape that broadcasts over the part.

        Args:
            tensor: Over the last axes of the site, each in full, already cut to the part, or 1.
            anatomy: Of the model.
            whole: Whether it may have all axes of the site; those whose length only a call fixes
                are then left as they are.
            name: Of the site, for the error.
            what: Name of the argument, for the error.

        Raises:
            ValueError: If the shape fits neither way.
        """
        axes, cuts = self.axes, self.cuts
        shown = f"{what} has the shape {list(tensor.shape)}, but {name} is {' '.join(axes)}"
        given = axes[max(len(axes) - tensor.ndim, 0) :]
        is_whole = whole and tensor.ndim == len(axes)
        if tensor.ndim > len(axes) or (self.free_axes & set(given) and not is_whole):
            features = [axis for axis in axes if axis not in self.free_axes]
            wanted = "a number" if axes[-1] == "k_pos" else f"a number or [{' '.join(features)}]"
            wanted += f", or all {len(axes)} axes" if whole else ""
            raise SiteError(f"{shown}; give {wanted}.")
        for axis in range(len(axes) - tensor.ndim, len(axes)):
            word, place = axes[axis], axis - len(axes)
            if word in self.free_axes:
                continue
            size, full = tensor.shape[place], anatomy.size(word)
            taken = len(cuts[axis]) if axis in cuts else full
            if size == full and axis in cuts:
                index = torch.tensor(cuts[axis], device=tensor.device)
                tensor = tensor.index_select(place, index)
            elif size not in (1, taken):
                wanted = f"{full}" if taken == full else f"{full} or {taken}"
                raise SiteError(f"{shown}, where {word} is {wanted}, not {size}.")
        return tensor

    @property
    def free_axes(self) -> set[str]:
        """Axes whose length only a call fixes."""
        return {"batch", "pos", "q_pos", "k_pos"} & set(self.axes)


def write(
    x: Tensor,
    change: Callable[[Tensor], Tensor],
    *,
    part: SitePart,
    hit: Bool[Tensor, "batch pos"] | None,
    placed: Placed,
) -> Tensor:
    """Changes a part of an activation at the tokens that are hit, and gives a new tensor.

    All interventions pass through here. Nothing is changed in place, because residual streams are
    one tensor under two names and captures hold it too.

    Args:
        x: The activation.
        change: What becomes of the part.
        part: Heads and units.
        hit: Tokens; None means all, padding too.
        placed: Where the indices are kept.
    """
    chosen = part.cut(x, placed)
    new = change(chosen)
    if hit is not None:
        new = torch.where(over_tokens(hit, part.axes), new, chosen)
    elif chosen.requires_grad and not new.requires_grad:
        # The graph goes on, with the gradient 0 that a constant has, instead of ending here.
        new = torch.where(torch.ones((), dtype=torch.bool, device=x.device), new, chosen)
    return part.put(x, new, placed)


def over_tokens(hit: Bool[Tensor, "#batch pos"], axes: Axes) -> Bool[Tensor, "..."]:
    """Tokens as a mask that broadcasts over an activation with these axes."""
    position = position_axis(axes)
    assert position is not None
    shape = [1] * len(axes)
    shape[0], shape[position] = hit.shape
    return hit.view(shape)
