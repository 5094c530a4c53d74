"""Plain torch: hooks on transformers' own Arcee, and conditions on tokens as Python loops."""

from collections.abc import Callable
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def changed(reference, site: str, change: Callable[[Tensor], Tensor]):
    """The reference with `change` at one of our sites, done by torch hooks alone."""
    inner = getattr(reference, "model", getattr(reference, "transformer", reference))
    path, point = site.rsplit(".", 1) if "." in site else ("", site)
    if path.startswith("layers") and path.count(".") == 1:
        layer = inner.get_submodule(path)
    d_head = reference.config.head_dim

    def heads(x: Tensor) -> Tensor:
        split = x.view(*x.shape[:-1], -1, d_head)
        return change(split).reshape(x.shape)

    def output(module, f):
        return module.register_forward_hook(lambda m, args, out: f(out))

    if point == "hook_embed":
        handle = output(inner.embed_tokens, change)
    elif point == "hook_resid_pre":
        handle = layer.register_forward_pre_hook(lambda m, args: (change(args[0]), *args[1:]))
    elif point == "hook_resid_post":
        handle = output(layer, change)
    elif point == "hook_attn_out":
        handle = output(layer.self_attn, lambda out: (change(out[0]), *out[1:]))
    elif point == "hook_mlp_out":
        handle = output(layer.mlp, change)
    elif point == "hook_normalized":
        handle = output(inner.get_submodule(path), change)
    elif point in ("hook_q", "hook_k", "hook_v"):
        handle = output(inner.get_submodule(f"{path}.{point[-1]}_proj"), heads)
    elif point == "hook_z":
        o_proj = inner.get_submodule(f"{path}.o_proj")
        handle = o_proj.register_forward_pre_hook(lambda m, args: (heads(args[0]),))
    elif point == "hook_pre":
        handle = output(inner.get_submodule(f"{path}.up_proj"), change)
    elif point == "hook_relu":
        act = inner.get_submodule(f"{path}.act_fn")
        handle = act.register_forward_hook(lambda m, a, out: change(torch.relu(a[0])).square())
    elif point == "hook_post":
        handle = output(inner.get_submodule(f"{path}.act_fn"), change)
    else:
        raise AssertionError(site)
    try:
        yield
    finally:
        handle.remove()


def meant(batch: dict, *, positions=None, tokens=None, tags=None, table=None, mask=None) -> Tensor:
    """Which tokens of an uncached call are meant, token by token."""
    ids, real = batch["input_ids"], batch["attention_mask"]
    hit = torch.zeros(ids.shape, dtype=torch.bool)
    for row in range(len(ids)):
        columns = [c for c in range(ids.shape[1]) if real[row, c]]
        for rank, column in enumerate(columns):
            ok = positions is None or rank in positions or rank - len(columns) in positions
            ok = ok and (tokens is None or int(ids[row, column]) in tokens)
            ok = ok and (tags is None or int(table[row, column]) in tags)
            hit[row, column] = ok and (mask is None or bool(mask[row, column]))
    return hit
