"""The field's data sets, read as `arcee-lab eval` reads them: `TASK:FILE`, or the Hub's splits."""

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
    return name.startswith(_PREFIX) or bool(get_close_matches(name, BY_TASK, cutoff=0.8))


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
    from arcee_lab.evals.tasks.datasets import SQUAD, SQUAD_V2
    from arcee_lab.evals.tasks.datasets.classification import BY_TASK

    name, _, split = source.partition(":")
    if name in (f"{_PREFIX}{one.name}" for one in (SQUAD, SQUAD_V2)):
        raise TextError(
            f"Task {name!r} asks for spans of a context; expected one label per text or word, "
            "because QA heads cannot be fitted."
        )
    if name not in BY_TASK:
        near = get_close_matches(name, BY_TASK, n=3, cutoff=0.6) or BY_TASK
        raise TextError(
            f"There is no task {name!r} to fit a head on; nearest: {', '.join(near)} (the demo's "
            "own texts are 'demo')."
        )
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
