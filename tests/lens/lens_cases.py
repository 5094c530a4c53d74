"""Models of random shapes and batches padded on either side; the reference on the same weights."""

import torch
from tiny_calls import reference_of

SHAPES = [  # heads, kv heads, d_head, layers, tied, biases
    (4, 2, 8, 3, False, False),
    (4, 4, 6, 2, True, True),
    (8, 1, 4, 2, False, True),
    (2, 1, 16, 1, True, False),
]


def model_of(tiny, case, head="causal", *, attn="sdpa", dtype=torch.float32):
    """A model whose norms and biases are far from 1 and 0."""
    heads, kv_heads, d_head, layers, tied, bias = case
    model = tiny(
        head,
        attn=attn,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=d_head,
        num_hidden_layers=layers,
        tie_word_embeddings=tied,
        attention_bias=bias,
        mlp_bias=bias,
    )
    draws = torch.Generator().manual_seed(heads + layers)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.copy_(1 + 0.5 * torch.randn(weight.shape, generator=draws))
            elif name.endswith("bias"):
                weight.copy_(0.3 * torch.randn(weight.shape, generator=draws))
    return model.to(dtype)


def batch_for(padding: str) -> dict:
    """Two sequences of 9 columns, the second with three pads on one side."""
    ids = torch.randint(3, 50, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padding != "none":
        pads = slice(0, 3) if padding == "left" else slice(6, 9)
        ids[1, pads], mask[1, pads] = 0, 0
    return {"input_ids": ids, "attention_mask": mask}


@torch.no_grad()
def reference_logits(model, batch, attn):
    return reference_of(model, attn)(**batch, use_cache=False).logits


@torch.no_grad()
def reference_streams(model, batch, attn):
    """By site the residual stream of transformers' own model, from torch hooks on its modules."""
    reference = reference_of(model, attn)
    found = {}
    backbone = reference.model
    handles = [
        backbone.embed_tokens.register_forward_hook(
            lambda m, args, out: found.__setitem__("hook_embed", out)
        )
    ]
    for number, layer in enumerate(backbone.layers):
        handles.append(
            layer.post_attention_layernorm.register_forward_pre_hook(
                lambda m, args, at=f"layers.{number}.hook_resid_mid": found.__setitem__(at, args[0])
            )
        )
        handles.append(
            layer.register_forward_hook(
                lambda m, args, out, at=f"layers.{number}.hook_resid_post": found.__setitem__(
                    at, out[0] if isinstance(out, tuple) else out
                )
            )
        )
    logits = reference(**batch, use_cache=False).logits
    for handle in handles:
        handle.remove()
    return reference, found, logits
