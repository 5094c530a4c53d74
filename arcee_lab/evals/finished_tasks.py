"""Finished tasks, saved in a folder during a run, so that a resumed run need not repeat them."""

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType
from typing import Any

import numpy as np

from arcee_lab.errors import OtherRun, SavedDamaged
from arcee_lab.evals.files.plain_json import plain
from arcee_lab.evals.result import Score
from arcee_lab.evals.scoring.unscorable import SkippedDocument
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import read_json

VERSION = 3


@dataclass(frozen=True)
class FinishedTask:
    """What a task resulted in.

    Attributes:
        samples: What lm-eval logs for each document and filter, as JSON values.
        scores: Each metric with its bootstrap draws, which the means of groups need.
        cost: By how much the run's counters increased.
        facts: What lm-eval's results say of it besides its scores.
        skipped: Documents that could not be scored.
    """

    samples: list[dict[str, Any]]
    scores: list[tuple[Score, np.ndarray]]
    cost: dict[str, int]
    facts: dict[str, Any]
    skipped: list[SkippedDocument]


class FinishedTasks:
    """One file per task, whole or absent; it is reused if everything it depends on is the same.

    Args:
        folder: Where the files are; it is created when the first task is finished.
        identity: The model, its interventions and the settings of the run, as JSON values.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        self._identity = plain(identity)

    def read(self, name: str, of: Any) -> FinishedTask | None:
        """A finished task, or None.

        Args:
            name: The task.
            of: What the task depends on, its content and its models, as given to `write`.

        Raises:
            SavedDamaged: The file is damaged.
            OtherRun: The file belongs to another run.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            found = read_json(path)
            theirs = found["identity"]
            done = FinishedTask(
                list(found["samples"]),
                [
                    (Score(**score | {"members": (), "weights": ()}), np.array(drawn, dtype=float))
                    for score, drawn in found["scores"]
                ],
                {key: int(value) for key, value in found["cost"].items()},
                dict(found["facts"]),
                [SkippedDocument(**one) for one in found["skipped"]],
            )
            if found["version"] != VERSION or not done.samples or found["task"] != name:
                raise SavedDamaged("it is of another task or version")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SavedDamaged(
                f"{path} is damaged ({' '.join(str(error).split())}); remove it and repeat the "
                "same call or command, which runs the task again."
            ) from error
        if [theirs, found.get("of")] != [self._identity, plain(of)]:
            raise OtherRun(
                f"{path} belongs to another run with another model, interventions, settings or "
                "task data; give another folder, or remove this one."
            )
        return done

    def write(self, name: str, of: Any, done: FinishedTask) -> None:
        """Saves a finished task.

        Args:
            name: The task.
            of: What the task depends on: its content and its models.
            done: Its results.
        """
        content = {
            "version": VERSION,
            "task": name,
            "identity": self._identity,
            "of": plain(of),
            "samples": done.samples,
            "scores": [(asdict(score), drawn.tolist()) for score, drawn in done.scores],
            "cost": done.cost,
            "facts": plain(done.facts),
            "skipped": [one._asdict() for one in done.skipped],
        }
        storage.make_folder(self.folder)
        # The draws may hold NaN, which Python's json writes and reads.
        storage.write_atomic(self._path(name), json.dumps(content))

    def remove(self) -> None:
        """Removes the saved tasks, and the folder if nothing else is in it."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob("task-*.json"):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        readable = "".join(one if one.isalnum() or one in "-_." else "-" for one in name)[:80]
        return self.folder / f"task-{readable}-{_digest(name)[:8]}.json"


def task_digest(task: Any, limit: int | None) -> str:
    """A digest of a task: the settings of its file, the code of its functions, its documents."""
    documents = list(task.eval_docs)[:limit]
    settings = dict(vars(task.config)) if hasattr(task.config, "__dict__") else task.config
    return _digest(json.dumps([_hashable(settings), _hashable(documents)], sort_keys=True))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _hashable(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hashable(one) for one in value]
    if isinstance(value, Callable):
        code = getattr(inspect.unwrap(value), "__code__", None)
        name = getattr(value, "__qualname__", type(value).__name__)
        return [name, None if code is None else _code(code)]
    if value is None or isinstance(value, (str, int, float, bool)):
        return plain(value)
    return type(value).__name__  # the text of an object may contain its address


def _code(code: CodeType) -> list[Any]:
    """What a function does: its instructions, names and constants, and the file that it is in."""
    constants = [
        _code(one) if isinstance(one, CodeType) else _constant(one) for one in code.co_consts
    ]
    file = Path(code.co_filename)
    whole = storage.sha256(file) if file.is_file() else None  # for what the function calls
    instructions = hashlib.sha256(code.co_code).hexdigest()
    return [instructions, list(code.co_names), constants, whole]


def _constant(value: Any) -> Any:
    return sorted(map(repr, value)) if isinstance(value, frozenset) else repr(value)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
