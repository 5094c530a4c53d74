"""`al.evals.run`: runs tasks one after the other, so that an interrupt keeps the finished ones."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.evaluator import evaluate
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.bootstrap import DRAWS
from arcee_lab.errors import Interrupted, NotWritten, SettingError, TaskFailed
from arcee_lab.evals.finished_tasks import FinishedTask, FinishedTasks, task_digest
from arcee_lab.evals.head_routing import Source, heads_needed
from arcee_lab.evals.intervened import InterventionsLike
from arcee_lab.evals.model import ArceeLab
from arcee_lab.evals.progress import counting_documents, document_count, without_lm_eval_bar
from arcee_lab.evals.result import Evaluation, Score, plain
from arcee_lab.evals.scores import group_scores, require_means, task_scores
from arcee_lab.evals.tasks.examples import Examples, examples_of, examples_set
from arcee_lab.evals.tasks.find import Data, LoadedTasks, loaded_tasks, quiet_lm_eval
from arcee_lab.model.fingerprint import model_fingerprint
from arcee_lab.runs import storage
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.one_writer import only_writer
from arcee_lab.runs.progress import progress_bar
from arcee_lab.runs.seeds import DEFAULT, Seeds, SeedsLike

BATCH_SIZE = 8
MOST_DRAWS = 1_000_000
UNFINISHED = "unfinished"  # the folder of finished tasks of a run that is not, below `out`


@checked
def run(
    model: str | os.PathLike | nn.Module | ArceeLab,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    tasks: str | os.PathLike | Iterable[str | os.PathLike] | LoadedTasks,
    interventions: InterventionsLike = None,
    heads: Mapping[str, Source] | None = None,
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
    the finished tasks; `partial.unfinished` names the others. A task that fails ends the run with
    `TaskFailed`, which names the task and holds the finished ones as `result`.

    Args:
        model: "demo", a folder, a Hub id, a model in memory, or an `ArceeLab`.
        tokenizer: For a model in memory.
        tasks: Names of tasks or groups, patterns, or paths of task files. A task file runs code:
            its `!function` and its Jinja templates. Or the result of `find_tasks`, to load the data
            once for several runs.
        interventions: Interventions such as `al.Ablate(...)`, or a file of them; they act on the LM
            and on every head. By default none, or those of the `ArceeLab`.
        heads: Checkpoints or models of heads that the model's checkpoint lacks, as `{"sequence":
            ..., "token": ..., "qa": ...}`.
        num_fewshot: Examples before each question; by default each task's own number. A task that
            sets 0 keeps it, as in lm-eval, and whole texts take none: a warning names each such
            task, and `settings` of the result records the number that was used.
        limit: Most documents per task; the first ones are used.
        include: Folders with further task files.
        data: A file in place of a task's own data, or files by task; see `find_tasks`.
        batch_size: Sequences per batch of generation and of heads (these read at least 8), by
            default 8; batches of the LM's log-likelihoods have a number of tokens instead.
        exact: Keep lm-eval's own arithmetic for log-likelihoods.
        device: "cpu", "cuda", ...; by default CUDA if it is available.
        dtype: Of the weights.
        draws: Of the bootstrap; at most 200 for a metric that is not a function of sums.
        seed: Random seeds of Python's `random`, numpy, torch and few-shot examples: four values in
            this order, or one for all. They are set before tasks are loaded and again before each
            task is scored, and the caller's generators are restored at the end. None leaves a
            generator unseeded. The bootstrap has its own generator, seeded with the first value.
        out: A folder for the files of `Evaluation.save`. Each finished task is saved below it, in
            `unfinished/`, until all is written: the same call resumes from there after an
            interrupt, a kill or a full disk.
        progress: Show one bar over all documents; by default in notebooks and terminals.

    Returns:
        Scores with intervals, and the samples; with `out` samples are plain JSON values.

    Raises:
        TaskError: A task is unknown, its file is broken, or its data or head is missing; raised
            before any forward.
        SettingError: An argument is out of range or would have no effect.
        TaskFailed: A task could not be scored: a label that the head lacks, a context window too
            small, an intervention whose condition no token of the task meets. Its `result` holds
            the tasks that were finished before.
        Interrupted: Ctrl-C was pressed; its `partial` holds the finished tasks.

    Example:
        >>> import arcee_lab as al
        >>> result = al.evals.run("demo", tasks="arcee_demo_sentiment", limit=8, progress=False)
        >>> result.score("arcee_demo_sentiment", "acc").n
        8
    """
    require_numbers(limit=limit, num_fewshot=num_fewshot, draws=draws)
    seeds = Seeds.read(seed)
    with seeds.acting(), modes_kept(model, *(heads or {}).values()):
        loaded = loaded_tasks(tasks, include=include, data=data, seeds=seeds)
        lm = as_lm(
            model,
            tokenizer,
            heads=heads,
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
    """Checks the numbers that decide how much is computed.

    Raises:
        SettingError: A number is out of range.
    """
    if limit is not None and limit < 1:
        raise SettingError(
            f"limit={limit}; expected at least 1 document per task, or None for all."
        )
    if num_fewshot is not None and num_fewshot < 0:
        raise SettingError(f"num_fewshot={num_fewshot}; expected 0 or more examples.")
    if not 1 <= draws <= MOST_DRAWS:
        raise SettingError(
            f"draws={draws}; expected from 1 to {MOST_DRAWS} draws of the bootstrap."
        )


@contextmanager
def modes_kept(*models: Any) -> Iterator[None]:
    """Restores the mode, training or not, of the given models and their parts."""
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
    """The model as an `ArceeLab`; a given `ArceeLab` keeps its own settings."""
    given = {name: value for name, value in settings.items() if value is not None}
    if not isinstance(model, ArceeLab):
        given.setdefault("batch_size", BATCH_SIZE)
        return ArceeLab(model, tokenizer, **given)
    if given or tokenizer is not None:
        names = ", ".join([*given, *(["tokenizer"] if tokenizer is not None else [])])
        raise SettingError(
            f"The model is already an ArceeLab; pass {names} to its constructor instead."
        )
    return model


def run_loaded(
    lm: ArceeLab,
    loaded: LoadedTasks,
    examples: Examples,
    *,
    limit: int | None,
    draws: int,
    seeds: Seeds,
    out: str | os.PathLike | None = None,
    progress: bool | None,
) -> Evaluation:
    """Runs loaded tasks, each from the same seeds; to be called inside `seeds.acting()`."""
    alone = nullcontext() if out is None else only_writer(out)
    with alone, examples_set(loaded["tasks"], examples, seed=seeds.fewshot):
        return _run(lm, loaded, limit=limit, draws=draws, seeds=seeds, out=out, progress=progress)


def _run(
    lm: ArceeLab,
    loaded: LoadedTasks,
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
    finished = None
    if out is not None:
        storage.remove_partial_files(Path(out))  # of an interrupted run
        finished = FinishedTasks(
            Path(out) / UNFINISHED, {"model": lm.identity(), "settings": settings}
        )
    for group in loaded.get("groups", {}).values():
        require_means(group)
    sizes = {name: document_count(task, limit) for name, task in loaded["tasks"].items()}
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
                done = _finished_task(lm, name, task, finished, limit, draws, bootstrap_seed, moved)
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
        scores += group_scores(group, scores, values)
    result = Evaluation(
        model=lm.name,
        scores=tuple(scores),
        samples=samples,
        info=lm.get_model_info(),
        settings=settings,
        seconds=seconds,
        unfinished=tuple(unfinished),
    )
    if isinstance(failure, NotWritten):
        raise failure  # its message is complete, and no task is the cause
    if out is not None and (samples or failure is None):
        result.save(storage.make_folder(Path(out)))
    if isinstance(failure, KeyboardInterrupt):
        # `from None`: a notebook would show where lm-eval was interrupted.
        raise Interrupted(_interruption(result, finished), partial=result) from None
    if isinstance(failure, Exception):
        raise _task_failed(unfinished[0], failure, result) from failure
    if finished is not None:
        finished.remove()
    return result


def _task_failed(task: str, error: Exception, result: Evaluation) -> TaskFailed:
    """An error that names the task; a note says where the finished tasks are."""
    reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
    head = f"Task {task!r}"
    failed = TaskFailed(reason if reason.startswith(head) else f"{head}: {reason}", result)
    if result.samples:
        done = ", ".join(result.samples)
        failed.add_note(f"The finished tasks ({done}) are in `result` of this error.")
    return failed


def _finished_task(
    lm: ArceeLab,
    name: str,
    task: Any,
    finished: FinishedTasks | None,
    limit: int | None,
    draws: int,
    seed: int,
    moved: tuple[Any, int],
) -> FinishedTask:
    """One task: as it was saved, or run and saved."""
    bar, size = moved
    of: list[Any] = []
    if finished is not None:
        heads = [head for _, head in heads_needed([task]) if head is not None]
        models = [model_fingerprint(one) for one in lm.models_for([task])] if heads else []
        of = [task_digest(task, limit), models]
        done = finished.read(name, of)
        if done is not None:
            for counter, more in done.cost.items():
                setattr(lm.cost, counter, getattr(lm.cost, counter) + more)
            bar.update(size)
            return done
    before = asdict(lm.cost)
    with quiet_lm_eval(), without_lm_eval_bar(), counting_documents(lm, bar, size):
        found: Any = evaluate(lm, {"tasks": {name: task}}, limit=limit, bootstrap_iters=0)
    samples = found["samples"][name]
    scores = list(task_scores(name, task, samples, found["results"][name], draws, seed))
    if finished is None:
        return FinishedTask(samples, scores, {})
    cost = {counter: value - before[counter] for counter, value in asdict(lm.cost).items()}
    done = FinishedTask(plain(samples), scores, cost)
    finished.write(name, of, done)
    return done


def _interruption(result: Evaluation, finished: FinishedTasks | None) -> str:
    """The message of an interrupt: which tasks are finished, where they are, how to resume."""
    done, left = result.samples, ", ".join(result.unfinished)
    if not done:
        return "interrupted with no task finished; repeat the call to start again."
    said = f"interrupted with {len(done)} of {len(done) + len(result.unfinished)} tasks finished"
    if finished is None:
        return (
            f"{said}: they are in `partial` of this error; run the others ({left}), or give "
            "out=FOLDER, which saves finished tasks so that the same call can resume."
        )
    return f"{said} and saved in {finished.folder}; repeat the same call or command to resume."
