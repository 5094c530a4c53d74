"""A measurement in two steps: plan it, see what it will take, run it."""

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
from arcee_lab.model.wrappers.offloaded import device_of
from arcee_lab.model.wrappers.unwrap import unwrap
from arcee_lab.results import Result
from arcee_lab.runs import storage
from arcee_lab.runs.ranks import Ranks
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.core.savings import Weights
from arcee_lab.sparsity.core.state import Shape, State
from arcee_lab.sparsity.report.report import SparsityReport
from arcee_lab.sparsity.run_estimate import PassEstimate, estimate
from arcee_lab.sparsity.sampled.mlps import Mlp, mlps
from arcee_lab.sparsity.streamed import resume_files, schedule
from arcee_lab.sparsity.streamed.analysis import Analysis
from arcee_lab.sparsity.streamed.runner import Pass
from arcee_lab.sparsity.streamed.schedule import PassPart


class MeasureJob:
    """A measurement whose texts are read and whose forward passes are planned.

    Args:
        model: As for `arcee_lab.sparsity.measure`, like all others.
        tokenizer: Its tokenizer.
        texts: Documents or windows.
        analyses: What to measure.
        sample_every: Shows every Nth window to the analyses other than the core.
        batch_size: Windows per forward pass.
        context: Longest window in tokens.
        max_tokens: How many tokens to read.
        role: Whose tokens of conversations count.
        seed: Of the samples that the further analyses draw.

    Attributes:
        planned: The pass, not started yet.
        further: Names of the analyses that follow it.

    Raises:
        ValueError: As `measure`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        texts: Iterable[str] | Windows,
        *,
        analyses: Iterable[str] = ("all",),
        sample_every: int | None = None,
        batch_size: int = 8,
        context: int | None = None,
        max_tokens: int | None = None,
        role: str | None = None,
        seed: int = 0,
    ):
        names = registry.chosen(analyses)
        inner: Any = unwrap(model)
        windows = windows_of(
            inner, tokenizer, texts, context=context, max_tokens=max_tokens, role=role
        )
        self.planned = plan_pass(
            inner, windows, names, sample_every=sample_every, batch_size=batch_size
        )
        self.further = tuple(name for name in names if name in registry.FURTHER)
        if self.further and windows.chosen is not None:
            raise SettingError(
                f"the tokens of one role are counted in the pass, and {self.further[0]} reads "
                "whole windows after it; leave role out, or that analysis."
            )
        self._tokenizer = tokenizer
        self._batch_size = batch_size
        self._seed = seed
        self._started = False

    def estimate(self, *, processes: int = 1) -> PassEstimate:
        """What the measurement will take; runs one forward pass twice.

        Args:
            processes: Ranks that share the work.
        """
        return estimate(self.planned, further=self.further, processes=processes)

    def run(
        self,
        *,
        label: str | None = None,
        ranks: Ranks | None = None,
        resume: str | Path | None = None,
        keep_resume: bool = False,
        progress: bool | None = None,
    ) -> SparsityReport:
        """Measures, once; the arguments are those of `arcee_lab.sparsity.measure`.

        Raises:
            ValueError: As `measure`, or the job was run before.
            Interrupted: As `measure`.
        """
        if self._started:
            raise SettingError("This job was run before; make another one to measure again.")
        if resume is not None:
            storage.require_local(resume)
        self._started = True
        run = self.planned
        ranks = ranks or Ranks(0, 1, 0, device_of(run.model))
        file = None if resume is None else Path(resume)
        try:
            states = run.run(ranks, resume=file, progress=progress)
        except KeyboardInterrupt:
            raise _interrupted(run, label, ranks, file) from None
        report = _report(run, label, states, run.plan.part(range(len(run.plan.batches))))
        report = replace(report, n_documents=run.plan.windows.n_documents)
        assert (report.active.sum(1) == report.n_tokens).all(), "a layer was not counted in full"
        if ranks.first:
            report = self._with_further(report, ranks, file, progress)
        if file is not None and not keep_resume:
            ranks.barrier()
            resume_files.remove(file)
        return report

    def _with_further(
        self,
        report: SparsityReport,
        ranks: Ranks,
        resume: Path | None,
        progress: bool | None,
    ) -> SparsityReport:
        """The report with what the analyses after the pass find."""
        run, wanted = self.planned, self.further
        identity: dict[str, Any] = {}
        if wanted and resume is not None:
            identity = run.identity(ranks) | {"seed": self._seed}
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
                    run.model,
                    self._tokenizer,
                    run.plan.windows,
                    batch_size=self._batch_size,
                    seed=self._seed,
                    progress=progress,
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


def _report(
    run: Pass, label: str | None, states: dict[str, State], part: PassPart
) -> SparsityReport:
    """The report of states that hold some batches, or all."""
    name = model_name(run.model)
    return SparsityReport(
        model=name,
        label=label or name,
        dtype=str(run.model.dtype).removeprefix("torch."),
        device=str(device_of(run.model)),
        n_documents=part.documents,
        n_windows=part.windows,
        sample_every=run.plan.sample_every,
        stride=run.plan.stride,
        n_sampled=part.sampled,
        seconds=run.costs["pass"],
        costs=dict(run.costs),
        weights=Weights.from_model(run.model),
        norms=run.norms.cpu(),
        states=states,
    )


def _interrupted(run: Pass, label: str | None, ranks: Ranks, resume: Path | None) -> Interrupted:
    """What an interrupted pass leaves: a report over the forwards that are counted as a whole."""
    mine = ranks.share(range(len(run.plan.batches)))
    part, partial = run.plan.part(mine[: run.done]), None
    states = run.so_far() if run.whole and ranks.size == 1 and run.done else None
    # A second Ctrl-C may come between a forward and its count.
    if states is not None and int(states["core"]["tokens"][0]) == part.tokens > 0:
        whole = run.plan.part(range(len(run.plan.batches))).tokens
        name = f"{label}, " if label else ""
        partial = _report(run, f"{name}{part.tokens:,} of {whole:,} tokens", states, part)
    kept = "no report, since none is counted as a whole" if partial is None else "their report"
    return Interrupted(
        f"stopped after {run.done} of {len(mine)} forward passes; .partial is {kept}. "
        f"{_go_on(resume)}",
        partial=partial,
    )


def _go_on(resume: Path | None) -> str:
    if resume is None:
        return "Give resume=FILE, and the same call resumes where it was interrupted."
    return (
        f"The same call resumes from what {resume} holds."
        if resume.is_file()
        else (
            f"Nothing was saved to {resume} yet, so the same call starts again from the beginning."
        )
    )


def plan_pass(
    model: Any, windows: Windows, names: Iterable[str], *, sample_every: int | None, batch_size: int
) -> Pass:
    """The pass, ready to run: what it would hold and do can be read off it.

    Args:
        model: The model, outside of any wrapper.
        windows: The text.
        names: Analyses, as `registry.chosen` gives them.
        sample_every: As for `measure`.
        batch_size: Windows per forward pass.

    Raises:
        ValueError: As `measure`.
    """
    plan = schedule.plan(windows, batch_size=batch_size, sample_every=sample_every)
    found = mlps(model)
    shape = state_shape(model, found, windows)
    analyses: dict[str, Analysis] = {
        name: registry.streamed(name) for name in names if name in registry.STREAMED
    }
    if analyses and not plan.sampled_tokens:
        raise SettingError(
            f"none of the {len(windows)} windows is sampled at "
            f"sample_every={plan.sample_every}; pass more text, or sample_every=1 for all of them."
        )
    if not isinstance(model, ArceeForCausalLM):
        analyses.pop("losses", None)  # a loss of the next token needs our language-model head
    with torch.no_grad():
        norms: Tensor = torch.stack([mlp.write_norms().to(device_of(model)) for mlp in found])
    return Pass(model, found, plan, shape, analyses, norms)


def state_shape(model: Any, found: list[Mlp], windows: Windows) -> Shape:
    """What fixes the shapes of the states."""
    return Shape(
        layers=len(found),
        d_model=found[0].d_model,
        d_mlp=found[0].d_mlp,
        vocab=model.config.vocab_size,
        longest=int((windows.bounds[1:] - windows.bounds[:-1]).max()),
        tokens=windows.n_tokens,
    )
