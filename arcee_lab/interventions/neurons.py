"""Fewer neurons per token: the k largest, those above a threshold, those that add enough."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from arcee_lab.errors import ModelError, SettingError
from arcee_lab.interventions.base import Change, Intervention, Place
from arcee_lab.interventions.call_state import Forward
from arcee_lab.interventions.constants import BySite, as_value
from arcee_lab.model.wrappers.adapters import effective_weight


@dataclass(frozen=True, repr=False)
class TopK(Intervention):
    """Keeps the k largest neurons of each token and sets the others to 0.

    Of neurons that are exactly equal to the k-th largest, those of lower index stay, on every
    device; ties are common in 16 bits. NaN stays NaN.

    The shared arguments are those of `Intervention`; with `units`, the k largest among them.

    Attributes:
        k: Neurons to keep, at least 1.
    """

    k: int

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise SettingError(f"k must be a whole number from 1; got {self.k!r}.")

    def bind(self, place: Place) -> Change:
        """Compares every neuron of a token with the k-th largest."""
        _require_neurons(self, place)
        number = len(self.units) if self.units is not None else place.anatomy.size("d_mlp")  # type: ignore[arg-type]
        if self.k > number:
            raise SettingError(
                f"k={self.k} at {place.name}, where only {number} neurons are meant."
            )

        def change(x: Tensor, now: Forward) -> Tensor:
            last = x.topk(self.k, dim=-1).values[..., -1:]
            room = self.k - (x > last).sum(dim=-1, keepdim=True)
            equal = x == last
            too_many = equal & (equal.cumsum(dim=-1) > room)
            return x.masked_fill((x < last) | too_many, 0.0)

        return change


@dataclass(frozen=True, repr=False)
class Threshold(Intervention):
    """Keeps neurons above a threshold and sets the others to 0. NaN stays NaN.

    The shared arguments are those of `Intervention`.

    Attributes:
        t: In the unit of the site: `hook_post` holds squares. A number, or a tensor `[d_mlp]`.
    """

    t: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set(t=as_value(self.t, what="t"))

    def bind(self, place: Place) -> Change:
        """`x if x > t else 0`."""
        _require_neurons(self, place)
        threshold = place.number(self.t, what="t")
        return lambda x, now: x.masked_fill(x <= threshold(x), 0.0)


@dataclass(frozen=True, repr=False)
class Cett(Intervention):
    """Keeps neurons whose part of the MLP's output is at least eps long, and sets the rest to 0.

    Neuron i adds `n_i = a_i w_i` to the residual stream, a_i = relu(u_i)² and w_i its column of
    `down_proj`. So `‖n_i‖ < eps` is one comparison with a threshold of its own,
    `relu(u_i) < sqrt(eps / ‖w_i‖)`, taken from the weights when the block is made. It is exact to
    the rounding of the site: in fp32, from the value that the site holds.

    Source: Zhang et al., "ReLU² Wins", arXiv:2402.03804, who choose eps a layer by the cumulative
    error of tail truncation (CETT).

    The shared arguments are those of `Intervention`.

    Attributes:
        eps: Positive, in the unit of the residual stream; or a mapping site -> number.
    """

    eps: Any

    def __post_init__(self) -> None:
        super().__post_init__()
        eps = as_value(self.eps, what="eps")
        numbers = [value for _, value in eps.entries] if isinstance(eps, BySite) else [eps]
        if not all(isinstance(number, float) and number > 0 for number in numbers):
            raise SettingError(f"eps must be a positive number, or one per site; got {self.eps!r}.")
        self._set(eps=eps)

    def bind(self, place: Place) -> Change:
        """One comparison with a threshold per neuron."""
        _require_neurons(self, place)
        eps = place.given(self.eps, what="eps")
        assert isinstance(eps, float)
        smallest = eps / _column_norms(place)  # of a_i
        if not place.name.endswith("hook_post"):
            smallest = smallest.sqrt()  # of relu(u_i), and of u_i where that is positive
        bound = place.part.fit(smallest, place.anatomy, name=place.name, what="eps")

        def change(x: Tensor, now: Forward) -> Tensor:
            if bound.is_meta and not x.is_meta:
                raise _unreadable(place)
            dtype = torch.promote_types(x.dtype, torch.float32)
            return x.masked_fill(x < place.placed.tensor(bound, x.device, dtype), 0.0)

        return change


def _require_neurons(value: Intervention, place: Place) -> None:
    if place.site.axes[-1] != "d_mlp":
        raise SettingError(
            f"{type(value).__name__} chooses among neurons, and {place.name} holds none; use "
            "layers.L.mlp.hook_pre, hook_relu or hook_post."
        )


def _column_norms(place: Place) -> Tensor:
    """Lengths of the columns of down_proj, `[d_mlp]`, fp32 or wider."""
    mlp: Any = place.anatomy.module(place.name.rsplit(".", 1)[0])
    weight = mlp.down_proj.weight
    if not isinstance(weight, Tensor) or not weight.is_floating_point():
        raise _unreadable(place)
    weight = effective_weight(mlp.down_proj)
    return weight.to(torch.promote_types(weight.dtype, torch.float32)).norm(dim=0)


def _unreadable(place: Place) -> ModelError:
    mlp = place.name.rsplit(".", 1)[0]
    return ModelError(
        f"Cett needs the weights of {mlp}.down_proj as plain numbers, and they are quantised or "
        "on no device. Use al.Threshold with thresholds of your own."
    )
