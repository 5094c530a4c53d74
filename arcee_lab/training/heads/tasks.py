"""The field's data sets, read as `arcee-lab eval` reads them: `TASK:FILE`, or the Hub's splits."""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from arcee_lab.errors import TextError

_PREFIX = "arcee_"


def is_task(source: str) -> bool:
    """Whether a source names a task, even a misspelt one, and not a file or a data set."""
    from arcee_lab.evals.tasks.datasets.classification import BY_TASK

    name = source.partition(":")[0]
    if any(mark in name for mark in "./\\"):
        return False
    known = [*BY_TASK, *_squad()]
    return name.startswith(_PREFIX) or bool(get_close_matches(name, known, cutoff=0.8))


def task_file(source: str) -> Path | None:
    """The file of a task's source; a plain word without a dot is a split (`./train` is a file)."""
    rest = source.partition(":")[2]
    return Path(rest) if "." in rest or Path(rest).name != rest else None


def read_task(source: str, head: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with exactly the texts of the task, and the names of its labels.

    Args:
        source: `TASK:FILE` in the data set's own format, or `TASK[:SPLIT]` on the Hub, by default
            its train split.
        head: "sequence" or "token".

    Returns:
        Rows with `text` and `label`, or `text`, `tokens` and `tags`; and the names, in the order of
        the Hub's ids.

    Raises:
        TextError: There is no such task, it is for another head, or its data cannot be read.
    """
    from arcee_lab.evals.tasks.datasets.classification import BY_TASK

    name, _, split = source.partition(":")
    if name in _squad():
        raise TextError(
            f"Task {name!r} asks for spans of a context; expected one of the {head} head, or give "
            "head='qa' (--head qa)."
        )
    if name not in BY_TASK:
        raise _unknown(name, BY_TASK)
    task = BY_TASK[name]
    if task.head != head:
        raise TextError(
            f"Task {name!r} is one of the {task.head} head; expected one of the {head} head, or "
            f"give head={task.head!r} (--head {task.head})."
        )
    file = task_file(source)
    rows = task.documents(None if file is None else str(file), split=split or "train")
    if head == "token":
        rows = [{"text": r["text"], "tokens": r["words"], "tags": r["labels"]} for r in rows]
    return rows, list(task.names)


def read_questions(source: str) -> tuple[list[dict[str, Any]], bool]:
    """Rows of SQuAD's tasks in the Hub's columns, and whether a question may have no answer.

    Args:
        source: `TASK:FILE`, SQuAD's own JSON or Parquet with the Hub's columns, or `TASK[:SPLIT]`
            on the Hub, by default its train split.

    Raises:
        TextError: There is no such task, it is for another head, or its data cannot be read.
    """
    from arcee_lab.evals.tasks.datasets.classification import BY_TASK
    from arcee_lab.evals.tasks.datasets.source import read_rows

    name, _, split = source.partition(":")
    if name not in (tasks := _squad()):
        if name in BY_TASK:
            head = BY_TASK[name].head
            raise TextError(
                f"Task {name!r} is one of the {head} head; expected one of the qa head "
                f"({', '.join(tasks)}), or give head={head!r} (--head {head})."
            )
        raise _unknown(name, tasks)
    file = task_file(source)
    data = tasks[name]._replace(split=split or "train")
    return read_rows(data, None if file is None else str(file)), name.endswith("_v2")


def _squad() -> dict[str, Any]:
    """SQuAD's tasks, with where their data are."""
    from arcee_lab.evals.tasks.datasets import SQUAD, SQUAD_V2

    return {f"{_PREFIX}{one.name}": one for one in (SQUAD, SQUAD_V2)}


def _unknown(name: str, tasks: Iterable[str]) -> TextError:
    near = get_close_matches(name, tasks, n=3, cutoff=0.6) or tasks
    return TextError(
        f"There is no task {name!r} to fit a head on; nearest: {', '.join(near)} (the demo's own "
        "texts are 'demo')."
    )
