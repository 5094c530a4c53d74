"""What truncation cost: losses by rule and level, intervals over documents, critical sparsity."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.bootstrap import interval, resamples
from arcee_lab.errors import SettingError
from arcee_lab.interventions import Cett, Intervention, Threshold, TopK
from arcee_lab.results import Result
from arcee_lab.sparsity.sampled.selection_rules import RULES

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

# The level of each rule that keeps every neuron.
KEEPS_ALL = {rule: 0.0 if rule in ("cett", "fat") else 1.0 for rule in RULES}
NAMES = {
    "top_k": "top k by a",
    "top_norm": "top k by ‖n‖",
    "top_p": "top p of Σa",
    "cett": "CETT",
    "fat": "one threshold (FAT-ε)",
    "spark": "statistical top k",
    "random": "random",
}
KEEP = 0.99
_POST = "layers.*.mlp.hook_post"


@dataclass(frozen=True, repr=False)
class TruncationCurves(Result):
    """Loss against sparsity; see `arcee_lab.sparsity.sampled.truncation`.

    A run is one rule at one level; a rule's first run keeps everything. Intervals are 95 %
    bootstrap intervals over documents (over windows, of a single document): the same 1,000
    resamples serve every run, so that the differences between runs are not blurred.

    Attributes:
        model: Name of the model.
        n_tokens: N, tokens at which kept neurons were counted; neither padding nor first positions.
        unit: What was resampled: "documents" or "windows".
        seed: Of the sample, of the rule `random` and of the bootstrap.
        d_mlp: Neurons per layer has.
        rules: Of each run.
        levels: Of each run.
        parameters: What the rule was given in each layer; NaN where everything was kept.
        targets: Predicted tokens of each document.
        nll_untouched: Of the model as it is: sum of -log p(next token), nats.
        hits_untouched: Of the model as it is: tokens predicted right.
        nll: Of each run, the same sum.
        kl: Sum of KL(untouched ‖ run), nats.
        hits: Tokens predicted right.
        kept: Neurons left that are not zero, over N tokens.
    """

    model: str
    n_tokens: int
    unit: str
    seed: int
    d_mlp: int
    rules: tuple[str, ...]
    levels: tuple[float, ...]
    parameters: Float[Tensor, "run layer"]
    targets: Int[Tensor, " group"]
    nll_untouched: Float[Tensor, " group"]
    hits_untouched: Int[Tensor, " group"]
    nll: Float[Tensor, "run group"]
    kl: Float[Tensor, "run group"]
    hits: Int[Tensor, "run group"]
    kept: Int[Tensor, "run layer"]

    @property
    def kept_share(self) -> Float[np.ndarray, "run layer"]:
        """By layer, the share of neurons left that are not zero."""
        return (self.kept.double() / (self.n_tokens * self.d_mlp)).numpy()

    @property
    def sparsity(self) -> Float[np.ndarray, " run"]:
        """The share of zeros of each run, over all layers."""
        return 1 - self.kept_share.mean(axis=1)

    def frame(self) -> pd.DataFrame:
        """One row per run: rule, level, sparsity, accuracy, ΔNLL and KL with intervals."""
        delta, draws = self._mean(self._delta), self._mean(self._delta, resampled=True)
        kl, kl_draws = self._mean(self.kl.numpy()), self._mean(self.kl.numpy(), resampled=True)
        (low, high), (kl_low, kl_high) = interval(draws), interval(kl_draws)
        return pd.DataFrame(
            {
                "rule": self.rules,
                "level": self.levels,
                "kept": 1 - self.sparsity,
                "sparsity": self.sparsity,
                "delta_nll": delta,
                "delta_nll_low": low,
                "delta_nll_high": high,
                "kl": kl,
                "kl_low": kl_low,
                "kl_high": kl_high,
                "accuracy": self._mean(self.hits.double().numpy()),
                "n_tokens": self.n_tokens,
                "n_targets": int(self.targets.sum()),
                f"n_{self.unit}": len(self.targets),
            }
        )

    def critical(self, keep: float = KEEP, of: str = "likelihood") -> pd.DataFrame:
        """Critical sparsity: the most zeros with which a rule still keeps `keep` of the model.

        "likelihood" is the geometric mean probability of the next token, exp(-NLL), so 0.99 allows
        a perplexity 1/0.99 times as large; "accuracy" is the share of tokens predicted right. The
        answer is a measured level, below which no sparser one was good: nothing is interpolated,
        and `fails_at` is the sparsity of the next level, which did not keep it.

        Source: Szatkowski et al., "Universal Properties of Activation Sparsity", arXiv:2509.00454,
        who ask for 99 % of a task's accuracy.

        Args:
            keep: The share to keep.
            of: "likelihood" or "accuracy".

        Returns:
            One row per rule, the best first, with 95 % intervals of the bootstrap.
        """
        good = self._ratio(of, resampled=False) >= keep
        drawn = self._ratio(of, resampled=True) >= keep
        rows = []
        for rule in dict.fromkeys(self.rules):
            runs = [run for run, name in enumerate(self.rules) if name == rule]
            runs = sorted(runs, key=lambda run: self.sparsity[run])
            found = _last_good(good[runs])
            low, high = interval(self.sparsity[runs][_last_good(drawn[runs])])
            after = self.sparsity[runs[found + 1]] if found + 1 < len(runs) else float("nan")
            rows.append(
                (rule, self.levels[runs[found]], self.sparsity[runs[found]], low, high, after)
            )
        names = ["rule", "level", "critical_sparsity", "low", "high", "fails_at"]
        frame = pd.DataFrame(rows, columns=names)
        frame = frame.sort_values("critical_sparsity", ascending=False, ignore_index=True)
        return frame.assign(keep=keep, of=of, n_targets=int(self.targets.sum()))

    def interventions(self, rule: str, level: float) -> list[Intervention]:
        """A run as a value, for `al.intervene` and the evaluations; of our models.

        Raises:
            ValueError: A rule that no intervention makes, or a level that was not run.
        """
        if rule not in ("top_k", "cett", "fat"):
            raise SettingError(
                f"no intervention chooses neurons as {rule!r} does; expected top_k, cett or fat."
            )
        runs = [r for r, name in enumerate(self.rules) if name == rule and self.levels[r] == level]
        if not runs or level == KEEPS_ALL[rule]:
            known = [lv for name, lv in zip(self.rules, self.levels, strict=True) if name == rule]
            raise SettingError(f"{rule} was not run at {level}; expected one of {known[1:]}.")
        values = self.parameters[runs[0]].tolist()
        if rule == "top_k":
            return [TopK(_POST, max(1, round(level * self.d_mlp)))]
        if rule == "fat":
            return [Threshold(_POST, values[0])]
        names = [f"layers.{layer}.mlp.hook_post" for layer in range(len(values))]
        return [Cett(names, dict(zip(names, values, strict=True)))]

    @property
    def headline(self) -> str:
        """The result in one sentence, with its N."""
        frame = self.critical()
        best = frame.iloc[0]
        return (
            f"{self.model}: {best['critical_sparsity']:.1%} of neurons can be zero at "
            f"{KEEP:.0%} of the likelihood, by {NAMES[best['rule']]}; {self.sparsity[0]:.1%} are "
            f"(N = {int(self.targets.sum()):,} predicted tokens of {len(self.targets)} {self.unit})"
        )

    def figure(self, *, what: str = "delta_nll", dark: bool = False) -> "Figure":
        """Loss, or KL, against the share of neurons kept, one line per rule.

        Args:
            what: "delta_nll" or "kl".
            dark: For a dark page.

        Raises:
            ValueError: Another word.
        """
        from arcee_lab.views.figures.bands import Axis, Band, bands

        labels = {"delta_nll": "ΔNLL, nats per token", "kl": "KL from the untouched model, nats"}
        if what not in labels:
            raise SettingError(f"figure(what={what!r}): expected 'delta_nll' or 'kl'.")
        frame = self.frame()
        lines = []
        for rule, rows in frame.groupby("rule", sort=False):
            rows = rows.sort_values("kept", ascending=False)
            ends = (rows[f"{what}_low"].to_numpy(), rows[f"{what}_high"].to_numpy())
            lines.append(
                Band(NAMES[str(rule)], rows["kept"].to_numpy(), rows[what].to_numpy(), *ends,
                     dashed=rule == "random")
            )  # fmt: skip
        best = self.critical().iloc[0]
        allowed = -np.log(KEEP)
        return bands(
            lines,
            x=Axis("share of neurons kept, all layers", "log", True),
            y=Axis(labels[what], "symlog", limits=(-0.02, None), options={"linthresh": 0.02}),
            title=f"{self.sparsity[0]:.1%} of activations are zero; "
            f"{best['critical_sparsity']:.1%} can be zero at {KEEP:.0%} of the likelihood, "
            f"by {NAMES[str(best['rule'])]} (N = {int(self.targets.sum()):,} predicted tokens)",
            levels=[(allowed, f"{KEEP:.0%} of the likelihood")] if what == "delta_nll" else [],
            height=3.8,
            dark=dark,
        )

    # ------------------------------------------------------------------ sums over documents

    @property
    def _delta(self) -> Float[np.ndarray, "run group"]:
        return (self.nll - self.nll_untouched).numpy()

    def _mean(
        self, sums: Float[np.ndarray, "*run group"], *, resampled: bool = False
    ) -> Float[np.ndarray, "*any"]:
        """A mean per token; over the draws of the bootstrap, `[run, draw]`."""
        counts = self.targets.double().numpy()
        if not resampled:
            return np.asarray(sums.sum(-1) / counts.sum())
        return np.asarray((sums @ self._weights) / (counts @ self._weights))

    @cached_property
    def _weights(self) -> Float[np.ndarray, "group draw"]:
        """How often each draw takes each document; all of them equal where there is one alone."""
        return resamples(len(self.targets), seed=self.seed)

    def _ratio(self, of: str, *, resampled: bool) -> Float[np.ndarray, "*any"]:
        if of == "likelihood":
            return np.exp(-self._mean(self._delta, resampled=resampled))
        if of != "accuracy":
            raise SettingError(f"critical(of={of!r}): expected 'likelihood' or 'accuracy'.")
        ours = self._mean(self.hits.double().numpy(), resampled=resampled)
        clean = self._mean(self.hits_untouched.double().numpy(), resampled=resampled)
        return ours / np.maximum(clean, np.finfo(np.float64).tiny)


def _last_good(good: np.ndarray) -> np.ndarray:
    """The last run, from the least sparse on, before any that is not good; the first at least."""
    return np.asarray(np.maximum(np.logical_and.accumulate(good, axis=0).sum(axis=0) - 1, 0))
