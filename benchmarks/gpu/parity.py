"""Our model against transformers' own: equal bits under one kernel, derived bounds elsewhere."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import older, shapes
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row, Skipped

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# What one rounding is off by, relative to the number.
_UNIT = {torch.float32: 2**-24, torch.bfloat16: 2**-9, torch.float16: 2**-12}
_STEPS = 8


@torch.no_grad()
def _equal(place: Place, found: Found, *, dtype: torch.dtype, attn: str) -> None:
    """Logits and greedy ids, padded and not."""
    ours = shapes.medium(place, dtype=dtype, attn=attn)
    theirs = shapes.reference(ours)
    found.aim = "torch.equal"
    rows, length = shapes.size(place, 4, 96)
    for pads in (0, 5):
        inputs = shapes.batch(ours, rows, length, pads=pads)
        mine, other = ours(**inputs).logits, theirs(**inputs).logits
        found.measured[f"logits differ, {pads} pads"] = float((mine - other).abs().max())
        assert torch.equal(mine, other), "logits differ"
        assert torch.equal(_greedy(ours, inputs), _greedy(theirs, inputs)), "greedy ids differ"
        if not older.is_older():
            options: dict[str, Any] = {"max_new_tokens": _STEPS, "do_sample": False}
            ids = [model.generate(**inputs, **options) for model in (ours, theirs)]
            assert torch.equal(*ids), "generated ids differ"


def _greedy(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """Whole forwards, without a cache, so that every release of transformers can do it."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for _ in range(_STEPS):
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, -1:]
        ids = torch.cat([ids, logits.argmax(-1)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return ids


@torch.no_grad()
def _kernels(place: Place, found: Found) -> None:
    """SDPA against eager: other sums, so a bound that follows from their number."""
    model = shapes.medium(place, dtype=torch.float32, attn="sdpa")
    inputs = shapes.batch(model, *shapes.size(place, 4, 96))
    fast = model(**inputs).logits
    model.set_attn_implementation("eager")
    _bounded(found, fast, model(**inputs).logits, model, "logits")


def _bounded(found: Found, got: Tensor, want: Tensor, model: Any, what: str) -> None:
    config = model.config
    sums = 6 * config.num_hidden_layers
    bound = sums * config.intermediate_size * _UNIT[model.dtype]
    found.limit = f"{sums} sums of up to {config.intermediate_size} products: {bound:.1e}"
    found.aim = "relative norm of the difference within the limit"
    found.measured[what] = gap = shapes.away(got, want)
    assert gap <= bound, f"{what} differ by {gap:.2e}; the bound is {bound:.2e}"


@torch.no_grad()
def _flash(place: Place, found: Found) -> None:
    """FlashAttention 2 against transformers' own, padded and packed."""
    if place.dry:
        raise Skipped("FlashAttention 2 has no kernel for the CPU")
    ours = shapes.medium(place, dtype=torch.bfloat16, attn="flash_attention_2")
    theirs = shapes.reference(ours)
    found.aim = "torch.equal"
    rows, length = shapes.size(place, 4, 96)
    plain = shapes.batch(ours, rows, length, pads=5)
    places = torch.arange(length, device=ours.device) % (length // 2)
    packed = {"input_ids": plain["input_ids"], "position_ids": places.expand(rows, -1)}
    for what, inputs in (("padded", plain), ("packed", packed | {"use_cache": False})):
        mine, other = ours(**inputs).logits, theirs(**inputs).logits
        if what == "padded":  # pads hold whatever the kernel left there
            kept = plain["attention_mask"].bool()
            mine, other = mine[kept], other[kept]
        gap = float((mine - other).abs().max())
        found.measured[f"logits differ, {what}"] = gap
        assert gap == 0, f"{what}: logits differ by {gap}"


def _checkpointed(place: Place, found: Found) -> None:
    """Gradients with layers computed twice against plain ones; a card adds in any order."""
    model = shapes.medium(place, dtype=torch.float32, attn="sdpa").train()
    inputs = shapes.batch(model, *shapes.size(place, 4, 96))
    grads = []
    for kept in (False, True):
        if kept:
            newer = getattr(model, "activation_checkpointing_enable", None)
            (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        model.zero_grad()
        model(**inputs, labels=inputs["input_ids"], use_cache=False).loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    _bounded(found, grads[1], grads[0], model, "gradients")


def rows() -> list[Row]:
    """Parity in every dtype and kernel is core."""
    equal = [
        Row(f"parity, {name}, {attn}", partial(_equal, dtype=dtype, attn=attn), core=True)
        for name, dtype in _DTYPES.items()
        for attn in ("sdpa", "eager")
    ]
    return [
        *equal,
        Row("parity, SDPA against eager", _kernels, core=True),
        Row("parity, FlashAttention 2", _flash, packages=("flash_attn",)),
        Row("checkpointed backward", _checkpointed),
    ]
