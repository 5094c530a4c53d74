"""The call that measures: one pass over texts, then what needs forwards of its own."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcee_lab import ranks, storage
from arcee_lab.fingerprint import model_name
from arcee_lab.limits import windows_of
from arcee_lab.model.modeling import ArceeForCausalLM
from arcee_lab.model.unwrap import unwrap
from arcee_lab.sparsity import batches, registry
from arcee_lab.sparsity.analysis import Analysis, Shape
from arcee_lab.sparsity.cost import Weights
from arcee_lab.sparsity.mlps import Mlp, mlps
from arcee_lab.sparsity.report import SparsityReport
from arcee_lab.sparsity.stream import Pass
from arcee_lab.texts import Windows


def measure(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    analyses: Iterable[str] = ("all",),
    share: int | None = None,
    batch_size: int = 8,
    context: int | None = None,
    max_tokens: int | None = None,
    label: str | None = None,
    here: ranks.Ranks | None = None,
    resume: str | Path | None = None,
    progress: bool = False,
) -> SparsityReport:
    """Measures how sparse the MLPs of a model are, exactly, in one pass over texts.

    The core counts at every token: zeros, active neurons, firing rates, sizes, positions, token
    ids. The other analyses look at a share of the windows. Padding never counts. The first token of
    each window (BOS, where the tokenizer sets one) is counted apart: models treat it unlike any
    other.

    Args:
        model: An Arcee model, any head, or another model of ungated ReLU or ReLU² MLPs.
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.texts.cut` made of them.
        analyses: What to measure beside the core: names of `arcee_lab.sparsity.registry`, or
            "core" (nothing beside it), "all" (all that the pass can do), "further" (CETT and
            truncation curves, on samples of their own; the first rank alone does them).
        share: 1 window in so many is shown to the analyses beside the core, chosen by a checksum of
            its tokens; predictors are tried on 1 token in 16 of every fourth of these (below 256
            windows on 1 in 32 of each). 1 shows all windows, and all tokens to predictors. By
            default 8, or all windows where there are fewer than 64 (and all tokens to predictors,
            below 1,024).
        batch_size: Windows a forward.
        context: Longest window in tokens; by default 1024, or what the model can read if less.
        max_tokens: How many tokens to read, first positions included; None reads all.
        label: What the report is called beside others; the model's name, and the adapters that
            are active, by default.
        here: This process among those of a job; see `arcee_lab.ranks`. Every rank gives the same
            model and texts, and gets the report of all.
        resume: A file to save the state to every minute and to go on from after a kill. Ranks need
            one each.
        progress: Whether to show bars with tokens/s on stderr.

    Returns:
        The counts, with frames, figures and files.

    Raises:
        ValueError: Empty texts, a bad limit, fewer tokens than `max_tokens`, limits for windows
            that are cut already, nothing but first tokens or padding, an unknown analysis, a gated
            MLP, NaN activations, or a resume file of another run.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> report = al.sparsity.measure(model, tokenizer, ["The dogs near the gate bark ."])
        >>> report.n_tokens > 0
        True
    """
    names = registry.chosen(analyses)
    if resume is not None:
        storage.require_local(resume)
    inner: Any = unwrap(model)
    windows = windows_of(inner, tokenizer, texts, context=context, max_tokens=max_tokens)
    here = here or ranks.Ranks(0, 1, 0, inner.device)
    began = time.perf_counter()
    run = prepare(inner, windows, names, share=share, batch_size=batch_size)
    states = run.run(here, resume=None if resume is None else Path(resume), progress=progress)
    name = model_name(inner)
    report = SparsityReport(
        model=name,
        label=label or name,
        dtype=str(inner.dtype).removeprefix("torch."),
        device=str(inner.device),
        n_documents=windows.n_documents,
        n_windows=len(windows),
        share=run.plan.share,
        stride=run.plan.stride,
        n_shared=run.plan.shared_tokens,
        seconds=time.perf_counter() - began,
        costs=run.costs,
        weights=Weights.of(inner),
        norms=run.norms.cpu(),
        states=states,
    )
    assert (report.active.sum(1) == report.n_tokens).all(), "a layer was not counted in full"
    results, costs = {}, dict(report.costs)
    for name in names:
        if name in registry.FURTHER and here.first:
            began = time.perf_counter()
            analysis = registry.further(name)
            results[name] = analysis(
                inner, tokenizer, windows, batch_size=batch_size, progress=progress
            )
            costs[name] = time.perf_counter() - began
    return replace(report, further=results, costs=costs)


def prepare(
    model: Any, windows: Windows, names: Iterable[str], *, share: int | None, batch_size: int
) -> Pass:
    """The pass, ready to run: what it would hold and do can be read off it.

    Args:
        model: The model, outside of any wrapper.
        windows: The text.
        names: Analyses, as `registry.chosen` gives them.
        share: As for `measure`.
        batch_size: Windows a forward.

    Raises:
        ValueError: As `measure`.
    """
    plan = batches.plan(windows, batch_size=batch_size, share=share)
    found = mlps(model)
    shape = shape_of(model, found, windows)
    analyses: dict[str, Analysis] = {
        name: registry.streamed(name) for name in names if name in registry.STREAMED
    }
    if analyses and not plan.shared_tokens:
        raise ValueError(
            f"none of the {len(windows)} windows is in the share of 1 in {plan.share}; expected "
            "more text, or share=1, which takes them all"
        )
    if not isinstance(model, ArceeForCausalLM):
        analyses.pop("losses", None)  # a loss of the next token needs our language-model head
    with torch.no_grad():
        norms: Tensor = torch.stack([mlp.write_norms().to(model.device) for mlp in found])
    return Pass(model, found, plan, shape, analyses, norms)


def shape_of(model: Any, found: list[Mlp], windows: Windows) -> Shape:
    """What fixes the shapes of the states."""
    return Shape(
        layers=len(found),
        d_model=found[0].d_model,
        d_mlp=found[0].d_mlp,
        vocab=model.config.vocab_size,
        longest=int((windows.bounds[1:] - windows.bounds[:-1]).max()),
        tokens=windows.n_tokens,
    )
