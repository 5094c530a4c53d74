"""Sets options on lm-eval's tasks, as its own command does, and takes them off again."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from arcee_lab.errors import SettingError, TaskError
from arcee_lab.evals.head_routing import heads_needed
from arcee_lab.evals.options.read import EvalOptions

_METRICS = ("_metric_fn_list", "_aggregation_list", "_metric_fn_kwargs", "_higher_is_better")
_SETTINGS = ("generation_kwargs", "repeats", "metric_list", "process_results")
GENERATED = "generate_until"


def require_effect(
    tasks: Mapping[str, Any], options: EvalOptions, *, use_cache: Any = None
) -> None:
    """Checks that no option would be without effect, or change what a head reads.

    Args:
        tasks: By name.
        options: What was asked for.
        use_cache: The file of answers, if one was given.

    Raises:
        SettingError: No task generates, and settings of generation came; or heads' answers were to
            be kept.
        TaskError: A head's task was to be asked as a chat; a head reads its text as it is.
    """
    heads = {name: head for name, head in heads_needed(tasks.values()) if head is not None}
    if use_cache is not None and heads:
        raise SettingError(
            "use_cache identifies requests only by their text and would mix the answers of heads "
            f"with the LM's; leave it out for tasks of heads ({', '.join(heads)})."
        )
    generating = [
        name for name, task in tasks.items() if task.OUTPUT_TYPE == GENERATED and name not in heads
    ]
    for name, given in (("gen_kwargs", options.gen_kwargs), ("repeats", options.repeats)):
        if given and not generating:
            raise SettingError(
                f"{name}={given} has no effect: none of the tasks {', '.join(tasks)} generates "
                "text; leave it out."
            )
    for name, given in (
        ("apply_chat_template", options.apply_chat_template),
        ("system_instruction", options.system_instruction),
    ):
        if given and heads:
            task, head = next(iter(heads.items()))
            raise TaskError(
                f"Task {task!r} asks the {head} head, which reads the text alone; leave {name} "
                "out, or run this task without it."
            )


@contextmanager
def options_applied(tasks: Mapping[str, Any], options: EvalOptions) -> Iterator[None]:
    """Sets what lm-eval's command sets on tasks; they are as before at the end.

    Args:
        tasks: By name.
        options: What was asked for.
    """
    before = {
        name: (
            {key: task.get_config(key) for key in _SETTINGS},
            {key: getattr(task, key) for key in _METRICS if hasattr(task, key)},
        )
        for name, task in tasks.items()
    }
    try:
        for task in tasks.values():
            if task.OUTPUT_TYPE == GENERATED:
                own = copy.deepcopy(task.get_config("generation_kwargs") or {})
                task.set_config(key="generation_kwargs", value=own | dict(options.gen_kwargs))
                if options.repeats is not None:
                    task.set_config(key="repeats", value=options.repeats)
            if options.predict_only:
                task.override_metric(metric_name="bypass")
        yield
    finally:
        for name, task in tasks.items():
            settings, metrics = before[name]
            for key, value in settings.items():
                task.set_config(key=key, value=value)
            for key, value in metrics.items():
                setattr(task, key, value)
