"""Models made on the device with random weights, and batches for them."""

from typing import Any

import torch
from torch import Tensor

from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from benchmarks.gpu.place import Place

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MEDIUM = TINY | {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 3072,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "initializer_range": 0.05,
}


def medium(place: Place, *, dtype: torch.dtype, attn: str) -> ArceeForCausalLM:
    """A model that every kernel takes, small enough to be compared in fp32; tiny in a dry run."""
    shape = TINY if place.dry else MEDIUM
    return _made(place, ArceeConfig(**shape), dtype=dtype, attn=attn)


def large(place: Place, *, attn: str = "sdpa", **overrides: Any) -> ArceeForCausalLM:
    """AFM-4.5B's full shape in bf16; tiny in a dry run."""
    config = ArceeConfig(**TINY | overrides) if place.dry else ArceeConfig.afm_4_5b(**overrides)
    return _made(place, config, dtype=torch.bfloat16, attn=attn)


def _made(place: Place, config: ArceeConfig, *, dtype: torch.dtype, attn: str) -> ArceeForCausalLM:
    torch.manual_seed(0)  # a process of its own
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with place.device:
            config._attn_implementation = attn
            return ArceeForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)


def reference(ours: ArceeForCausalLM) -> Any:
    """Transformers' own Arcee with the same weights and kernel."""
    from transformers.models.arcee import configuration_arcee, modeling_arcee

    fields = ours.config.to_dict() | {"use_cache": True}
    config = configuration_arcee.ArceeConfig(**fields)
    config._attn_implementation = ours.config._attn_implementation
    before = torch.get_default_dtype()
    torch.set_default_dtype(ours.dtype)
    try:
        with ours.device:
            theirs = modeling_arcee.ArceeForCausalLM(config).eval()
    finally:
        torch.set_default_dtype(before)
    theirs.load_state_dict(ours.state_dict())
    return theirs


def batch(model: ArceeForCausalLM, rows: int, length: int, *, pads: int = 0) -> dict[str, Tensor]:
    """Random tokens; the second half of the rows has pads on the left."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, model.config.vocab_size - 1, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    if pads:
        ids[rows // 2 :, :pads], mask[rows // 2 :, :pads] = 0, 0
    return {"input_ids": ids.to(model.device), "attention_mask": mask.to(model.device)}


def size(place: Place, rows: int, length: int) -> tuple[int, int]:
    """A batch's size; a small one in a dry run."""
    return (2, 16) if place.dry else (rows, length)


def away(got: Tensor, want: Tensor) -> float:
    """Norm of the difference, relative to the norm of what is expected."""
    gap = (got.double() - want.double()).norm() / want.double().norm().clamp_min(1e-30)
    return float(gap)
