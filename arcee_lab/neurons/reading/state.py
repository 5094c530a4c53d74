"""What the pass keeps of one layer: tensors of fixed size, which any number of batches add up to.

    top_*      the windows with the largest maxima, best first
    drawn_*    per stratum, windows drawn from all whose maximum is in its octave
    histogram  how many windows have their maximum in each octave
    fired      on how many tokens the neuron fires
    silent     of the windows that negatives come from, whether the neuron never fires there, eight
               neurons per byte
    tokens, windows, nan    what was read, and how many activations were NaN

`*_values` are window maxima, `*_windows` the numbers of the windows (-1 in an empty place) and
`*_positions` the first position at which the maximum stands. Windows are numbered in the order of
the documents, so of equal maxima the one in the smaller document is kept, and in one document the
earlier one.

With n strata, octave o is kept in places o mod n, in which higher octaves displace lower ones, and
in one octave the smaller numbers of `hashing` the larger ones. So at the end the places hold the n
octaves up to that of the largest value, whichever window came first. Every rule is a total order on
neuron and window: batches, ranks and files may be added in any order and give the same bits.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from arcee_lab.neurons.reading import hashing

State = dict[str, Tensor]
BINS = 31  # octaves of the histogram: below 2^-12, ..., from 2^17 on
LOWEST = -12
PARTS = ("values", "windows", "positions")
_AT_ONCE = 2**26  # activations that are looked at together
_TOGETHER = 32  # windows that are merged together
_LAST = torch.iinfo(torch.int64).max
_LOW = 0xFFFFFFFF


@dataclass(frozen=True)
class Places:
    """What fixes the size of what exemplars keep; the defaults are those of `exemplars`.

    Attributes:
        top: Windows with the largest maxima.
        strata: Octaves, up to that of the largest value.
        per_stratum: Windows drawn from each.
        pool: Windows that negatives come from.
        longest: Tokens of the longest window.
        dtype: Of the activations.

    Example:
        >>> import arcee_lab as al
        >>> model, _ = al.load("demo")
        >>> places = al.neurons.Places(dtype=model.dtype)
        >>> plan = al.plan(model, {"layers.*.mlp.hook_post": places}, batch=8, length=128)
        >>> plan.bytes < 5e6
        True
    """

    top: int = 20
    strata: int = 10
    per_stratum: int = 5
    pool: int = 512
    longest: int = 1024
    dtype: torch.dtype = torch.float32

    def init(self, shape: tuple[int, ...], device: torch.device) -> State:
        """The state of a layer before any window; on the meta device it takes no memory.

        Args:
            shape: `(d_mlp,)`.
            device: Where the layer is.
        """
        return new_state(self, shape[0], device)

    @property
    def drawn(self) -> int:
        """Windows drawn from all strata."""
        return self.strata * self.per_stratum

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
    for name, size in (("top", places.top), ("drawn", places.drawn)):
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
        tokens: How many these are; on the host, like all below.
        pooled: Which rows are in the pool.
        slots: Their places there.
    """

    windows: Int[Tensor, " batch"]
    counted: Bool[Tensor, "batch pos"]
    tokens: int
    pooled: tuple[int, ...]
    slots: tuple[int, ...]

    def part(self, start: int, most: int) -> "Rows":
        """Some of the rows."""
        end = start + most
        pairs = zip(self.pooled, self.slots, strict=True)
        mine = [(row - start, slot) for row, slot in pairs if start <= row < end]
        return Rows(
            self.windows[start:end],
            self.counted[start:end],
            self.tokens,
            tuple(row for row, _ in mine),
            tuple(slot for _, slot in mine),
        )


def add(
    state: State,
    places: Places,
    post: Float[Tensor, "batch pos d_mlp"],
    rows: Rows,
    neurons: Int[Tensor, " d_mlp"],
) -> None:
    """Adds a batch, in place; nothing is read from the device.

    Args:
        state: Of the layer.
        places: Its sizes.
        post: The activations; values where no token counts are not read.
        rows: Their windows.
        neurons: Keys of `hashing`.
    """
    state["tokens"] += rows.tokens
    state["windows"] += len(post)
    together = min(_TOGETHER, max(1, _AT_ONCE // max(1, post[0].numel())))
    for start in range(0, len(post), together):
        _add_some(
            state, places, post[start : start + together], rows.part(start, together), neurons
        )


def _add_some(state: State, places: Places, post: Tensor, rows: Rows, neurons: Tensor) -> None:
    counts = rows.counted[..., None]
    fires = counts & (post > 0)
    state["nan"] += (counts & post.isnan()).sum()
    state["fired"] += fires.sum((0, 1))
    post = torch.where(fires, post, 0)
    best, length = post.amax(1), post.shape[1]
    at = torch.arange(length, dtype=torch.int32, device=post.device)[None, :, None]
    first = torch.where(post == best[:, None], at, length).amin(1)
    add_maxima(state, places, best, first, rows.windows, neurons)
    for row, slot in zip(rows.pooled, rows.slots, strict=True):
        state["silent"][slot] = packed(best[row] == 0)


def add_maxima(
    state: State,
    places: Places,
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
    for name, chosen in _merged(state, found, places, neurons).items():
        state[name].copy_(chosen)
    state["histogram"].scatter_add_(1, octaves(found["values"]), fires.int())


def octaves(values: Float[Tensor, "*any"]) -> Int[Tensor, "*any"]:
    """The bin of each value; that of 0 is the first one, as of all that is tiny."""
    exponent = (values.float().view(torch.int32) >> 23) - 127
    return (exponent - LOWEST + 1).clamp(0, BINS - 1).long()


def edges() -> Float[Tensor, " edge"]:
    """The edges of the histogram's bins."""
    inner = 2.0 ** torch.arange(LOWEST, LOWEST + BINS - 1, dtype=torch.float64)
    return torch.cat([inner.new_zeros(1), inner, inner.new_full((1,), torch.inf)])


def merge(a: State, b: State, places: Places, neurons: Int[Tensor, " d_mlp"]) -> State:
    """The state of the windows of both, none of which may be in both; neither is changed."""
    sums = ("histogram", "fired", "tokens", "windows", "nan")
    merged = {name: a[name] + b[name] for name in sums}
    merged["silent"] = a["silent"] | b["silent"]
    for name in ("top", "drawn"):
        found = {part: b[f"{name}_{part}"] for part in PARTS}
        both = _merged(a, found, places, neurons)
        merged |= {full: x for full, x in both.items() if full.startswith(name)}
    return merged


def ordered(state: State, places: Places, neurons: Int[Tensor, " d_mlp"]) -> State:
    """The state with its lists in their order."""
    none = {part: state[f"top_{part}"][:, :0] for part in PARTS}
    return state | _merged(state, none, places, neurons)


def _merged(state: State, found: State, places: Places, neurons: Tensor) -> State:
    """The lists of a state with some windows more; of each neuron, any number."""
    kept = {part: state[f"top_{part}"] for part in PARTS}
    both = {part: torch.cat([kept[part], found[part]], 1) for part in PARTS}
    best = _chosen(both, _rank(both), places.top)
    # Of the drawn ones, each row is a stratum of a neuron, in which other octaves have no place.
    kept = {part: state[f"drawn_{part}"].unflatten(1, (places.strata, -1)) for part in PARTS}
    spread = {part: x[:, None].expand(-1, places.strata, -1) for part, x in found.items()}
    both = {part: torch.cat([kept[part], spread[part]], 2) for part in PARTS}
    mine = octaves(both["values"]) % places.strata
    strata = torch.arange(places.strata, device=mine.device)[None, :, None]
    both["windows"] = torch.where(mine == strata, both["windows"], -1)
    drawn = _chosen(both, _number(both, neurons), places.per_stratum)
    return {f"top_{part}": x for part, x in best.items()} | {
        f"drawn_{part}": x.flatten(1) for part, x in drawn.items()
    }


def _rank(both: State) -> Tensor:
    """Rises as values fall; of equal ones with the number of the window."""
    # Floats above 0 order as their bits do.
    bits = both["values"].float().view(torch.int32).long()
    return ((0x7FFFFFFF - bits) << 32) | both["windows"].long()


def _number(both: State, neurons: Tensor) -> Tensor:
    """Rises as octaves fall; in one octave with the number of `hashing`."""
    windows = both["windows"].long()
    order = hashing.orders(neurons[:, None, None], hashing.window_keys(windows.clamp(min=0)))
    octave = BINS - 1 - octaves(both["values"])
    return (((octave << hashing.BITS) | order) << 32) | windows


def _chosen(both: State, keys: Tensor, most: int) -> State:
    """The windows with the smallest keys, in that order; what is left over is empty."""
    there = both["windows"] >= 0
    keys = torch.where(there, keys, _LAST)
    index = keys.topk(most, dim=-1, largest=False).indices
    empty = ~there.gather(-1, index)
    found = {part: x.gather(-1, index) for part, x in both.items()}
    return {part: x.masked_fill(empty, 0 if part == "values" else -1) for part, x in found.items()}


def packed(bits: Bool[Tensor, " d_mlp"]) -> UInt8[Tensor, " byte"]:
    """Eight neurons per byte, the first in the lowest bit."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -len(bits) % 8)).view(-1, 8)
    return (padded << torch.arange(8, dtype=torch.uint8, device=bits.device)).sum(
        1, dtype=torch.uint8
    )
