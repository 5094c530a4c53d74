"""NLL and KL of texts, from what the final norm gives, a few logits at a time."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.model.anatomy import Anatomy

_AT_ONCE = 2**24  # logits that are held at a time: 64 MiB in fp32


class Rows(NamedTuple):
    """Sums over the predicted tokens of each row.

    Attributes:
        nll: Negative log likelihood of the next tokens, in nats, `[copy, row]`.
        kl: Divergence of the changed prediction from the base's, in nats, `[copy, row]`.
    """

    nll: Float[Tensor, "copy row"]
    kl: Float[Tensor, "copy row"]


def score(
    anatomy: Anatomy,
    hidden: Float[Tensor, "copy row pos d_model"],
    base: Float[Tensor, "row pos d_model"],
    ids: Int[Tensor, "row pos"],
    real: Bool[Tensor, "row pos"],
) -> Rows:
    """Scores copies of a batch against its base.

    Args:
        anatomy: Of the model.
        hidden: What the final norm gives in each copy.
        base: The same without a change.
        ids: Token ids, on the CPU, so that nothing waits for the device.
        real: Which tokens are no padding, on the CPU too.
    """
    model: Any = anatomy.model
    head = model.lm_head
    row, pos = (real[:, :-1] & real[:, 1:]).nonzero(as_tuple=True)
    targets = ids[row, pos + 1].to(base.device)
    row, pos = row.to(base.device), pos.to(base.device)
    shape = hidden.shape[:2]
    nll, kl = (torch.zeros(shape, dtype=torch.float64, device=base.device) for _ in range(2))
    step = max(1, _AT_ONCE // anatomy.size("vocab"))
    for start in range(0, len(row), step):
        some = slice(start, start + step)
        at, to = (row[some], pos[some]), targets[some, None]
        log_base = _log_softmax(head(base[at]))
        for copy in range(len(hidden)):
            log = _log_softmax(head(hidden[copy][at]))
            lost = -log.gather(1, to)[:, 0].double()
            apart = (log_base.exp() * (log_base - log)).sum(dim=1).double()
            nll[copy].index_add_(0, at[0], lost)
            kl[copy].index_add_(0, at[0], apart)
    return Rows(nll, kl)


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)
