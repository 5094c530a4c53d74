"""The call that measures: one pass over texts, then what needs forwards of its own."""

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import Windows
from arcee_lab.errors import Interrupted, SettingError
from arcee_lab.model.fingerprint import model_name
from arcee_lab.model.modeling import ArceeForCausalLM
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.results import Result
from arcee_lab.runs import ranks, storage
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.core.savings import Weights
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.report.report import SparsityReport
from arcee_lab.sparsity.sampled.mlps import Mlp, mlps
from arcee_lab.sparsity.streamed import resume_files, schedule
from arcee_lab.sparsity.streamed.analysis import Analysis
from arcee_lab.sparsity.streamed.runner import Pass
from arcee_lab.sparsity.streamed.schedule import Part


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
    keep_resume: bool = False,
    progress: bool | None = None,
) -> SparsityReport:
    """Measures how sparse the MLPs of a model are, exactly, in one pass over texts.

    The core counts at every token: zeros, active neurons, firing rates, sizes, positions, token
    ids. The other analyses look at a share of the windows. Padding never counts. The first token of
    each window (BOS, where the tokenizer sets one) is counted apart: models treat it unlike any
    other.

    Args:
        model: An Arcee model, any head, or another model of ungated ReLU or ReLU² MLPs.
        tokenizer: Its tokenizer.
        texts: Documents, or the windows that `arcee_lab.data.windows.cut` made of them.
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
        here: This process among those of a job; see `arcee_lab.runs.ranks`. Every rank gives the
        same
            model and texts, and gets the report of all.
        resume: A file to save the state to every minute and to go on from after a kill. Ranks need
            one each. What the analyses after the pass find is saved beside it, each as soon as it
            is there. Both are removed at the end.
        keep_resume: Leave them at the end too: for a caller that has yet to save the report, and
            then calls `arcee_lab.sparsity.streamed.resume_files.remove`.
        progress: Whether to show bars with tokens/s on stderr.

    Returns:
        The counts, with frames, figures and files.

    Raises:
        ValueError: Empty texts, a bad limit, fewer tokens than `max_tokens`, limits for windows
            that are cut already, nothing but first tokens or padding, an unknown analysis, a gated
            MLP, NaN activations, or a resume file that is damaged or of another run.
        Interrupted: Ctrl-C, or a notebook's stop button; its `partial` is the report over what was
            done. The first one lets the current forward end, a second one stops at once.

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
    run = prepare(inner, windows, names, share=share, batch_size=batch_size)
    file = None if resume is None else Path(resume)
    try:
        states = run.run(here, resume=file, progress=progress)
    except KeyboardInterrupt:
        raise _interrupted(run, label, here, file) from None
    report = _report(run, label, states, run.plan.part(range(len(run.plan.batches))))
    report = replace(report, n_documents=windows.n_documents)
    assert (report.active.sum(1) == report.n_tokens).all(), "a layer was not counted in full"
    if here.first:
        report = _further(run, report, tokenizer, names, batch_size, here, file, progress)
    if file is not None and not keep_resume:
        here.barrier()
        resume_files.remove(file)
    return report


def _report(run: Pass, label: str | None, states: dict[str, State], part: Part) -> SparsityReport:
    """The report of states that hold some batches, or all."""
    name = model_name(run.model)
    return SparsityReport(
        model=name,
        label=label or name,
        dtype=str(run.model.dtype).removeprefix("torch."),
        device=str(run.model.device),
        n_documents=part.documents,
        n_windows=part.windows,
        share=run.plan.share,
        stride=run.plan.stride,
        n_shared=part.shared,
        seconds=run.costs["pass"],
        costs=dict(run.costs),
        weights=Weights.of(run.model),
        norms=run.norms.cpu(),
        states=states,
    )


def _further(
    run: Pass,
    report: SparsityReport,
    tokenizer: Any,
    names: Iterable[str],
    batch_size: int,
    here: ranks.Ranks,
    resume: Path | None,
    progress: bool | None,
) -> SparsityReport:
    """The report with what the analyses after the pass find."""
    wanted = [name for name in names if name in registry.FURTHER]
    identity = run.identity(here) if wanted and resume is not None else {}
    found: tuple[dict[str, Result], dict[str, float]] = ({}, {})
    if identity and resume is not None:
        found = resume_files.read_further(resume, identity)
    results, costs = found
    for name in wanted:
        if name in results:
            continue
        began = time.perf_counter()
        try:
            result = registry.further(name)(
                run.model, tokenizer, run.plan.windows, batch_size=batch_size, progress=progress
            )
        except KeyboardInterrupt:
            done = ", ".join(["the pass", *results])
            raise Interrupted(
                f"stopped in {name}; done: {done}, of which .partial is the report. "
                f"{_go_on(resume)}",
                partial=replace(report, further=results, costs=dict(report.costs) | costs),
            ) from None
        results[name], costs[name] = result, time.perf_counter() - began
        if resume is not None:
            resume_files.write_further(resume, identity, results, costs)
    ordered = {name: results[name] for name in wanted}
    return replace(
        report,
        further=ordered,
        costs=dict(report.costs) | {name: costs[name] for name in ordered},
    )


def _interrupted(
    run: Pass, label: str | None, here: ranks.Ranks, resume: Path | None
) -> Interrupted:
    """What an interrupted pass leaves: a report over the forwards that are counted as a whole."""
    mine = here.share(range(len(run.plan.batches)))
    part, partial = run.plan.part(mine[: run.done]), None
    states = run.so_far() if run.whole and here.size == 1 and run.done else None
    # A second Ctrl-C may come between a forward and its count.
    if states is not None and int(states["core"]["tokens"][0]) == part.tokens > 0:
        whole = run.plan.windows.n_tokens - run.plan.part(range(len(run.plan.batches))).first
        name = f"{label}, " if label else ""
        partial = _report(run, f"{name}{part.tokens:,} of {whole:,} tokens", states, part)
    kept = "no report, since none is counted as a whole" if partial is None else "their report"
    return Interrupted(
        f"stopped after {run.done} of {len(mine)} forwards; .partial is {kept}. {_go_on(resume)}",
        partial=partial,
    )


def _go_on(resume: Path | None) -> str:
    if resume is None:
        return "Give resume=FILE, and the same call goes on where it was interrupted."
    return (
        f"The same call goes on from what {resume} holds."
        if resume.is_file()
        else (f"Nothing was saved to {resume} yet, so the same call starts anew.")
    )


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
    plan = schedule.plan(windows, batch_size=batch_size, share=share)
    found = mlps(model)
    shape = shape_of(model, found, windows)
    analyses: dict[str, Analysis] = {
        name: registry.streamed(name) for name in names if name in registry.STREAMED
    }
    if analyses and not plan.shared_tokens:
        raise SettingError(
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
