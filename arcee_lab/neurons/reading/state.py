"""What the pass keeps of one layer: tensors of fixed size, which any number of batches add up to.

    top_*      the windows with the largest maxima, best first
    sample_*   a uniform draw of the windows in which the neuron fires: those with the smallest
               numbers of `hashing`, the smallest first
    histogram  how many windows have their maximum in each octave
    fired      on how many tokens the neuron fires
    silent     of the windows that negatives come from, whether the neuron never fires there, eight
               neurons per byte
    tokens, windows, nan    what was read, and how many activations were NaN

`*_values` are window maxima, `*_windows` the numbers of the windows (-1 in an empty place) and
`*_positions` the first position at which the maximum stands. Windows are numbered in the order of
the documents, so of equal maxima the one in the smaller document is kept, and in one document the
earlier one. Every rule is a total order on neuron and window: batches, ranks and files may be added
in any order and give the same bits.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.neurons.reading import hashing

State = dict[str, Tensor]
BINS = 31  # octaves of the histogram: below 2^-15, ..., from 2^14 on
LOWEST = -15
_AT_ONCE = 2**26  # activations that are looked at together
_LAST = torch.iinfo(torch.int64).max
_LOW = 0xFFFFFFFF
_KEPT = ("values", "windows", "positions")


@dataclass(frozen=True)
class Places:
    """What fixes the size of a state.

    Attributes:
        top: Windows with the largest maxima.
        sample: Windows drawn.
        pool: Windows that negatives come from.
        longest: Tokens of the longest window.
        dtype: Of the activations.
    """

    top: int
    sample: int
    pool: int
    longest: int
    dtype: torch.dtype

    @property
    def kept_dtype(self) -> torch.dtype:
        """Of the values that are kept: the activations' own, fp32 at the most."""
        return torch.float32 if self.dtype == torch.float64 else self.dtype

    @property
    def position_dtype(self) -> torch.dtype:
        """Of positions."""
        return torch.int16 if self.longest <= 2**15 else torch.int32


def new_state(places: Places, d_mlp: int, device: torch.device) -> State:
    """The state before any window; on the meta device it tells its size and takes none."""
    state = {}
    for name, size in (("top", places.top), ("sample", places.sample)):
        empty = {"values": 0, "windows": -1, "positions": -1}
        dtypes = (places.kept_dtype, torch.int32, places.position_dtype)
        for (part, fill), dtype in zip(empty.items(), dtypes, strict=True):
            state[f"{name}_{part}"] = torch.full((d_mlp, size), fill, dtype=dtype, device=device)

    def zeros(*size: int, dtype: torch.dtype = torch.int64) -> Tensor:
        return torch.zeros(size, dtype=dtype, device=device)

    return state | {
        "histogram": zeros(d_mlp, BINS, dtype=torch.int32),
        "fired": zeros(d_mlp),
        "silent": zeros(places.pool, -(-d_mlp // 8), dtype=torch.uint8),
        "tokens": zeros(1),
        "windows": zeros(1),
        "nan": zeros(1),
    }


@dataclass(frozen=True, eq=False)
class Rows:
    """The windows of a batch, one per row, on the device of a layer.

    Attributes:
        windows: Their numbers.
        counted: The tokens that count.
        pooled: Which rows are in the pool; on the host.
        slots: Their places there.
    """

    windows: Int[Tensor, " batch"]
    counted: Bool[Tensor, "batch pos"]
    pooled: tuple[int, ...]
    slots: tuple[int, ...]


def add(
    state: State, post: Float[Tensor, "batch pos d_mlp"], rows: Rows, neurons: Int[Tensor, " d_mlp"]
) -> None:
    """Adds a batch, in place; nothing is read from the device.

    Args:
        state: Of the layer.
        post: The activations; what stands where no token counts is not looked at.
        rows: Their windows.
        neurons: Keys of `hashing`.
    """
    together = max(1, _AT_ONCE // max(1, post[0].numel()))
    for start in range(0, len(post), together):
        here = slice(start, start + together)
        _add_some(state, post[here], rows.windows[here], rows.counted[here], neurons, start, rows)


def _add_some(
    state: State,
    post: Tensor,
    windows: Tensor,
    counted: Tensor,
    neurons: Tensor,
    start: int,
    rows: Rows,
) -> None:
    counts = counted[..., None]
    fires = counts & (post > 0)
    post = torch.where(fires, post, 0)
    state["nan"] += (counts & post.isnan()).sum()
    state["tokens"] += counted.sum()
    state["windows"] += len(post)
    state["fired"] += fires.sum((0, 1))
    best = post.amax(1)  # batch d_mlp
    length = post.shape[1]
    places = torch.arange(length, dtype=torch.int32, device=post.device)[None, :, None]
    first = torch.where(post == best[:, None], places, length).amin(1)
    add_maxima(state, best, first, windows, neurons)
    mine = [(r - start, s) for r, s in zip(rows.pooled, rows.slots, strict=True)]
    for row, slot in mine:
        if 0 <= row < len(post):
            state["silent"][slot] = _packed(best[row] == 0)


def add_maxima(
    state: State,
    best: Float[Tensor, "batch d_mlp"],
    first: Int[Tensor, "batch d_mlp"],
    windows: Int[Tensor, " batch"],
    neurons: Int[Tensor, " d_mlp"],
) -> None:
    """Adds the maxima of windows: lists and histogram."""
    fires = (best > 0).t()
    found = {
        "values": best.t().to(state["top_values"].dtype),
        "windows": torch.where(fires, windows[None].int(), -1),
        "positions": torch.where(fires, first.t(), -1).to(state["top_positions"].dtype),
    }
    for name, choose in (("top", _largest), ("sample", _drawn)):
        both = {part: torch.cat([state[f"{name}_{part}"], found[part]], 1) for part in _KEPT}
        for part, kept in choose(both, neurons, state[f"{name}_values"].shape[1]).items():
            state[f"{name}_{part}"].copy_(kept)
    octave = octaves(found["values"])
    state["histogram"].scatter_add_(1, octave, fires.int())


def octaves(values: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """The bin of each value; that of 0 is the first one, as of all that is tiny."""
    exponent = (values.float().view(torch.int32) >> 23) - 127
    return (exponent - LOWEST + 1).clamp(0, BINS - 1).long()


def edges() -> Float[Tensor, " edge"]:
    """The edges of the histogram's bins."""
    inner = 2.0 ** torch.arange(LOWEST, LOWEST + BINS - 1, dtype=torch.float64)
    return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), torch.inf)])


def merge(a: State, b: State, neurons: Int[Tensor, " d_mlp"]) -> State:
    """The state of the windows of both, none of which may be in both; neither is changed."""
    merged = {name: a[name] + b[name] for name in ("histogram", "fired", "tokens", "windows")}
    merged["nan"] = a["nan"] + b["nan"]
    merged["silent"] = a["silent"] | b["silent"]
    for name, choose in (("top", _largest), ("sample", _drawn)):
        both = {part: torch.cat([a[f"{name}_{part}"], b[f"{name}_{part}"]], 1) for part in _KEPT}
        kept = choose(both, neurons, a[f"{name}_values"].shape[1])
        merged |= {f"{name}_{part}": x for part, x in kept.items()}
    return merged


def _largest(both: State, neurons: Tensor, k: int) -> State:
    """The largest values; of equal ones the window of the smaller number."""
    # Floats above 0 order as their bits do.
    bits = both["values"].float().view(torch.int32).long()
    keys = (bits << 32) | (_LOW - both["windows"].long())
    keys = torch.where(both["windows"] < 0, -1, keys)
    return _gathered(both, keys.topk(k, dim=1).indices)


def _drawn(both: State, neurons: Tensor, k: int) -> State:
    """The windows with the smallest numbers."""
    windows = both["windows"].long()
    order = hashing.orders(neurons[:, None], hashing.window_keys(windows.clamp(min=0)))
    order = torch.where(windows < 0, _LAST, order)
    return _gathered(both, order.topk(k, dim=1, largest=False).indices)


def _gathered(both: State, index: Tensor) -> State:
    return {part: x.gather(1, index) for part, x in both.items()}


def _packed(bits: Bool[Tensor, " d_mlp"]) -> Int[Tensor, " byte"]:
    """Eight neurons per byte, the first in the lowest bit."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(
        1, dtype=torch.uint8
    )
