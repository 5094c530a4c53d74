"""lm-eval's own tasks by name, kept between runs: reading its 14,000 task files takes 10 seconds.

What is kept is only where each name is defined; the files themselves are read when a task is used.
It is valid as long as no task file of the installed lm-eval changed, in size or time.
"""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import lm_eval.tasks
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind, TaskIndex
from lm_eval.tasks._yaml_loader import load_yaml

from arcee_lab.errors import SavedDamaged
from arcee_lab.runs.storage import write_json

_ROOT = Path(lm_eval.tasks.__file__).parent
_LARGEST = 1 << 26  # bytes of the kept file; today's are 1.5 million
_log = logging.getLogger("lm_eval")


class KeptEntry(Entry):
    """An entry of lm-eval's index that reads its file only when its settings are needed."""

    _cfg: dict[str, Any] | None = None

    @property
    def cfg(self) -> dict[str, Any] | None:  # type: ignore[override]
        """The settings of the task file; None for a tag."""
        if self._cfg is None and self.yaml_path is not None:
            self._cfg = load_yaml(self.yaml_path, resolve_func=False, recursive=True)
        return self._cfg

    @cfg.setter
    def cfg(  # pyright: ignore[reportIncompatibleVariableOverride]
        self, value: dict[str, Any] | None
    ) -> None:
        self._cfg = value


def add_default_tasks(manager: TaskManager) -> None:
    """Adds lm-eval's own tasks to an index that was built without them; its own names win.

    Args:
        manager: Built with `include_defaults=False`.
    """
    index: dict[str, Entry] = dict(default_index())
    for name, entry in manager.task_index.items():
        if name in index:
            _log.warning(
                "Task '%s' from %s overrides existing task from %s",
                name,
                entry.yaml_path,
                index[name].yaml_path,
            )
        index[name] = entry
    manager._index = index
    kinds = {name: entry.kind for name, entry in index.items()}
    manager._all_tasks = sorted(index)
    manager._all_subtasks = sorted(
        name for name, kind in kinds.items() if kind in (Kind.TASK, Kind.PY_TASK)
    )
    manager._all_groups = sorted(name for name, kind in kinds.items() if kind is Kind.GROUP)
    manager._all_tags = sorted(name for name, kind in kinds.items() if kind is Kind.TAG)


def default_index() -> dict[str, Entry]:
    """lm-eval's own index, from the kept file if no task file changed since, else built and kept.

    A file that cannot be read or written costs only the time of building the index.
    """
    signature, kept = _signature(), _kept_file()
    try:
        if kept.stat().st_size <= _LARGEST:
            return _parse(json.loads(kept.read_bytes()), signature)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        pass  # none yet, of another lm-eval, or damaged
    index = TaskIndex.build([_ROOT])
    rows = [
        [
            name,
            entry.kind.name,
            None if entry.yaml_path is None else entry.yaml_path.relative_to(_ROOT).as_posix(),
            sorted(entry.tags),
        ]
        for name, entry in index.items()
    ]
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"signature": signature, "entries": rows})
    except OSError:
        _log.debug("The index of tasks cannot be kept in %s", kept)
    return index


def _kept_file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "arcee_lab" / "lm_eval_tasks.json"


def _signature() -> str:
    """A checksum of the path, size and time of every task file."""
    facts = hashlib.sha256(str(_ROOT).encode())
    for folder, _, files in sorted(os.walk(_ROOT)):
        for name in sorted(files):
            if name.endswith(".yaml"):
                path = os.path.join(folder, name)
                stat = os.stat(path)
                facts.update(f"{path}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return facts.hexdigest()


def _parse(value: Any, signature: str) -> dict[str, Entry]:
    """The entries of a kept file.

    Raises:
        SavedDamaged: It is of other task files, or not what `default_index` writes.
    """
    if value["signature"] != signature:
        raise SavedDamaged("the task files changed")
    index: dict[str, Entry] = {}
    for name, kind, path, tags in value["entries"]:
        if type(name) is not str or any(type(tag) is not str for tag in tags):
            raise SavedDamaged("a name is no text")
        # Only files of lm-eval: a task file can run code.
        whole = None if path is None else Path(os.path.normpath(_ROOT / path))
        if whole is not None and not whole.is_relative_to(_ROOT):
            raise SavedDamaged("a path leaves lm-eval's folder")
        if (whole is None) != (Kind[kind] is Kind.TAG):
            raise SavedDamaged("a task without a file")
        index[name] = KeptEntry(name, Kind[kind], whole, tags=set(tags))
    return index
