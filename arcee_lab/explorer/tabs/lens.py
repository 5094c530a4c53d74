"""The tab of lenses: how early the next token is there, and what made it."""

import torch
from jaxtyping import Int
from torch import Tensor

from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.messages import Answer, Question, text, whole
from arcee_lab.explorer.tabs.tab import Tab
from arcee_lab.lens._attribute import attribute
from arcee_lab.lens._logit_lens import logit_lens
from arcee_lab.sites import head_name

_MOST = 10  # heads, and neurons


def _lens(ground: Ground, *, text: str) -> Answer:
    ids = ground.ids(text)
    targets = _targets(ground, ids)
    answers = torch.tensor([targets], device=ids.device)
    found = logit_lens(ground.model, ground.tokenizer, {"input_ids": ids}, answers=answers, top=1)
    assert found.top_ids is not None
    ranks = found.ranks[:, 0, :, 0]
    best = found.top_ids[:, 0, :, 0].tolist()
    return Answer(
        {
            "text": text,
            "sites": list(found.labels),
            "tokens": ground.shown(ids[0].tolist()),
            "targets": ground.shown(targets),
            "best": [ground.shown(row) for row in best],
        },
        (ranks.numpy().astype("<i4").tobytes(),),
    )


def _made(ground: Ground, *, text: str, at: int) -> Answer:
    ids = ground.ids(text)
    at = min(at, ids.shape[1] - 1)
    target = _targets(ground, ids)[at]
    found = attribute(
        ground.model,
        ground.tokenizer,
        {"input_ids": ids},
        target,
        positions=[at],
        by="neuron",
    )
    heads = found.heads[:, :, 0, 0]
    order = heads.abs().flatten().argsort(descending=True)[:_MOST].tolist()
    places = [divmod(place, heads.shape[1]) for place in order]
    neurons = found.top_neurons(min(_MOST, ground.sizes.layers * ground.sizes.d_mlp))
    return Answer(
        {
            "text": text,
            "at": at,
            "target": ground.words.one(target),
            "logit": float(found.logit),
            "parts": [
                [label, float(value)]
                for label, value in zip(found.labels, found.parts[:, 0, 0], strict=True)
            ],
            "heads": [[head_name(i, j), float(heads[i, j])] for i, j in places],
            "neurons": [
                [label, float(value)]
                for label, value in zip(neurons["label"], neurons["logit"], strict=True)
            ],
        }
    )


def _targets(ground: Ground, ids: Int[Tensor, "1 pos"]) -> list[int]:
    """The token that follows each; behind the last one, the model's own choice."""
    return [*ids[0, 1:].tolist(), int(ground.logits(ids).argmax())]


TAB = Tab(
    "lens",
    "Lens",
    {
        "lens": Question(_lens, {"text": text}),
        "made": Question(_made, {"text": text, "at": whole(0, 10_000)}),
    },
)
