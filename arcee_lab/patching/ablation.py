"""Ablation, one spot after another, many per forward."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import Choice, position_axis
from arcee_lab.interventions import Replace, intervene
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.patching.effects import PatchEffects, name_of
from arcee_lab.patching.pairs import Batch, Metric, Pairs
from arcee_lab.patching.spots import Spot, Spots
from arcee_lab.patching.sweep import measure_spots, put_source, spots_of
from arcee_lab.recording.capturing import capture
from arcee_lab.sites import Axes


def ablate_sweep(
    model: nn.Module,
    batch: Batch,
    metric: Metric,
    sites: str | Sequence[str] | Sequence[Spot],
    *,
    value: Literal["zero", "mean"] = "zero",
    over: str | Sequence[str] = (),
    positions: Choice = None,
    heads: Choice = None,
    units: Choice = None,
    at: int | None = -1,
    batch_size: int = 64,
    progress: bool | None = None,
) -> PatchEffects:
    """What a metric becomes as one activation after another is set to 0, or to its mean.

    It shows what the model needs for an answer by itself; where several do the same work, removing
    one of them may show nothing. Several spots share a forward, as in `al.patch_sweep`, whose
    arguments these are. Inside `al.intervene` all runs are changed alike.

    Args:
        model: One of arcee_lab's models, with any head.
        batch: `input_ids` `[sequence, pos]`, and `attention_mask` if there is padding.
        metric: Takes logits `[sequence, vocab]` and gives one number per sequence.
        sites: Names, globs, layer ranges, or a list of `al.patching.Spot`.
        value: "zero", or "mean": over all attended tokens of the batch.
        over: What is ablated one at a time, of "positions", "heads" and "units".
        positions: Attended tokens that are meant, negative from the end; by default all.
        heads: Heads that are meant, likewise.
        units: Indices on the last axis that are meant, likewise.
        at: The attended token whose logits the metric gets; None gives it those of all.
        batch_size: Rows of a forward; it takes the whole batch for at least one spot.
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        The effects, by spot and sequence. Its `source` is the metric with all spots ablated at
        once, so that `recovered` is a share of what they do together.

    Raises:
        ValueError: As for `al.patch_sweep`, and for another value.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the door"], return_tensors="pt")
        >>> sleep, sleeps = tokenizer.convert_tokens_to_ids(["Ġsleep", "Ġsleeps"])
        >>> effects = al.patching.ablate_sweep(
        ...     model,
        ...     batch,
        ...     al.patching.LogitDifference(sleep, sleeps),
        ...     "layers.*.self_attn.hook_z",
        ...     over="heads",
        ... )
        >>> list(effects.grid("effect").shape) == [
        ...     model.config.num_hidden_layers, model.config.num_attention_heads
        ... ]
        True
    """
    if value not in ("zero", "mean"):
        raise SettingError(f"value={value!r}; expected 'zero' or 'mean'.")
    if batch_size < 1:
        raise SettingError(f"batch_size is the rows of a forward, at least 1; got {batch_size}.")
    anatomy = anatomy_of(model)
    with torch.no_grad():
        pairs = Pairs.read(anatomy, batch, batch, metric, at)
        spots = spots_of(
            anatomy, sites, pairs, over=over, positions=positions, heads=heads, units=units
        )
        with capture(model, list(spots.names)) as acts:
            before = pairs.measure(pairs.run("base"))[0]
        new = {
            name: _new(acts[name], pairs.real, axes, value)
            for name, axes in zip(spots.names, spots.axes, strict=True)
        }
        each = max(1, batch_size // pairs.count)
        effects = measure_spots(model, spots, new, pairs, before, each=each, progress=progress)
        with intervene(model, _all_at_once(spots, new, pairs, each)):
            without = pairs.measure(pairs.run("base"))[0]
    return PatchEffects(
        method="ablation",
        metric=name_of(metric),
        spots=spots,
        effects=effects,
        base=before.cpu(),
        source=without.cpu(),
    )


def _new(x: Tensor, real: Tensor, axes: Axes, value: str) -> Tensor:
    """What is put in place of an activation, in its shape."""
    if value == "zero":
        return torch.zeros((), dtype=x.dtype, device=x.device).expand(x.shape)
    position = position_axis(axes)
    assert position is not None
    shape = [1] * x.ndim
    shape[0], shape[position] = real.shape
    mask = real.to(x.device).view(shape)
    wide = torch.promote_types(x.dtype, torch.float32)
    total = torch.where(mask, x, 0).sum(dim=(0, position), keepdim=True, dtype=wide)
    return (total / mask.sum()).to(x.dtype).expand(x.shape)


def _all_at_once(spots: Spots, new: Mapping[str, Tensor], pairs: Pairs, each: int) -> list[Replace]:
    patches = []
    for place, name in enumerate(spots.names):
        here, shape = spots.at_site(place), new[name].shape
        hit: Tensor | None = None
        for start in range(here.start, here.stop, each):
            some = slice(start, min(start + each, here.stop))
            found = spots.hit(some, place, pairs.real, shape).any(dim=0, keepdim=True)
            hit = found if hit is None else hit | found
        assert hit is not None
        patches.append(put_source(name, new[name], slice(0, pairs.count), hit))
    return patches
