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
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.results import Result
from arcee_lab.training.heads.labelled import LabelledTexts

LEAST, MOST = 0.05, 20.0  # temperatures
_STEPS = 60  # of a bisection between them: beyond the precision of a float64


@dataclass(frozen=True)
class Effect:
    """What the temperature does on some texts.

    Attributes:
        part: Which texts: "held-out" (the temperature was fitted on them) or "test".
        n: Labels: of texts or of words.
        nll_before: Mean negative log-likelihood of the right labels, in nats, without it.
        nll_after: The same with it.
        ece_before: Expected calibration error without it, as `al.evals.metrics.ece` defines it.
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
    """Log-probabilities that a head gives, with the right labels.

    Attributes:
        part: What texts they are of.
        logs: Natural logarithms in float64, `[label, n_labels]`.
        gold: The right labels.
    """

    part: str
    logs: Float[np.ndarray, "label n_labels"]
    gold: Int[np.ndarray, " label"]


def judged(
    part: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: LabelledTexts,
    *,
    batch_size: int,
) -> Judged:
    """What a head says about texts.

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
        logs: Logits, or log-probabilities, which differ by a constant per row.
        gold: The right columns.

    Example:
        >>> import numpy as np
        >>> logs = np.log([[0.9, 0.1]] * 10)  # sure of column 0, which is right 7 times of 10
        >>> gold = np.array([0] * 7 + [1] * 3)
        >>> round(fit_temperature(logs, gold), 3)  # ln(9) / ln(7/3)
        2.593
    """
    right = logs[np.arange(len(gold)), gold]

    def slope(inverse: float) -> float:
        scaled = inverse * (logs - logs.max(axis=1, keepdims=True))
        probs = np.exp(scaled)
        probs /= probs.sum(axis=1, keepdims=True)
        return float(((probs * logs).sum(axis=1) - right).mean())

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
        model: A sequence or token model; its last step is changed.
        held_out: What it said about the held-out texts.
        others: What it said about other texts, for their calibration errors.
    """
    temperature = fit_temperature(held_out.logs, held_out.gold)
    step: Any = anatomy_of(model).model
    with torch.no_grad():
        for parameter in step.score.parameters():
            parameter.div_(temperature)
    return Calibration(temperature, tuple(_effect(one, temperature) for one in (held_out, *others)))


def _effect(one: Judged, temperature: float) -> Effect:
    before = _nll_and_ece(one.logs, one.gold)
    scaled = one.logs / temperature
    after = _nll_and_ece(scaled - np.logaddexp.reduce(scaled, axis=1, keepdims=True), one.gold)
    return Effect(one.part, len(one.gold), before[0], after[0], before[1], after[1])


def _nll_and_ece(logs: np.ndarray, gold: np.ndarray) -> tuple[float, float]:
    items = [metrics.label_items(int(g), r.tolist()) for g, r in zip(gold, logs, strict=True)]
    return metrics.nll([one["nll"] for one in items]), metrics.ece([one["ece"] for one in items])
