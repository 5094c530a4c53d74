"""Quality against sparsity: the same tasks at many levels; model and tasks are loaded once."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import pandas as pd
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.bootstrap import DRAWS
from arcee_lab.errors import (
    Interrupted,
    SettingError,
    TaskError,
    TaskFailed,
    UnknownName,
    WrongType,
)
from arcee_lab.evals.compared._compare import compare
from arcee_lab.evals.compared.comparison import LEVEL, Comparison, Difference
from arcee_lab.evals.head_routing import Source
from arcee_lab.evals.model import ArceeLab
from arcee_lab.evals.options.read import read_options, require_limit
from arcee_lab.evals.result import Evaluation
from arcee_lab.evals.run_tasks import run_loaded
from arcee_lab.evals.runner import as_lm, modes_kept, require_numbers
from arcee_lab.evals.sweep_levels import POST, Level, top_k
from arcee_lab.evals.tasks.examples import Examples, examples_of
from arcee_lab.evals.tasks.find import LoadedTasks, loaded_tasks
from arcee_lab.recording.capturing import capture
from arcee_lab.reducers import FiringRate
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.seeds import DEFAULT, Seeds, SeedsLike

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

CLEAN = Level("clean", "clean")
_COMPARED = {
    "difference": "difference",
    "difference_low": "low",
    "difference_high": "high",
    "p_holm": "p_holm",
}  # column -> field of a difference


@dataclass(frozen=True)
class Step:
    """One level of a sweep.

    Attributes:
        level: Its interventions.
        active: The fraction of MLP activations above 0, measured over the real tokens of the
            tasks, after the interventions, in all models that answered.
        tokens: Number of these tokens.
        evaluation: The scores.
    """

    level: Level
    active: float
    tokens: int
    evaluation: Evaluation


@dataclass(frozen=True, repr=False)
class Sweep(Result):
    """The result of `al.evals.sweep`.

    Attributes:
        model: Its name.
        steps: The clean run first, then the levels in their order.
    """

    model: str
    steps: tuple[Step, ...]

    @property
    def clean(self) -> Step:
        """The run without interventions."""
        return self.steps[0]

    @cached_property
    def comparison(self) -> Comparison:
        """Each level compared with the clean run, document by document; see `al.evals.compare`."""
        names = _names(self.steps)
        return compare(*(step.evaluation for step in self.steps), names=names, draws=DRAWS)

    def _differences(self) -> dict[tuple[str, str, str, str], Difference]:
        """The comparison by level, task, metric and filter; empty if nothing can be compared."""
        try:
            compared = self.comparison.differences
        except (TaskError, SettingError):  # a clean run alone, or only metrics of the tasks' own
            return {}
        return {(one.run, one.task, one.metric, one.filter): one for one in compared}

    def frame(self) -> pd.DataFrame:
        """One row per level, task and metric.

        Columns: family, level, active, n_tokens, the columns of `run`, and of all levels but the
        clean one `difference` from it with its paired interval, `difference_low` and
        `difference_high`, and `p_holm`.
        """
        frames = [
            step.evaluation.frame().assign(
                family=step.level.family,
                level=step.level.name,
                active=step.active,
                n_tokens=step.tokens,
            )
            for step in self.steps
        ]
        found = self._differences()
        names = _names(self.steps)
        for name, step, frame in zip(names[1:], self.steps[1:], frames[1:], strict=True):
            ones = [
                found.get((name, one.task, one.metric, one.filter))
                for one in step.evaluation.scores
            ]
            for column, part in _COMPARED.items():
                frame[column] = [
                    float("nan") if one is None else getattr(one, part) for one in ones
                ]
        whole = pd.concat(frames, ignore_index=True)
        first = ["family", "level", "active", "n_tokens"]
        others = [name for name in whole.columns if name not in first]
        return cast(pd.DataFrame, whole[first + others])

    def figure(self, metric: str | None = None, *, dark: bool = False) -> "Figure":
        """Quality against the measured active fraction: one curve per family, one panel per task.

        Args:
            metric: The metric to draw; by default the first of each task.
            dark: For a dark page.

        Raises:
            UnknownName: No task has the metric.
        """
        from arcee_lab.views.figures.quality import Curve, quality_panels

        clean = self.clean.evaluation.scores
        wanted: dict[str, str] = {}
        for score in clean:
            if metric in (None, score.metric):
                wanted.setdefault(score.task, score.metric)
        if not wanted:
            have = ", ".join(dict.fromkeys(score.metric for score in clean))
            raise UnknownName(f"No task has the metric {metric!r}; expected one of {have}.")
        panels = []
        for task, name in wanted.items():
            families: dict[str, list[tuple[float, float, float, float]]] = {}
            for step in self.steps:
                for one in step.evaluation.scores:
                    if (one.task, one.metric) == (task, name):
                        point = (step.active, one.value, one.low, one.high)
                        families.setdefault(step.level.family, []).append(point)
            curves = [Curve(family, sorted(points)) for family, points in families.items()]
            panels.append((f"{task}: {name}", curves))
        return quality_panels(
            panels,
            x="share of activations above 0",
            title=self._finding(list(wanted.items())),
            dark=dark,
        )

    def _finding(self, shown: Sequence[tuple[str, str]]) -> str:
        """How many levels differ clearly from the clean run in what is shown."""
        found = self._differences()
        names = _names(self.steps)[1:]
        changed = sum(
            any(
                one.p_holm < LEVEL
                for (run, task, metric, _), one in found.items()
                if run == name and (task, metric) in shown
            )
            for name in names
        )
        n = max((score.n for score in self.clean.evaluation.scores), default=0)
        return (
            f"{self.model}: {changed} of {counted(len(names), 'level')} of sparsity "
            f"{'differs' if changed == 1 else 'differ'} clearly from the clean run, in which "
            f"{self.clean.active:.1%} of activations are above 0 (N up to "
            f"{counted(n, 'document')})"
        )

    @property
    def headline(self) -> str:
        """What was run, in one sentence."""
        n = max((score.n for score in self.clean.evaluation.scores), default=0)
        return (
            f"{self.model}: {counted(len(self.steps) - 1, 'level')} after a clean run in which "
            f"{self.clean.active:.1%} of MLP activations are above 0; at most "
            f"{counted(n, 'document')} per score"
        )


def _names(steps: Sequence[Step]) -> list[str]:
    """A different name for each level."""
    plain = [f"{step.level.family}: {step.level.name}" for step in steps]
    return [
        f"{name} #{plain[:at].count(name) + 1}" if plain.count(name) > 1 else name
        for at, name in enumerate(plain)
    ]


@checked
def sweep(
    model: str | os.PathLike | nn.Module | ArceeLab,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    tasks: str | os.PathLike | Iterable[str | os.PathLike] | LoadedTasks,
    levels: Sequence[Level] | None = None,
    limit: int | None = None,
    num_fewshot: int | None = None,
    include: Sequence[str | os.PathLike] = (),
    heads: Mapping[str, Source] | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    seed: SeedsLike = DEFAULT,
    progress: bool | None = None,
) -> Sweep:
    """Runs tasks at many levels of intervention; the model and the tasks are loaded once.

    The clean run comes first. A level that changes no activation, such as `TopK` of the whole
    width, gives bit-identical scores. Ctrl-C ends the sweep with `Interrupted`, whose `partial`
    holds the finished levels.

    Args:
        model: As `al.evals.run` takes it.
        tokenizer: For a model in memory.
        tasks: As `al.evals.run` takes them.
        levels: From `arcee_lab.evals.sweep_levels` (`top_k`, `cett`, `by_layer`,
            `random_control`), or your own; by default `top_k`.
        limit: Documents per task.
        num_fewshot: Examples before each question, as for `al.evals.run`.
        include: Folders with further task files.
        heads: As `al.evals.run` takes them.
        batch_size: Sequences per batch of generation and heads, by default 8.
        device: "cpu", "cuda", ...
        dtype: Dtype of the weights.
        seed: As for `al.evals.run`; every level starts from the same seeds and uses the same
            documents, so that levels can be compared. For None, one seed is drawn for all levels.
        progress: Show one bar per level; by default in notebooks and terminals.

    Returns:
        A frame and a figure of quality against the measured active fraction.

    Raises:
        ArceeLabError: As `al.evals.run`.
        TaskFailed: As `al.evals.run`; its `result` holds the levels that were finished before.
        Interrupted: Ctrl-C was pressed; its `partial` is the `Sweep` of the finished levels.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> from arcee_lab.evals.sweep_levels import top_k
        >>> result = al.evals.sweep(
        ...     model, tokenizer, tasks="arcee_demo_agreement_0", levels=top_k(model, [896, 8]),
        ...     limit=8, progress=False,
        ... )
        >>> len(result.steps)
        3
    """
    if levels is not None and not all(isinstance(one, Level) for one in levels):
        raise WrongType(
            "levels hold something that is no Level; expected a list such as top_k(model) makes."
        )
    require_numbers(num_fewshot=num_fewshot, draws=DRAWS)
    require_limit(limit)
    asked = Seeds.read(seed)
    seeds = asked.settled()
    with seeds.acting(), modes_kept(model, *(heads or {}).values()):
        given = asked if isinstance(tasks, Mapping) else seeds  # what is loaded was seeded before
        loaded = loaded_tasks(tasks, include=include, seeds=given)
        lm = as_lm(
            model,
            tokenizer,
            heads=heads,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
        )
        chosen = top_k(lm.model) if levels is None else list(levels)
        lm.require_heads(loaded["tasks"].values())
        models = lm.models_for(loaded["tasks"].values())
        examples = examples_of(loaded["tasks"], num_fewshot)
        options = read_options(limit=limit)
        settings = {"options": options, "draws": DRAWS, "seeds": seeds, "progress": progress}
        return _steps(lm, models, loaded, examples, [CLEAN, *chosen], settings)


def _steps(
    lm: ArceeLab,
    models: Sequence[nn.Module],
    loaded: LoadedTasks,
    examples: Examples,
    levels: Sequence[Level],
    settings: dict[str, Any],
) -> Sweep:
    """Runs one level after the other."""
    before = lm.interventions
    steps: list[Step] = []
    level = CLEAN
    try:
        for level in levels:
            with _measured(models) as counts:
                lm.intervene(level.interventions)
                found = run_loaded(lm, loaded, examples, **settings)
            fired, cells, tokens = counts[0]
            steps.append(Step(level, fired / max(cells, 1), tokens, found))
    except KeyboardInterrupt:
        whole = Sweep(lm.name, tuple(steps)) if steps else None
        left = ", ".join(one.name for one in levels[len(steps) :])
        said = "they are in `partial` of this error" if steps else "nothing is kept"
        raise Interrupted(
            f"interrupted with {len(steps)} of {len(levels)} levels finished: {said}; to resume, "
            f"give the others ({left}) as levels=.",
            partial=whole,
        ) from None
    except TaskFailed as error:
        whole = Sweep(lm.name, tuple(steps))
        raise TaskFailed(f"Level {level.name!r}: {error}", whole) from error
    finally:
        lm.intervene(before)
    return Sweep(lm.name, tuple(steps))


@contextmanager
def _measured(models: Sequence[nn.Module]) -> Iterator[list[tuple[int, int, int]]]:
    """Counts active neurons and tokens while models run; the sums are there when it ends."""
    found: list[tuple[int, int, int]] = []
    with ExitStack() as stack:
        stats: list[Any] = [
            stack.enter_context(capture(one, {POST: FiringRate()})) for one in models
        ]
        yield found
    layers = [one[name] for one in stats for name in one]
    fired = sum(int(layer.fired.sum()) for layer in layers)
    cells = sum(layer.tokens * layer.fired.numel() for layer in layers)
    found.append((fired, cells, sum(one[next(iter(one))].tokens for one in stats)))
