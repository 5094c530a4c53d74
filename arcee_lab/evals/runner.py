"""Runs tasks on a model: one after the other, so that an interrupt keeps what is done."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval.api.task
import numpy as np
from lm_eval.evaluator import evaluate
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.bootstrap import DRAWS, interval
from arcee_lab.errors import Interrupted, TaskError
from arcee_lab.evals.finished_tasks import Done, Keeping, asked_by
from arcee_lab.evals.head_routing import Source, heads_asked
from arcee_lab.evals.intervened import Values
from arcee_lab.evals.metrics.redrawn import redrawn
from arcee_lab.evals.model import ArceeLab
from arcee_lab.evals.result import Evaluation, Score, TaskFailed, plain
from arcee_lab.evals.tasks.examples import Examples, examples_of, examples_set
from arcee_lab.evals.tasks.find import Data, Loaded, loaded_tasks, quiet_lm_eval
from arcee_lab.model.fingerprint import model_fingerprint
from arcee_lab.runs import storage
from arcee_lab.runs.progress import progress_bar
from arcee_lab.runs.seeds import DEFAULT, Seeds, SeedsLike

BATCH_SIZE = 8
MOST_DRAWS = 1_000_000
UNFINISHED = "unfinished"  # the folder of tasks that are done, below `out`


def run(
    model: str | os.PathLike | nn.Module | ArceeLab,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    tasks: str | os.PathLike | Iterable[str | os.PathLike] | Loaded,
    interventions: Values = None,
    seqcls: Source | None = None,
    tokcls: Source | None = None,
    qa: Source | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    include: Sequence[str | os.PathLike] = (),
    data: Data = None,
    batch_size: int | None = None,
    exact: bool = False,
    device: str | None = None,
    dtype: str | None = None,
    draws: int = DRAWS,
    seed: SeedsLike = DEFAULT,
    out: str | os.PathLike | None = None,
    progress: bool | None = None,
) -> Evaluation:
    """Evaluates a model on lm-eval tasks, its LM head and its classification heads alike.

    Ctrl-C (or the notebook's stop button) ends the run with `Interrupted`, whose `partial` holds
    the tasks that are done; its `unfinished` names the others. A task that fails ends it too, with
    an error that names the task and keeps the same as its `result`.

    Args:
        model: "demo", a folder, a Hub id, a model in memory, or an `ArceeLab`.
        tokenizer: For a model in memory.
        tasks: Names of tasks or groups, patterns, or paths of task files. A task file runs code:
            its `!function` and its Jinja templates. Or what `find_tasks` gave, to load the data
            once for several runs.
        interventions: Values such as `al.Ablate(...)`, or a file of them; they act on the LM and
            on every head. By default none, or those that an `ArceeLab` has.
        seqcls: The sequence head, if it is not in the model's checkpoint: a checkpoint or a model.
        tokcls: The same for the token head.
        qa: The same for the QA head.
        num_fewshot: Examples before each question; by default what each task says. A task that
            sets 0 keeps it, as in lm-eval, and whole texts take none: a warning names each such
            task, and `settings` of the result has the number that was used.
        limit: Documents per task, from its start.
        include: Folders with further task files.
        data: A file in place of a task's own data, or files by task; see `find_tasks`.
        batch_size: Sequences per batch of generation and of heads (these read at least 8), by
            default 8; the LM's log-likelihoods go by a number of tokens instead.
        exact: Keep lm-eval's own arithmetic for log-likelihoods.
        device: "cpu", "cuda", ...; by default CUDA where it is.
        dtype: Of the weights.
        draws: Of the bootstrap; at most 200 where a metric is no function of sums.
        seed: Of Python's `random`, numpy, torch and few-shot examples: four values in this order,
            or one for all. They are set before tasks are loaded and again before each task is
            scored, and the caller's generators are put back at the end. None leaves a generator
            alone. The bootstrap has a generator of its own, with the first of the four.
        out: A folder for what `Evaluation.save` writes. Each task that is done is kept below it, in
            `unfinished/`, until all is written: the same call goes on from there after an
            interrupt, a kill or a full disk.
        progress: Show one bar over all documents.

    Returns:
        Scores with intervals, and the samples; with `out` samples are plain JSON values.

    Raises:
        ValueError: For an unknown task, a broken task file, missing data, a missing head, or an
            argument that would have no effect, before any forward.
        TaskFailed: A ValueError, for a task that could not be scored: a label that the head lacks,
            a context window too small, an intervention whose condition no token of the task meets.
            Its `result` holds the tasks that were done before.
        Interrupted: A KeyboardInterrupt, for Ctrl-C; its `partial` holds the same.

    Example:
        >>> import arcee_lab as al
        >>> result = al.evals.run("demo", tasks="arcee_demo_sentiment", limit=8, progress=False)
        >>> result.score("arcee_demo_sentiment", "acc").n
        8
    """
    require_numbers(limit=limit, num_fewshot=num_fewshot, draws=draws)
    seeds = Seeds.read(seed)
    with seeds.acting(), modes_kept(model, seqcls, tokcls, qa):
        loaded = loaded_tasks(tasks, include=include, data=data, seeds=seeds)
        lm = as_lm(
            model,
            tokenizer,
            seqcls=seqcls,
            tokcls=tokcls,
            qa=qa,
            exact=exact or None,
            batch_size=batch_size,
            device=device,
            dtype=dtype,
        )
        if interventions is not None:
            lm.intervene(interventions)
        lm.require_heads(loaded["tasks"].values())
        examples = examples_of(loaded["tasks"], num_fewshot)
        return run_loaded(
            lm,
            loaded,
            examples,
            limit=limit,
            draws=draws,
            seeds=seeds,
            out=out,
            progress=progress,
        )


def require_numbers(*, limit: int | None, num_fewshot: int | None, draws: int) -> None:
    """Checks what decides how much is done.

    Raises:
        ValueError: A number is out of its range.
    """
    if limit is not None and limit < 1:
        raise TaskError(f"limit={limit}; expected at least 1 document per task, or None for all.")
    if num_fewshot is not None and num_fewshot < 0:
        raise TaskError(f"num_fewshot={num_fewshot}; expected 0 or more examples.")
    if not 1 <= draws <= MOST_DRAWS:
        raise TaskError(f"draws={draws}; expected from 1 to {MOST_DRAWS} draws of the bootstrap.")


@contextmanager
def modes_kept(*models: Any) -> Iterator[None]:
    """Puts models that were given back into the mode, training or not, in which they came."""
    parts = [part for one in models if isinstance(one, nn.Module) for part in one.modules()]
    modes = [part.training for part in parts]
    try:
        yield
    finally:
        for part, mode in zip(parts, modes, strict=True):
            part.training = mode


def as_lm(
    model: str | os.PathLike | nn.Module | ArceeLab,
    tokenizer: PreTrainedTokenizerBase | None,
    **settings: Any,
) -> ArceeLab:
    """The model as lm-eval calls it; one that is given as such keeps its own settings."""
    given = {name: value for name, value in settings.items() if value is not None}
    if not isinstance(model, ArceeLab):
        given.setdefault("batch_size", BATCH_SIZE)
        return ArceeLab(model, tokenizer, **given)
    if given or tokenizer is not None:
        names = ", ".join([*given, *(["tokenizer"] if tokenizer is not None else [])])
        raise TaskError(
            f"{names} came with a model that is an ArceeLab already; give it to ArceeLab(...)."
        )
    return model


def run_loaded(
    lm: ArceeLab,
    loaded: Loaded,
    examples: Examples,
    *,
    limit: int | None,
    draws: int,
    seeds: Seeds,
    out: str | os.PathLike | None = None,
    progress: bool | None,
) -> Evaluation:
    """Runs tasks that are loaded, each from the same seeds. Call it inside `seeds.acting()`."""
    with examples_set(loaded["tasks"], examples, seed=seeds.fewshot):
        return _run(lm, loaded, limit=limit, draws=draws, seeds=seeds, out=out, progress=progress)


def _run(
    lm: ArceeLab,
    loaded: Loaded,
    *,
    limit: int | None,
    draws: int,
    seeds: Seeds,
    out: str | os.PathLike | None,
    progress: bool | None,
) -> Evaluation:
    bootstrap_seed = seeds.random or 0
    settings = {
        "num_fewshot": {k: t.get_config("num_fewshot") for k, t in loaded["tasks"].items()},
        "limit": limit,
        "seeds": asdict(seeds),
        "bootstrap": {"draws": draws, "seed": bootstrap_seed},
    }
    keeping = None
    if out is not None:
        storage.remove_partial_files(Path(out))  # of a run that was killed
        keeping = Keeping(Path(out) / UNFINISHED, {"model": lm.identity(), "settings": settings})
    for group in loaded.get("groups", {}).values():
        _require_means(group)
    sizes = {name: _documents(task, limit) for name, task in loaded["tasks"].items()}
    scores: list[Score] = []
    values: dict[tuple[str, str, str], np.ndarray] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    unfinished: list[str] = []
    failure: BaseException | None = None
    start = time.perf_counter()
    with progress_bar(total=sum(sizes.values()), unit="doc", show=progress) as bar:
        for name, task in loaded["tasks"].items():
            if unfinished:
                unfinished.append(name)
                continue
            bar.set_description(name)
            seeds.apply()  # so that a task's answers do not depend on those before it
            try:
                moved = bar, sizes[name]
                done = _done(lm, name, task, keeping, limit, draws, bootstrap_seed, moved)
            # Whatever it is, the tasks that are done are kept.
            except (Exception, KeyboardInterrupt) as error:
                failure = error
                unfinished.append(name)
                continue
            finally:
                task._instances = None  # else a later run of the same task would add to them
            samples[name] = done.samples
            for score, drawn in done.scores:
                scores.append(score)
                values[name, score.metric, score.filter] = drawn
    seconds = time.perf_counter() - start
    for group in loaded.get("groups", {}).values():
        scores += _group_scores(group, scores, values)
    result = Evaluation(
        model=lm.name,
        scores=tuple(scores),
        samples=samples,
        info=lm.get_model_info(),
        settings=settings,
        seconds=seconds,
        unfinished=tuple(unfinished),
    )
    if isinstance(failure, storage.NotWritten):
        raise failure  # it says so itself; no task is to blame
    if out is not None and (samples or failure is None):
        result.save(storage.make_folder(Path(out)))
    if isinstance(failure, KeyboardInterrupt):
        # Not from the interrupt: a notebook would show where in lm-eval it was.
        raise Interrupted(_kept(result, keeping), partial=result) from None
    if isinstance(failure, Exception):
        raise TaskFailed.of(unfinished[0], failure, result) from failure
    if keeping is not None:
        keeping.remove()
    return result


def _done(
    lm: ArceeLab,
    name: str,
    task: Any,
    keeping: Keeping | None,
    limit: int | None,
    draws: int,
    seed: int,
    moved: tuple[Any, int],
) -> Done:
    """One task: as it was kept, or run and kept."""
    bar, size = moved
    of: list[Any] = []
    if keeping is not None:
        heads = [head for _, head in heads_asked([task]) if head is not None]
        models = [model_fingerprint(one) for one in lm.models_for([task])] if heads else []
        of = [asked_by(task, limit), models]
        done = keeping.read(name, of)
        if done is not None:
            for counter, more in done.cost.items():
                setattr(lm.cost, counter, getattr(lm.cost, counter) + more)
            bar.update(size)
            return done
    before = asdict(lm.cost)
    with quiet_lm_eval(), _one_bar(), _counted(lm, bar, size):
        found: Any = evaluate(lm, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0)
    samples = found["samples"][name]
    scores = list(_scores(name, task, samples, found["results"][name], draws, seed))
    if keeping is None:
        return Done(samples, scores, {})
    cost = {counter: value - before[counter] for counter, value in asdict(lm.cost).items()}
    done = Done(plain(samples), scores, cost)
    keeping.write(name, of, done)
    return done


def _kept(result: Evaluation, keeping: Keeping | None) -> str:
    """What an interrupt says: which tasks are done, where they are, and how to go on."""
    done, left = list(result.samples), ", ".join(result.unfinished)
    if not done:
        return f"interrupted in the first task, {left}; no task is done, so repeat from the start."
    told = f"interrupted with {len(done)} of {len(done) + len(result.unfinished)} tasks done"
    if keeping is None:
        return (
            f"{told}: they are in `partial` of this error; left are {left}. Run those, or give "
            "out=FOLDER, where tasks that are done are kept for the same call to go on."
        )
    return f"{told}, which are whole in {keeping.folder}; repeat the same call or command to go on."


def _documents(task: Any, limit: int | None) -> int:
    whole = len(task.eval_docs)
    return whole if limit is None else min(whole, limit)


@contextmanager
def _one_bar() -> Iterator[None]:
    """Holds back the bar that lm-eval draws for each task while it builds requests."""
    own = lm_eval.api.task.tqdm
    lm_eval.api.task.tqdm = partial(own, disable=True)
    try:
        yield
    finally:
        lm_eval.api.task.tqdm = own


@contextmanager
def _counted(lm: ArceeLab, bar: Any, documents: int) -> Iterator[None]:
    """Lets the model's requests move the bar, in documents."""
    before = bar.n

    def begin(total: int) -> Callable[[float], None]:
        done = 0.0

        def advance(requests: int | float) -> None:
            nonlocal done
            done += requests
            # Requests of several kinds would count a document more than once.
            there = before + min(documents, round(documents * done / max(total, 1)))
            bar.update(there - bar.n)

        return advance

    lm.bar = begin
    try:
        yield
    finally:
        lm.bar = None
    bar.update(before + documents - bar.n)


def _scores(
    name: str,
    task: Any,
    samples: list[dict[str, Any]],
    results: dict[str, Any],
    draws: int,
    seed: int,
) -> Iterator[tuple[Score, np.ndarray]]:
    """Each metric of a task, with what redrawing its documents gives."""
    ceilings = (task.get_config("metadata") or {}).get("ceilings") or {}
    better = task.higher_is_better() or {}
    for filter_name in dict.fromkeys(sample["filter"] for sample in samples):
        mine = [sample for sample in samples if sample["filter"] == filter_name]
        for metric in mine[0]["metrics"]:
            value = results.get(f"{metric},{filter_name}")
            if not isinstance(value, (int, float, np.number)):
                continue  # lm-eval has no number for it either
            items = [sample[metric] for sample in mine]
            drawn = redrawn(task.aggregation()[metric], items, draws=draws, seed=seed)
            given = ceilings.get(metric)
            ceiling: Any = given() if callable(given) else given
            low, high = interval(drawn).tolist()
            yield (
                Score(
                    task=name,
                    metric=metric,
                    filter=filter_name,
                    value=float(value),
                    low=low,
                    high=high,
                    n=len(items),
                    ceiling=None if ceiling is None else float(ceiling),
                    higher_is_better=better.get(metric),
                ),
                drawn,
            )


def _require_means(group: Any) -> None:
    """Before any task is run: an error at the end would cost all of them."""
    if any(wanted.aggregation != "mean" for wanted in group.aggregate_metric_list or ()):
        raise TaskError(
            f"Group {group.name!r} aggregates by a function of its own; expected 'mean'."
        )


def _group_scores(
    group: Any, scores: Sequence[Score], values: dict[tuple[str, str, str], np.ndarray]
) -> list[Score]:
    """A group's mean over its tasks, as its file asks for it, with documents redrawn in each."""
    names = {task.config.task for task in group.get_all_tasks()}
    found = []
    for wanted in group.aggregate_metric_list or ():
        mine = [
            s for s in scores if s.task in names and s.metric == wanted.metric and not s.members
        ]
        for filter_name in wanted.filter_list or dict.fromkeys(score.filter for score in mine):
            members = [score for score in mine if score.filter == filter_name]
            if not members:
                continue
            weights = np.array([s.n if wanted.weight_by_size else 1 for s in members], dtype=float)
            weights /= weights.sum()
            drawn = [values[s.task, s.metric, s.filter] for s in members]
            together = weights @ np.stack([d[: min(map(len, drawn))] for d in drawn])
            low, high = interval(together).tolist()
            found.append(
                Score(
                    task=group.name,
                    metric=wanted.metric,
                    filter=filter_name,
                    value=float(weights @ [score.value for score in members]),
                    low=low,
                    high=high,
                    n=sum(score.n for score in members),
                    ceiling=None
                    if None in (best := [score.ceiling for score in members])
                    else float(weights @ np.array(best, dtype=float)),
                    higher_is_better=members[0].higher_is_better,
                    members=tuple(score.task for score in members),
                )
            )
    return found
