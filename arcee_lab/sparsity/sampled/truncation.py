"""What it costs to keep fewer neurons: loss against the share of neurons kept, rule by rule.

For each rule and level the sample is run again with every MLP truncated, and compared with the
model as it is, token by token: ΔNLL, the KL divergence between next-token distributions, and
accuracy. Rules and their sources are those of `arcee_lab.sparsity.sampled.selection_rules`. The
horizontal axis is measured: neurons that are left and not zero, over d_mlp.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.errors import ModelError, SettingError
from arcee_lab.model.fingerprint import model_name
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar
from arcee_lab.sparsity.core.checking import is_real
from arcee_lab.sparsity.sampled._cett import measure_curves
from arcee_lab.sparsity.sampled.keep_block import truncating
from arcee_lab.sparsity.sampled.losses import Scores, add, batch_logits
from arcee_lab.sparsity.sampled.mlp_hooks import at_down
from arcee_lab.sparsity.sampled.mlps import Mlp, mlps
from arcee_lab.sparsity.sampled.sample import Sample, draw
from arcee_lab.sparsity.sampled.selection_rules import RULES
from arcee_lab.sparsity.sampled.truncation_curves import KEEPS_ALL, TruncationCurves

# Levels of each rule. Of those that take a share of d_mlp: times the share that fires at all.
_OF_ACTIVE = (2.0, 1.4, 1.0, 0.7, 0.5, 0.35, 0.25, 0.15, 0.08)
_SHARES_OF_SUM = (0.999, 0.99, 0.97, 0.94, 0.9, 0.8, 0.7, 0.5, 0.3)
_CETT = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.45, 0.6)
_OCTAVES, _PER_OCTAVE = (-40, 24), 32  # of the thresholds that "fat" may take


@checked
def truncation(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    rules: Sequence[str] | None = None,
    levels: Mapping[str, Sequence[float]] | None = None,
    sample_tokens: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> TruncationCurves:
    """Measures loss against sparsity for several rules that drop neurons.

    Neurons are dropped at every token, BOS included, in all layers at once. Losses and kept neurons
    are counted without padding and first positions. Of each rule one run keeps everything, and
    gives the losses of the model as it is, bit for bit.

    Args:
        model: A causal language model whose MLPs are ungated relu or relu².
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.data.windows.cut` made of them.
        rules: Names of `arcee_lab.sparsity.sampled.selection_rules.RULES`; all by default.
        levels: For some rules, levels of your own. They are: for `top_k`, `top_norm`, `spark` and
            `random` the share of d_mlp to keep; for `fat` that share, over all layers together, on
            the untouched model; for `top_p` the share of Σ a; for `cett` the CETT of each layer.
        sample_tokens: Size of the sample; None takes 4,096, or all there are if fewer.
        batch_size: Windows per forward pass.
        context: Longest window in tokens; by default 1,024, or what the model can read if less.
        seed: Random seed of the order in which documents are drawn, and of `random`.
        progress: Whether to show a bar on stderr.

    Returns:
        The curves, with intervals over documents, critical sparsity and figures.

    Raises:
        ValueError: A gated MLP, no language-model head, an unknown rule, a level out of range,
            texts that hold too little, or NaN losses.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = ["The dogs near the gate bark .", "Nipu likes olives."]
        >>> curves = al.sparsity.truncation(model, tokenizer, texts, rules=["top_k"])
        >>> float(curves.frame()["delta_nll"][0])  # all neurons kept
        0.0
    """
    model = unwrap(model)
    sample = draw(model, tokenizer, texts, sample_tokens=sample_tokens, context=context, seed=seed)
    found = mlps(model)
    plan = _plan(model, sample, found, rules, levels, batch_size=batch_size, seed=seed)
    norms = torch.stack([mlp.write_norms().to(device_of(model)) for mlp in found])
    d_mlp = found[0].d_mlp
    untouched = Scores.zeros(sample.n_groups, device_of(model))
    scores = [Scores.zeros(sample.n_groups, device_of(model)) for _ in plan]
    kept = torch.zeros(len(plan), len(found), dtype=torch.int64, device=device_of(model))
    n_tokens = 0
    bar = progress_bar(total=len(plan) * sample.windows.n_tokens, unit="tok", show=progress)
    with bar:
        for batch in sample.batches(batch_size, device_of(model)):
            n_tokens += int(batch.counted.sum())
            clean = batch_logits(model, batch)
            add(untouched, batch, clean, clean)
            for run, (rule, _, parameters) in enumerate(plan):
                with truncating(
                    found, norms, rule, parameters, batch=batch, kept=kept[run], seed=seed
                ):
                    logits = batch_logits(model, batch)
                add(scores[run], batch, logits, clean)
                bar.update(int(batch.attention_mask.sum()))
    if not bool(untouched.nll.isfinite().all()):
        raise ModelError(
            "the model's own losses are NaN or infinite, so nothing can be compared with them; "
            "load it in float32, or check its weights."
        )
    return TruncationCurves(
        model=model_name(model),
        n_tokens=n_tokens,
        unit=sample.unit,
        seed=seed,
        d_mlp=d_mlp,
        rules=tuple(rule for rule, _, _ in plan),
        levels=tuple(level for _, level, _ in plan),
        parameters=torch.tensor(
            [p or [float("nan")] * len(found) for _, _, p in plan], dtype=torch.float64
        ),
        targets=untouched.targets.cpu(),
        nll_untouched=untouched.nll.cpu(),
        hits_untouched=untouched.hits.cpu(),
        nll=torch.stack([one.nll for one in scores]).cpu(),
        kl=torch.stack([one.kl for one in scores]).cpu(),
        hits=torch.stack([one.hits for one in scores]).cpu(),
        kept=kept.cpu(),
    )


Run = tuple[str, float, list[float] | None]  # rule, level, its parameter in each layer


def _plan(
    model: Any,
    sample: Sample,
    found: Sequence[Mlp],
    rules: Sequence[str] | None,
    levels: Mapping[str, Sequence[float]] | None,
    *,
    batch_size: int,
    seed: int,
) -> list[Run]:
    """The runs, each rule's from everything kept down to the fewest neurons."""
    rules = tuple(RULES) if rules is None else tuple(rules)
    unknown = [rule for rule in (*rules, *(levels or {})) if rule not in RULES]
    if unknown or not rules:
        raise SettingError(
            f"no rule is called {unknown[0]!r}; expected some of {', '.join(RULES)}."
            if unknown
            else f"rules is empty; expected some of {', '.join(RULES)}."
        )
    sizes = _sizes(model, sample, found, batch_size)
    firing = float(sizes.sum()) / (found[0].d_mlp * len(found) * _counted(sample))
    curves = None
    plan: list[Run] = []
    for rule in rules:
        given = _levels_of(rule, (levels or {}).get(rule), firing)
        plan.append((rule, KEEPS_ALL[rule], None))
        for level in given:
            if rule == "cett":
                curves = curves or measure_curves(model, sample, batch_size=batch_size, seed=seed)
                parameters = curves.eps_at(level).tolist()
            elif rule == "fat":
                parameters = [_eps_that_keeps(sizes, level / firing)] * len(found)
            else:
                parameters = [level] * len(found)
            plan.append((rule, level, parameters))
    return plan


def _levels_of(rule: str, given: Sequence[float] | None, firing: float) -> list[float]:
    if given is None:
        by_rule = {"top_p": _SHARES_OF_SUM, "cett": _CETT}
        shares = [part * firing for part in _OF_ACTIVE if part < 1 or rule != "fat"]
        given = by_rule.get(rule, [share for share in shares if share < 1])
    bad = [level for level in given if not is_real(level) or not 0 < level < 1]
    if bad:
        raise SettingError(f"level {bad[0]} of {rule}: expected shares between 0 and 1.")
    # All neurons kept is a run of its own, so the levels go from the most that is kept downwards.
    return sorted(given, reverse=rule != "cett")


def _counted(sample: Sample) -> int:
    batches = sample.windows.batches(64)
    return sum(int((b.attention_mask.bool() & ~b.first).sum()) for b in batches)


def _sizes(
    model: Any, sample: Sample, found: Sequence[Mlp], batch_size: int
) -> Float[Tensor, " bin"]:
    """How many activations of all layers are in each thirty-second of an octave."""
    edges = _edges(device_of(model))
    sizes = torch.zeros(len(edges) + 1, dtype=torch.int64, device=device_of(model))
    for batch in sample.batches(batch_size, device_of(model)):

        def see(layer: int, a: Tensor, u: Tensor, counted: Tensor = batch.counted) -> None:
            chosen = a[counted]
            active = chosen[chosen != 0].float()
            sizes.add_(torch.bucketize(active, edges).bincount(minlength=len(sizes)))

        with torch.no_grad(), at_down(found, see):
            model.base_model(**batch.inputs)
    return sizes.double()


def _edges(device: torch.device) -> Float[Tensor, " edge"]:
    low, high = _OCTAVES
    steps = torch.arange(_PER_OCTAVE * (high - low) + 1, device=device)
    return (low + steps / _PER_OCTAVE).exp2()


def _eps_that_keeps(sizes: Float[Tensor, " bin"], share: float) -> float:
    """The smallest threshold above which at most this share of the active neurons lie."""
    above = sizes.flip(0).cumsum(0).flip(0)[1:]  # edges[i] < a
    place = int((above > share * sizes.sum()).sum())
    edges = _edges(sizes.device)
    return float(edges[min(place, len(edges) - 1)])
