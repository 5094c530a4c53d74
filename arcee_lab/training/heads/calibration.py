"""Calibration of a head: a temperature that is fitted on held-out texts, and its effect.

Guo et al., "On Calibration of Modern Neural Networks", 2017. The logits are divided by one number,
so the answers stay as they are and only their probabilities change. The number is divided into the
head's weights: whatever loads the checkpoint, also without arcee_lab, gets calibrated
probabilities.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.evals import metrics
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.heads.token import score_words
from arcee_lab.model.anatomy import LAST_STEP, anatomy_of
from arcee_lab.results import Result
from arcee_lab.training.heads.labelled import LabelledTexts

LEAST, MOST = 0.05, 20.0  # temperatures
_STEPS = 60  # of a bisection between them: beyond the precision of a float64


@dataclass(frozen=True)
class Effect:
    """What the temperature does on some texts.

    Attributes:
        part: Which texts: "held-out" (the temperature was fitted on them) or "test".
        n: Labels, of texts or of words; of a QA head, questions.
        nll_before: Mean negative log-likelihood of the right labels, in nats, without it. Of a QA
            head: of the first and the last token of the right answer, added, per window.
        nll_after: The same with it.
        ece_before: Expected calibration error without it, as `al.evals.metrics.ece` defines it. Of
            a QA head: of the probability of the answer given, p(first token) p(last token), against
            whether it is an exact match.
        ece_after: The same with it.
    """

    part: str
    n: int
    nll_before: float
    nll_after: float
    ece_before: float
    ece_after: float


@dataclass(frozen=True, repr=False)
class Calibration(Result):
    """A fitted temperature.

    Attributes:
        temperature: What the logits are divided by, from 0.05 to 20: above 1 the head was too sure.
        effects: On the held-out texts, and on the test texts if there are any.
    """

    temperature: float
    effects: tuple[Effect, ...]

    @property
    def headline(self) -> str:
        """The temperature and its effect, in one sentence."""
        last = self.effects[-1]
        return (
            f"temperature {self.temperature:.3f}: expected calibration error "
            f"{last.ece_before:.4f} before, {last.ece_after:.4f} after ({last.part}, "
            f"n = {last.n:,})"
        )

    def frame(self) -> pd.DataFrame:
        """One row per part of the texts."""
        return pd.DataFrame([asdict(one) for one in self.effects])


@dataclass(frozen=True)
class Judged:
    """What a head says about texts, with the right labels.

    Attributes:
        part: What texts they are of.
        logs: Logits or log-probabilities in float64, `[label, n_labels]`; -inf for what is no
            choice.
        gold: The right labels.
    """

    part: str
    logs: Float[np.ndarray, "label n_labels"]
    gold: Int[np.ndarray, " label"]

    @property
    def n(self) -> int:
        """How many labels are judged."""
        return len(self.gold)

    def log_probs(self, temperature: float) -> Float[np.ndarray, "label n_labels"]:
        """Log-probabilities at a temperature."""
        scaled = self.logs / temperature
        return scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True)

    def nll_and_ece(self, temperature: float) -> tuple[float, float]:
        """The scores at a temperature; see `Effect`."""
        rows = zip(self.gold, self.log_probs(temperature), strict=True)
        items = [metrics.label_items(int(gold), row.tolist()) for gold, row in rows]
        return metrics.nll([one["nll"] for one in items]), metrics.ece(
            [one["ece"] for one in items]
        )


def judged(
    part: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: LabelledTexts,
    *,
    batch_size: int,
) -> Judged:
    """What a sequence or token head says about texts.

    Args:
        part: "held-out" or "test".
        model: With the head.
        tokenizer: Its tokenizer.
        data: The texts.
        batch_size: Texts per forward.
    """
    if data.words is None:
        logs = score_sequence(model, tokenizer, data.texts, batch_size=batch_size)
        gold = np.asarray(data.labels, dtype=int)
    else:
        rows = score_words(model, tokenizer, data.words, texts=data.texts, batch_size=batch_size)
        logs = torch.cat(rows)
        gold = np.concatenate([np.asarray(row, dtype=int) for row in data.labels])
    return Judged(part, logs.double().numpy(), gold)


def fit_temperature(
    logs: Float[np.ndarray, "label n_labels"], gold: Int[np.ndarray, " label"]
) -> float:
    """The temperature with the smallest mean negative log-likelihood, from 0.05 to 20.

    The loss is convex in the inverse of the temperature, so a bisection of its derivative finds the
    minimum.

    Args:
        logs: Logits, or log-probabilities, which differ by a constant per row; -inf for what is no
            choice.
        gold: The right columns.

    Example:
        >>> import numpy as np
        >>> logs = np.log([[0.9, 0.1]] * 10)  # sure of column 0, which is right 7 times of 10
        >>> gold = np.array([0] * 7 + [1] * 3)
        >>> round(fit_temperature(logs, gold), 3)  # ln(9) / ln(7/3)
        2.593
    """
    right = logs[np.arange(len(gold)), gold]
    below = logs - logs.max(axis=1, keepdims=True)
    weighed = np.where(np.isneginf(logs), 0.0, logs)  # 0 * -inf would be NaN

    def slope(inverse: float) -> float:
        probs = np.exp(inverse * below)
        probs /= probs.sum(axis=1, keepdims=True)
        return float(((probs * weighed).sum(axis=1) - right).mean())

    low, high = 1 / MOST, 1 / LEAST
    if slope(low) >= 0:
        return MOST
    if slope(high) <= 0:
        return LEAST
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(middle) > 0 else (middle, high)
    return 2 / (low + high)


def calibrate(model: nn.Module, held_out: Judged, others: Sequence[Judged] = ()) -> Calibration:
    """Fits a temperature and divides the head's weights by it.

    Args:
        model: With the head; its last step is changed.
        held_out: What it said about the held-out texts.
        others: What it said about other texts, for their calibration errors.
    """
    temperature = fit_temperature(held_out.logs, held_out.gold)
    anatomy: Any = anatomy_of(model)
    step = getattr(anatomy.model, LAST_STEP[anatomy.legend.head])
    with torch.no_grad():
        for parameter in step.parameters():
            parameter.div_(temperature)
    return Calibration(temperature, tuple(_effect(one, temperature) for one in (held_out, *others)))


def _effect(one: Judged, temperature: float) -> Effect:
    (nll, ece), (nll_after, ece_after) = one.nll_and_ece(1.0), one.nll_and_ece(temperature)
    return Effect(one.part, one.n, nll, nll_after, ece, ece_after)
