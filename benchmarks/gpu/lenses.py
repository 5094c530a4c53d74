"""Lenses, attribution and heads' statistics at AFM-4.5B's full shape."""

from functools import partial
from typing import Any

import torch

import arcee_lab as al
from arcee_lab.lens.readout import normalised
from benchmarks.gpu.place import Place
from benchmarks.gpu.rows import Found, Row

_MOST = 1.15  # times the forward and one product with the unembedding per site


@torch.no_grad()
def _lens(place: Place, found: Found, *, large: Any) -> None:
    """Ranks of one answer per token at every site; the last site is the model's own logits."""
    model, batch = large.model, _batch(large, 1, 512)
    backbone, head = model.model, model.lm_head
    sites = 1 + 2 * len(backbone.layers)
    stream = backbone(**batch, use_cache=False).last_hidden_state

    def reference() -> None:
        backbone(**batch, use_cache=False)
        for _ in range(sites):
            head(normalised(backbone.norm, stream))

    def work() -> Any:
        return al.lens.logit_lens(model, None, batch, top=0)

    seen = work()
    logits = model(**batch, use_cache=False).logits.float().cpu()
    asked = seen.answers[..., 0] >= 0
    own = logits.gather(2, seen.answers.clamp_min(0))[..., 0]
    off = (seen.logits[-1, ..., 0] - own)[asked].abs()
    # In bf16 a product of another shape may round to the next number.
    assert bool((off <= 2**-7 * own[asked].abs().clamp_min(1)).all()), "the last site differs"
    seconds, least = place.seconds(work, repeats=3), place.seconds(reference, repeats=3)
    found.measured |= {"s": seconds, "times forward and products": seconds / least}
    found.measured |= {"host waits": place.waits(work), "peak bytes": place.peak(work)}
    found.aim = f"<= {_MOST} x the forward and one product per site"
    found.want(place.dry or seconds <= _MOST * least, f"{seconds / least:.2f} x")


@torch.no_grad()
def _attribution(place: Place, found: Found, *, large: Any) -> None:
    """Every head and neuron; in fp32 sums of a bf16 model's parts, with what is left."""
    model, batch = large.model, _batch(large, 1, 512)

    def work() -> Any:
        return al.lens.attribute(model, None, batch, 7, versus=11, by="neuron")

    parts = work()
    for layer in range(len(model.model.layers)):
        heads = parts.heads[layer].sum(0) + parts.attn_bias[layer]
        torch.testing.assert_close(heads, parts.parts[1 + 2 * layer], rtol=0.05, atol=0.05)
    found.measured |= {"remainder": float(parts.remainder.abs().max())}
    found.measured |= {"logit": float(parts.logit.abs().max()), "s": place.seconds(work, repeats=3)}
    found.measured |= {"host waits": place.waits(work), "peak bytes": place.peak(work)}
    found.aim = "heads add up to their attention, within bf16"


@torch.no_grad()
def _heads(place: Place, found: Found, *, large: Any) -> None:
    """Detectors on random repeated text, composition of all heads, and one layer ablated."""
    model, batch = large.model, _batch(large, 1, 64)
    period = 16 if place.dry else 256

    def detect() -> Any:
        return al.attention.detect(model, None, repeats=2, period=period)

    def compose() -> Any:
        return al.attention.composition(model, "v")

    def ablate() -> Any:
        metric = al.patching.LogitDifference(3, 4)
        return al.attention.ablate_heads(model, batch, metric, layers=[0])

    scores = detect().scores("induction")
    assert bool(((scores >= 0) & (scores <= 1 + 1e-3)).all()), "scores out of range"
    assert bool(ablate().effects.isfinite().all()), "effects are not finite"
    for name, work in {"detect": detect, "composition": compose, "ablation": ablate}.items():
        found.measured[f"{name}, s"] = place.seconds(work, repeats=1)
    found.aim = "scores from 0 to 1, effects that are finite"


def _batch(large: Any, rows: int, length: int) -> dict[str, Any]:
    inputs = large.inputs(rows, length)
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def rows(large: Any) -> list[Row]:
    """None is core: parity and captures say whether the device computes."""
    named = {
        "logit lens of all sites": _lens,
        "attribution by head and neuron": _attribution,
        "detectors, composition, ablation of heads": _heads,
    }
    return [
        Row(name, partial(work, large=large), packages=("pandas",)) for name, work in named.items()
    ]
