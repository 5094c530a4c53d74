"""Calls of every kind, the reference on the same weights, and what a block has to put back."""

import torch
from transformers import DynamicCache, StaticCache

EVERYTHING = ["*", "*scores", "*pattern"]
POST = "layers.*.mlp.hook_post"
CASES = [
    "plain",
    "left",
    "right",
    "chunk",
    "static prefill",
    "static decode",
    "packed",
    "both ways",
    "-inf",
    "per head",
]


def batch_of(*, padding: str | None = None, batch: int = 2, length: int = 9, seed: int = 0) -> dict:
    """A batch whose second half of the rows has three pads on one side."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 50, (batch, length), generator=generator)
    mask = torch.ones_like(ids)
    if padding:
        pads = slice(0, 3) if padding == "left" else slice(length - 3, length)
        ids[batch // 2 :, pads], mask[batch // 2 :, pads] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def call_of(model, case: str) -> dict:
    """Arguments of a call; where it has a cache, the model has filled it."""
    batch = batch_of(padding=case if case in ("left", "right") else None)
    ids = batch["input_ids"]
    if case in ("plain", "left", "right"):
        return batch
    call: dict = {"input_ids": ids}
    if case == "chunk":
        call["cache"] = DynamicCache(config=model.config)
        model(input_ids=ids[:, :4], cache=call["cache"])
        call["input_ids"] = ids[:, 4:]
    elif case.startswith("static"):
        call["cache"] = StaticCache(model.config, max_cache_len=16)
        if case == "static decode":
            model(input_ids=ids[:, :8], cache=call["cache"])
            call["input_ids"] = ids[:, 8:]
    elif case == "packed":
        call["position_ids"] = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]] * 2)
        call["use_cache"] = False
    elif case == "both ways":
        call["is_causal"] = False
    else:
        heads = 4 if case == "per head" else 1
        allowed = torch.ones(9, 9, dtype=torch.bool).tril().expand(2, heads, 9, 9).clone()
        allowed[1, :, :, :3] = False
        if case == "per head":
            allowed[:, 2, :, 5] = False
        least = -torch.inf if case == "-inf" else torch.finfo(torch.float32).min
        call["attention_mask"] = torch.zeros(allowed.shape).masked_fill(~allowed, least)
    return call


def reference_of(model, attn: str = "eager"):
    """transformers' own Arcee with the same weights and class of head."""
    from transformers.models.arcee import configuration_arcee, modeling_arcee

    config = configuration_arcee.ArceeConfig(**model.config.to_dict(), attn_implementation=attn)
    reference = getattr(modeling_arcee, type(model).__name__)(config).to(model.dtype).eval()
    state = model.state_dict()
    if type(model).__name__.endswith("QuestionAnswering"):
        state = {k.replace("model.", "transformer.", 1): v for k, v in state.items()}
    reference.load_state_dict(state)
    return reference


@torch.no_grad()
def reference_patterns(model, case: str) -> list[torch.Tensor]:
    """By layer the eager pattern of transformers' own model in the same call."""
    reference = reference_of(model)
    output = reference(**call_of(reference, case), output_attentions=True)
    return list(output.attentions)


def hooks_of(model) -> dict:
    return {
        name: (
            dict(m._forward_hooks),
            dict(m._forward_pre_hooks),
            sorted({"forward", "generate"} & set(m.__dict__)),
        )
        for name, m in model.named_modules()
    }


def modes_of(model) -> list[str]:
    return [m.pattern_mode for m in model.modules() if hasattr(m, "pattern_mode")]
