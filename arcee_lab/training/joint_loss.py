"""The joint loss: next token, sentiment, entities and answer spans from one backbone pass."""

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from arcee_lab.demo import KINDS
from arcee_lab.demo.reviews import LABELS
from arcee_lab.model import ArceeForCausalLM
from arcee_lab.recording.capturing import capture
from arcee_lab.training.batches import IGNORED, TOKEN_LABELS, Batch

SHARES = {"sequence": 1.0, "token": 0.2, "qa": 0.4}  # weight of each head's loss next to the LM's


class DemoHeads(nn.Module):
    """The tensors that the three classification heads have beyond the backbone."""

    def __init__(self, d_model: int, *, seed: int):
        super().__init__()
        self.sequence = nn.Linear(d_model, len(LABELS), bias=False)
        self.token = nn.Linear(d_model, len(TOKEN_LABELS))
        self.qa = nn.Linear(d_model, 2)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in self.parameters():
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.02)


@dataclass(frozen=True)
class Losses:
    """The losses of one batch.

    Attributes:
        total: The quantity that is minimised.
        lm: Mean next-token loss with equal weights, in nats.
        sequence: Sentiment loss.
        token: Entity loss.
        qa: Mean of start and end loss.
        by_kind: Mean next-token loss of each kind of document present.
    """

    total: Float[Tensor, ""]
    lm: Float[Tensor, ""]
    sequence: Float[Tensor, ""]
    token: Float[Tensor, ""]
    qa: Float[Tensor, ""]
    by_kind: dict[str, float]


def joint_losses(
    model: ArceeForCausalLM,
    heads: DemoHeads,
    batch: Batch,
    *,
    bf16: bool,
    quiet: float = 0.0,
    by_kind: bool = False,
) -> Losses:
    """All four losses of a batch, from one forward pass of the backbone.

    Args:
        model: The LM; its backbone is shared.
        heads: The other three heads.
        batch: Packed documents.
        bf16: Whether matrix products run in bfloat16; losses are always fp32.
        quiet: Weight of the activity penalty, see `Stage.quiet`.
        by_kind: Whether to split the LM loss by kind, which synchronises with the device.
    """
    device = batch.ids.device.type
    with ExitStack() as reading, torch.autocast(device, dtype=torch.bfloat16, enabled=bf16):
        acts = (
            reading.enter_context(capture(model, "layers.*.mlp.hook_relu", grad=True))
            if quiet
            else {}
        )
        hidden = model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions
        ).last_hidden_state.flatten(0, 1)
        asked = (batch.targets.flatten() != IGNORED).nonzero()[:, 0]
        logits = model.lm_head(hidden[asked])
        sequence = heads.sequence(hidden[batch.sequence_at])
        named = (batch.token_labels.flatten() != IGNORED).nonzero()[:, 0]
        token = heads.token(hidden[named])
        span = heads.qa(hidden[batch.spans_at.clamp(min=0)])  # passage prompt 2
    each = cross_entropy(logits.float(), batch.targets.flatten()[asked], reduction="none")
    weights = batch.weights.flatten()[asked]
    weighted = (each * weights).sum() / weights.sum()
    span = span.float().masked_fill((batch.spans_at < 0)[..., None], -torch.inf)
    # the sum over an empty batch is 0, its mean would be NaN: a batch may lack a kind
    parts = {
        "sequence": _mean(sequence, batch.sequence_shares),
        "token": _mean(token, batch.token_labels.flatten()[named]),
        "qa": (_mean(span[..., 0], batch.span_starts) + _mean(span[..., 1], batch.span_ends)) / 2,
    }
    total = weighted + sum(SHARES[name] * loss for name, loss in parts.items())
    if quiet:
        total = total + quiet * sum(relu.float().mean() for relu in acts.values())
    kinds = batch.kinds.flatten()[asked]
    split = {}
    if by_kind:
        for i, kind in enumerate(KINDS):
            if (kinds == i).any():
                split[kind] = each.detach()[kinds == i].mean().item()
    return Losses(total, each.detach().mean(), **parts, by_kind=split)


def _mean(logits: Tensor, right: Tensor) -> Tensor:
    if not len(right):
        return logits.new_zeros(()).float()
    return cross_entropy(logits.float(), right)
