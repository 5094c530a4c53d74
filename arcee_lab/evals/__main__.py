"""`python -m arcee_lab.evals run ...`: lm-eval's own command and flags, and our tasks by name.

It differs from `lm-eval` in five things: the model is `arcee-lab` unless `--model` says another,
our tasks and groups are found by name from any folder, a broken task file or an unknown task is one
line and exit code 2, lm-eval's own task files are indexed only when one is asked for, and a task
draws its documents once (see `arcee_lab.evals.tasks.drawing`). A task file runs code: its
`!function` and its Jinja templates.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval import tasks
from lm_eval._cli import HarnessCLI
from lm_eval.utils import setup_logging

from arcee_lab.evals.lm_eval_registry import NAME
from arcee_lab.evals.tasks.default_index import add_default_tasks
from arcee_lab.evals.tasks.drawing import drawn_once
from arcee_lab.evals.tasks.find import check_names, task_folder
from arcee_lab.runs.seeds import DEFAULT, Seeds


def main(words: Sequence[str] | None = None) -> int:
    """Runs lm-eval's command line.

    Args:
        words: The words after `python -m arcee_lab.evals`; the process's own by default.

    Returns:
        The exit code: 0 done, 2 bad input.
    """
    words = list(sys.argv[1:] if words is None else words)
    if words and words[0] not in ("run", "ls", "validate", "-h", "--help"):
        words = ["run", *words]  # as lm-eval reads them
    if words[:1] == ["run"] and not {"--model", "-M"} & set(words) and len(words) > 1:
        words[1:1] = ["--model", NAME]
    setup_logging()
    before = sys.argv
    sys.argv = ["lm-eval", *words]
    try:
        cli = HarnessCLI()
        args = cli.parse_args()
        asked = getattr(args, "tasks", None)
        ours = False
        if words[:1] == ["run"] and isinstance(asked, list):
            include = [args.include_path] if args.include_path else []
            ours = check_names([str(task) for task in asked], include=include)
        # lm-eval seeds for itself, but a task file that is named by path is read before it does.
        given = getattr(args, "seed", None)
        seeds = DEFAULT if given is None else Seeds.read(given)
        with seeds.acting(), drawn_once(), _with_our_tasks(only=ours):
            cli.execute(args)
    except (ValueError, OSError) as error:
        print(f"arcee_lab.evals: error: {' '.join(str(error).split())}", file=sys.stderr)  # noqa: T201
        return 2
    except KeyboardInterrupt:
        print(  # noqa: T201
            "arcee_lab.evals: interrupted; only answers in a --use_cache file are kept. "
            "`arcee-lab eval --out DIR` keeps each task that is done.",
            file=sys.stderr,
        )
        return 130
    finally:
        sys.argv = before
    return 0


@contextmanager
def _with_our_tasks(*, only: bool) -> Iterator[None]:
    """Has every index of tasks that lm-eval makes hold ours too.

    Its command line takes one folder and no word on its own tasks, so there is no other way in.
    """
    own = tasks.TaskManager.__init__

    def init(self: tasks.TaskManager, *args: Any, **settings: Any) -> None:
        given = settings.get("include_path") or []
        folders = given if isinstance(given, list) else [given]
        settings["include_path"] = [str(task_folder()), *map(str, folders)]
        defaults = settings.get("include_defaults", True) and not only
        own(self, *args, **settings | {"include_defaults": False})
        if defaults:
            add_default_tasks(self)

    tasks.TaskManager.__init__ = init  # type: ignore[method-assign]
    try:
        yield
    finally:
        tasks.TaskManager.__init__ = own  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.exit(main())
