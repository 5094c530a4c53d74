"""Finds tasks by name, group, pattern or YAML path; what lm-eval skips in silence is an error.

A task file runs code: `!function` calls that of the file next to it or of an installed package, and
its Jinja templates are evaluated without a sandbox. Only name files that you would run.
"""

import glob
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, cast

import yaml
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from arcee_lab.errors import TaskError, WrongType
from arcee_lab.evals.tasks.default_index import add_default_tasks
from arcee_lab.evals.tasks.drawing import drawn_once, keep_documents, require_seeds
from arcee_lab.evals.tasks.names import require_known, unknown_task
from arcee_lab.runs.seeds import DEFAULT, Seeds, SeedsLike

LoadedTasks = dict[str, dict[str, Any]]
Data = str | os.PathLike | Mapping[str, str | os.PathLike] | None
_PACKAGED = Path(__file__).parents[1] / "library"  # where a wheel puts the task files
_CHECKOUT = Path(__file__).parents[3] / "evals"


def task_folder() -> Path:
    """Where our own task files are: in the wheel, or in the checkout."""
    return _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT


def find_tasks(
    names: str | os.PathLike | Iterable[str | os.PathLike],
    *,
    include: Sequence[str | os.PathLike] = (),
    data: Data = None,
    seed: SeedsLike = DEFAULT,
) -> LoadedTasks:
    """Loads tasks with their data.

    Names of ours and of `include` are looked up first; lm-eval's own thousands are indexed only
    when a name is not among them, since that takes seconds.

    Args:
        names: Names of tasks, groups or tags, patterns with `*`, or paths of task files.
        include: Folders with further task files; a name there goes before ours.
        data: A file in place of a task's own data, for tasks that read one (those of the field's
            data sets), or such files by the name of the task.
        seed: From which each task begins, for those that draw documents or shuffle choices; as
            `al.evals.run` takes it. The caller's generators are left as they were.

    Returns:
        As lm-eval has it: "tasks" by name, "groups" by name, "group_map".

    Raises:
        ValueError: A name is unknown, a file is broken, a task's data cannot be had, or `seed` is
            no seed.
    """
    seeds = Seeds.read(seed)
    asked = [names] if isinstance(names, (str, os.PathLike)) else list(names)
    for one in asked:
        if not isinstance(one, (str, os.PathLike)):
            raise WrongType(f"tasks holds {one!r}; expected names of tasks, or paths of files.")
    manager, specs, _ = _look_up([os.fspath(name) for name in asked], include, data)
    if isinstance(data, Mapping) and not any(spec.endswith(".yaml") for spec in specs):
        for name in data:  # before any data are fetched
            if name not in manager.task_index:
                raise _not_asked_for(name, specs)
    built = []
    with seeds.acting(), drawn_once(seeds), quiet_lm_eval():
        for spec in dict.fromkeys(specs):
            seeds.apply()  # a file may draw as soon as it is read
            built.append(_load(spec, manager))
    loaded: LoadedTasks = {"tasks": {}, "groups": {}, "group_map": {}}
    for one in built:
        for part in loaded:
            loaded[part] |= one.get(part, {})
    _require_readers(data, loaded["tasks"])
    return loaded


def loaded_tasks(
    tasks: LoadedTasks | str | os.PathLike | Iterable[str | os.PathLike],
    *,
    include: Sequence[str | os.PathLike],
    data: Data = None,
    seeds: Seeds,
) -> LoadedTasks:
    """What `find_tasks` gave already, or gives for these names.

    Raises:
        ValueError: As `find_tasks`; or what is said about loading came with tasks that are loaded.
    """
    if not isinstance(tasks, Mapping):
        return find_tasks(tasks, include=include, data=data, seed=seeds)
    if include or data is not None:
        late = "include" if include else "data"
        raise TaskError(
            f"{late}= came with tasks that are loaded already; give it to find_tasks(...), or give "
            "the names of the tasks."
        )
    loaded = cast(LoadedTasks, tasks)
    require_seeds(loaded["tasks"].items(), seeds)
    for task in loaded["tasks"].values():
        keep_documents(task)  # where lm-eval itself loaded them
    return loaded


def check_names(names: Sequence[str], *, include: Sequence[str | os.PathLike] = ()) -> bool:
    """Checks that tasks are there, without loading them.

    Returns:
        Whether all are ours or of `include`, so that lm-eval's own need no index.

    Raises:
        ValueError: As `find_tasks`, for names and files.
    """
    return _look_up(names, include)[2]


def _look_up(
    names: Sequence[str], include: Sequence[str | os.PathLike], data: Data = None
) -> tuple[TaskManager, list[str], bool]:
    """An index, the names and paths that are meant, and whether lm-eval's own are left out."""
    asked = [part for name in names for part in name.split(",") if part]
    if not asked:
        raise TaskError("No task was named; expected e.g. tasks=['arcee_all'].")
    folders = [task_folder(), *map(Path, include)]
    for folder in folders:
        _require_readable(folder)
    paths = {name: _files(name) for name in asked}
    where: list[str | Path] = [str(folder) for folder in folders]
    told = _told(data)
    manager = TaskManager(include_path=where, include_defaults=False, metadata=told)
    ours = all(paths[name] or _complete(name, manager) for name in asked)
    if not ours:
        for name in asked:
            if not paths[name] and not _complete(name, manager):
                require_known(name, manager.all_tasks)
        add_default_tasks(manager)
    specs: list[str] = []
    for name in asked:
        specs += paths[name] or _matching(name, manager)
    return manager, specs, ours


def _told(data: Data) -> dict[str, Any] | None:
    """What lm-eval hands on to a task's function that makes its data."""
    if data is None:
        return None
    if isinstance(data, Mapping):
        return {"data": {name: os.fspath(file) for name, file in data.items()}}
    return {"data": os.fspath(data)}


def _not_asked_for(name: str, asked: Iterable[str]) -> TaskError:
    return TaskError(
        f"data names the task {name!r}, which is not among those that were asked for: "
        f"{', '.join(asked)}."
    )


def _require_readers(data: Data, tasks: Mapping[str, Any]) -> None:
    """Checks that files given in place of data are read by a task.

    Raises:
        ValueError: One is not.
    """
    if data is None:
        return
    readers = [name for name, task in tasks.items() if _reads_file(task.config.custom_dataset)]
    if not isinstance(data, Mapping):
        if not readers:
            raise TaskError(
                f"data={os.fspath(data)!r} is read by none of the tasks {', '.join(tasks)}; leave "
                "it out, or ask for one of the field's data sets (see docs/how-to/evals.md)."
            )
        return
    for name in data:
        if name not in tasks:
            raise _not_asked_for(name, tasks)
        if name not in readers:
            raise TaskError(
                f"data names the task {name!r}, which reads no file; leave it out (see "
                "docs/how-to/evals.md for those that do)."
            )


def _reads_file(make: Any) -> bool:
    """Whether what makes a task's data takes `data`; of a stranger's `**` we cannot know."""
    if not callable(make):
        return False
    told = signature(make).parameters
    ours = getattr(make, "__module__", "").startswith("arcee_lab.")
    return "data" in told or (not ours and any(p.kind == p.VAR_KEYWORD for p in told.values()))


@contextmanager
def quiet_lm_eval() -> Iterator[None]:
    """Holds back lm-eval's remarks on settings; errors are raised, not logged."""
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def _files(name: str) -> list[str]:
    """The task files that a path or a pattern of paths names."""
    if not name.endswith(".yaml"):
        return []
    found = sorted(glob.glob(os.path.expanduser(name)))
    if not found:
        raise TaskError(
            f"There is no task file {name!r} (from {Path.cwd()}); expected a path to a .yaml file."
        )
    for file in found:
        _read(Path(file))
    return [str(Path(file).resolve()) for file in found]


def _matching(name: str, manager: TaskManager) -> list[str]:
    found = manager.match_tasks([name])
    if not found:
        raise unknown_task(name, manager.all_tasks)
    return found


def _complete(name: str, manager: TaskManager) -> bool:
    """Whether a name, and all that its group holds, is known without lm-eval's own tasks."""
    found = manager.match_tasks([name])
    return bool(found) and all(_known(one, manager, set()) for one in found)


def _known(name: str, manager: TaskManager, seen: set[str]) -> bool:
    entry = manager.task_index.get(name)
    if entry is None:
        return False
    if name in seen:
        return True
    members = entry.cfg.get("task") if entry.cfg and "group" in entry.cfg else None
    for member in members if isinstance(members, list) else ():
        child = member if isinstance(member, str) else member.get("task") or member.get("group")
        inline = isinstance(member, dict) and not isinstance(child, str)
        if not inline and not _known(str(child), manager, seen | {name}):
            return False
    return True


def _require_readable(folder: Path) -> None:
    if not folder.is_dir():
        raise TaskError(f"There is no folder {str(folder)!r} with task files.")
    for file in sorted(folder.glob("**/*.yaml")):
        _read(file)


def _read(file: Path) -> None:
    """Checks a task file as far as lm-eval's index would have skipped it without a word.

    Raises:
        ValueError: It is no YAML, names an absent file in `include`, or is neither task nor group.
    """
    try:
        settings = load_yaml(file, resolve_func=False, recursive=True)
    except (yaml.YAMLError, OSError, ValueError, TypeError) as error:
        raise TaskError(
            f"The task file {file} is broken: {' '.join(str(error).split())}."
        ) from error
    shared = file.name.startswith("_")  # what others include
    if not shared and not {"task", "group", "class"} & set(settings or ()):
        raise TaskError(
            f"The task file {file} has neither `task:` nor `group:`; expected one of them (or a "
            "name that begins with _, for a file that others include)."
        )


def _load(spec: str, manager: TaskManager) -> LoadedTasks:
    try:
        return manager.load(spec)  # type: ignore[return-value]
    # A task file runs code of its own and fetches data, so anything can be raised here.
    except Exception as error:
        # Ours name the task and say what to do, also where a path or a group was asked for.
        if isinstance(error, ValueError) and str(error).startswith("Task '"):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TaskError(
            f"Task {spec!r} could not be loaded ({type(error).__name__}): {reason} Check its data "
            "(a path, the network, HF_HUB_OFFLINE) and its functions."
        ) from error
