"""Documents that a task draws at random: once per task, and under seeds that are known.

lm-eval calls a task's `process_docs` whenever it looks at the documents: to build the requests, and
again to score the answers. Where that function draws (gpqa shuffles its choices with `random`) and
the data are in memory, the answers are scored by another order than was asked. Where they are on
disk, the `datasets` package keeps what was drawn first and gives it under every later seed.
"""

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import datasets
import numpy as np
import torch
from lm_eval.api.task import ConfigurableTask

from arcee_lab.errors import TaskError
from arcee_lab.runs.seeds import Seeds

_DRAWN = "_arcee_lab_seeds"  # on a task: the seeds under which its documents were drawn at random
_GIVEN = "_arcee_lab_given"  # on a `process_docs`: what it gave, by split


@contextmanager
def drawn_once(seeds: Seeds | None = None) -> Iterator[None]:
    """Has each task that is built inside draw its documents once.

    Args:
        seeds: From which each task begins, so that its documents do not depend on the tasks that
            were built before it. None leaves the generators as they are.
    """
    own = ConfigurableTask.__init__

    @wraps(own)  # lm-eval reads the signature
    def init(self: Any, *args: Any, **settings: Any) -> None:
        if isinstance(settings.get("config"), dict):
            settings["config"] = _config_once(settings["config"])
        if seeds is not None:
            seeds.apply()
        before = _states()
        with empty_choices():
            own(self, *args, **settings)
        keep_documents(self)
        if seeds is not None and _states() != before:
            setattr(self, _DRAWN, seeds)

    cached = datasets.is_caching_enabled()
    ConfigurableTask.__init__ = init  # type: ignore[method-assign]
    datasets.disable_caching()
    try:
        yield
    finally:
        ConfigurableTask.__init__ = own  # type: ignore[method-assign]
        if cached:
            datasets.enable_caching()


class _Choice(str):
    """An empty choice whose first character may be asked for."""

    def __getitem__(self, key: Any) -> str:
        return ""


@contextmanager
def empty_choices() -> Iterator[None]:
    """Lets a task be built whose first document has an empty choice.

    lm-eval looks at the first character of its choices. What becomes of the document is decided
    when its requests are scored; see `arcee_lab.evals.scoring.unscorable`.
    """
    own = ConfigurableTask.doc_to_choice

    @wraps(own)
    def choices(*args: Any, **settings: Any) -> Any:
        found = own(*args, **settings)
        return [one or _Choice() for one in found] if isinstance(found, list) else found

    ConfigurableTask.doc_to_choice = choices  # type: ignore[method-assign]
    try:
        yield
    finally:
        ConfigurableTask.doc_to_choice = own  # type: ignore[method-assign]


def keep_documents(task: Any) -> None:
    """Has a task that is built keep the documents it has; a second time does nothing."""
    process = getattr(task.config, "process_docs", None)
    if process is None or hasattr(process, _GIVEN):
        return
    kept = _once(process)
    split = task.config.test_split or task.config.validation_split
    if split is not None and hasattr(task, "task_docs"):
        getattr(kept, _GIVEN).append((task.dataset[split], task.task_docs))
    task.config.process_docs = kept


def require_seeds(tasks: Iterable[tuple[str, Any]], seeds: Seeds) -> None:
    """Checks that tasks which are loaded already ask what these seeds would have them ask.

    Raises:
        ValueError: The documents of one were drawn under other seeds.
    """
    wanted = (seeds.random, seeds.numpy, seeds.torch)
    for name, task in tasks:
        drawn: Seeds | None = getattr(task, _DRAWN, None)
        if drawn is not None and (drawn.random, drawn.numpy, drawn.torch) != wanted:
            raise TaskError(
                f"Task {name!r} drew its documents when it was loaded, under the seeds {drawn}; "
                f"got seed={seeds}, which would not change them. Load the task under that seed "
                "(find_tasks(..., seed=...)), or give its name."
            )


def _config_once(config: dict[str, Any]) -> dict[str, Any]:
    """A task's settings, with functions that draw documents once."""
    found = dict(config)
    if callable(found.get("process_docs")):
        found["process_docs"] = _once(found["process_docs"])
    shots = found.get("fewshot_config")
    if isinstance(shots, dict) and callable(shots.get("process_docs")):
        found["fewshot_config"] = shots | {"process_docs": _once(shots["process_docs"])}
    return found


def _once(process: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A `process_docs` that gives the same documents for the same split."""
    given: list[tuple[Any, Any]] = []

    @wraps(process)
    def documents(split: Any) -> Any:
        for seen, found in given:
            if seen is split:
                return found
        found = process(split)
        given.append((split, found))
        return found

    setattr(documents, _GIVEN, given)
    return documents


def _states() -> tuple[Any, ...]:
    """Where the generators stand; equal as long as nothing is drawn."""
    kind, keys, *place = np.random.get_state()
    cpu = torch.get_rng_state().numpy().tobytes()
    return random.getstate(), kind, np.asarray(keys).tobytes(), tuple(place), cpu
