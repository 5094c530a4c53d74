"""Means with intervals whose sums add up exactly, in any order and any grouping.

Floating-point sums depend on their order, so two ranks would not give what one gives. Here every
term is split into its whole part and the rest, rounded to a multiple of 2^-32, and each of the two
is summed as int64. Rounding happens once per term and moves it by at most 2^-33; what is summed is
exact, for up to 2^31 terms whose whole parts add up to less than 2^63. One int64 could not do this
for squares: it would have to be coarser, or would overflow on long windows.

A mean is a ratio of sums over windows, R = Σ s_w / Σ n_w. Tokens of one window are alike, so its
interval takes windows, not tokens, as the independent draws:

    Var R ≈ W/(W-1) · Σ (s_w - R n_w)² / (Σ n_w)²

Source: Cochran, "Sampling Techniques" (1977), section 6.3, the ratio estimator.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

FRACTION = 2**32  # what the rest of a term is counted in
_REAL, _WHOLE = ("s", "ss", "sn"), ("n", "nn", "windows")


@dataclass(frozen=True)
class Mean:
    """Means with their intervals, over the windows of a share of the text.

    Attributes:
        value: The mean; NaN where nothing was counted.
        ci_half_width: Half of the 95 % interval; NaN where fewer than two windows were counted.
        windows: How many windows were counted.
    """

    value: np.ndarray
    ci_half_width: np.ndarray
    windows: np.ndarray


def split(x: Shaped[Tensor, "*any"]) -> Int[Tensor, "*any 2"]:
    """Terms as integers that add up exactly: whole part, and the rest in units of 2^-32."""
    wide = x.double()
    whole = wide.floor()
    return torch.stack([whole, ((wide - whole) * FRACTION).round()], -1).long()


def real(sums: Int[Tensor, "*any 2"]) -> Float[np.ndarray, "*any"]:
    """The numbers that sums of `split` terms stand for."""
    parts = sums.numpy().astype(np.float64)
    return np.asarray(parts[..., 0] + parts[..., 1] / FRACTION)


def new(name: str, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
    """The sums of one mean, of a given shape, as part of a state.

    Args:
        name: Leads the names of the tensors.
        shape: Of the mean; the first axis is the layer.
        device: Where they are.
    """
    sizes = {part: (*shape, 2) for part in _REAL} | dict.fromkeys(_WHOLE, shape)
    return {
        f"{name}_{part}": torch.zeros(size, dtype=torch.int64, device=device)
        for part, size in sizes.items()
    }


def add(
    state: dict[str, Tensor],
    name: str,
    at: int | slice,
    sums: Tensor,
    counts: Tensor,
) -> None:
    """Adds windows.

    Args:
        state: Holds the sums.
        name: As in `new`.
        at: The layer.
        sums: s_w, `[window, *shape]`.
        counts: n_w, whole numbers of the same shape; a window with 0 is not counted.
    """
    s, n = sums.double(), counts.long()
    for part, terms in zip(_REAL, (s, s * s, s * n), strict=True):
        state[f"{name}_{part}"][at] += split(terms).sum(0)
    for part, terms in zip(_WHOLE, (n, n * n, n > 0), strict=True):
        state[f"{name}_{part}"][at] += terms.sum(0)


def mean(state: dict[str, Tensor], name: str) -> Mean:
    """The means and their intervals."""
    s, ss, sn = (real(state[f"{name}_{part}"]) for part in _REAL)
    n, nn, windows = (state[f"{name}_{part}"].numpy() for part in _WHOLE)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = s / n
        scatter = np.maximum(ss - 2 * value * sn + value * value * nn, 0)
        variance = scatter / n.astype(np.float64) ** 2 * windows / (windows - 1)
        half = np.where(windows > 1, 1.96 * np.sqrt(variance), np.nan)
    return Mean(value, half, windows)


def by_window(
    x: Shaped[Tensor, "token ..."], spans: tuple[tuple[int, int], ...]
) -> Float[Tensor, "window ..."]:
    """Sums over the tokens of each window, in double precision."""
    if x.device.type == "cpu" and len(x):
        starts, stops = np.array(spans).T
        # One call for all windows; an empty one would be given the token that follows it.
        found = np.zeros((len(spans), *x.shape[1:]))
        some = stops > starts
        found[some] = np.add.reduceat(x.double().numpy(), starts[some])
        return torch.from_numpy(found)
    return torch.stack([x[start:stop].double().sum(0) for start, stop in spans])


def places(values: list[int] | np.ndarray, device: torch.device) -> Int[Tensor, " n"]:
    """Copies host indices to the device without synchronising."""
    return torch.as_tensor(np.asarray(values, dtype=np.int64)).to(device, non_blocking=True)


def average(x: np.ndarray) -> float:
    """The mean of what is a number; NaN where nothing is."""
    there = np.asarray(x)[np.isfinite(x)]
    return float(there.mean()) if len(there) else float("nan")


def ends(x: np.ndarray) -> str:
    """The least and the largest of what is a number, in words, such as "−0.12 to +0.40"."""
    there = np.asarray(x)[np.isfinite(x)]
    return f"{_signed(there.min())} to {_signed(there.max())}" if len(there) else "not known"


def by_layer(x: np.ndarray) -> str:
    """Correlations in words: each of up to eight layers, of more the least and the largest."""
    return ", ".join(map(_signed, x)) if len(x) <= 8 else ends(x)


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def as_many(x: np.ndarray) -> str:
    """What correlations with a number of neurons say together, such as "more neurons".

    Below a tenth in size a correlation explains under a hundredth of the variance. Where layers
    differ, it is said of how many layers that is true.

    Args:
        x: A correlation per layer.
    """
    there = np.asarray(x)[np.isfinite(x)]
    sides = {"more": int((there >= 0.1).sum()), "fewer": int((there <= -0.1).sum())}
    most, least = sorted(sides, key=lambda side: -sides[side])
    if not sides[most]:
        return "about as many neurons"
    if sides[most] == len(there):
        return f"{most} neurons"
    other = f", {least} in {sides[least]}" if sides[least] else ""
    return f"{most} neurons in {sides[most]} of {len(there)} layers{other}"
