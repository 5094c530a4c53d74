"""Runs loaded tasks one after the other, so that an interrupt or a failure keeps what is done."""

import os
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lm_eval.evaluator import evaluate
from lm_eval.utils import hash_string

from arcee_lab.errors import Interrupted, NotWritten, TaskError, TaskFailed
from arcee_lab.evals.files.lm_eval_shape import group_facts, run_facts, task_facts
from arcee_lab.evals.files.plain_json import plain
from arcee_lab.evals.finished_tasks import FinishedTask, FinishedTasks, task_digest
from arcee_lab.evals.head_routing import heads_needed
from arcee_lab.evals.model import ArceeLab
from arcee_lab.evals.options.answer_cache import answers_cached
from arcee_lab.evals.options.applied import options_applied
from arcee_lab.evals.options.prompt_cache import prompts_built
from arcee_lab.evals.options.read import EvalOptions, documents_asked
from arcee_lab.evals.progress import counting_documents, without_lm_eval_bar
from arcee_lab.evals.result import Evaluation, Score
from arcee_lab.evals.scores import group_scores, require_means, task_scores
from arcee_lab.evals.scoring.unscorable import (
    SkippedDocument,
    documents_left_out,
    skipped_documents,
)
from arcee_lab.evals.tasks.examples import Examples, examples_set
from arcee_lab.evals.tasks.find import LoadedTasks, quiet_lm_eval
from arcee_lab.model.fingerprint import model_fingerprint
from arcee_lab.runs import storage
from arcee_lab.runs.one_writer import only_writer
from arcee_lab.runs.progress import progress_bar
from arcee_lab.runs.seeds import Seeds

UNFINISHED = "unfinished"  # the folder of finished tasks of a run that is not, below `out`


def run_loaded(
    lm: ArceeLab,
    loaded: LoadedTasks,
    examples: Examples,
    *,
    options: EvalOptions,
    draws: int,
    seeds: Seeds,
    out: str | os.PathLike | None = None,
    use_cache: str | os.PathLike | None = None,
    progress: bool | None,
) -> Evaluation:
    """Runs loaded tasks, each from the same seeds; to be called inside `seeds.acting()`."""
    marked = lm.marks_unscorable
    alone = nullcontext() if out is None else only_writer(out)
    with (
        alone,
        examples_set(loaded["tasks"], examples, seed=seeds.fewshot),
        options_applied(loaded["tasks"], options),
        prompts_built(write_out=options.write_out, delete=options.cache_requests == "delete"),
        answers_cached(lm, use_cache) as asked,
    ):
        lm.marks_unscorable = not options.strict
        try:
            return _run(
                lm,
                asked,
                loaded,
                options=options,
                draws=draws,
                seeds=seeds,
                out=out,
                use_cache=None if use_cache is None else os.fspath(use_cache),
                progress=progress,
            )
        finally:
            lm.marks_unscorable = marked


def _run(
    lm: ArceeLab,
    asked: Any,
    loaded: LoadedTasks,
    *,
    options: EvalOptions,
    draws: int,
    seeds: Seeds,
    out: str | os.PathLike | None,
    use_cache: str | None,
    progress: bool | None,
) -> Evaluation:
    bootstrap_seed = seeds.random or 0
    template = lm.chat_template(options.apply_chat_template)
    settings = {
        "num_fewshot": {k: t.get_config("num_fewshot") for k, t in loaded["tasks"].items()},
        "limit": options.limit,
        "seeds": asdict(seeds),
        "bootstrap": {"draws": draws, "seed": bootstrap_seed},
        **options.recorded(),
        "chat_template_sha": None if template is None else hash_string(template),
    }
    finished = None
    if out is not None:
        storage.remove_partial_files(Path(out))  # of an interrupted run
        finished = FinishedTasks(
            Path(out) / UNFINISHED, {"model": lm.identity(), "settings": settings}
        )
    for group in loaded.get("groups", {}).values():
        require_means(group)
    sizes = {name: documents_asked(task, options) for name, task in loaded["tasks"].items()}
    scores: list[Score] = []
    values: dict[tuple[str, str, str], np.ndarray] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    unfinished: list[str] = []
    skipped: list[SkippedDocument] = []
    tasks: dict[str, Any] = {}
    failure: BaseException | None = None
    started, start = time.time(), time.perf_counter()
    with progress_bar(total=sum(sizes.values()), unit="doc", show=progress) as bar:
        for name, task in loaded["tasks"].items():
            if unfinished:
                unfinished.append(name)
                continue
            bar.set_description(name)
            seeds.apply()  # so that a task's answers do not depend on those before it
            try:
                moved = bar, sizes[name]
                bootstrap = draws, bootstrap_seed
                done = _finished_task(lm, asked, name, task, finished, options, bootstrap, moved)
            # Whatever it is, the tasks that are done are kept.
            except (Exception, KeyboardInterrupt) as error:
                failure = error
                unfinished.append(name)
                continue
            finally:
                task._instances = None  # else a later run of the same task would add to them
            samples[name] = done.samples
            tasks[name] = done.facts
            skipped += done.skipped
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
        skipped=tuple(skipped),
        facts={
            "tasks": tasks,
            "groups": group_facts(loaded.get("groups", {})),
            "run": run_facts(
                lm,
                settings=settings,
                chat_template=template,
                started=started,
                seconds=seconds,
                use_cache=use_cache,
            ),
        },
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
    asked: Any,
    name: str,
    task: Any,
    finished: FinishedTasks | None,
    options: EvalOptions,
    bootstrap: tuple[int, int],
    moved: tuple[Any, int],
) -> FinishedTask:
    """One task: as it was saved, or run and saved."""
    bar, size = moved
    numbers = (options.samples or {}).get(name)
    of: list[Any] = []
    if finished is not None:
        heads = [head for _, head in heads_needed([task]) if head is not None]
        models = [model_fingerprint(one) for one in lm.models_for([task])] if heads else []
        of = [task_digest(task, size if numbers is None else None), models]
        done = finished.read(name, of)
        if done is not None:
            for counter, more in done.cost.items():
                setattr(lm.cost, counter, getattr(lm.cost, counter) + more)
            bar.update(size)
            return done
    before = asdict(lm.cost)
    with (
        quiet_lm_eval(),
        without_lm_eval_bar(),
        counting_documents(lm, bar, size),
        documents_left_out([task]),
    ):
        found: Any = evaluate(asked, {"tasks": {name: task}}, bootstrap_iters=0, **options.asked())
        skipped = skipped_documents(name, task.instances, numbers)
    samples = found["samples"][name]
    if not samples:
        raise TaskError(
            f"none of its {size} documents can be scored (document {skipped[0].doc_id}: "
            f"{skipped[0].reason}); expected one or more. {_advice(skipped[0].reason)}"
        )
    results, gone = found["results"][name], len(skipped)
    scores = list(task_scores(name, task, samples, results, *bootstrap, skipped=gone))
    facts = task_facts(found, name)
    if finished is None:
        return FinishedTask(samples, scores, {}, facts, skipped)
    cost = {counter: value - before[counter] for counter, value in asdict(lm.cost).items()}
    done = FinishedTask(plain(samples), scores, cost, plain(facts), skipped)
    finished.write(name, of, done)
    return done


def _advice(reason: str) -> str:
    """What mends a task of which no document can be scored."""
    if "context window" in reason:
        return "Cut its documents, or give a model or max_length with a longer context."
    return "Check its doc_to_target and choices."


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
