"""The residual stream as a sum of what was added to it."""

from typing import Any

import torch
from torch import Tensor, nn

from arcee_lab.data.token_words import TokenWords
from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import Choice
from arcee_lab.lens._logit_lens import residual_sites
from arcee_lab.lens.decomposition import Decomposition
from arcee_lab.lens.prompts import Given, Prompts
from arcee_lab.lens.streaming import run
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.runs.arguments import checked
from arcee_lab.sites import head_name


@checked
def decompose(
    model: nn.Module,
    tokenizer: Any,
    prompts: Given,
    *,
    site: str = "layers.-1.hook_resid_post",
    by: str = "part",
    positions: Choice = -1,
) -> Decomposition:
    """The residual stream at one site as a sum of vectors with labels.

    Args:
        model: One of arcee_lab's models, with any head or none.
        tokenizer: Its tokenizer; may be None for a batch of tokens.
        prompts: A text, a list of texts, or a batch with `input_ids` and `attention_mask`.
        site: The residual stream that is taken apart.
        by: "part": embedding, attention and MLP of each layer; "head": each head in place of its
            attention, and the bias of `o_proj` where there is one.
        positions: Attended tokens, the last by default; None for all. The parts take
            `[part, batch, position, d_model]` numbers.

    Returns:
        The parts, the stream that they add up to, and the norm that reads it.

    Raises:
        ValueError: For a site that is no residual stream, or several; and for empty prompts.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.lens.decompose(model, tokenizer, "The dogs sleep", by="head")
        >>> found.labels[:3]
        ('embed', 'L0/H0', 'L0/H1')
    """
    anatomy = anatomy_of(model)
    if by not in ("part", "head"):
        raise SettingError(f"by={by!r}; expected 'part' or 'head'.")
    (name,) = residual_sites(anatomy, [anatomy.legend.canonical(site)])
    asked = Prompts.read(anatomy, tokenizer, prompts, positions=positions)
    norm = _norm_after(anatomy, name)
    found: dict[str, Tensor] = {}
    order = list(anatomy.legend.sites())
    before = order[: order.index(name) + 1]
    wanted = ["hook_embed", name, f"{norm}.hook_scale"]
    kinds = ["hook_attn_out" if by == "part" else "self_attn.hook_z", "hook_mlp_out"]
    wanted += [one for one in before if one.split(".", 2)[-1] in kinds]

    def take(one: str):
        def keep(x: Tensor) -> None:
            found[one] = asked.take(x).clone()

        return keep

    run(anatomy, asked, {one: take(one) for one in wanted})
    labels, parts = ["embed"], [found["hook_embed"]]
    for one in before:
        if one not in found or not one.startswith("layers.") or one == name:
            continue
        layer, point = int(one.split(".")[1]), one.split(".", 2)[-1]
        if point == "self_attn.hook_z":
            block: Any = unwrap(unwrap(anatomy.backbone.layers[layer]).self_attn)  # type: ignore[arg-type]
            heads, bias = _by_head(block.o_proj, found[one])
            labels += [head_name(layer, head) for head in range(heads.shape[0])]
            parts += list(heads)
            if bias is not None:
                labels.append(f"L{layer}/attn bias")
                parts.append(bias.expand_as(heads[0]))
        else:
            labels.append(f"L{layer}/{'attn' if point == 'hook_attn_out' else 'mlp'}")
            parts.append(found[one])
    module: Any = unwrap(anatomy.module(norm))
    blank = ~asked.there[..., None]

    def done(x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return wide.masked_fill(blank.to(x.device), torch.nan).cpu()

    return Decomposition(
        site=name,
        norm=norm,
        labels=tuple(labels),
        parts=torch.stack([done(x) for x in parts]),
        stream=done(found[name]),
        scale=done(found[f"{norm}.hook_scale"]),
        gain=module.weight.detach().float().cpu(),
        tokens=asked.tokens.cpu(),
        columns=asked.chosen.cpu(),
        there=asked.there.cpu(),
        text=TokenWords(tokenizer, asked.tokens.cpu()),
    )


def _norm_after(anatomy: Anatomy, name: str) -> str:
    """The norm through which the stream at a site is read next."""
    if name == "hook_embed":
        return "layers.0.input_layernorm"
    _, layer, point = name.split(".")
    if point == "hook_resid_mid":
        return f"layers.{layer}.post_attention_layernorm"
    following = int(layer) + (point == "hook_resid_post")
    last = following == len(anatomy.backbone.layers)
    return "norm" if last else f"layers.{following}.input_layernorm"


def _by_head(o_proj: Any, z: Tensor) -> tuple[Tensor, Tensor | None]:
    """What each head adds, `[head, batch, chosen, d_model]`, and the bias."""
    weight = effective_weight(o_proj)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    weight = weight.to(dtype).unflatten(1, z.shape[-2:])  # [d_model, head, d_head]
    bias = getattr(getattr(o_proj, "base_layer", o_proj), "bias", None)
    heads = torch.einsum("bphd,mhd->hbpm", z.to(dtype), weight.to(z.device))
    return heads, None if bias is None else bias.detach().to(dtype)
