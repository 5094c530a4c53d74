"""Rows 5 and 6: how many neurons several tokens use together.

    U_t = |∪ M_s over the first t tokens of a window| / F     (1 - U_t is the aggregated sparsity)
    U_B = |∪ M_s over B tokens of different windows| / F       what a batch of B sequences touches

next to two baselines: if tokens drew their neurons alike and apart, 1 - S^B; and if each neuron
kept its own rate, 1 - Σ_i (1 - p_i)^B / F. A curve below the second one says that neighbours
share neurons.

Sources: Mirzadeh et al., "ReLU Strikes Back", arXiv:2310.04564 (aggregated sparsity along a text);
Wild and Anderson, arXiv:2407.07848 (token, sequence, batch); "Polar Sparsity", arXiv:2505.14884
(union over a batch).

For U_B one token of each window of the sample is kept as bits, the middle one of those that count:
the first 256 windows, whatever batches they were computed in.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

from arcee_lab.results import Result, counted
from arcee_lab.sparsity.core import packed_masks, window_means
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.core.window_means import Mean
from arcee_lab.sparsity.streamed.analysis import Analysis, LayerBatch

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

WINDOWS = 256  # of which one token is kept as bits
LENGTHS = 2 ** np.arange(17)  # the same for every text, so that states add up


@dataclass(frozen=True, repr=False)
class UnionsResult(Result):
    """Neurons used together, as shares of a layer.

    Attributes:
        lengths: t, the numbers of tokens within a window.
        within: U_t, `[length, layer]`.
        sequence: U over whole windows, `[layer]`.
        sizes: B, the numbers of tokens of different windows.
        across: U_B, `[size, layer]`; the interval is over groups.
        rates: p_i, for the baselines.
        masks: The kept tokens, `[window, layer, byte]`, neurons packed eight per byte.
    """

    lengths: np.ndarray
    within: Mean
    sequence: Mean
    sizes: np.ndarray
    across: Mean
    rates: np.ndarray
    masks: np.ndarray

    def alike(self, tokens: np.ndarray) -> np.ndarray:
        """Baseline 1 - S^B, `[size, layer]`."""
        zeros = 1 - self.rates.mean(1)
        return 1 - zeros[None] ** tokens[:, None]

    def own_rates(self, tokens: np.ndarray) -> np.ndarray:
        """Baseline 1 - Σ (1 - p_i)^B / F, `[size, layer]`."""
        return np.stack([1 - ((1 - self.rates) ** int(size)).mean(1) for size in tokens])

    @property
    def headline(self) -> str:
        token, window = self.rates.mean(), self.sequence.value.mean()
        return (
            f"{int(self.sequence.windows.max()):,} windows: a token uses {token:.1%} of the "
            f"neurons, a window {window:.1%}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer, kind (within, sequence, across) and number of tokens."""
        import pandas as pd

        parts = []
        kinds = (("within", self.lengths, self.within), ("across", self.sizes, self.across))
        for kind, tokens, found in kinds:
            alike, own = self.alike(tokens), self.own_rates(tokens)
            for place, size in enumerate(tokens):
                parts.append(
                    pd.DataFrame(
                        {
                            "kind": kind,
                            "tokens": int(size),
                            "layer": range(found.value.shape[1]),
                            "union": found.value[place],
                            "half": found.ci_half_width[place],
                            "if_alike": alike[place],
                            "if_own_rates": own[place],
                            "n": found.windows[place],
                        }
                    )
                )
        whole = self.sequence
        parts.append(
            pd.DataFrame(
                {
                    "kind": "sequence",
                    "layer": range(len(whole.value)),
                    "union": whole.value,
                    "half": whole.ci_half_width,
                    "n": whole.windows,
                }
            )
        )
        return pd.concat([part for part in parts if len(part)], ignore_index=True)

    def figure(self, *, dark: bool = False) -> "Figure":
        """Mean over layers: within a window and across windows, with both baselines."""
        from arcee_lab.views.figures.curves import Line, lines

        curves = []
        kinds = (
            ("first tokens of a window", self.lengths, self.within),
            ("tokens of different windows", self.sizes, self.across),
        )
        for name, tokens, found in kinds:
            seen = found.windows.all(1)
            if seen.any():
                # Layers move together, so the interval of their mean is the mean of the halves.
                curves.append(
                    Line(
                        name,
                        tokens[seen],
                        found.value[seen].mean(1),
                        found.ci_half_width[seen].mean(1),
                    )
                )
        longest = max((kind[1] for kind in kinds), key=len)
        curves += [
            Line(
                "if neurons kept their rates",
                longest,
                self.own_rates(longest).mean(1),
                None,
                True,
                0,
            ),
            Line(
                "if neurons were alike: 1 − Sᴮ, S: zeros, B: tokens",
                longest,
                self.alike(longest).mean(1),
                None,
                True,
            ),
        ]
        return lines(
            curves,
            x="tokens together",
            y="share of neurons used",
            shares="y",
            title=f"A token uses {self.rates.mean():.1%} of the neurons, a window "
            f"{self.sequence.value.mean():.1%} (mean over layers, "
            f"N = {counted(int(self.sequence.windows.max()), 'window')})",
            log_x=True,
            dark=dark,
        )


class Unions(Analysis):
    """Follows unions along each window, and keeps one token of each as bits."""

    name: ClassVar[str] = "unions"
    title: ClassVar[str] = "Neurons used by several tokens together"
    reading: ClassVar[str] = (
        "Where a line is far below its dashed ones, tokens share their neurons, and a batch or a "
        "draft of several tokens reads fewer rows than chance says. Exact zeros make the union a "
        "plain set: nothing is close to zero and used after all."
    )
    kept: ClassVar[dict[str, int]] = {"kept_masks": WINDOWS, "kept_keys": WINDOWS}

    def init(self, shape: Shape, device: torch.device) -> State:
        packed = -(-shape.d_mlp // 8)
        return {
            **window_means.new("within", (shape.layers, len(LENGTHS)), device),
            **window_means.new("sequence", (shape.layers,), device),
            "kept_masks": torch.zeros(
                WINDOWS, shape.layers, packed, dtype=torch.uint8, device=device
            ),
            "kept_keys": torch.zeros(WINDOWS, dtype=torch.int64, device=device),
            "d_mlp": torch.zeros(1, dtype=torch.int64, device=device),
        }

    def layer(self, state: State, seen: LayerBatch) -> None:
        d_mlp, device = seen.post.shape[1], seen.post.device
        spans = np.array(seen.tokens.spans)
        sizes = spans[:, 1] - spans[:, 0]
        found = (
            unions_from_packed(seen.packed, spans)
            if seen.on_cpu
            else unions_from_masks(seen.post != 0, spans)
        )
        there = torch.from_numpy(sizes[:, None] >= LENGTHS).to(device, non_blocking=True)
        used = found.double() / d_mlp
        window_means.add(state, "within", seen.layer, torch.where(there, used[:, :-1], 0.0), there)
        window_means.add(state, "sequence", seen.layer, used[:, -1], torch.ones_like(used[:, -1]))
        slots = np.array(seen.tokens.slots)
        kept = np.flatnonzero(slots < WINDOWS)
        if len(kept):
            middles = spans[kept, 0] + sizes[kept] // 2
            to = window_means.places(slots[kept], device)
            state["kept_masks"][to, seen.layer] = _kept(seen, middles)

    def batch(self, state: State, tokens, active, losses) -> None:
        kept = [(slot, key) for slot, key in zip(tokens.slots, tokens.keys, strict=True)]
        kept = [pair for pair in kept if pair[0] < WINDOWS]
        if kept:
            device = state["kept_keys"].device
            slots, keys = zip(*kept, strict=True)
            # 0 means an empty place, so a checksum of 0 is stored as 1.
            state["kept_keys"][window_means.places(list(slots), device)] = window_means.places(
                [max(key, 1) for key in keys], device
            )

    def finished(self, state: State) -> State:
        filled = state["kept_keys"] != 0
        return state | {name: state[name][filled].clone() for name in self.kept}

    def result(self, state: State, counts: CoreCounts) -> UnionsResult:
        d_mlp = counts.rates.shape[1]
        masks = state["kept_masks"].numpy()
        within = window_means.mean(state, "within")
        reached = within.windows.any(0)
        sizes = _powers(len(masks))
        return UnionsResult(
            lengths=LENGTHS[reached],
            within=Mean(
                within.value.T[reached], within.ci_half_width.T[reached], within.windows.T[reached]
            ),
            sequence=window_means.mean(state, "sequence"),
            sizes=sizes,
            across=_across(masks, sizes, d_mlp),
            rates=counts.rates.numpy(),
            masks=masks,
        )


def unions_from_packed(
    packed: UInt8[np.ndarray, "token byte"], spans: Int[np.ndarray, "window 2"]
) -> Int[Tensor, "window size"]:
    """Neurons that the first 1, 2, 4, ... tokens of each window use, and all of them at last.

    What a window is too short for is 0.
    """
    words = packed_masks.words(packed)
    unions = np.zeros((len(spans), len(LENGTHS) + 1, words.shape[1]), np.uint64)
    for window, (start, stop) in enumerate(spans.tolist()):
        so_far, done = 0, start
        for place in _reached(stop - start):
            until = start + 2**place if place >= 0 else stop
            so_far = so_far | np.bitwise_or.reduce(words[done:until], axis=0)
            unions[window, place] = so_far
            done = until
    return torch.from_numpy(np.bitwise_count(unions).sum(2, dtype=np.int64))


def unions_from_masks(
    fires: Bool[Tensor, "token d_mlp"], spans: Int[np.ndarray, "window 2"]
) -> Int[Tensor, "window size"]:
    """The same from booleans."""
    size = (len(spans), len(LENGTHS) + 1)
    unions = torch.zeros(size, dtype=torch.int64, device=fires.device)
    for window, (start, stop) in enumerate(spans.tolist()):
        so_far, done = torch.zeros_like(fires[0]), start
        for place in _reached(stop - start):
            until = start + 2**place if place >= 0 else stop
            if until > done:
                so_far = so_far | _any(fires[done:until])
            unions[window, place] = so_far.sum()
            done = until
    return unions


def _reached(size: int) -> list[int]:
    """Places of the lengths that a window of a size holds, then that of the whole window."""
    return [*range(min(size.bit_length(), len(LENGTHS))), -1]


def _kept(seen: LayerBatch, tokens: np.ndarray) -> UInt8[Tensor, "token byte"]:
    if seen.on_cpu:
        return torch.from_numpy(seen.packed[tokens, : -(-seen.post.shape[1] // 8)])
    return packed_masks.pack_tensor(
        seen.post.index_select(0, window_means.places(tokens, seen.post.device)) != 0
    )


def _any(fires: Tensor) -> Tensor:
    # The largest of bytes is several times faster than any() of booleans.
    return fires.view(torch.uint8).amax(0).bool()


def _powers(most: int) -> np.ndarray:
    return 2 ** np.arange(max(most, 1).bit_length()) if most else np.zeros(0, np.int64)


def _across(masks: np.ndarray, sizes: np.ndarray, d_mlp: int) -> Mean:
    """Unions of groups of kept tokens, each in one group."""
    layers = masks.shape[1]
    value, half = np.full((2, len(sizes), layers), np.nan)
    windows = np.zeros((len(sizes), layers), np.int64)
    for layer in range(layers):
        fires = packed_masks.unpack(masks[:, layer], d_mlp)
        for place, size in enumerate(sizes):
            groups = len(fires) // int(size)
            union = fires[: groups * size].reshape(groups, int(size), d_mlp).any(1).mean(1)
            value[place, layer] = union.mean()
            windows[place, layer] = groups
            if groups > 1:
                half[place, layer] = 1.96 * union.std(ddof=1) / np.sqrt(groups)
    return Mean(value, half, windows)
