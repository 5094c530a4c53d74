"""`transplant_curve`: how much of a change the first k neurons of a ranking restore."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab import bootstrap
from arcee_lab.errors import SettingError
from arcee_lab.interventions import intervene
from arcee_lab.neurons.ablation.named import Neuron
from arcee_lab.neurons.compared._transplant import transplant, transplant_activations
from arcee_lab.neurons.compared.pair import ModelPair
from arcee_lab.neurons.compared.prompts import Prompts
from arcee_lab.neurons.compared.ranking import is_whole
from arcee_lab.results import Result, counted
from arcee_lab.runs.progress import progress_bar

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

SIZES = (1, 2, 3, 5, 10, 20, 50, 100)


@dataclass(frozen=True, repr=False)
class TransplantCurve(Result):
    """The metric with the first k neurons of `tuned` in `base`, for several k.

    Attributes:
        what: "weights" or "activations".
        neurons: The ranking, best first.
        sizes: k, in ascending order.
        values: The metric of each prompt with k neurons.
        base: The metric of each prompt in the base.
        tuned: The metric of each prompt in the tuned model.
    """

    what: str
    neurons: tuple[Neuron, ...]
    sizes: tuple[int, ...]
    values: Float[Tensor, "size prompt"]
    base: Float[Tensor, " prompt"]
    tuned: Float[Tensor, " prompt"]

    @property
    def n_prompts(self) -> int:
        """How many prompts."""
        return len(self.base)

    @property
    def restored(self) -> Float[np.ndarray, " size"]:
        """Share of the change that k neurons restore: mean change over mean change of `tuned`."""
        whole = (self.tuned - self.base).double().mean()
        return ((self.values - self.base).double().mean(1) / whole).numpy()

    @property
    def intervals(self) -> Float[np.ndarray, "2 size"]:
        """The 95 % intervals of `restored`, by resampling prompts; NaN of a single prompt."""
        if self.n_prompts < 2:
            return np.full((2, len(self.sizes)), np.nan)
        steps = torch.cat([self.values - self.base, (self.tuned - self.base)[None]]).T.double()
        sums = bootstrap.resampled_sums(steps.numpy())
        return bootstrap.interval((sums[:, :-1] / sums[:, -1:]).T)

    def needed(self, share: float = 0.9) -> int | None:
        """The smallest k tried that restores this share; None if none does."""
        enough = [k for k, value in zip(self.sizes, self.restored, strict=True) if value >= share]
        return min(enough, default=None)

    @property
    def headline(self) -> str:
        """How many neurons restore 90 % of the change."""
        k = self.needed()
        best = f"{counted(self.sizes[-1], 'neuron')} {self.restored[-1]:.0%}"
        said = (
            f"no k restores 90% of the change, {best}"
            if k is None
            else (f"{counted(k, 'neuron')} restore 90% of the change")
        )
        return f"{self.what}: {said} (N = {counted(self.n_prompts, 'prompt')})"

    def frame(self) -> pd.DataFrame:
        """One row per k: k, metric, restored with its interval, n_prompts."""
        low, high = self.intervals
        return pd.DataFrame(
            {
                "k": self.sizes,
                "metric": self.values.mean(1).numpy(),
                "restored": self.restored,
                "low": low,
                "high": high,
                "n_prompts": self.n_prompts,
            }
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """The restored share against k, with its interval."""
        from arcee_lab.views.figures.bands import Axis, Band, bands

        low, high = self.intervals
        known = self.n_prompts > 1
        curve = Band(
            name=self.what,
            x=np.array(self.sizes),
            y=self.restored,
            low=low if known else None,
            high=high if known else None,
        )
        return bands(
            [curve],
            x=Axis("neurons transplanted, best first", scale="log"),
            y=Axis("share of the change restored", percent=True),
            title=self.headline,
            dark=dark,
        )


@torch.no_grad()
def transplant_curve(
    base: nn.Module,
    tuned: nn.Module,
    batch: Mapping[str, Any],
    metric: Any,
    neurons: Iterable[Any],
    *,
    sizes: Sequence[int] | None = None,
    what: str = "weights",
    progress: bool | None = None,
) -> TransplantCurve:
    """Measures a metric with the first k neurons of a ranking transplanted, for several k.

    Choose the ranking on other prompts than these, or it fits their noise.

    Args:
        base: The model that neurons are put into; it is unchanged afterwards.
        tuned: The model that they come from.
        batch: `input_ids`, and `attention_mask` if there is padding, of the prompts.
        metric: As for `transplant_attribution`; it needs no gradient.
        neurons: The ranking, best first: `(layer, unit)` or "L1/N32" each.
        sizes: Values of k; by default those of 1, 2, 3, 5, 10, 20, 50, 100 that are below the
            number of neurons, and that number.
        what: "weights" as `transplant`, "activations" as `transplant_activations`.
        progress: Whether to show a bar.

    Returns:
        The restored share of the change for each k, with its interval over prompts.

    Raises:
        ModelError: As `transplant`.
        SettingError: A neuron that the models lack, sizes out of range, a metric that does not
            give one number per prompt, or one whose value is equal in both models.

    Example:
        >>> import copy
        >>> import arcee_lab as al
        >>> base, tokenizer = al.load("demo")
        >>> tuned = copy.deepcopy(base)
        >>> changed = tuned.model.layers[3].mlp.down_proj.weight.data[:, 618].mul_(3)
        >>> batch = tokenizer(["Jezo works as a", "Nipu works as a"], return_tensors="pt")
        >>> right, wrong = tokenizer.convert_tokens_to_ids(["Ġbaker", "Ġfarmer"])
        >>> metric = al.patching.LogitDifference(right, wrong)
        >>> curve = al.neurons.transplant_curve(base, tuned, batch, metric, [(3, 618)])
        >>> curve.restored.tolist()
        [1.0]
    """
    pair = ModelPair.of(base, tuned)
    prompts = Prompts.read(batch, metric, pair.base)
    ranking = pair.neurons(neurons)
    if what not in ("weights", "activations"):
        raise SettingError(f"what={what!r}; expected 'weights' or 'activations'.")
    chosen = _sizes(sizes, len(ranking))
    before, after = prompts.measure(pair.base), prompts.measure(pair.tuned)
    if float((after - before).double().mean()) == 0:
        raise SettingError(
            "the mean of the metric is equal in base and tuned, so no change can be restored; "
            "expected a metric that the fine-tune changed."
        )
    values = []
    for k in progress_bar(chosen, show=progress, unit="size"):
        if what == "weights":
            with transplant(base, tuned, ranking[:k]):
                values.append(prompts.measure(pair.base))
        else:
            patches = transplant_activations(tuned, prompts.batch, ranking[:k])
            with intervene(base, patches):
                values.append(prompts.measure(pair.base))
    return TransplantCurve(
        what=what,
        neurons=ranking,
        sizes=tuple(chosen),
        values=torch.stack(values).cpu(),
        base=before.cpu(),
        tuned=after.cpu(),
    )


def _sizes(given: Any, most: int) -> list[int]:
    if given is None:
        return sorted({*(k for k in SIZES if k < most), most})
    listed = isinstance(given, Iterable) and not isinstance(given, str)
    sizes: list[Any] = [*given] if listed else []
    if not sizes or not all(is_whole(k) and 1 <= k <= most for k in sizes):
        raise SettingError(
            f"sizes={given!r:.80}; expected a list of numbers from 1 to {most}, the neurons given."
        )
    return sorted(set(sizes))
