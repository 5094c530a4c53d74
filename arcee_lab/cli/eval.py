"""`arcee-lab eval`: lm-eval tasks on the LM and the classification heads, with intervals."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError
from arcee_lab.runs import bounds, storage
from arcee_lab.runs.progress import shown
from arcee_lab.runs.seeds import DEFAULT

if TYPE_CHECKING:
    from arcee_lab.evals import Evaluation

HELP = "Evaluate the LM and the heads on lm-eval tasks, also under interventions."
EXAMPLE = "arcee-lab eval demo --tasks arcee_all --out out/eval"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `eval`."""
    flags.add_model(parser)
    parser.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="TASK",
        help="names of tasks or groups (ours, as arcee_all, or lm-eval's), or paths of task files; "
        "a task file runs code: its !function and its Jinja templates",
    )
    flags.add_out(parser)
    flags.add_compute(parser, texts=False)
    parser.add_argument(
        "--seed",
        type=flags.seeds,
        default=DEFAULT,
        metavar="N[,N,N,N]",
        help="seeds of Python's random, numpy, torch and few-shot examples, or one for all; None "
        f"leaves a generator unseeded (default: {DEFAULT}, as lm-eval)",
    )
    parser.add_argument(
        "--intervention",
        metavar="FILE",
        type=Path,
        help="interventions during the evaluation, a file of al.interventions.to_json",
    )
    for flag, head in (("--seqcls", "sequence"), ("--tokcls", "token"), ("--qa", "QA")):
        parser.add_argument(
            flag,
            metavar="MODEL",
            help=f"checkpoint of the {head} head, if the evaluated model has none",
        )
    parser.add_argument(
        "--limit",
        type=flags.positive,
        metavar="N",
        help="most documents per task; the first ones are used",
    )
    parser.add_argument(
        "--num-fewshot",
        type=flags.Whole(0, bounds.SHOTS),
        metavar="N",
        help="examples before each question (default: what each task says); a task that sets 0 "
        "keeps it, and a warning says so",
    )
    parser.add_argument(
        "--include",
        nargs="+",
        default=(),
        metavar="DIR",
        type=Path,
        help="folders with further task files",
    )
    parser.add_argument(
        "--data",
        nargs="+",
        default=(),
        metavar="[TASK=]FILE",
        help="files in place of the Hub's data, for the tasks of the field's data sets",
    )
    parser.add_argument(
        "--exact", action="store_true", help="use lm-eval's own arithmetic (slower)"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates, saves, and prints where the results are."""
    settings = _settings(args)
    storage.check_claim(args.out, settings)
    from arcee_lab.errors import Interrupted, TaskFailed
    from arcee_lab.evals.model import ArceeLab
    from arcee_lab.evals.runner import run as evaluate
    from arcee_lab.evals.tasks.find import find_tasks
    from arcee_lab.model.loading import find_checkpoint

    _say("reading the task files")
    heads = {"sequence": args.seqcls, "token": args.tokcls, "qa": args.qa}
    for given in heads.values():  # also of heads that no task needs
        if given is not None:
            find_checkpoint(given)
    tasks = find_tasks(args.tasks, include=args.include, data=_data(args.data), seed=args.seed)
    _say(f"loading {args.model}")
    model = ArceeLab(
        args.model,
        heads={head: given for head, given in heads.items() if given is not None},
        intervention=args.intervention,
        exact=args.exact,
        batch_size=args.batch_size,
        device=args.device,
        dtype=args.dtype,
    )
    model.require_heads(tasks["tasks"].values())
    # Claimed only now, so that a mistyped task leaves no folder of another run.
    storage.claim(args.out, settings)

    try:
        result = evaluate(
            model,
            tasks=tasks,
            num_fewshot=args.num_fewshot,
            limit=args.limit,
            seed=args.seed,
            out=args.out,
        )
    except Interrupted as stopped:
        if stopped.partial.samples:
            _show(stopped.partial, args.out)
        raise
    except TaskFailed as failed:
        if failed.result.samples:
            _show(failed.result, args.out)
        else:
            _disown(args.out)
        if isinstance(failed.__cause__, ValueError):
            raise
        raise RuntimeError(
            str(failed)
        ) from failed  # not bad input but a fault, shown with its traceback
    _show(result, args.out)
    return 0


def _say(text: str) -> None:
    """Tells a person at a terminal what takes its time before the bar appears."""
    if shown(None):
        print(f"{text} ...", file=sys.stderr)


def _show(result: "Evaluation", folder: Path) -> None:
    """Prints saved results."""
    from arcee_lab.evals.result import table

    print(f"{result.headline}\n\n{table(result.scores)}\n")
    print(f"files  {folder}: results.json, scores.csv, samples_TASK.jsonl ({len(result.samples)})")


def _disown(folder: Path) -> None:
    """Releases a folder in which nothing was written, so that a corrected command can use it."""
    (folder / storage.RUN_FILE).unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _data(words: Sequence[str]) -> str | dict[str, str] | None:
    """One file for all tasks, or files by task."""
    named = dict(word.split("=", 1) for word in words if "=" in word)
    if len(named) < len(words) and len(words) > 1:
        raise SettingError(f"--data {' '.join(words)}; expected one FILE, or TASK=FILE per task.")
    return named or (words[0] if words else None)


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that identify this run; an intervention is identified by its content."""
    file = args.intervention
    names = ("model", "tasks", "seqcls", "tokcls", "qa", "limit", "num_fewshot", "exact")
    more = ("dtype", "device", "batch_size")
    return {
        "command": "eval",
        "intervention": storage.sha256(file) if file is not None and file.is_file() else None,
        "include": [str(folder) for folder in args.include],
        "data": list(args.data),
        "seed": list(astuple(args.seed)),
    } | {name: getattr(args, name) for name in names + more}
