"""`arcee-lab eval`: lm-eval tasks on the LM and the classification heads, with intervals."""

import argparse
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
_SKIPPED = 5  # documents without a score that are printed


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
        type=flags.number_or_share,
        metavar="N",
        help="most documents per task, or below 1 a fraction of them; the first ones are used",
    )
    parser.add_argument(
        "--samples",
        metavar="JSON",
        help="numbers of the documents to ask, as '{\"TASK\": [0, 5]}' or a file of it",
    )
    _add_prompting(parser)
    _add_answers(parser)
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


def _add_prompting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--apply-chat-template",
        nargs="?",
        const=True,
        default=False,
        metavar="NAME",
        help="make each prompt a chat, by the tokenizer's template or the one of this name",
    )
    parser.add_argument(
        "--system-instruction", metavar="TEXT", help="text before each task's own description"
    )
    parser.add_argument(
        "--fewshot-as-multiturn",
        nargs="?",
        const=True,
        type=flags.yes_or_no,
        metavar="BOOL",
        help="examples as turns of the chat, or, with false, as one text (default: true with "
        "--apply-chat-template)",
    )


def _add_answers(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--gen-kwargs",
        nargs="+",
        metavar="KEY=VALUE",
        help="settings of generation over those of each task, or one JSON object",
    )
    parser.add_argument(
        "--repeats",
        type=flags.positive,
        metavar="N",
        help="how often each text is generated (default: what each task says)",
    )
    parser.add_argument(
        "--predict-only", action="store_true", help="save answers and compute no score"
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end a task at a document that cannot be scored; by default it is left out and listed",
    )
    parser.add_argument(
        "--use-cache",
        metavar="FILE",
        type=Path,
        help="answers of earlier runs of the same model; _rank0.db is added to the name",
    )
    parser.add_argument(
        "--cache-requests",
        nargs="?",
        const="true",
        choices=("true", "refresh", "delete"),
        help="keep the built prompts, build them anew, or remove all kept ones",
    )
    parser.add_argument(
        "--write-out", action="store_true", help="print the first prompt of each task"
    )
    parser.add_argument(
        "--output-path",
        metavar="DIR",
        type=Path,
        help="also write the files of lm-eval's --output_path: MODEL/results_DATE.json and samples",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates, saves, and prints where the results are."""
    settings = _settings(args)
    options = _options(args)
    storage.check_claim(args.out, settings)
    from arcee_lab.errors import Interrupted, TaskFailed
    from arcee_lab.evals.model import ArceeLab
    from arcee_lab.evals.options.applied import require_effect
    from arcee_lab.evals.options.chat_templates import require_template
    from arcee_lab.evals.options.read import read_options, require_documents
    from arcee_lab.evals.runner import run as evaluate
    from arcee_lab.evals.tasks.find import find_tasks
    from arcee_lab.model.loading import find_checkpoint

    checked = read_options(**{k: v for k, v in options.items() if k != "use_cache"})
    require_template(args.model, None, checked.apply_chat_template)
    _say("reading the task files")
    heads = {"sequence": args.seqcls, "token": args.tokcls, "qa": args.qa}
    for given in heads.values():  # also of heads that no task needs
        if given is not None:
            find_checkpoint(given)
    tasks = find_tasks(args.tasks, include=args.include, data=_data(args.data), seed=args.seed)
    require_documents(tasks["tasks"], checked)
    require_effect(tasks["tasks"], checked, use_cache=args.use_cache)
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
        with _prompts_printed(args.write_out):
            result = evaluate(
                model,
                tasks=tasks,
                num_fewshot=args.num_fewshot,
                seed=args.seed,
                out=args.out,
                **options,
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
    if args.output_path is not None:
        files = result.save_as_lm_eval(args.output_path)
        print(f"files  {files[0].parent}: {files[0].name}, samples_TASK_DATE.jsonl")
    return 0


def _say(text: str) -> None:
    """Tells a person at a terminal what takes its time before the bar appears."""
    if shown(None):
        print(f"{text} ...", file=sys.stderr)


def _show(result: "Evaluation", folder: Path) -> None:
    """Prints saved results."""
    from arcee_lab.evals.result import table

    print(f"{result.headline}\n\n{table(result.scores)}\n")
    for one in result.skipped[:_SKIPPED]:
        print(f"not scored  {one.task}, document {one.doc_id}: {one.reason}")
    if len(result.skipped) > _SKIPPED:
        print(f"not scored  {len(result.skipped) - _SKIPPED} more, listed in results.json")
    print(
        f"files  {folder}: results.json, scores.csv, report.html, samples_TASK.jsonl "
        f"({len(result.samples)})"
    )


@contextmanager
def _prompts_printed(write_out: bool) -> Iterator[None]:
    """Prints what the package logs of prompts."""
    if not write_out:
        yield
        return
    log, handler = logging.getLogger("arcee_lab"), logging.StreamHandler(sys.stdout)
    handler.setLevel(logging.INFO)
    handler.addFilter(lambda record: record.levelno == logging.INFO)
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _options(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `al.evals.run` that are lm-eval's flags."""
    given = args.gen_kwargs
    return {
        "limit": args.limit,
        "samples": args.samples,
        "apply_chat_template": args.apply_chat_template,
        "system_instruction": args.system_instruction,
        "fewshot_as_multiturn": args.fewshot_as_multiturn,
        "gen_kwargs": None if given is None else ",".join(given),
        "repeats": args.repeats,
        "predict_only": args.predict_only,
        "strict": args.strict,
        "use_cache": args.use_cache,
        "cache_requests": args.cache_requests or False,
        "write_out": args.write_out,
    }


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
    more = ("dtype", "device", "batch_size", "samples", "apply_chat_template", "gen_kwargs")
    more += ("system_instruction", "fewshot_as_multiturn", "repeats", "predict_only", "strict")
    return {
        "command": "eval",
        "intervention": storage.sha256(file) if file is not None and file.is_file() else None,
        "include": [str(folder) for folder in args.include],
        "data": list(args.data),
        "seed": list(astuple(args.seed)),
    } | {name: getattr(args, name) for name in names + more}
