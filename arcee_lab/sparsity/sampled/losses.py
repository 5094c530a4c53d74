"""What a run predicts, by document: losses, hits, and the distance from the untouched run."""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.errors import ModelError
from arcee_lab.sparsity.sampled.sample import SampleBatch

_CHUNK = 2**26  # logits turned into fp32 at once


@dataclass(frozen=True)
class Scores:
    """Sums over the predicted tokens of each group; padding and first positions are not predicted.

    Attributes:
        nll: -log p(next token), nats.
        kl: KL divergence of the next-token distribution from the untouched run's, nats.
        hits: Where the next token had the largest logit.
        targets: Predicted tokens.
    """

    nll: Float[Tensor, " group"]
    kl: Float[Tensor, " group"]
    hits: Int[Tensor, " group"]
    targets: Int[Tensor, " group"]

    @staticmethod
    def zeros(n_groups: int, device: torch.device) -> "Scores":
        """Sums of nothing."""
        real = torch.zeros(2, n_groups, dtype=torch.float64, device=device)
        whole = torch.zeros(2, n_groups, dtype=torch.int64, device=device)
        return Scores(real[0], real[1], whole[0], whole[1])


def batch_logits(model: Any, batch: SampleBatch) -> Float[Tensor, "batch pos vocab"]:
    """Runs the model on a batch and gives its logits.

    Raises:
        ValueError: A model without a language-model head.
    """
    with torch.no_grad():
        logits = getattr(model(**batch.inputs), "logits", None)
    if logits is None or logits.shape[:2] != batch.ids.shape or logits.shape[2] <= batch.ids.max():
        raise ModelError(
            f"{type(model).__name__} predicts no next token; expected a causal language model, "
            'such as al.load(..., head="causal") gives.'
        )
    return logits


def add(scores: Scores, batch: SampleBatch, logits: Tensor, untouched: Tensor) -> None:
    """Adds one batch, in place.

    Args:
        scores: The sums.
        batch: What was read.
        logits: Of this run.
        untouched: Of the model as it is.
    """
    rows = max(1, _CHUNK // logits[0].numel())
    pieces = (batch.ids, batch.counted, batch.groups, logits, untouched)
    for ids, counted, groups, ours, clean in zip(*(p.split(rows) for p in pieces), strict=True):
        log_p = ours[:, :-1].float().log_softmax(dim=-1)
        log_clean = log_p if ours is clean else clean[:, :-1].float().log_softmax(dim=-1)
        targets, counts = ids[:, 1:], counted[:, 1:]
        nll = -log_p.gather(-1, targets[..., None])[..., 0]
        kl = (log_clean.exp() * (log_clean - log_p)).sum(dim=-1)
        hits = (ours[:, :-1].argmax(dim=-1) == targets) & counts
        # where, not a product: a pad's number may be NaN
        scores.nll.index_add_(0, groups, nll.double().where(counts, 0).sum(dim=1))
        scores.kl.index_add_(0, groups, kl.double().where(counts, 0).sum(dim=1))
        scores.hits.index_add_(0, groups, hits.sum(dim=1))
        scores.targets.index_add_(0, groups, counts.sum(dim=1))
