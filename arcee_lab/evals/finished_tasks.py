"""Tasks that are done, kept in a folder while a run goes on: what a killed one need not repeat."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.evals.result import Score, plain
from arcee_lab.runs import storage

VERSION = 1


@dataclass(frozen=True)
class Done:
    """What a task gave.

    Attributes:
        samples: What lm-eval logs of each document and filter, as JSON values.
        scores: Each metric with what redrawing its documents gives, for the means of groups.
        cost: What the run's counters rose by.
    """

    samples: list[dict[str, Any]]
    scores: list[tuple[Score, np.ndarray]]
    cost: dict[str, int]


class Keeping:
    """One file a task, whole or absent; a task is taken from there if all that it rests on agrees.

    Args:
        folder: Where; it is made when a task is done.
        identity: The model, its interventions and the settings of the run, as JSON values.
    """

    def __init__(self, folder: str | Path, identity: Mapping[str, Any]):
        self.folder = Path(folder)
        self._identity = plain(identity)

    def read(self, name: str, of: Any) -> Done | None:
        """A task that is done; None if it is not.

        Args:
            name: Of the task.
            of: What it asks, and of which models; as `write` was told.

        Raises:
            ValueError: The file is damaged, or of another run.
        """
        path = self._path(name)
        if not path.is_file():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            theirs = found["identity"]
            done = Done(
                list(found["samples"]),
                [
                    (Score(**score | {"members": ()}), np.array(drawn, dtype=float))
                    for score, drawn in found["scores"]
                ],
                {key: int(value) for key, value in found["cost"].items()},
            )
            if found["version"] != VERSION or not done.samples or found["task"] != name:
                raise SettingError("it is of another task or version")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise SettingError(
                f"{path} is damaged ({' '.join(str(error).split())}); remove it and repeat the "
                "same call or command: the task is run again."
            ) from error
        if [theirs, found.get("of")] != [self._identity, plain(of)]:
            raise SettingError(
                f"{path} is of another run: the model, the interventions, the settings or the "
                "task's data are others. Give another folder, or remove this one."
            )
        return done

    def write(self, name: str, of: Any, done: Done) -> None:
        """Keeps a task that is done."""
        told = {
            "version": VERSION,
            "task": name,
            "identity": self._identity,
            "of": plain(of),
            "samples": done.samples,
            "scores": [(asdict(score), drawn.tolist()) for score, drawn in done.scores],
            "cost": done.cost,
        }
        storage.make_folder(self.folder)
        # NaN may be among what redrawing gives; Python reads its own word for it.
        storage.write_atomic(self._path(name), json.dumps(told))

    def remove(self) -> None:
        """Removes what was kept; other files stay, and so does the folder then."""
        if not self.folder.is_dir():
            return
        for path in self.folder.glob("task-*.json"):
            path.unlink(missing_ok=True)
        if not any(self.folder.iterdir()):
            self.folder.rmdir()

    def _path(self, name: str) -> Path:
        told = "".join(one if one.isalnum() or one in "-_." else "-" for one in name)[:80]
        return self.folder / f"task-{told}-{_digest(name)[:8]}.json"


def asked_by(task: Any, limit: int | None) -> str:
    """A digest of what a task asks: its file's settings, its functions' code and its documents."""
    documents = list(task.eval_docs)[:limit]
    settings = dict(vars(task.config)) if hasattr(task.config, "__dict__") else task.config
    return _digest(json.dumps([_told(settings), _told(documents)], sort_keys=True))


def _told(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _told(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_told(one) for one in value]
    if isinstance(value, Callable):
        code = getattr(value, "__code__", None)
        name = getattr(value, "__qualname__", type(value).__name__)
        return [name, None if code is None else hashlib.sha256(code.co_code).hexdigest()]
    if value is None or isinstance(value, (str, int, float, bool)):
        return plain(value)
    return type(value).__name__  # an object's own text may hold its address


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
