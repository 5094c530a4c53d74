"""Attribution patching: the effects of all patches at once, estimated from one gradient."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import Choice
from arcee_lab.interventions import Replace, intervene
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.patching.effects import PatchEffects, name_of
from arcee_lab.patching.pairs import Batch, Metric, Pairs
from arcee_lab.patching.spots import Spot
from arcee_lab.patching.sweep import spots_of
from arcee_lab.recording.capturing import capture
from arcee_lab.runs.arguments import checked


@checked
def patch_attribution(
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
) -> PatchEffects:
    """Attribution patching: `(source - base) · d metric / d activation`, summed over each spot.

    To first order this is what `patch_sweep` measures, for the price of two forwards and one
    backward however many spots there are. It errs where the metric bends between the two runs;
    patch what it ranks highest.

    For neurons use `hook_post`. At `hook_pre` and `hook_relu` the derivative of a neuron that is
    off in the base run is exactly 0, so one that the source switches on would be missed; and since
    relu(u)² is homogeneous of degree two, `u · dm/du = 2 a · dm/da`: there everything is counted
    twice.

    Sources of the method: Nanda, "Attribution Patching: Activation Patching At Industrial Scale"
    (2023); Syed et al., arXiv:2310.10348; on its errors Kramár et al. (AtP*), arXiv:2403.00745.

    Args:
        model: One of arcee_lab's models, with any head. Its parameters need no gradient and get
            none.
        base: As for `patch_sweep`: the run that the gradient is taken in.
        source: As for `patch_sweep`.
        metric: As for `patch_sweep`; differentiable.
        sites: As for `patch_sweep`.
        over: As for `patch_sweep`.
        positions: As for `patch_sweep`.
        heads: As for `patch_sweep`.
        units: As for `patch_sweep`.
        at: As for `patch_sweep`.

    Returns:
        The estimated effects, by spot and pair, with a frame and a heat map.

    Raises:
        ValueError: As `patch_sweep` does, and for a metric without a gradient.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> clean = tokenizer(["The dogs near the door"], return_tensors="pt")
        >>> corrupt = tokenizer(["The dog near the door"], return_tensors="pt")
        >>> sleep, sleeps = tokenizer.convert_tokens_to_ids(["Ġsleep", "Ġsleeps"])
        >>> estimate = al.patch_attribution(
        ...     model,
        ...     corrupt,
        ...     clean,
        ...     al.patching.LogitDifference(sleep, sleeps),
        ...     "layers.*.mlp.hook_post",
        ...     over="units",
        ... )
        >>> len(estimate.top(20))
        20
    """
    anatomy = anatomy_of(model)
    with torch.no_grad():
        pairs = Pairs.read(anatomy, base, source, metric, at)
        spots = spots_of(
            anatomy, sites, pairs, over=over, positions=positions, heads=heads, units=units
        )
        names = list(spots.names)
        with capture(model, names) as goal:
            after = pairs.measure(pairs.run("source"))[0]
    # Gradients start at the embeddings, whether or not the parameters want any. Scores and pattern
    # are in the path of the data only where something writes to them.
    open_path = [Replace("hook_embed", _leaf)]
    asked = [name for name in names if anatomy.legend.sites()[name].on_request]
    if asked:
        open_path.append(Replace(asked, torch.clone))
    with torch.enable_grad(), intervene(model, open_path), capture(model, names, grad=True) as acts:
        before = pairs.measure(pairs.run("base"))[0]
        values = [acts[name] for name in names]
        gradients = _gradients(before, values)
    effects = []
    for place, (name, x, gradient) in enumerate(zip(names, values, gradients, strict=True)):
        wide = torch.promote_types(x.dtype, torch.float32)
        product = (goal[name].to(wide) - x.detach().to(wide)) * gradient.to(wide)
        real = pairs.real.to(x.device)
        found = spots.tokens(spots.at_site(place), real).any(dim=-1)
        effects.append(torch.where(found, spots.sums(place, product, real), torch.nan).cpu())
    return PatchEffects(
        method="attribution",
        metric=name_of(metric),
        spots=spots,
        effects=torch.cat(effects),
        base=before.detach().cpu(),
        source=after.cpu(),
    )


def _leaf(x: Tensor) -> Tensor:
    return x.detach().clone().requires_grad_()


def _gradients(metric: Tensor, values: list[Tensor]) -> tuple[Tensor, ...]:
    """The metric's gradient at each activation; pairs are independent, so one sum serves all."""
    if not metric.requires_grad:
        raise SettingError("The metric has no gradient; compute it from the logits with torch.")
    found = torch.autograd.grad(metric.sum(), values, allow_unused=True)
    return tuple(
        torch.zeros_like(x) if g is None else g for x, g in zip(values, found, strict=True)
    )
