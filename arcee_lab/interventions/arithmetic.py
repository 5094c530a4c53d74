"""Change activations by arithmetic: scale, bound, steer, and take a direction out."""

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.interventions.base import Change, Intervention, Place
from arcee_lab.interventions.call_state import Forward
from arcee_lab.interventions.constants import Constant, as_value


@dataclass(frozen=True, repr=False)
class Scale(Intervention):
    """Multiplies activations.

    The shared arguments are those of `Intervention`.

    Attributes:
        factor: A number, or a tensor over the site's feature axes, e.g. one factor per unit.
    """

    factor: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(factor=as_value(self.factor, what="factor"))

    def bind(self, place: Place) -> Change:
        """`factor * x`."""
        factor = place.number(self.factor, what="factor")
        return lambda x, now: x * factor(x)


@dataclass(frozen=True, repr=False)
class Clamp(Intervention):
    """Bounds activations from below, from above, or both.

    The shared arguments are those of `Intervention`.

    Attributes:
        low: Smallest value allowed, a number or a tensor over the feature axes; None: no bound.
        high: Largest value allowed, likewise.
    """

    low: Any = None
    high: Any = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.low is None and self.high is None:
            raise SettingError("Clamp needs low, high or both.")
        for what in ("low", "high"):
            bound = getattr(self, what)
            self._set(**{what: bound if bound is None else as_value(bound, what=what)})
        low, high = self.low, self.high
        if isinstance(low, float) and isinstance(high, float) and low > high:
            raise SettingError(f"Clamp needs low <= high; got low={low}, high={high}.")

    def bind(self, place: Place) -> Change:
        """`min(max(x, low), high)`."""
        low = None if self.low is None else place.number(self.low, what="low")
        high = None if self.high is None else place.number(self.high, what="high")
        if low is not None and high is not None:
            self._check_order(place)

        def change(x: Tensor, now: Forward) -> Tensor:
            if low is not None:
                bound = low(x)
                x = torch.maximum(x, bound) if isinstance(bound, Tensor) else x.clamp(min=bound)
            if high is not None:
                bound = high(x)
                x = torch.minimum(x, bound) if isinstance(bound, Tensor) else x.clamp(max=bound)
            return x

        return change

    def _check_order(self, place: Place) -> None:
        bounds = []
        for what in ("low", "high"):
            given = place.given(getattr(self, what), what=what)
            if not isinstance(given, Constant):
                bounds.append(torch.tensor(given, dtype=torch.float64))
            elif given.tensor.is_meta:
                return  # there is nothing to compare
            else:
                bound = place.part.fit(given.tensor, place.anatomy, name=place.name, what=what)
                bounds.append(bound.cpu().double())
        crossing = int((bounds[0] > bounds[1]).sum())
        if crossing:
            raise SettingError(
                f"Clamp needs low <= high; at {place.name} {crossing} of the bounds cross."
            )


@dataclass(frozen=True, repr=False)
class Add(Intervention):
    """Steers: adds `alpha * direction`.

    Source of the method: Turner et al., "Steering Language Models With Activation Engineering",
    arXiv:2308.10248.

    The shared arguments are those of `Intervention`.

    Attributes:
        direction: A tensor over the site's feature axes, e.g. `[d_model]`; or a number. The
            product is taken in the direction's dtype, then cast to that of the site.
        alpha: The strength, a factor of `direction`.
    """

    direction: Any
    alpha: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(direction=as_value(self.direction, what="direction"))
        alpha = as_value(self.alpha, what="alpha")
        if not isinstance(alpha, float):
            raise SettingError(f"alpha must be a number; got {alpha!r}.")
        self._set(alpha=alpha)

    def bind(self, place: Place) -> Change:
        """`x + alpha * direction`."""
        step = place.number(self.direction, what="direction", times=self.alpha)
        _require_range(place, place.given(self.direction, what="direction"), self.alpha)
        return lambda x, now: x + step(x)


@dataclass(frozen=True, repr=False)
class ProjectOut(Intervention):
    """Takes the part along one direction, or in the span of several, out of activations.

    Source of the method: Ravfogel et al., "Null It Out", arXiv:2004.07667. At head sites each head
    is projected by itself. The arithmetic is done in fp32 at least, also under autocast.

    The shared arguments are those of `Intervention`.

    Attributes:
        directions: `[d]` or `[k, d]`, d the last axis of the site, linearly independent; their
            lengths do not matter.
    """

    directions: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(directions=as_value(self.directions, what="directions"))
        if self.units is not None:
            raise SettingError("ProjectOut takes whole directions; leave units out.")

    def bind(self, place: Place) -> Change:
        """`x - x Qᵀ Q`, Q an orthonormal basis of the span."""
        basis = basis_of(self.directions, place, what="directions")

        def change(x: Tensor, now: Forward) -> Tensor:
            dtype = torch.promote_types(x.dtype, torch.float32)
            wide = x.to(dtype)
            return (wide - projected(wide, basis, place)).to(x.dtype)

        return change


def projected(x: Tensor, basis: Tensor, place: Place) -> Tensor:
    """The part of x, fp32 or wider, in the span of an orthonormal basis `[k, d]`."""
    rows = place.placed.tensor(basis, x.device, x.dtype)
    with _without_autocast(x.device):
        return (x @ rows.T) @ rows


def _require_range(place: Place, given: float | Constant, alpha: float) -> None:
    """Refuses a step whose numbers the site's dtype cannot hold: they would become infinite."""
    dtype = place.anatomy.model.dtype
    largest = torch.finfo(dtype).max
    if not isinstance(given, Constant):
        step = abs(alpha * given)
    else:
        tensor = given.tensor
        if tensor.is_meta or not tensor.numel():
            return
        step = abs(alpha) * float(tensor.abs().max())
        if tensor.is_floating_point():
            largest = min(largest, torch.finfo(tensor.dtype).max)
    if step > largest:
        raise SettingError(
            f"alpha={alpha} makes a step of up to {step:.3g} at {place.name}, and the largest "
            f"number there is {largest:.3g} ({dtype}); give a smaller alpha."
        )


def basis_of(directions: Any, place: Place, *, what: str) -> Tensor:
    """An orthonormal basis `[k, d]` of the span of directions, fp64 on the CPU.

    Raises:
        ValueError: They do not fit the site, or are zero or linearly dependent.
    """
    axis = place.site.axes[-1]
    if axis in ("k_pos", "1"):
        raise SettingError(f"A projection needs a feature axis, and {place.name} has none.")
    given = place.given(directions, what=what)
    shape = list(given.tensor.shape) if isinstance(given, Constant) else "a number"
    size = place.anatomy.size(axis)
    if not isinstance(given, Constant) or len(shape) not in (1, 2) or shape[-1] != size:
        raise SettingError(f"{what} must be [{size}] or [k, {size}] at {place.name}; got {shape}.")
    rows = given.require(what=what).tensor.reshape(-1, size).double().cpu()
    q, r = torch.linalg.qr(rows.T)
    lengths = rows.norm(dim=1)
    if len(rows) > size or bool((r.diagonal().abs() <= 1e-6 * lengths).any()):
        raise SettingError(
            f"{what} at {place.name} are zero or linearly dependent; give independent ones."
        )
    return q.T.contiguous()


def _without_autocast(device: torch.device) -> AbstractContextManager:
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
