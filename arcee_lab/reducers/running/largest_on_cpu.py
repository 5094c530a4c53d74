"""The largest values of each unit on a CPU, reading each activation about once.

Few tokens of a batch can enter a list that is full. So the tokens are put into groups, and only a
group whose maximum beats the smallest value of the list is looked at. While a list is not full, or
where many groups beat it, the bar is the k-th largest group maximum instead: at least k tokens
reach it, so a token below it is in no list.

Order is that of `topk`: larger values, then tokens read earlier; NaN is larger than all else.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_GROUP = 16  # tokens
_ROWS = 64  # looked at together, which stay in the cache
_MANY = 3  # groups per unit above their bar, from which on bars are raised first
_WIDE = 48  # candidates of a unit, from which on units are merged by themselves
_KEYS = 2**22  # that are sorted together
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_NONE = np.float32(-np.inf)


class _Groups(NamedTuple):
    """A mask of tokens, group by group.

    Attributes:
        real: Of all tokens, whether they count.
        bounds: First token and end of each group in which some do not count, and its number.
        some: How many groups have tokens that count.
    """

    real: Bool[np.ndarray, " token"]
    bounds: list[tuple[int, int, int]]
    some: int


class Found(NamedTuple):
    """Tokens that may enter a list: their place, their unit and their value, by place.

    Attributes:
        places: Numbers of the tokens among those of the call.
        units: Of each.
        values: Of each.
    """

    places: Int[np.ndarray, " candidate"]
    units: Int[np.ndarray, " candidate"]
    values: Float[np.ndarray, " candidate"]


def fits(x: Float[Tensor, "token width"], mask: Bool[Tensor, "batch pos"], k: int) -> bool:
    """Whether `add_largest` takes this: values in a CPU's memory, enough tokens, no graph."""
    if type(x) is not Tensor or x.device.type != "cpu" or x.dtype not in _DTYPES:
        return False
    if torch.compiler.is_compiling() or not x.is_contiguous() or not x.shape[1]:
        return False
    return _groups_of(mask).some >= k


def add_largest(
    lists: dict[str, Tensor],
    x: Float[Tensor, "token width"],
    mask: Bool[Tensor, "batch pos"],
    rows: Int[Tensor, " token"],
    positions: Int[Tensor, " token"],
) -> bool:
    """Adds the tokens of a call, all of which are read after those in the lists.

    Args:
        lists: "values", "rows" and "positions", `[width, k]`, changed in place.
        x: The activations.
        mask: Tokens that count.
        rows: Of each token.
        positions: Of each token.

    Returns:
        Whether they were added. Not where a unit has less than k values above -inf.
    """
    groups = _groups_of(mask)
    kept = {name: tensor.numpy() for name, tensor in lists.items()}
    k = kept["values"].shape[1]
    best = _maxima(x, groups)
    bar = kept["values"][:, -1].copy()
    full = kept["rows"][:, -1] >= 0
    nan = bool(np.isnan(best).any() or np.isnan(bar).any())
    hits = ~(best <= bar)
    n_hits, zeros = int(np.count_nonzero(hits)), np.zeros(0, np.int64)
    if n_hits > _MANY * len(bar) or not full.all():
        reached = np.partition(np.ascontiguousarray(best.T), -k, axis=1)[:, -k]
        if not (full | (reached > _NONE) | np.isnan(reached)).all():
            return False
        # Where no more than zeros are left, they are not searched for but taken in order.
        zeros = np.flatnonzero((reached == 0) & ~(bar >= 0))
        below = np.nextafter(reached, _NONE)
        below[reached == 0] = 0
        nan |= bool(np.isnan(below).any())
        # A list that is full of NaN keeps NaN as its bar.
        bar = np.where(np.isnan(bar), bar, np.fmax(bar, below))
        n_hits = _MANY * len(bar)
    if n_hits >= len(bar):
        found = _in_all(x, bar, groups, nan=nan)
    else:
        found = _in_groups(x, bar, hits, groups)
    if len(zeros):
        found = _with_zeros(found, x, zeros, k, groups)
    _merge(kept, found, rows.numpy(), positions.numpy())
    return True


def _groups_of(mask: Tensor) -> _Groups:
    # Kept on the mask, which all sites of a call share.
    kept = getattr(mask, "_groups", None)
    if kept is None:
        real = mask.numpy().reshape(-1)
        starts = np.arange(0, len(real), _GROUP)
        counts = np.add.reduceat(real.astype(np.int64), starts) if len(real) else starts
        sizes = np.minimum(_GROUP, len(real) - starts)
        parts = np.flatnonzero(counts < sizes)
        bounds = [(int(starts[g]), int(starts[g] + sizes[g]), int(g)) for g in parts]
        kept = mask._groups = _Groups(real, bounds, int((counts > 0).sum()))  # type: ignore[attr-defined]
    return kept


def _plain(x: Tensor) -> Float[np.ndarray, "token width"]:
    """As fp32, which holds all values of half precision."""
    return (x if x.dtype == torch.float32 else x.float()).numpy()


def _maxima(x: Tensor, groups: _Groups) -> Float[np.ndarray, "group width"]:
    """The largest value of each group that counts; -inf where none does."""
    n_tokens, width = x.shape
    best = np.empty((-(-n_tokens // _GROUP), width), np.float32)
    whole = n_tokens // _GROUP
    together = whole if x.dtype == torch.float32 else _ROWS // _GROUP
    for at in range(0, whole, max(together, 1)):
        end = min(at + together, whole)
        some = _plain(x[at * _GROUP : end * _GROUP]).reshape(-1, _GROUP, width)
        np.maximum.reduce(some, axis=1, out=best[at:end])
    if whole < len(best):
        np.maximum.reduce(_plain(x[whole * _GROUP :]), axis=0, out=best[whole])
    for start, end, group in groups.bounds:
        some = _plain(x[start:end])[groups.real[start:end]]
        best[group] = np.maximum.reduce(some, axis=0) if len(some) else _NONE
    return best


def _in_all(x: Tensor, bar: np.ndarray, groups: _Groups, *, nan: bool) -> Found:
    """Candidates by one comparison of all activations."""
    n_tokens, width = x.shape
    room, parts = np.empty((_ROWS, width), bool), []
    for start in range(0, n_tokens, _ROWS):
        some = _plain(x[start : start + _ROWS])
        hits = room[: len(some)]
        if nan:
            np.less_equal(some, bar, out=hits)
            np.logical_not(hits, out=hits)
        else:
            np.greater(some, bar, out=hits)
        if not groups.real[start : start + _ROWS].all():
            hits &= groups.real[start : start + _ROWS, None]
        flat = np.flatnonzero(hits)
        places = flat // width
        parts.append((places + start, flat - places * width, some.reshape(-1)[flat]))
    return Found(*map(np.concatenate, zip(*parts, strict=True)))


def _in_groups(x: Tensor, bar: np.ndarray, hits: np.ndarray, groups: _Groups) -> Found:
    """Candidates of the groups whose maximum beats the bar."""
    n_tokens, width = x.shape
    group, units = np.divmod(np.flatnonzero(hits), width)
    places = group[:, None] * _GROUP + np.arange(_GROUP)
    there = places < n_tokens
    places = np.minimum(places, n_tokens - 1)
    flat = torch.from_numpy(places * width + units[:, None])
    values = _plain(x.reshape(-1)[flat])
    good = ~(values <= bar[units][:, None]) & groups.real[places] & there
    of, _ = at = np.nonzero(good)
    return Found(places[at], units[of], values[at])


def _with_zeros(found: Found, x: Tensor, units: np.ndarray, k: int, groups: _Groups) -> Found:
    """The same with the first zeros of some units, as many as make k candidates of each."""
    missing = k - np.minimum(k, np.bincount(found.units, minlength=x.shape[1])[units])
    units, missing = units[missing > 0], missing[missing > 0]
    parts = [found]
    for start in range(0, len(x), _ROWS):
        if not len(units):
            break
        some = _plain(x[start : start + _ROWS][:, torch.from_numpy(units)])
        zero = (some == 0) & groups.real[start : start + _ROWS, None]
        so_far = np.cumsum(zero, axis=0, dtype=np.int64)
        places, of = np.nonzero(zero & (so_far <= missing))
        parts.append(Found(places + start, units[of], some[places, of]))
        left = missing - np.minimum(so_far[-1], missing)
        units, missing = units[left > 0], left[left > 0]
    return Found(*map(np.concatenate, zip(*parts, strict=True)))


def _merge(
    kept: dict[str, np.ndarray], found: Found, rows: np.ndarray, positions: np.ndarray
) -> None:
    """Puts candidates into the lists, a table of keys with a row per unit at a time."""
    if not len(found.units):
        return
    width = len(kept["values"])
    order = np.argsort(found.units.astype(np.uint16 if width <= 2**16 else np.int64), kind="stable")
    places, values = found.places[order], found.values[order]
    counts = np.bincount(found.units, minlength=width)
    touched = np.flatnonzero(counts)
    counts = counts[touched]
    ends = np.cumsum(counts)
    starts = ends - counts
    few = counts <= _WIDE
    for chosen in (np.flatnonzero(few), np.flatnonzero(~few)):
        if not len(chosen):
            continue
        most = int(counts[chosen].max())
        together = max(1, _KEYS // most)
        for at in range(0, len(chosen), together):
            some = chosen[at : at + together]
            here, size = starts[some], counts[some]
            _merge_some(kept, touched[some], here, size, places, values, rows, positions)


def _merge_some(
    kept: dict[str, np.ndarray],
    units: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
    places: np.ndarray,
    values: np.ndarray,
    rows: np.ndarray,
    positions: np.ndarray,
) -> None:
    k, most = kept["values"].shape[1], int(counts.max())
    keys = np.full((len(units), k + most), np.iinfo(np.int64).max)
    # Falling values, and of equal ones the lists before the candidates, each in their order.
    old = kept["values"][units]
    keys[:, :k] = _falling(old) | np.arange(k)
    within = np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
    source = np.repeat(starts, counts) + within
    line = np.repeat(np.arange(len(units)), counts)
    keys[line, k + within] = _falling(values[source]) | (k + within)
    keys.sort(axis=1)
    column = keys[:, :k] & 0xFFFFFFFF
    new = column >= k
    source = (starts[:, None] + np.where(new, column - k, 0)).clip(max=len(values) - 1)
    column = np.where(new, 0, column)
    found = {"values": values[source]}
    found |= {"rows": rows[places[source]], "positions": positions[places[source]]}
    for name, arrived in found.items():
        stayed = old if name == "values" else kept[name][units]
        kept[name][units] = np.where(new, arrived, np.take_along_axis(stayed, column, 1))


def _falling(values: Float[np.ndarray, "*any"]) -> Int[np.ndarray, "*any"]:
    """Keys of 64 bits that rise as values fall; their low 32 bits are 0."""
    plain = np.where(np.isnan(values), np.float32(np.nan), values + np.float32(0))
    bits = plain.view(np.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (~ordered).astype(np.int64) << 32
