"""Pairs of sequences, metrics, and patching as plain hooks on transformers' own Arcee."""

import torch
from tiny_calls import reference_of
from torch import Tensor

SITES = {
    "layers.*.hook_resid_post": ("layers.{}", "output"),
    "layers.*.mlp.hook_post": ("layers.{}.mlp.act_fn", "output"),
    "layers.*.self_attn.hook_z": ("layers.{}.self_attn.o_proj", "input"),
}


def pair_of(*, padding: str | None = None, pairs: int = 3, length: int = 7) -> tuple[dict, dict]:
    """Two batches of the same layout; the last pair has three pads on one side."""
    generator = torch.Generator().manual_seed(1)
    base = torch.randint(3, 50, (pairs, length), generator=generator)
    source = base.clone()
    source[:, 3:5] = torch.randint(3, 50, (pairs, 2), generator=generator)
    mask = torch.ones_like(base)
    if padding:
        pads = slice(0, 3) if padding == "left" else slice(length - 3, length)
        mask[-1, pads] = base[-1, pads] = source[-1, pads] = 0
    return {"input_ids": base, "attention_mask": mask}, {
        "input_ids": source,
        "attention_mask": mask,
    }


def metric(logits: Tensor) -> Tensor:
    """Not linear, and another one for each pair."""
    place = torch.arange(len(logits))
    return logits.log_softmax(-1)[place, 5 + place] * (1 + place)


def last_token(logits: Tensor, mask: Tensor) -> Tensor:
    rows = [logits[i, mask[i].nonzero().max()] for i in range(len(logits))]
    return torch.stack(rows)


class Reference:
    """The reference with a hook at one site of one layer: `change(x)`, heads side by side."""

    def __init__(self, model):
        self.model = reference_of(model, "sdpa")

    def __call__(self, batch: dict, site: str = "", change=None) -> Tensor:
        """The metric per pair."""
        handles = []
        if site:
            layer = site.split(".")[1]
            path, where = SITES[site.replace(f".{layer}.", ".*.", 1)]
            module = self.model.model.get_submodule(path.format(layer))
            if where == "output":
                hook = module.register_forward_hook(lambda m, args, out: change(out))
            else:
                hook = module.register_forward_pre_hook(lambda m, args: (change(args[0]),))
            handles.append(hook)
        try:
            logits = self.model(**batch).logits
        finally:
            for handle in handles:
                handle.remove()
        return metric(last_token(logits, batch["attention_mask"]))

    def read(self, batch: dict, site: str) -> Tensor:
        seen = []
        self(batch, site, lambda x: seen.append(x) or x)
        return seen[0]
