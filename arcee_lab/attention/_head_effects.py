"""What each head is needed for: ablation and patching of its output, by head and by token."""

from collections.abc import Sequence
from typing import Literal

from torch import nn

from arcee_lab.hooks.selection import Choice
from arcee_lab.patching import PatchEffects, ablate_sweep, patch_sweep
from arcee_lab.patching.pairs import Batch, Metric

Layers = str | int | Sequence[str | int]


def ablate_heads(
    model: nn.Module,
    batch: Batch,
    metric: Metric,
    *,
    value: Literal["zero", "mean"] = "zero",
    by_position: bool = False,
    layers: Layers = "layers.*",
    heads: Choice = None,
    positions: Choice = None,
    at: int | None = -1,
    batch_size: int = 64,
    progress: bool | None = None,
) -> PatchEffects:
    """What a metric becomes without one head after another.

    What a head gives to `o_proj` (`hook_z`) is set to 0 or to its mean. A head that shows nothing
    may still do work that another does as well: ablate groups with `al.intervene`.

    Args:
        model: One of arcee_lab's models, with any head.
        batch: `input_ids` `[sequence, pos]`, and `attention_mask` if there is padding.
        metric: Takes logits `[sequence, vocab]` at one token and gives one number per sequence,
            such as `al.patching.LogitDifference(right, wrong)`.
        value: "zero", or "mean": over all attended tokens of the batch.
        by_position: Whether each token of each head is ablated by itself.
        layers: Numbers, or filters such as "layers.4:8".
        heads: Heads that are meant; by default all.
        positions: Attended tokens that are meant, negative from the end; by default all.
        at: The attended token whose logits the metric gets; None gives it those of all.
        batch_size: Rows of a forward.
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        Effects whose `grid("effect")` is `[layer, head]`, or `[layer, position, head]`.

    Raises:
        ValueError: As for `al.patching.ablate_sweep`.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> batch = tokenizer(["The dogs near the door"], return_tensors="pt")
        >>> sleep, sleeps = tokenizer.convert_tokens_to_ids(["Ġsleep", "Ġsleeps"])
        >>> metric = al.patching.LogitDifference(sleep, sleeps)
        >>> effects = al.attention.ablate_heads(model, batch, metric, by_position=True)
        >>> list(effects.grid("effect").shape)
        [4, 6, 4]
    """
    return ablate_sweep(
        model,
        batch,
        metric,
        _sites(layers),
        value=value,
        over=_over(by_position),
        positions=positions,
        heads=heads,
        at=at,
        batch_size=batch_size,
        progress=progress,
    )


def patch_heads(
    model: nn.Module,
    base: Batch,
    source: Batch,
    metric: Metric,
    *,
    by_position: bool = False,
    layers: Layers = "layers.*",
    heads: Choice = None,
    positions: Choice = None,
    at: int | None = -1,
    batch_size: int = 64,
    progress: bool | None = None,
) -> PatchEffects:
    """What a metric becomes as one head after another gets its output of another run.

    Args:
        model: One of arcee_lab's models, with any head.
        base: Inputs of the run that is changed.
        source: Inputs of the run that heads' outputs come from, of the same layout.
        metric: As for `ablate_heads`.
        by_position: Whether each token of each head is patched by itself.
        layers: Numbers, or filters such as "layers.4:8".
        heads: Heads that are meant; by default all.
        positions: Attended tokens that are meant, negative from the end; by default all.
        at: The attended token whose logits the metric gets; None gives it those of all.
        batch_size: Rows of a forward.
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        Effects whose `grid()` is `[layer, head]`, or `[layer, position, head]`.

    Raises:
        ValueError: As for `al.patch_sweep`.
    """
    return patch_sweep(
        model,
        base,
        source,
        metric,
        _sites(layers),
        over=_over(by_position),
        positions=positions,
        heads=heads,
        at=at,
        batch_size=batch_size,
        progress=progress,
    )


def _over(by_position: bool) -> tuple[str, ...]:
    return ("positions", "heads") if by_position else ("heads",)


def _sites(layers: Layers) -> list[str]:
    several = [layers] if isinstance(layers, str | int) else list(layers)
    paths = [f"layers.{layer}" if isinstance(layer, int) else layer for layer in several]
    return [f"{path}.self_attn.hook_z" for path in paths]
