"""`python -m arcee_lab.evals run ...`: lm-eval's own command and flags, and our tasks by name.

It differs from `lm-eval` in seven things: the model is `arcee-lab` unless `--model` says another,
our tasks and groups are found by name from any folder, a broken task file or an unknown task is one
line and exit code 2, lm-eval's own task files are indexed only when one is asked for, a task draws
its documents once (see `arcee_lab.evals.tasks.drawing`), `--cache_requests` keeps JSON in place of
pickles, and our model leaves documents out that cannot be scored. A task file runs code: its
`!function` and its Jinja templates.
"""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from lm_eval import evaluator, tasks
from lm_eval._cli import HarnessCLI
from lm_eval.utils import setup_logging

from arcee_lab.evals.lm_eval_registry import NAME
from arcee_lab.evals.model import ArceeLab
from arcee_lab.evals.options.answer_cache import cache_file, check_cache_file
from arcee_lab.evals.options.chat_templates import require_template
from arcee_lab.evals.options.prompt_cache import prompts_built
from arcee_lab.evals.scoring.unscorable import documents_left_out, skipped_documents
from arcee_lab.evals.tasks.default_index import add_default_tasks
from arcee_lab.evals.tasks.drawing import drawn_once
from arcee_lab.evals.tasks.find import check_names, task_folder
from arcee_lab.runs.seeds import DEFAULT, Seeds

_log = logging.getLogger("arcee_lab")


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
        if words[:1] == ["run"]:
            _require_usable(args)
        with (
            seeds.acting(),
            drawn_once(),
            _with_our_tasks(only=ours),
            prompts_built(),
            _documents_left_out(),
        ):
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


def _require_usable(args: argparse.Namespace) -> None:
    """Checks what lm-eval would notice only after the model is loaded, where the model is ours.

    Raises:
        ValueError: A chat template that the tokenizer lacks, or a cache that is none.
    """
    if getattr(args, "use_cache", None):
        check_cache_file(cache_file(args.use_cache))
    wanted = getattr(args, "apply_chat_template", False)
    model = (getattr(args, "model_args", None) or {}).get("pretrained")
    if getattr(args, "model", None) == NAME and wanted and isinstance(model, str):
        require_template(model, None, wanted)


@contextmanager
def _documents_left_out() -> Iterator[None]:
    """Has our model leave documents out that cannot be scored, as `al.evals.run` does."""
    own = evaluator.evaluate

    def evaluate(lm: Any, task_dict: Any, *args: Any, **settings: Any) -> Any:
        asked = getattr(lm, "lm", lm)  # behind lm-eval's cache
        if not isinstance(asked, ArceeLab) or "tasks" not in task_dict:
            return own(lm, task_dict, *args, **settings)
        tasks = task_dict["tasks"]
        asked.marks_unscorable = True
        with documents_left_out(tasks.values()):
            found = own(lm, task_dict, *args, **settings)
        for name, task in tasks.items():
            numbers = (settings.get("samples") or {}).get(name)
            for one in skipped_documents(name, task.instances, numbers):
                _log.warning("Not scored: task %r, document %d: %s", *one)
        return found

    evaluator.evaluate = evaluate
    try:
        yield
    finally:
        evaluator.evaluate = own


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
