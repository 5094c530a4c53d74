"""How many few-shot examples each task gets: what was asked for, or what the task insists on."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lm_eval.api.samplers import ContextSampler

from arcee_lab.errors import TaskError

_log = logging.getLogger("arcee_lab")
Examples = Mapping[str, int]  # examples before each question, by task


def examples_of(tasks: Mapping[str, Any], wanted: int | None) -> Examples:
    """The number for each task, by lm-eval's rule; where it is not `wanted`, a warning says so.

    A task that sets 0 keeps it, and a whole text gets no examples whatever is asked for.

    Args:
        tasks: By name.
        wanted: What was asked for; None asks for each task's own number.

    Raises:
        ValueError: A task has too few documents to take examples from.
    """
    return {name: _number(name, task, wanted) for name, task in tasks.items()}


def _number(name: str, task: Any, wanted: int | None) -> int:
    own = task.get_config("num_fewshot")
    whole_texts = task.OUTPUT_TYPE == "loglikelihood_rolling"
    if wanted is None:
        return 0 if whole_texts else own or 0
    if whole_texts or own == 0:
        if wanted:
            why = "scores whole texts, which take none" if whole_texts else "sets num_fewshot: 0"
            _log.warning(
                "Task %r %s: it gets 0 examples, and num_fewshot=%d is not used", name, why, wanted
            )
        return 0
    sampler = getattr(task, "sampler", None)
    if wanted and isinstance(sampler, ContextSampler):
        pool = len(sampler.fewshot_indices or sampler.df)
        # lm-eval draws one more where the question itself may be among them.
        room = pool - (task.fewshot_cfg.split == task.config.test_split)
        if wanted > room:
            raise TaskError(
                f"Task {name!r} has {room} documents to take examples from; got "
                f"num_fewshot={wanted}, expected {room} or fewer."
            )
    return wanted


@contextmanager
def examples_set(
    tasks: Mapping[str, Any], examples: Examples, *, seed: int | None
) -> Iterator[None]:
    """Sets each task's number, and the seed of the draw; each has its own number after it.

    Args:
        tasks: By name.
        examples: The numbers.
        seed: None draws from the system's entropy, as in lm-eval.
    """
    own = {name: task.get_config("num_fewshot") for name, task in tasks.items()}
    try:
        for name, task in tasks.items():
            task.set_config(key="num_fewshot", value=examples[name])
            task.set_fewshot_seed(seed=seed)
        yield
    finally:
        for name, task in tasks.items():
            task.set_config(key="num_fewshot", value=own[name])
