"""A task of documents in memory, without a task file."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

from datasets import Dataset, DatasetDict
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks._yaml_loader import load_yaml

from arcee_lab.errors import TaskError
from arcee_lab.evals import metrics
from arcee_lab.evals.metrics._entities import are_entities
from arcee_lab.evals.tasks.drawing import empty_choices
from arcee_lab.evals.tasks.find import LoadedTasks, quiet_lm_eval, task_folder
from arcee_lab.evals.tasks.process_results import span_or_none_found, words_counted

_WORDS = ("token_acc",)  # scores of labels that name no entities
_NONE = ("em_answer", "f1_answer", "em_none")  # scores of questions that may have no answer


def task_of(
    name: str, head: str, documents: Sequence[Mapping[str, Any]], labels: Sequence[str]
) -> LoadedTasks:
    """Documents as a task, in the form that `al.evals.run` takes as `tasks=`.

    Args:
        name: Of the task.
        head: "sequence", "token" or "qa".
        documents: As the task files of that head have them; see `arcee_lab.evals`.
        labels: Of a sequence head: the choices, in the order of its labels. Of a token head: its
            labels, which decide whether entities are scored.

    Raises:
        TaskError: There is no document.
    """
    if not documents:
        raise TaskError(f"Task {name!r} has no documents; expected one or more.")
    rows = [dict(one) for one in documents]
    config: dict[str, Any] = load_yaml(
        task_folder() / "heads" / f"{head}.include", resolve_func=True, recursive=True
    )
    config |= {
        "task": name,
        "custom_dataset": lambda **_: DatasetDict({"test": Dataset.from_list(rows)}),
        "test_split": "test",
        "metadata": {"version": 1.0},
    }
    if head == "sequence":
        config["doc_to_choice"] = list(labels)
    if head == "token" and not are_entities(labels):
        config["process_results"] = words_counted
        config["metric_list"] = [_metric(one) for one in _WORDS]
    if head == "qa" and any(row["may_be_empty"] for row in rows):
        config["process_results"] = span_or_none_found
        config["metric_list"] = [*config["metric_list"], *(_metric(one) for one in _NONE)]
    with quiet_lm_eval(), empty_choices():
        task = ConfigurableTask(config=config)
    return cast(LoadedTasks, {"tasks": {name: task}, "groups": {}, "group_map": {}})


def _metric(name: str) -> dict[str, Any]:
    return {"metric": name, "aggregation": getattr(metrics, name), "higher_is_better": True}
