"""Activation patching, one spot after another, many per forward."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import Choice
from arcee_lab.interventions import Replace, intervene
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.patching.effects import PatchEffects, name_of
from arcee_lab.patching.pairs import Batch, Metric, Pairs
from arcee_lab.patching.spots import Spot, Spots
from arcee_lab.recording.capturing import capture
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar


@checked
def patch_sweep(
    model: nn.Module,
    base: Batch,
    source: Batch,
    metric: Metric,
    sites: str | Sequence[str] | Sequence[Spot],
    *,
    over: str | Sequence[str] = (),
    positions: Choice = None,
    heads: Choice = None,
    units: Choice = None,
    at: int | None = -1,
    batch_size: int = 64,
    progress: bool | None = None,
) -> PatchEffects:
    """Activation patching: what a metric becomes as one activation after another is swapped.

    The model runs on `base`, with a part of one site replaced by what it is in the run on `source`.
    With a corrupted base and a clean source it shows what is enough to restore an answer; the other
    way round, what is needed for it. Several spots share a forward as rows of its batch, and only
    the logits that the metric reads are computed. Inside `al.intervene` all runs are changed alike.

    Sources of the method: Vig et al., arXiv:2004.12265; Meng et al., "Locating and Editing Factual
    Associations in GPT" (causal tracing), arXiv:2202.05262; on its choices Zhang and Nanda,
    arXiv:2309.16042.

    Args:
        model: One of arcee_lab's models, with any head.
        base: `input_ids` `[pair, pos]`, and `attention_mask` if there is padding, of the run that
            is changed.
        source: The same of the run that activations come from; token i of it goes to token i.
        metric: Takes logits `[pair, vocab]` and gives one number per pair, e.g.
            `al.patching.LogitDifference(right, wrong)`.
        sites: Names, globs or layer ranges; or a list of `al.patching.Spot`, such as
            `effects.top(20)` gives.
        over: What is patched one at a time, of "positions", "heads" and "units" (neurons at
            `hook_post`): `over=("heads", "positions")` gives one number per site, head and token.
            By default a site is patched whole.
        positions: Attended tokens that are meant, negative from the end; by default all.
        heads: Heads that are meant, likewise.
        units: Indices on the last axis that are meant, likewise.
        at: The attended token whose logits the metric gets, the last by default; None gives it
            those of all, `[pair, pos, vocab]`. A sequence head has `[pair, n_labels]` anyway.
        batch_size: Rows of a forward; it takes all pairs of at least one spot.
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        The effects, by spot and pair, with a frame and a heat map.

    Raises:
        ValueError: For batches that are not aligned, unknown sites, indices out of range, and a
            metric that does not give one number per pair.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> clean = tokenizer(["The dogs near the door"], return_tensors="pt")
        >>> corrupt = tokenizer(["The dog near the door"], return_tensors="pt")
        >>> sleep, sleeps = tokenizer.convert_tokens_to_ids(["Ġsleep", "Ġsleeps"])
        >>> effects = al.patch_sweep(
        ...     model,
        ...     corrupt,
        ...     clean,
        ...     al.patching.LogitDifference(sleep, sleeps),
        ...     "layers.*.hook_resid_post",
        ...     over="positions",
        ... )
        >>> effects.grid().shape[0] == model.config.num_hidden_layers
        True
    """
    if batch_size < 1:
        raise SettingError(f"batch_size is the rows of a forward, at least 1; got {batch_size}.")
    anatomy = anatomy_of(model)
    with torch.no_grad():
        pairs = Pairs.read(anatomy, base, source, metric, at)
        spots = spots_of(
            anatomy, sites, pairs, over=over, positions=positions, heads=heads, units=units
        )
        with capture(model, list(spots.names)) as acts:
            goal = pairs.measure(pairs.run("source"))[0]
        before = pairs.measure(pairs.run("base"))[0]
        each = max(1, batch_size // pairs.count)
        effects = measure_spots(model, spots, acts, pairs, before, each=each, progress=progress)
    return PatchEffects(
        method="patching",
        metric=name_of(metric),
        spots=spots,
        effects=effects,
        base=before.cpu(),
        source=goal.cpu(),
    )


def measure_spots(
    model: nn.Module,
    spots: Spots,
    new: Mapping[str, Tensor],
    pairs: Pairs,
    before: Float[Tensor, " pair"],
    *,
    each: int,
    progress: bool | None,
) -> Float[Tensor, "spot pair"]:
    """What the metric of the base run changes by, with one spot after another replaced.

    Args:
        model: The model.
        spots: What is replaced.
        new: What by: site -> activation.
        pairs: What the model runs on.
        before: The metric without any.
        each: Spots per forward.
        progress: Whether to show a bar.
    """
    effects = []
    for start in progress_bar(range(0, len(spots), each), unit="forward", show=progress):
        some = slice(start, min(start + each, len(spots)))
        with intervene(model, _patches(spots, some, new, pairs)):
            after = pairs.measure(pairs.run("base", copies=some.stop - some.start))
        found = spots.tokens(some, pairs.real).any(dim=-1)  # a short sequence lacks some
        effects.append(torch.where(found, after - before, torch.nan))
    return torch.cat(effects).cpu()


def spots_of(
    anatomy: Anatomy, sites: Any, pairs: Pairs, *, over: str | Sequence[str], **chosen: Choice
) -> Spots:
    """The spots that the arguments of a sweep mean."""
    longest = int(pairs.real.sum(dim=1).max())
    given: list[Any] = [sites] if isinstance(sites, str | Spot) else list(sites)
    if not any(isinstance(one, Spot) for one in given):
        return Spots.grid(anatomy, given, over=over, chosen=chosen, longest=longest)
    cuts = [what for what, value in {"over": over or None, **chosen}.items() if value is not None]
    if cuts or not all(isinstance(one, Spot) for one in given):
        raise SettingError(
            "A list of spots already says what is patched; leave out "
            f"{', '.join(cuts) or 'the names'}."
        )
    return Spots.listed(anatomy, given, longest=longest)


def _patches(spots: Spots, some: slice, acts: Any, pairs: Pairs) -> list[Replace]:
    """One intervention per site that has spots in this forward."""
    patches = []
    for place, name in enumerate(spots.names):
        here = spots.at_site(place)
        first, last = max(here.start, some.start), min(here.stop, some.stop)
        if first < last:
            # Rows of one spot are next to each other, and so are spots of one site.
            rows = slice((first - some.start) * pairs.count, (last - some.start) * pairs.count)
            hit = spots.hit(slice(first, last), place, pairs.real, acts[name].shape)
            patches.append(put_source(name, acts[name], rows, hit))
    return patches


def put_source(name: str, source: Tensor, rows: slice, hit: Tensor) -> Replace:
    """Puts the source in place of a site's activation in some rows, where it is hit."""
    return Replace(name, partial(_put, source=source, rows=rows, hit=hit))


def _put(x: Tensor, *, source: Tensor, rows: slice, hit: Tensor) -> Tensor:
    """The source in place of x where it is hit; only in these rows."""
    own = x[rows].unflatten(0, (-1, len(source)))  # [spot, pair, ...]
    new = x.clone()
    new[rows] = torch.where(hit.to(x.device), source.to(x.device), own).flatten(0, 1)
    return new
