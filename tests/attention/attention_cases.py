"""Calls of every kind with the reference's eager pattern, and the largest tensor that was made."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache, StaticCache

EVERYTHING = ["*", "*scores", "*pattern"]
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


def reference_of(model):
    """transformers' own Arcee with the same weights, eager."""
    from transformers.models.arcee import configuration_arcee, modeling_arcee

    config = configuration_arcee.ArceeConfig(**model.config.to_dict(), attn_implementation="eager")
    reference = getattr(modeling_arcee, type(model).__name__)(config).to(model.dtype).eval()
    reference.load_state_dict(model.state_dict())
    return reference


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


@torch.no_grad()
def reference_patterns(model, case: str) -> list[torch.Tensor]:
    """By layer the eager pattern of transformers' own model in the same call."""
    reference = reference_of(model)
    output = reference(**call_of(reference, case), output_attentions=True)
    return list(output.attentions)


class Largest(TorchDispatchMode):
    """The most elements that any tensor had that was made inside, views left out."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            # An expanded view holds fewer elements than it shows.
            if isinstance(x, torch.Tensor):
                self.numel = max(self.numel, x.untyped_storage().nbytes() // x.element_size())
        return out
