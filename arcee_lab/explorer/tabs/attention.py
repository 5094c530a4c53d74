"""The tab of attention: all heads at once, and one of them large."""

import torch

from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.messages import Answer, Question, text
from arcee_lab.explorer.tabs.tab import Tab
from arcee_lab.recording.capturing import capture


def _attention(ground: Ground, *, text: str) -> Answer:
    ids = ground.ids(text)
    every = [f"layers.{layer}.self_attn.hook_pattern" for layer in range(ground.sizes.layers)]
    with capture(ground.model, every, stop_at=True) as found:
        ground.model(input_ids=ids, use_cache=False)
    # One byte per weight: what a square of the picture can show.
    pattern = torch.stack([(found[site][0].float() * 255).round().byte().cpu() for site in every])
    return Answer(
        {
            "text": text,
            "tokens": ground.shown(ids[0].tolist()),
            "shape": list(pattern.shape[:3]),
        },
        (pattern.numpy().tobytes(),),
    )


TAB = Tab("attention", "Attention", {"attention": Question(_attention, {"text": text})})
