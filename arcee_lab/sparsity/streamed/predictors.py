"""Row 17, without training: what predicts which neurons will fire.

A predictor names a set P of neurons before the layer is computed; M is the set that fires.

    recall = |P ∩ M| / |M|        precision = |P ∩ M| / |P|        predicted sparsity = 1 - |P| / F
    weighted recall = Σ_{P∩M} ‖n_i‖ / Σ_M ‖n_i‖        means over tokens

    previous     P = M of the token before
    sign         P = {i: more than half of the signs of x and W_up[i] agree}          (SparseInfer)
    int8, int4   P = {i: u'_i > 0}, W_up rounded to 8 or 4 bits with one scale per neuron
    lookahead    P = {i: W_up x^{l-1} > 0}, from the input of the MLP before            (Deja Vu)
    hot          P = the neurons that fire most over the text, as many as the budget allows

`low_rank` adds W_up cut to rank d/8 and d/4 by a truncated SVD. It prepares a factorisation a
layer, which takes seconds to minutes at full size, so it runs only when asked for by name.

Recall at a budget: the ⌈b k_t⌉ neurons with the largest scores, for b of 0.5 to 3 times the number
that does fire. Neurons of equal score that the budget cuts apart count by the part that is in it.

Each of these costs a matrix product, and rounding the weights of a layer costs more than that. So
N, the tokens that they are tried on, is 1 in 16 of every fourth window of the sample, more of a
short text, or all where `sample_every=1` was asked for; see `schedule`. N is in the frame, and the
intervals are those of N tokens.

Sources: Song et al., "ProSparse", arXiv:2402.13516 (recall and predicted sparsity); Shin et al.,
"SparseInfer", arXiv:2411.12692 (signs); Liu et al., "Deja Vu", arXiv:2310.17157 (lookahead).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.results import Result
from arcee_lab.sparsity.core import packed_masks, window_means
from arcee_lab.sparsity.core.counts import CoreCounts
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.core.window_means import Mean
from arcee_lab.sparsity.streamed.analysis import Analysis, LayerBatch

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

BUDGETS = (0.5, 1.0, 1.5, 2.0, 3.0)
METRICS = ("recall", "precision", "sparsity", "weighted")
_TOGETHER = 2048  # tokens whose scores exist together
_STEPS = 2048, 32  # neurons multiplied, and rounded, together on a CPU: they stay in its cache
_SMALLEST = 1e-30  # what a neuron's largest weight counts as, where all are 0


@dataclass(frozen=True, repr=False)
class PredictorsResult(Result):
    """How well each predictor does.

    Attributes:
        names: The predictors.
        metrics: recall, precision, sparsity and weighted recall of each, `[layer, predictor]`; NaN
            where there is none, as for `lookahead` in the first layer.
        at_budget: Recall at each budget, `[layer, predictor, budget]`; NaN for `previous`, which
            ranks nothing.
        hot: Recall of the hot set at each budget, `[layer, budget]`, over all N tokens.
        active: Mean k by layer.
        tokens: N, the tokens that they were tried on.
    """

    names: tuple[str, ...]
    metrics: dict[str, Mean]
    at_budget: Mean
    hot: np.ndarray
    active: np.ndarray
    tokens: int

    @property
    def headline(self) -> str:
        place = BUDGETS.index(1.0)
        ranked, sets = [], []
        for column, name in enumerate(self.names):
            held = window_means.average(self.at_budget.value[:, column, place])
            recall, precision = (
                window_means.average(self.metrics[metric].value[:, column])
                for metric in ("recall", "precision")
            )
            if np.isfinite(held):
                ranked.append(f"{name}{self._over(column)} {held:.1%}")
            elif np.isfinite(recall):
                sets.append(f"{name}, a set of its own size: {recall:.1%} and {precision:.1%}")
        size = np.clip(np.ceil(self.active), 1, None)
        hot, right = self.hot[:, place], self.hot[:, place] * self.active / size
        sets.append(f"hot, a fixed set: {hot.mean():.1%} and {right.mean():.1%}")
        if ranked:
            told = ", ".join(ranked)
            sets.insert(0, f"at a budget of as many neurons as fire, where both are equal: {told}")
        return (
            f"N = {self.tokens:,} tokens, mean over layers: recall and precision {'; '.join(sets)}"
        )

    def _over(self, column: int) -> str:
        """In which layers a predictor has numbers, in brackets; nothing if it is in all."""
        there = np.flatnonzero(np.isfinite(self.at_budget.value[:, column]).all(1))
        if not 0 < len(there) < len(self.at_budget.value):
            return ""
        ends = f"layers {there[0]} to {there[-1]}" if len(there) > 1 else f"layer {there[0]}"
        return f" ({ends})"

    @property
    def _finding(self) -> str:
        place = BUDGETS.index(1.0)
        held = [
            window_means.average(self.at_budget.value[:, column, place])
            for column in range(len(self.names))
        ]
        names = [f"{name}{self._over(column)}" for column, name in enumerate(self.names)]
        best = max(zip(held, names, strict=True), key=lambda one: (np.isfinite(one[0]), one[0]))
        hot = self.hot[:, place].mean()
        if not np.isfinite(best[0]) or best[0] < hot:
            return (
                f"The neurons that fire most hold {hot:.0%} of the active ones "
                f"(N = {self.tokens:,} tokens)"
            )
        return (
            f"Best predictor: {best[1]} names {best[0]:.0%} of the active neurons; the most "
            f"frequent ones are {hot:.0%} of them (N = {self.tokens:,} tokens)"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per layer and predictor: metrics at its own threshold, recall at budgets."""
        import pandas as pd

        layers, count = self.metrics["recall"].value.shape
        columns: dict[str, object] = {
            "layer": np.repeat(np.arange(layers), count),
            "predictor": list(self.names) * layers,
        }
        for name, mean in self.metrics.items():
            columns |= {name: mean.value.ravel(), f"{name}_half": mean.ci_half_width.ravel()}
        for place, budget in enumerate(BUDGETS):
            columns[f"recall_at_{budget:g}"] = self.at_budget.value[:, :, place].ravel()
        columns["n_windows"] = self.metrics["recall"].windows.ravel()
        columns["n_tokens"] = self.tokens
        hot = pd.DataFrame({"layer": range(layers), "predictor": "hot"})
        for place, budget in enumerate(BUDGETS):
            hot[f"recall_at_{budget:g}"] = self.hot[:, place]
        return pd.concat([pd.DataFrame(columns), hot], ignore_index=True)

    def figure(self, *, dark: bool = False) -> "Figure":
        """Recall against the budget, mean over layers."""
        from arcee_lab.views.figures.curves import Line, lines

        budgets = np.array(BUDGETS)
        curves = []
        for place, name in enumerate(self.names):
            found, half = self.at_budget.value[:, place], self.at_budget.ci_half_width[:, place]
            there = np.isfinite(found).all(1)
            if there.any():
                told = f"{name}{self._over(place)}"
                curves.append(Line(told, budgets, found[there].mean(0), half[there].mean(0)))
        curves.append(Line("the most frequent", budgets, self.hot.mean(0), None, True))
        return lines(
            curves,
            x="budget, as a multiple of the neurons that fire, rounded up",
            y="recall of neurons that fire",
            shares="y",
            title=self._finding,
            mark=1.0,
            mark_name="as many as fire",
            dark=dark,
        )


class Predictors(Analysis):
    """Tries the predictors that need no preparation."""

    name: ClassVar[str] = "predictors"
    title: ClassVar[str] = "Predicting the active neurons"
    reading: ClassVar[str] = (
        "A curve near 1 at a small budget names the active neurons before the layer is computed, "
        "so that the up projection could be skipped too. The table also has recall, precision and "
        "weighted recall at each predictor's own threshold; the weighted one counts a neuron by "
        "what it writes, so one missed near zero, whose square is small, costs little."
    )
    names: ClassVar[tuple[str, ...]] = ("previous", "sign", "int8", "int4", "lookahead")

    def __init__(self) -> None:
        self._largest: dict[int, Tensor] = {}

    def init(self, shape: Shape, device: torch.device) -> State:
        state: State = {"tokens": torch.zeros(shape.layers, dtype=torch.int64, device=device)}
        for name in METRICS:
            state |= window_means.new(name, (shape.layers, len(self.names)), device)
        size = (shape.layers, len(self.names), len(BUDGETS))
        return state | window_means.new("budget", size, device)

    def layer(self, state: State, seen: LayerBatch) -> None:
        chosen = seen.tokens.tried
        if not len(chosen):
            return
        bounds = np.searchsorted(chosen, np.array(seen.tokens.spans))
        spans = tuple((int(start), int(stop)) for start, stop in bounds)
        pieces = [
            self._tried(seen, window_means.places(chosen[at : at + _TOGETHER], seen.post.device))
            for at in range(0, len(chosen), _TOGETHER)
        ]
        for name in pieces[0]:
            found = torch.cat([piece[name] for piece in pieces])
            there = ~found.isnan()
            sums = window_means.by_window(found.nan_to_num(), spans)
            window_means.add(state, name, seen.layer, sums, window_means.by_window(there, spans))
        state["tokens"][seen.layer] += len(chosen)

    def _tried(self, seen: LayerBatch, rows: Int[Tensor, " token"]) -> dict[str, Tensor]:
        """By metric, its value at each token and predictor; NaN where there is none."""
        here = replace(
            seen,
            post=seen.post.index_select(0, rows),
            active=seen.active.index_select(0, rows),
            x=seen.x.index_select(0, rows),
            y=seen.y.index_select(0, rows),
            before=None if seen.before is None else seen.before.index_select(0, rows),
        )
        size = (len(rows), len(self.names))
        blank = torch.full(size, torch.nan, dtype=torch.float64, device=rows.device)
        found = {name: blank.clone() for name in METRICS}
        found["budget"] = blank[:, :, None].repeat(1, 1, len(BUDGETS))
        fires = here.post != 0
        for name, scores in self.scores(here, seen.post.index_select(0, rows - 1) != 0):
            place = self.names.index(name)
            ranked = scores.dtype != torch.bool
            for metric, x in _metrics(scores > 0 if ranked else scores, here).items():
                found[metric][:, place] = x
            if ranked:
                found["budget"][:, place] = _at_budgets(scores, fires, here.active)
        return found

    def scores(
        self, seen: LayerBatch, previous: Bool[Tensor, "token d_mlp"]
    ) -> Iterator[tuple[str, Tensor]]:
        """`(name, scores)`: what is above 0 is predicted. Booleans are a set without a ranking."""
        weight = seen.mlp.up_weight().to(seen.x.device)
        bias = _bias(seen)
        yield "previous", previous
        if seen.layer not in self._largest:
            self._largest[seen.layer] = largest(weight)
        sign, int8, int4 = from_rounded(weight, self._largest[seen.layer], seen.x)
        yield "sign", sign
        yield "int8", int8.add_(bias)
        yield "int4", int4.add_(bias)
        if seen.before is not None:
            # In this order a CPU multiplies few tokens by many neurons in half of the time.
            yield "lookahead", ((weight @ seen.before.T).T.contiguous() + bias).to(sign.dtype)

    def result(self, state: State, counts: CoreCounts) -> PredictorsResult:
        rates = np.sort(counts.rates.numpy(), axis=1)[:, ::-1]
        active = rates.sum(1)
        held = rates.cumsum(1) / np.maximum(active, 1e-300)[:, None]
        hot = np.zeros((len(rates), len(BUDGETS)))
        for place, budget in enumerate(BUDGETS):
            size = np.clip(np.ceil(budget * active), 1, rates.shape[1]).astype(int)
            hot[:, place] = held[np.arange(len(rates)), size - 1]
        metrics = {name: window_means.mean(state, name) for name in METRICS}
        return PredictorsResult(
            self.names,
            metrics,
            window_means.mean(state, "budget"),
            hot,
            active,
            int(state["tokens"][0]),
        )


class LowRank(Predictors):
    """Tries W_up cut to a low rank; see the head of this file for what it takes to prepare."""

    name: ClassVar[str] = "low_rank"
    title: ClassVar[str] = "Predicting the active neurons at low rank"
    names: ClassVar[tuple[str, ...]] = ("rank d/8", "rank d/4")

    def __init__(self) -> None:
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}

    def scores(
        self, seen: LayerBatch, previous: Bool[Tensor, "token d_mlp"]
    ) -> Iterator[tuple[str, Tensor]]:
        if seen.layer not in self._factors:
            self._factors[seen.layer] = _factors(seen.mlp.up_weight())
        left, right = self._factors[seen.layer]
        x, bias = seen.x.float(), _bias(seen)
        for name, part in zip(self.names, (8, 4), strict=True):
            rank = max(1, seen.mlp.d_model // part)
            yield name, (x @ right[:, :rank]) @ left[:, :rank].T + bias


def from_rounded(
    weight: Float[Tensor, "d_mlp d_model"],
    most: Float[Tensor, "d_mlp 1"],
    x: Float[Tensor, "token d_model"],
) -> Float[Tensor, "3 token d_mlp"]:
    """Scores by the signs of x and W_up, and by W_up rounded to 8 and to 4 bits.

    Rounding is symmetric with one scale per neuron. The products are of whole numbers, which every
    dtype holds exactly, and are scaled afterwards. Some neurons at a time: all rounded weights of
    a model would take as much memory as the model.

    Args:
        weight: W_up.
        most: Of each neuron, the largest absolute weight.
        x: The inputs.
    """
    kind = torch.float32 if x.dtype == torch.float16 else x.dtype  # whose sums would overflow
    scores = torch.empty(3, len(x), len(weight), dtype=most.dtype, device=x.device)
    columns = x.T.to(kind).contiguous()
    one = torch.ones((), dtype=kind, device=x.device)
    signs = torch.copysign(one, columns)
    together, few = _STEPS if x.device.type == "cpu" else (len(weight),) * 2
    # Written over at each step: new memory would cost more than the arithmetic.
    narrow = torch.empty(3, together, weight.shape[1], dtype=kind, device=x.device).unbind()
    rooms = torch.empty(2, few, weight.shape[1], dtype=most.dtype, device=x.device).unbind()
    scales = 127 / most
    for start in range(0, len(weight), together):
        stop = min(start + together, len(weight))
        for at in range(start, stop, few):
            part = weight[at : min(at + few, stop)]
            here = slice(at - start, at - start + len(part))
            sign, int8, int4 = (table[here] for table in narrow)
            room, scaled = (table[: len(part)] for table in rooms)
            torch.copysign(one, part.to(kind), out=sign)
            torch.mul(room.copy_(part), scales[at : at + len(part)], out=scaled)
            int8.copy_(torch.round(scaled, out=room))
            int4.copy_(scaled.mul_(7 / 127).round_())
        whole, scale = [table[: stop - start] for table in narrow], most[start:stop]
        scores[0, :, start:stop] = (whole[0] @ signs).T
        scores[1, :, start:stop] = (whole[1] @ columns * (scale / 127)).T
        scores[2, :, start:stop] = (whole[2] @ columns * (scale / 7)).T
    return scores


def largest(weight: Float[Tensor, "d_mlp d_model"]) -> Float[Tensor, "d_mlp 1"]:
    """Of each neuron, the largest absolute weight; in fp32, or fp64 where the weights are."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return weight.abs().amax(1, keepdim=True).to(dtype).clamp(min=_SMALLEST)


def _factors(weight: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    most = max(1, weight.shape[1] // 4)
    return left[:, :most] * values[:most], right[:most].T.contiguous()


def _bias(seen: LayerBatch) -> Tensor:
    bias = getattr(seen.mlp.up, "bias", None)
    return bias if isinstance(bias, Tensor) else torch.zeros((), device=seen.x.device)


def _metrics(said: Bool[Tensor, "token d_mlp"], seen: LayerBatch) -> dict[str, Tensor]:
    """By metric, its value at each token; NaN where there is none."""
    d_mlp, active = said.shape[1], seen.active.double()
    if seen.on_cpu:
        firings, packed = seen.firings, packed_masks.pack(said.numpy())
        both, size = packed_masks.count(packed & seen.packed), packed_masks.count(packed)
        hit = said.numpy().reshape(-1)[firings.places]
        held, whole = firings.sums(firings.written * hit), firings.sums(firings.written)
        both, size, held, whole = map(torch.from_numpy, (both, size, held, whole))
    else:
        both, size = (said & (seen.post != 0)).sum(1), said.sum(1)
        held = torch.where(said, seen.written, 0).sum(1, dtype=torch.float64)
        whole = seen.written.sum(1, dtype=torch.float64)
    return {
        "recall": both / active,
        "precision": both / size.double(),
        "sparsity": 1 - size.double() / d_mlp,
        "weighted": held / whole,
    }


def _at_budgets(
    scores: Float[Tensor, "token d_mlp"],
    fires: Bool[Tensor, "token d_mlp"],
    active: Int[Tensor, " token"],
) -> Float[Tensor, "token budget"]:
    """Recall of the best-scored neurons; NaN where none fires."""
    d_mlp = scores.shape[1]
    budgets = torch.tensor(BUDGETS, dtype=torch.float64).to(scores.device, non_blocking=True)
    size = (active[:, None] * budgets).ceil().long().clamp(1, d_mlp)
    everyone = _ascending(scores)
    firing = _ascending(torch.where(fires, scores, -torch.inf))
    least = everyone.gather(1, d_mlp - size)  # the smallest score within the budget

    def above_and_equal(ordered: Tensor) -> tuple[Tensor, Tensor]:
        up_to, below = (torch.searchsorted(ordered, least, right=right) for right in (True, False))
        return d_mlp - up_to, up_to - below

    above, equal = above_and_equal(everyone)
    hits, tied = above_and_equal(firing)
    return (hits + tied * ((size - above) / equal)) / active.double()[:, None]


def _ascending(scores: Tensor) -> Tensor:
    if scores.device.type == "cpu":
        return torch.from_numpy(np.sort(scores.numpy(), axis=1))  # many times faster than torch's
    return scores.sort(dim=1).values
