"""The same sums as `state` on a CPU, from the bits of the activations and one read of each.

Floats that are not negative order as their bits do, and NumPy compares whole numbers of 16 bits
much faster than torch compares bfloat16. Few windows enter the lists of a neuron once these are
full, so where a maximum stands is searched for only in the windows that do: maxima are taken in
groups of tokens first, and only the group of the maximum is looked at again.
"""

import numpy as np
import torch
from jaxtyping import Float, Integer
from torch import Tensor

from arcee_lab.neurons.reading import hashing
from arcee_lab.neurons.reading.state import BINS, LOWEST, PARTS, Places, Rows, State

_GROUP = 16  # tokens
_ROWS = 64  # tokens that are counted together, which a byte can count
_BITS = {torch.bfloat16: torch.int16, torch.float16: torch.int16, torch.float32: torch.int32}
_INFINITE = {torch.bfloat16: 0x7F80, torch.float16: 0x7C00, torch.float32: 0x7F800000}
_LAST = np.uint32(0xFFFFFFFF)


def fits(post: Tensor, places: Places) -> bool:
    """Whether `Lists` takes this: values in a CPU's memory, of the dtype that is kept."""
    plain = type(post) is Tensor and post.device.type == "cpu"
    return plain and post.dtype in _BITS and post.dtype == places.kept_dtype


class Lists:
    """The state of a layer, as NumPy arrays on its memory, with the bar of each list.

    The lists are in no order until `state.ordered` puts them into theirs.

    Args:
        state: Changed in place.
        places: Its sizes.
        neurons: Keys of `hashing`.
    """

    def __init__(self, state: State, places: Places, neurons: Integer[np.ndarray, " d_mlp"]):
        self._places, self._dtype = places, places.kept_dtype
        self._state, self._neurons = state, neurons.astype(np.uint32)
        top = {part: state[f"top_{part}"] for part in PARTS}
        drawn = {part: state[f"drawn_{part}"].view(-1, places.per_stratum) for part in PARTS}
        self._top, self._drawn = _arrays(top), _arrays(drawn)
        self._histogram = state["histogram"].numpy().reshape(-1)
        self._fired, self._silent = state["fired"].numpy(), state["silent"].numpy()
        self._units = np.arange(len(neurons))
        # What a window has to reach: the worst of a full list, or anything that fires.
        self._top_bar = np.maximum(self._top["values"].min(1), 1)
        lines = np.arange(len(self._drawn["windows"]))
        self._drawn_bar = self._scores(lines).min(1)

    def add(self, post: Float[Tensor, "batch pos d_mlp"], rows: Rows) -> None:
        """Adds a batch; see `state.add`."""
        bits = post.detach().contiguous().view(_BITS[self._dtype]).numpy()
        bits = bits.view(self._top["values"].dtype)
        counted, windows = rows.counted.numpy(), rows.windows.numpy()
        slots = dict(zip(rows.pooled, rows.slots, strict=True))
        self._state["tokens"] += rows.tokens
        self._state["windows"] += len(post)
        for row, window in enumerate(windows.tolist()):
            places = np.flatnonzero(counted[row])
            if not len(places):
                best = np.zeros(len(self._units), bits.dtype)
            else:
                start, end = int(places[0]), int(places[-1]) + 1
                whole = end - start == len(places)
                best = self._add(
                    bits[row, start:end] if whole else bits[row][places], places, window
                )
            if row in slots:
                self._silent[slots[row]] = np.packbits(best == 0, bitorder="little")

    def _add(
        self, bits: Integer[np.ndarray, "token d_mlp"], places: np.ndarray, window: int
    ) -> Integer[np.ndarray, " d_mlp"]:
        """Adds a window; gives the maxima, as bits."""
        groups, fired = _groups(bits)
        best = np.maximum.reduce(groups, axis=0)
        if best.max() > _INFINITE[self._dtype]:
            return self._add(self._cleaned(bits), places, window)
        self._fired += fired
        octaves = self._octaves(best)
        fires = best > 0
        self._histogram[self._units * BINS + octaves] += fires
        score = self._score(octaves, self._neurons, np.array([window], np.uint32))
        lines = self._units * self._places.strata + octaves % self._places.strata
        into_top = best >= self._top_bar
        into_drawn = (score >= self._drawn_bar[lines]) & fires
        units = np.flatnonzero(into_top | into_drawn)
        if not len(units):
            return best
        first = np.empty(len(best), np.int32)
        first[units] = places[_first(bits, groups, best, units)]
        chosen = np.flatnonzero(into_top)
        if len(chosen):
            new = {"values": best[chosen], "positions": first[chosen]}
            scores = self._top["values"][chosen]
            bar = _put_in(self._top, chosen, window, new, scores, best[chosen])
            self._top_bar[chosen] = np.maximum(bar, 1)
        chosen = np.flatnonzero(into_drawn)
        if len(chosen):
            new = {"values": best[chosen], "positions": first[chosen]}
            mine = lines[chosen]
            bar = _put_in(self._drawn, mine, window, new, self._scores(mine), score[chosen])
            self._drawn_bar[mine] = bar
        return best

    def _scores(self, lines: np.ndarray) -> Integer[np.ndarray, "line place"]:
        """By which drawn windows are compared, the best with the largest; 0 in empty places."""
        windows, values = self._drawn["windows"][lines], self._drawn["values"][lines]
        neurons = self._neurons[lines // self._places.strata][:, None]
        scores = self._score(self._octaves(values), neurons, windows.view(np.uint32))
        scores[windows < 0] = 0
        return scores

    def _score(self, octaves: np.ndarray, neurons: np.ndarray, windows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            order = hashing.orders(neurons, hashing.window_keys(windows))
        low = (BINS - 1 - octaves).astype(np.uint32) << np.uint32(hashing.BITS) | order
        return _LAST - low

    def _octaves(self, bits: np.ndarray) -> Integer[np.ndarray, "*any"]:
        """As `state.octaves`."""
        if self._dtype == torch.bfloat16:
            exponent = bits >> np.uint16(7)
        elif self._dtype == torch.float16:
            exponent = bits.view(np.float16).astype(np.float32).view(np.uint32) >> np.uint32(23)
        else:
            exponent = bits >> np.uint32(23)
        return (exponent.astype(np.int32) - (127 + LOWEST - 1)).clip(0, BINS - 1)

    def _cleaned(self, bits: np.ndarray) -> np.ndarray:
        """Bits of what is not above 0, or NaN, as 0; NaN is counted."""
        signed = bits.view(np.dtype(f"i{bits.itemsize}"))
        sign = np.iinfo(signed.dtype).min
        nan = (bits & ~np.array(sign).astype(bits.dtype)) > _INFINITE[self._dtype]
        self._state["nan"] += int(nan.sum())
        return np.where((signed > 0) & ~nan, bits, 0).astype(bits.dtype)


def _arrays(lists: State) -> dict[str, np.ndarray]:
    """Lists as arrays on the same memory; values as their bits, without a sign."""
    values = lists["values"]
    bits = values.view(_BITS[values.dtype]).numpy().view(np.dtype(f"u{values.itemsize}"))
    return {part: bits if part == "values" else x.numpy() for part, x in lists.items()}


def _groups(
    bits: Integer[np.ndarray, "token d_mlp"],
) -> tuple[Integer[np.ndarray, "group d_mlp"], Integer[np.ndarray, " d_mlp"]]:
    """The maximum of each group of tokens, and on how many tokens each neuron fires."""
    n_tokens, width = bits.shape
    groups = np.empty((-(-n_tokens // _GROUP), width), bits.dtype)
    fires = np.empty((min(_ROWS, n_tokens), width), bool)
    fired = np.zeros(width, np.int64)
    for start in range(0, n_tokens, _ROWS):
        some = bits[start : start + _ROWS]
        whole = len(some) // _GROUP
        at = start // _GROUP
        if whole:
            parts = some[: whole * _GROUP].reshape(whole, _GROUP, width)
            np.maximum.reduce(parts, axis=1, out=groups[at : at + whole])
        if whole * _GROUP < len(some):
            np.maximum.reduce(some[whole * _GROUP :], axis=0, out=groups[at + whole])
        here = np.not_equal(some, 0, out=fires[: len(some)])
        fired += np.add.reduce(here.view(np.uint8), axis=0, dtype=np.uint8)
    return groups, fired


def _first(
    bits: np.ndarray, groups: np.ndarray, best: np.ndarray, units: np.ndarray
) -> Integer[np.ndarray, " unit"]:
    """The first token at which the maximum of some neurons stands."""
    n_tokens, width = bits.shape
    values, flat = best[units], bits.reshape(-1)
    group = np.zeros(len(units), np.int64)
    for number in range(len(groups) - 1, -1, -1):
        group[groups[number][units] == values] = number
    first = np.empty(len(units), np.int64)
    for number in range(_GROUP - 1, -1, -1):
        places = np.minimum(group * _GROUP + number, n_tokens - 1)
        equal = flat[places * width + units] == values
        first[equal] = places[equal]
    return first


def _put_in(
    lists: dict[str, np.ndarray],
    lines: np.ndarray,
    window: int,
    new: dict[str, np.ndarray],
    scores: Integer[np.ndarray, "line place"],
    score: Integer[np.ndarray, " line"],
) -> Integer[np.ndarray, " line"]:
    """Puts a window in the place of the worst one of some lists; gives the worst score then.

    Args:
        lists: Windows, values and positions by line; changed in place, in no order.
        lines: Which lists; the window is no worse than the worst score of each.
        window: Its number.
        new: Its values and positions.
        scores: Of what is in the lists; 0 where a place is empty.
        score: Of the window, by list.
    """
    every = np.arange(len(lines))
    worst = scores.argmin(1)
    low = scores[every, worst]
    equal = scores == low[:, None]
    ties = np.flatnonzero(((equal.sum(1) > 1) & (low > 0)) | (score == low))
    stays = np.zeros(len(lines), bool)
    if len(ties):
        # Of equal ones the window with the largest number is the worst.
        windows = np.where(equal[ties], lists["windows"][lines[ties]], -1)
        worst[ties] = windows.argmax(1)
        stays[ties] = (score[ties] == low[ties]) & (window > windows.max(1))
    goes = every[~stays]
    at = lines[goes], worst[goes]
    lists["windows"][at] = window
    for part, arrived in new.items():
        lists[part][at] = arrived[goes]
    scores[goes, worst[goes]] = score[goes]
    return scores.min(1)
