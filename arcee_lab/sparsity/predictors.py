"""Row 17, without training: what tells beforehand which neurons will fire.

A predictor names a set P of neurons before the layer is computed; M is the set that fires.

    recall = |P ∩ M| / |M|        precision = |P ∩ M| / |P|        predicted sparsity = 1 - |P| / F
    weighted recall = Σ_{P∩M} ‖n_i‖ / Σ_M ‖n_i‖        means over tokens

    previous     P = M of the token before
    sign         P = {i: more than half of the signs of x and W_up[i] agree}          (SparseInfer)
    int8, int4   P = {i: u'_i > 0}, W_up rounded to 8 or 4 bits with one scale a neuron
    lookahead    P = {i: W_up x^{l-1} > 0}, from the input of the MLP before            (Deja Vu)
    hot          P = the neurons that fire most over the text, as many as the budget allows

`low_rank` adds W_up cut to rank d/8 and d/4 by a truncated SVD. It prepares a factorisation a
layer, which takes seconds to minutes at full size, so it runs only when asked for by name.

Recall at a budget: the ⌈b k_t⌉ neurons with the largest scores, for b of 0.5 to 3 times the number
that does fire.

Looked at are every 8th token of the first 16 windows of the share; on longer texts the cost does
not grow any more.

Sources: Song et al., "ProSparse", arXiv:2402.13516 (recall and predicted sparsity); Shin et al.,
"SparseInfer", arXiv:2411.12692 (signs); Liu et al., "Deja Vu", arXiv:2310.17157 (lookahead).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from arcee_lab.sparsity import exact
from arcee_lab.sparsity.analysis import Analysis, Result, Seen, Shape, State
from arcee_lab.sparsity.batches import TOGETHER
from arcee_lab.sparsity.exact import Mean
from arcee_lab.sparsity.overlap import pairs

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.sparsity.report import SparsityReport
    from arcee_lab.views.figure import Figure

BUDGETS = (0.5, 1.0, 1.5, 2.0, 3.0)
METRICS = ("recall", "precision", "sparsity", "weighted")
STRIDE, WINDOWS = 8, TOGETHER


@dataclass(frozen=True, repr=False)
class Predictability(Result):
    """How well each predictor does.

    Attributes:
        names: The predictors.
        metrics: recall, precision, sparsity and weighted recall of each, `[layer, predictor]`; NaN
            where there is none, as for `lookahead` in the first layer.
        at_budget: Recall at each budget, `[layer, predictor, budget]`; NaN for `previous`, which
            ranks nothing.
        hot: Recall of the hot set at each budget, `[layer, budget]`, over all N tokens.
        active: Mean k by layer.
    """

    names: tuple[str, ...]
    metrics: dict[str, Mean]
    at_budget: Mean
    hot: np.ndarray
    active: np.ndarray

    @property
    def headline(self) -> str:
        recall = self.metrics["recall"].value
        told = [
            f"{name} {exact.average(recall[:, place]):.1%}"
            for place, name in enumerate(self.names)
            if np.isfinite(recall[:, place]).any()
        ]
        return f"recall, mean over layers: {', '.join(told)}"

    def frame(self) -> "pd.DataFrame":
        """One row a layer and predictor: the metrics, their halves, recall at budgets."""
        import pandas as pd

        layers, count = self.metrics["recall"].value.shape
        columns: dict[str, object] = {
            "layer": np.repeat(np.arange(layers), count),
            "predictor": list(self.names) * layers,
        }
        for name, mean in self.metrics.items():
            columns |= {name: mean.value.ravel(), f"{name}_half": mean.half.ravel()}
        for place, budget in enumerate(BUDGETS):
            columns[f"recall_at_{budget:g}"] = self.at_budget.value[:, :, place].ravel()
        columns["n_windows"] = self.metrics["recall"].windows.ravel()
        hot = pd.DataFrame({"layer": range(layers), "predictor": "hot"})
        for place, budget in enumerate(BUDGETS):
            hot[f"recall_at_{budget:g}"] = self.hot[:, place]
        return pd.concat([pd.DataFrame(columns), hot], ignore_index=True)

    def figure(self, *, dark: bool = False) -> "Figure":
        """Recall against the budget, mean over layers."""
        from arcee_lab.views.curves import Line, lines

        budgets = np.array(BUDGETS)
        curves = []
        for place, name in enumerate(self.names):
            found, half = self.at_budget.value[:, place], self.at_budget.half[:, place]
            there = np.isfinite(found).all(1)
            if there.any():
                curves.append(Line(name, budgets, found[there].mean(0), half[there].mean(0)))
        curves.append(Line("hot", budgets, self.hot.mean(0), None, True))
        return lines(
            curves,
            x="budget, as a multiple of the neurons that do fire",
            y="share of them that it holds",
            title="What tells the active neurons beforehand, mean over layers",
            mark=1.0,
            dark=dark,
        )


class Predictors(Analysis):
    """Tries the predictors that need no preparation."""

    name: ClassVar[str] = "predictors"
    title: ClassVar[str] = "Predicting the active neurons"
    reading: ClassVar[str] = (
        "A curve near 1 at a small budget names the active neurons before the layer is computed, "
        "so that the up projection could be skipped too. In ReLU² a neuron missed near zero costs "
        "little, because its square is small: compare the weighted recall."
    )
    names: ClassVar[tuple[str, ...]] = ("previous", "sign", "int8", "int4", "lookahead")

    def init(self, shape: Shape, device: torch.device) -> State:
        state: State = {}
        for name in METRICS:
            state |= exact.new(name, (shape.layers, len(self.names)), device)
        size = (shape.layers, len(self.names), len(BUDGETS))
        return state | exact.new("budget", size, device)

    def layer(self, state: State, seen: Seen) -> None:
        chosen, spans, windows = _choose(seen)
        if not len(chosen):
            return
        device = seen.post.device
        rows = exact.places(chosen, device)
        here = Seen(
            layer=seen.layer,
            mlp=seen.mlp,
            post=seen.post.index_select(0, rows),
            active=seen.active.index_select(0, rows),
            x=seen.x.index_select(0, rows),
            y=seen.y.index_select(0, rows),
            before=None if seen.before is None else seen.before.index_select(0, rows),
            norms=seen.norms,
            tokens=seen.tokens,
        )
        previous = seen.post.index_select(0, rows - 1) != 0
        fires = here.post != 0
        held = here.written.float()
        nothing = torch.zeros(len(windows), dtype=torch.float64, device=device)
        sums = {name: [(nothing, nothing)] * len(self.names) for name in METRICS}
        budget = [(nothing[:, None].expand(-1, len(BUDGETS)),) * 2 for _ in self.names]
        for name, scores in self.scores(here, previous):
            place = self.names.index(name)
            said = scores if scores.dtype == torch.bool else scores > 0
            for metric, (x, n) in _metrics(said, fires, held).items():
                sums[metric][place] = exact.by_window(x, spans), exact.by_window(n, spans)
            if scores.dtype != torch.bool:
                x, n = _at_budgets(scores, fires)
                budget[place] = exact.by_window(x, spans), exact.by_window(n, spans)
        for name, parts in sums.items():
            x, n = (torch.stack(part, 1) for part in zip(*parts, strict=True))
            exact.add(state, name, seen.layer, x, n)
        x, n = (torch.stack(part, 1) for part in zip(*budget, strict=True))
        exact.add(state, "budget", seen.layer, x, n)

    def scores(
        self, seen: Seen, previous: Bool[Tensor, "token d_mlp"]
    ) -> Iterator[tuple[str, Tensor]]:
        """`(name, scores)`: what is above 0 is predicted. Booleans are a set without a ranking."""
        weight = seen.mlp.up_weight().to(seen.x.device)
        bias = _bias(seen)
        yield "previous", previous
        yield "sign", seen.x.sign() @ weight.sign().T
        yield "int8", seen.x @ rounded(weight, 8).T + bias
        yield "int4", seen.x @ rounded(weight, 4).T + bias
        if seen.before is not None:
            yield "lookahead", seen.before @ weight.T + bias

    def result(self, state: State, report: "SparsityReport") -> Predictability:
        rates = np.sort(report.rates.numpy(), axis=1)[:, ::-1]
        active = rates.sum(1)
        held = rates.cumsum(1) / np.maximum(active, 1e-300)[:, None]
        hot = np.zeros((len(rates), len(BUDGETS)))
        for place, budget in enumerate(BUDGETS):
            size = np.clip(np.ceil(budget * active), 1, rates.shape[1]).astype(int)
            hot[:, place] = held[np.arange(len(rates)), size - 1]
        metrics = {name: exact.mean(state, name) for name in METRICS}
        return Predictability(self.names, metrics, exact.mean(state, "budget"), hot, active)


class LowRank(Predictors):
    """Tries W_up cut to a low rank; see the head of this file for what it takes to prepare."""

    name: ClassVar[str] = "low_rank"
    title: ClassVar[str] = "Predicting the active neurons at low rank"
    names: ClassVar[tuple[str, ...]] = ("rank d/8", "rank d/4")

    def __init__(self) -> None:
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}

    def scores(
        self, seen: Seen, previous: Bool[Tensor, "token d_mlp"]
    ) -> Iterator[tuple[str, Tensor]]:
        if seen.layer not in self._factors:
            self._factors[seen.layer] = _factors(seen.mlp.up_weight())
        left, right = self._factors[seen.layer]
        x, bias = seen.x.float(), _bias(seen)
        for name, part in zip(self.names, (8, 4), strict=True):
            rank = max(1, seen.mlp.d_model // part)
            yield name, (x @ right[:, :rank]) @ left[:, :rank].T + bias


def rounded(weight: Float[Tensor, "d_mlp d_model"], bits: int) -> Float[Tensor, "d_mlp d_model"]:
    """The weight rounded to so many bits, symmetric, with one scale a neuron."""
    most = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True).clamp(min=torch.finfo(weight.dtype).tiny) / most
    return (weight / scale).round_() * scale


def _factors(weight: Tensor) -> tuple[Tensor, Tensor]:
    left, values, right = torch.linalg.svd(weight.float(), full_matrices=False)
    most = max(1, weight.shape[1] // 4)
    return left[:, :most] * values[:most], right[:most].T.contiguous()


def _bias(seen: Seen) -> Tensor:
    bias = getattr(seen.mlp.up, "bias", None)
    return bias if isinstance(bias, Tensor) else torch.zeros((), device=seen.x.device)


def _choose(seen: Seen) -> tuple[np.ndarray, tuple[tuple[int, int], ...], list[int]]:
    """Every 8th token that has one before it, in the first windows: places, spans, windows."""
    follows = pairs(seen.tokens.spans, seen.tokens.positions)[:, 0]
    chosen, spans, windows = [], [], []
    total = 0
    for window, ((start, stop), slot) in enumerate(
        zip(seen.tokens.spans, seen.tokens.slots, strict=True)
    ):
        taken = start + np.arange(1, stop - start, STRIDE)
        taken = taken[follows[taken]] if slot < WINDOWS else taken[:0]
        if len(taken):
            chosen.append(taken)
            spans.append((total, total + len(taken)))
            windows.append(window)
            total += len(taken)
    places = np.concatenate(chosen) if chosen else np.zeros(0, np.int64)
    return places, tuple(spans), windows


def _metrics(said: Tensor, fires: Tensor, held: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """By metric, its value at each token and whether it has one there."""
    both = (said & fires).sum(1).double()
    size, active = said.sum(1).double(), fires.sum(1).double()
    whole = held.sum(1, dtype=torch.float64)
    weighted = torch.where(said, held, 0.0).sum(1, dtype=torch.float64)
    always = torch.ones_like(both)
    some, any_said, any_held = active > 0, size > 0, whole > 0
    return {
        "recall": (torch.where(some, both / active.clamp(min=1), 0.0), some),
        "precision": (torch.where(any_said, both / size.clamp(min=1), 0.0), any_said),
        "sparsity": (1 - size / said.shape[1], always),
        "weighted": (torch.where(any_held, weighted / whole.clamp(min=1e-300), 0.0), any_held),
    }


def _at_budgets(scores: Tensor, fires: Tensor) -> tuple[Tensor, Tensor]:
    """Recall of the best-scored neurons, `[token, budget]`, and where there is one."""
    hits = (
        fires.gather(1, scores.sort(dim=1, descending=True, stable=True).indices).cumsum(1).double()
    )
    active = hits[:, -1:]
    budgets = torch.tensor(BUDGETS, dtype=torch.float64)
    size = (active * budgets.to(scores.device, non_blocking=True)).ceil()
    found = hits.gather(1, (size.long() - 1).clamp(0, hits.shape[1] - 1))
    some = (active > 0).expand_as(found)
    return torch.where(some, found / active.clamp(min=1), 0.0), some
