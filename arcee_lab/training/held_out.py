"""Losses and zeros on held-out documents, for the log of a run."""

from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo import documents
from arcee_lab.model import ArceeForCausalLM
from arcee_lab.recording.capturing import capture
from arcee_lab.training.batches import Batch, batch_of, encode, pack
from arcee_lab.training.joint_loss import DemoHeads, joint_losses
from arcee_lab.training.recipe import Recipe


def held_out(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Batch:
    """Validation documents of all kinds, the same for all recipes with this shape of batch."""
    found = encode(tokenizer, documents(None, n=8 * recipe.rows, seed=0, split="validation"))
    packed = pack(found, rows=recipe.rows, length=recipe.length)
    return batch_of(packed, length=recipe.length, answer_weight=1.0)


@dataclass(frozen=True)
class HeldOut:
    """One evaluation of a model in training.

    Attributes:
        lm: Held-out next-token loss in nats.
        by_kind: The same for each kind of document.
        sequence: Held-out sentiment loss.
        token: Held-out entity loss.
        qa: Held-out span loss.
        zeros: Share of exact zeros of relu², one number per layer; padding is not counted.
    """

    lm: float
    by_kind: dict[str, float]
    sequence: float
    token: float
    qa: float
    zeros: list[float]


@torch.no_grad()
def read(model: ArceeForCausalLM, heads: DemoHeads, batch: Batch) -> HeldOut:
    """Losses and zeros on held-out documents, in fp32."""
    real = batch.kinds >= 0
    with capture(model, "layers.*.mlp.hook_post") as acts:
        losses = joint_losses(model, heads, batch, bf16=False, by_kind=True)
    zeros = [(post[real] == 0).double().mean().item() for post in acts.values()]
    return HeldOut(
        lm=losses.lm.item(),
        by_kind=losses.by_kind,
        sequence=losses.sequence.item(),
        token=losses.token.item(),
        qa=losses.qa.item(),
        zeros=zeros,
    )
