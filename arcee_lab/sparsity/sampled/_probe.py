"""Row 17, with training: a low-rank probe that predicts which neurons of a layer will fire.

    score(x) = (x A) B + b,    A [d_model, rank], B [rank, d_mlp],    trained on m_i = 1[a_i > 0]

by binary cross-entropy, from the input x of the MLP. At rank r it costs r (1/d_model + 1/d_mlp) of
the up projection. It is trained on half of the documents and tried on the others, compared with
two that need no training: W_up cut to the same rank by SVD, and the neurons that fire most.

    recall = |P ∩ M| / |M|,   precision = |P ∩ M| / |P|,   predicted sparsity = 1 - |P| / d_mlp
    weighted recall = Σ_{P∩M} ‖n_i‖ / Σ_M ‖n_i‖

P are the ⌈b k⌉ best scores, for budgets b of the k neurons that do fire, or all scores above 0.

Sources: Liu et al., "Deja Vu", arXiv:2310.17157 (trained low-rank predictors); Song et al.,
"ProSparse", arXiv:2402.13516 (activation recall and predicted sparsity).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from arcee_lab.bootstrap import interval, resamples
from arcee_lab.data.windows import Windows
from arcee_lab.errors import ModelError, SettingError, TextError
from arcee_lab.hooks.threads import OneThread
from arcee_lab.model.fingerprint import model_name
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.results import Result
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar
from arcee_lab.sparsity.sampled.coactivation import one_mlp
from arcee_lab.sparsity.sampled.mlp_hooks import at_down
from arcee_lab.sparsity.sampled.mlps import Mlp
from arcee_lab.sparsity.sampled.sample import draw

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

BUDGETS = (0.5, 1.0, 1.5, 2.0, 3.0)
_TOKENS_A_STEP = 256


@dataclass(frozen=True, repr=False)
class Probe(Result):
    """A trained probe, and how well it does on documents it has not seen.

    Attributes:
        model: Name of the model.
        layer: The layer.
        a: Reads the MLP's input.
        b: Writes a score per neuron.
        bias: Added to it.
        n_train: Tokens it was trained on.
        names: The predictors: "probe", "svd" of the same rank, "hot".
        recall: At each budget, summed over the tokens of each document.
        weighted: Weighted recall, likewise.
        tokens: Tokens of each document at which any neuron fires.
        above: Of the probe's scores above 0: recall, precision and predicted sparsity.
        seed: Of the sample, the training and the bootstrap.
    """

    model: str
    layer: int
    a: Float[Tensor, "d_model rank"]
    b: Float[Tensor, "rank d_mlp"]
    bias: Float[Tensor, " d_mlp"]
    n_train: int
    names: tuple[str, ...]
    recall: Float[np.ndarray, "predictor budget group"]
    weighted: Float[np.ndarray, "predictor budget group"]
    tokens: Int[np.ndarray, " group"]
    above: tuple[float, float, float]
    seed: int

    @property
    def rank(self) -> int:
        """Of the probe."""
        return self.a.shape[1]

    @property
    def cost(self) -> float:
        """Multiplications of the probe over those of the up projection."""
        d_model, d_mlp = self.a.shape[0], self.b.shape[1]
        return self.rank * (d_model + d_mlp) / (d_model * d_mlp)

    def scores(self, x: Float[Tensor, "*token d_model"]) -> Float[Tensor, "*token d_mlp"]:
        """The scores of an MLP's input; above 0 means "will fire"."""
        return x.to(self.a.dtype) @ self.a @ self.b + self.bias

    def frame(self) -> pd.DataFrame:
        """One row per predictor and budget: recall and weighted recall with 95 % intervals."""
        rows = []
        for place, name in enumerate(self.names):
            for at, budget in enumerate(BUDGETS):
                row: list[Any] = [name, budget]
                for sums in (self.recall, self.weighted):
                    one = sums[place, at]
                    draws = one @ self._weights / (self.tokens @ self._weights)
                    row += [one.sum() / self.tokens.sum(), *interval(draws)]
                rows.append(row)
        names = ["predictor", "budget", "recall", "recall_low", "recall_high"]
        names += ["weighted", "weighted_low", "weighted_high"]
        frame = pd.DataFrame(rows, columns=names)
        return frame.assign(n_tokens=int(self.tokens.sum()), n_documents=len(self.tokens))

    @property
    def headline(self) -> str:
        """The result in one sentence, with its N."""
        recall, precision, sparsity = self.above
        return (
            f"{self.model}, layer {self.layer}: a probe of rank {self.rank}, {self.cost:.0%} of "
            f"the up projection, names {recall:.1%} of the active neurons with a precision of "
            f"{precision:.1%} and skips {sparsity:.1%} (N = {int(self.tokens.sum()):,} tokens "
            f"held out, trained on {self.n_train:,})"
        )

    def figure(self, *, weighted: bool = False, dark: bool = False) -> "Figure":
        """Recall against the budget, one line per predictor.

        Args:
            weighted: Whether to weigh neurons by ‖n_i‖.
            dark: For a dark page.
        """
        from arcee_lab.views.figures.bands import Axis, Band, bands

        what = "weighted" if weighted else "recall"
        frame = self.frame()
        names = {"probe": f"trained, rank {self.rank}", "svd": f"SVD, rank {self.rank}"}
        lines = []
        for name, rows in frame.groupby("predictor", sort=False):
            low, high = rows[f"{what}_low"].to_numpy(), rows[f"{what}_high"].to_numpy()
            x, y = rows["budget"].to_numpy(), rows[what].to_numpy()
            known = names.get(str(name), "the neurons that fire most")
            lines.append(Band(known, x, y, low, high, dashed=name == "hot"))
        equal = frame[frame["budget"] == 1.0].set_index("predictor")
        named = equal[what].to_dict()
        return bands(
            lines,
            x=Axis("budget, as a multiple of the neurons that do fire"),
            y=Axis("weighted recall" if weighted else "recall", percent=True, limits=(0.0, 1.02)),
            title=f"Layer {self.layer}: for {self.cost:.0%} of up_proj, a probe names "
            f"{named['probe']:.0%} of the active neurons, the SVD {named['svd']:.0%} "
            f"(N = {int(self.tokens.sum()):,} tokens)",
            marks=[(1.0, "as many as fire")],
            dark=dark,
        )

    @cached_property
    def _weights(self) -> Float[np.ndarray, "group draw"]:
        return resamples(len(self.tokens), seed=self.seed)


@checked
def probe(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    layer: int,
    *,
    rank: int | None = None,
    steps: int = 400,
    learning_rate: float = 3e-3,
    sample_tokens: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Probe:
    """Trains a low-rank probe for one layer, and tries it on other documents.

    It starts from the SVD of W_up at the same rank, and takes `steps` steps of Adam on 256 tokens
    each. The model is not changed.

    Args:
        model: A model whose MLPs are ungated relu or relu², any head.
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.data.windows.cut` made of them.
        layer: The layer, from 0.
        rank: Of the probe; by default an eighth of d_model.
        steps: Of training.
        learning_rate: Of Adam.
        sample_tokens: Size of the sample, half of it for training; None takes 4,096, or all if
            fewer.
        batch_size: Windows per forward pass.
        context: Longest window in tokens; by default 1,024, or what the model can read if less.
        seed: Random seed of the documents drawn, the order of training, and the bootstrap.
        progress: Whether to show bars, over batches and then over steps.

    Raises:
        ValueError: A layer that the model lacks, a bad rank or number of steps, fewer than two
            documents and windows, texts that hold too little, or NaN activations.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = ["The dogs near the gate bark .", "Nipu likes olives."]
        >>> al.sparsity.probe(model, tokenizer, texts, 1, rank=4, steps=2).rank
        4
    """
    model = unwrap(model)
    mlp = one_mlp(model, layer)
    rank = max(1, mlp.d_model // 8) if rank is None else rank
    if not 1 <= rank <= min(mlp.d_model, mlp.d_mlp):
        raise SettingError(f"rank is {rank}; expected 1 to {min(mlp.d_model, mlp.d_mlp)}.")
    if steps < 1:
        raise SettingError(f"steps is {steps}; expected at least 1.")
    sample = draw(model, tokenizer, texts, sample_tokens=sample_tokens, context=context, seed=seed)
    if sample.n_groups < 2:
        raise TextError(
            "the texts make one window; a probe needs two documents or more: one to train on, one "
            "to try it."
        )
    xs, posts, groups = [], [], []
    inputs: list[Tensor] = []
    thread = OneThread("a probe on it")

    def keep(module: object, args: tuple) -> None:
        if thread.own():
            inputs.append(args[0])

    handle = mlp.up.register_forward_pre_hook(keep)
    try:
        for batch in progress_bar(
            sample.batches(batch_size, device_of(model)), show=progress, unit="batch"
        ):

            def see(layer: int, a: Tensor, u: Tensor, counted: Tensor = batch.counted) -> None:
                posts.append(a[counted])
                xs.append(inputs.pop()[counted].float())

            with torch.no_grad(), at_down([mlp], see):
                model.base_model(**batch.inputs)
            groups.append(batch.groups[:, None].expand_as(batch.ids)[batch.counted])
    finally:
        handle.remove()
    x, post, group = torch.cat(xs), torch.cat(posts), torch.cat(groups)
    if not bool(x.isfinite().all()):
        raise ModelError(
            f"layer {layer} holds NaN; load the model in float32, or check its weights."
        )
    held_out = group % 2 == 1
    fires = post != 0
    svd, rates = _from_weights(mlp, rank, x[~held_out]), fires[~held_out].float().mean(dim=0)
    start = (*svd, rates)
    trained = _train(start, x[~held_out], fires[~held_out], steps, learning_rate, seed, progress)
    test, truth = x[held_out], fires[held_out]
    a, b, bias = (part.detach() for part in trained)
    scores = {
        "probe": test @ a @ b + bias,
        "svd": test @ svd[0] @ svd[1],
        "hot": rates.expand_as(truth),
    }
    mass = post[held_out].float() * mlp.write_norms().to(post.device)
    found = {name: at_budgets(score, truth, mass) for name, score in scores.items()}
    some = truth.any(dim=1)
    if not bool(some.any()):
        raise TextError(
            f"No neuron of layer {layer} fires at any of the {len(truth):,} held-out tokens; give "
            "more text, or another layer."
        )
    number = (group[held_out][some] // 2).cpu()
    n_groups = int(number.max()) + 1
    sums = [
        torch.stack(
            [_by_group(parts[what][some].cpu(), number, n_groups) for parts in found.values()]
        )
        for what in (0, 1)
    ]
    said = scores["probe"] > 0
    both = float((said & truth).sum())
    return Probe(
        model=model_name(model),
        layer=layer,
        a=a.cpu(),
        b=b.cpu(),
        bias=bias.cpu(),
        n_train=int((~held_out).sum()),
        names=tuple(scores),
        recall=sums[0].numpy(),
        weighted=sums[1].numpy(),
        tokens=torch.bincount(number, minlength=n_groups).numpy(),
        above=(
            both / max(1.0, float(truth.sum())),
            both / max(1.0, float(said.sum())),
            1 - float(said.double().mean()),
        ),
        seed=seed,
    )


def at_budgets(
    scores: Float[Tensor, "token d_mlp"],
    fires: Bool[Tensor, "token d_mlp"],
    mass: Float[Tensor, "token d_mlp"],
) -> tuple[Float[Tensor, "token budget"], Float[Tensor, "token budget"]]:
    """Recall and weighted recall of the best scores, at each budget; 0 where nothing fires."""
    order = scores.sort(dim=1, descending=True, stable=True).indices
    hits = fires.gather(1, order).cumsum(dim=1).double()
    held = mass.double().gather(1, order).cumsum(dim=1)
    active = hits[:, -1:]
    budgets = torch.tensor(BUDGETS, dtype=torch.float64, device=scores.device)
    last = ((active * budgets).ceil().long() - 1).clamp(0, scores.shape[1] - 1)
    return (
        hits.gather(1, last) / active.clamp(min=1),
        held.gather(1, last) / held[:, -1:].clamp(min=torch.finfo(torch.float64).tiny),
    )


def _from_weights(
    mlp: Mlp, rank: int, x: Float[Tensor, "token d_model"]
) -> tuple[Float[Tensor, "d_model rank"], Float[Tensor, "rank d_mlp"]]:
    """W_up at a rank, in units of the spread of its scores, as a start for logits."""
    left, values, right = torch.linalg.svd(mlp.up_weight().float(), full_matrices=False)
    root = values[:rank].sqrt()
    a, b = right[:rank].T * root, (left[:, :rank] * root).T
    return a / (x @ a @ b).std().clamp(min=1e-6), b


def _train(
    start: tuple[Tensor, Tensor, Tensor],
    x: Float[Tensor, "token d_model"],
    fires: Bool[Tensor, "token d_mlp"],
    steps: int,
    learning_rate: float,
    seed: int,
    progress: bool | None,
) -> list[nn.Parameter]:
    floor = 0.5 / len(x)  # a rate of 0 or 1 has no finite logit
    a, b, rates = start
    parts = [a, b, rates.clamp(floor, 1 - floor).logit()]
    parameters = [nn.Parameter(part.clone()) for part in parts]
    a, b, bias = parameters
    adam = torch.optim.Adam(parameters, lr=learning_rate)
    lots = torch.Generator().manual_seed(seed)
    with torch.enable_grad():
        for _ in progress_bar(range(steps), show=progress, unit="step"):
            chosen = torch.randint(len(x), (min(_TOKENS_A_STEP, len(x)),), generator=lots)
            chosen = chosen.to(x.device)
            loss = F.binary_cross_entropy_with_logits(
                x[chosen] @ a @ b + bias, fires[chosen].float()
            )
            adam.zero_grad()
            loss.backward()
            adam.step()
    return parameters


def _by_group(
    values: Float[Tensor, "token budget"], group: Int[Tensor, " token"], n_groups: int
) -> Float[Tensor, "budget group"]:
    sums = torch.zeros(n_groups, values.shape[1], dtype=torch.float64)
    return sums.index_add_(0, group, values.double()).T
