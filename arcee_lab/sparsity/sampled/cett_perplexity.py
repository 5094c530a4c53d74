"""CETT-PPL-p %: the largest error of every MLP at once that raises perplexity by at most p %.

All layers are cut at one CETT, each at its own eps (`arcee_lab.sparsity.sampled._cett`), and the
model is run again; the largest CETT with `exp(NLL_cut - NLL) <= 1 + p` is found by bisection on
[0, 1].

Source: Luo et al., "Sparsing Law", arXiv:2411.02335, section 3, who bisect to 1e-6; sparsity
moves by whole neurons, so 12 steps, to 1/4096, tell as much.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.errors import ModelError, SettingError
from arcee_lab.interventions import Cett
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.results import Result
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar
from arcee_lab.sparsity.core.checking import is_real
from arcee_lab.sparsity.sampled._cett import measure_curves
from arcee_lab.sparsity.sampled.cett_curves import CettCurves
from arcee_lab.sparsity.sampled.keep_block import truncating
from arcee_lab.sparsity.sampled.losses import Scores, add, batch_logits
from arcee_lab.sparsity.sampled.mlps import mlps
from arcee_lab.sparsity.sampled.sample import draw

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

INCREASES = (0.01, 0.05)
STEPS = 12


@dataclass(frozen=True, repr=False)
class CettPerplexity(Result):
    """What the bisection tried and found.

    Attributes:
        increases: The allowed increases p of perplexity, 0.01 for 1 %.
        found: For each, its place among the trials.
        cett: Of each trial, the CETT at which all layers were cut; trial 0 cuts nothing.
        ratio: Of each trial, its perplexity over that of the model as it is.
        kept: Of each trial, neurons left that are not zero, over N tokens, in the cut run itself.
        n_targets: Predicted tokens.
        curves: The thresholds of each layer.
    """

    increases: tuple[float, ...]
    found: tuple[int, ...]
    cett: tuple[float, ...]
    ratio: Float[np.ndarray, " trial"]
    kept: Int[Tensor, "trial layer"]
    n_targets: int
    curves: CettCurves

    @property
    def sparsity(self) -> Float[np.ndarray, "trial layer"]:
        """The share of zeros of each trial."""
        return (1 - self.kept.double() / (self.curves.n_tokens * self._d_mlp)).numpy()

    def frame(self) -> pd.DataFrame:
        """One row per increase and layer: CETT and perplexity ratio reached, eps, sparsity."""
        frames = []
        for increase, trial in zip(self.increases, self.found, strict=True):
            cett = self.cett[trial]
            eps = self.curves.eps_at(cett).tolist() if trial else [0.0] * self.kept.shape[1]
            frames.append(
                pd.DataFrame(
                    {
                        "increase": increase,
                        "layer": range(self.kept.shape[1]),
                        "cett": cett,
                        "ppl_ratio": self.ratio[trial],
                        "eps": eps,
                        "sparsity": self.sparsity[trial],
                        "zeros": self.sparsity[0],
                        "n_tokens": self.curves.n_tokens,
                        "n_targets": self.n_targets,
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    def trials(self) -> pd.DataFrame:
        """One row per trial of the bisection, by CETT."""
        frame = pd.DataFrame(
            {"cett": self.cett, "ppl_ratio": self.ratio, "sparsity": self.sparsity.mean(axis=1)}
        )
        return frame.sort_values("cett", ignore_index=True)

    def interventions(self, increase: float) -> list[Cett]:
        """The cut as a value, for `al.intervene` and the evaluations.

        Raises:
            ValueError: An increase that was not searched, or one that allows no cut at all.
        """
        if increase not in self.increases:
            raise SettingError(f"{increase} was not searched; expected one of {self.increases}.")
        trial = self.found[self.increases.index(increase)]
        if trial == 0:
            raise SettingError(f"no CETT keeps perplexity within {increase:.1%}; nothing to cut.")
        return self.curves.interventions(self.cett[trial])

    @property
    def headline(self) -> str:
        """The result in one sentence, with its N."""
        from arcee_lab.views.figures.curves import percent

        parts = [
            f"{self.sparsity[trial].mean():.1%} at +{100 * increase:.3g}% of perplexity "
            f"(CETT {percent(self.cett[trial])})"
            for increase, trial in zip(self.increases, self.found, strict=True)
        ]
        return (
            f"{self.curves.model}: {self.sparsity[0].mean():.1%} of neurons are exactly zero, "
            f"{', '.join(parts)}; N = {self.curves.n_tokens:,} tokens"
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Neurons left by layer: all that fire, and those left at each allowed increase."""
        from arcee_lab.views.figures.curves import percent
        from arcee_lab.views.figures.layers import nested_bars

        trials = [0, *self.found]
        names = ["not exactly zero", *(f"left at PPL +{percent(p)}" for p in self.increases)]
        return nested_bars(
            [1 - self.sparsity[trial] for trial in trials],
            names,
            what="share of neurons left",
            title=f"{1 - self.sparsity[0].mean():.1%} of neurons fire; "
            f"{1 - self.sparsity[trials[-1]].mean():.1%} hold perplexity within "
            f"{percent(self.increases[-1])} (N = {self.curves.n_tokens:,} tokens)",
            dark=dark,
        )

    @property
    def _d_mlp(self) -> int:
        return self.curves.norms.shape[1]


@checked
def cett_ppl(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    increases: Sequence[float] = INCREASES,
    sample_tokens: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> CettPerplexity:
    """Finds the largest common CETT that perplexity allows, on a sample of tokens.

    Thresholds and perplexity are measured on the same sample; the sparsity given is that of the cut
    run itself, in which later layers see what the earlier ones left.

    Args:
        model: A causal language model whose MLPs are ungated relu or relu².
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.data.windows.cut` made of them.
        increases: Allowed increases of perplexity: 0.01 for CETT-PPL-1%.
        sample_tokens: Size of the sample; None takes 4,096, or all there are if fewer.
        batch_size: Windows per forward pass.
        context: Longest window in tokens; by default 1,024, or what the model can read if less.
        seed: Random seed of the order in which documents are drawn.
        progress: Whether to show bars on stderr.

    Raises:
        ValueError: A gated MLP, no language-model head, an increase that is not positive, texts
            that hold too little, or NaN activations or losses.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.sparsity.cett_ppl(model, tokenizer, ["The dogs near the gate bark ."])
        >>> bool((found.ratio[list(found.found)] <= [1.01, 1.05]).all())
        True
    """
    if not increases or not all(is_real(one) and one > 0 for one in increases):
        raise SettingError(
            f"increases are {tuple(increases)}; expected positive shares, 0.01 for 1%."
        )
    model = unwrap(model)
    sample = draw(model, tokenizer, texts, sample_tokens=sample_tokens, context=context, seed=seed)
    curves = measure_curves(model, sample, batch_size=batch_size, seed=seed, progress=progress)
    layers = mlps(model)
    norms = curves.norms.to(device_of(model))
    tried: dict[float, int] = {}
    losses: list[float] = []
    kept: list[Tensor] = []
    n_targets: list[int] = []

    def attempt(level: float) -> int:
        """Cuts all layers at a CETT, 0 for none, and gives the number of the trial."""
        if level in tried:
            return tried[level]
        scores = Scores.zeros(1, device_of(model))
        left = torch.zeros(len(layers), dtype=torch.int64, device=device_of(model))
        parameters = curves.eps_at(level).tolist() if level else None
        for batch in sample.batches(batch_size, device_of(model)):
            with truncating(layers, norms, "cett", parameters, batch=batch, kept=left):
                logits = batch_logits(model, batch)
            add(scores, batch.as_one_group(), logits, logits)
            bar.update(int(batch.attention_mask.sum()))
        mean = float(scores.nll.sum() / scores.targets.sum())
        if not losses and not np.isfinite(mean):
            raise ModelError(
                "the model's own perplexity is NaN or infinite; load it in float32, or check its "
                "weights."
            )
        losses.append(mean)
        kept.append(left.cpu())
        tried[level] = len(tried)
        n_targets.append(int(scores.targets.sum()))
        return tried[level]

    found = []
    with progress_bar(unit="tok", unit_scale=True, show=progress) as bar:
        attempt(0.0)
        for increase in increases:
            low, high = 0.0, 1.0
            for _ in range(STEPS):
                middle = (low + high) / 2
                good = np.exp(losses[attempt(middle)] - losses[0]) <= 1 + increase
                low, high = (middle, high) if good else (low, middle)
            found.append(tried[low])
    return CettPerplexity(
        increases=tuple(increases),
        found=tuple(found),
        cett=tuple(tried),
        ratio=np.exp(np.array(losses) - losses[0]),
        kept=torch.stack(kept),
        n_targets=n_targets[0],
        curves=curves,
    )
