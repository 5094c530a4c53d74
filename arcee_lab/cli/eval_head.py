"""`arcee-lab eval-head`: scores of a head on a labelled file, without a task file."""

import argparse
from pathlib import Path
from typing import Any

from arcee_lab.cli import flags
from arcee_lab.runs import storage
from arcee_lab.training.heads.labelled import file_of

NAME = "labelled"  # what the task is called
HELP = "Evaluate a head on labelled data of your own, with intervals; no task file is needed."
EXAMPLE = "arcee-lab eval-head demo --head sequence --data demo:test --out out/scores"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `eval-head`."""
    flags.add_model(parser)
    flags.add_head(parser)
    parser.add_argument(
        "--data", metavar="DATA", required=True, help=f"labelled texts: {flags.LABELLED}"
    )
    flags.add_columns(parser)
    flags.add_out(parser)
    flags.add_compute(parser, texts=False)
    parser.add_argument(
        "--intervention",
        metavar="FILE",
        type=Path,
        help="interventions during the evaluation, a file of al.interventions.to_json",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluates, saves, and prints where the results are."""
    settings = _settings(args)
    storage.check_claim(args.out, settings)
    from arcee_lab.errors import TaskFailed
    from arcee_lab.evals import ArceeLab
    from arcee_lab.evals import run as evaluate
    from arcee_lab.evals.result import table
    from arcee_lab.training.heads import read_labelled
    from arcee_lab.training.heads.judging import asked_of_head

    data = read_labelled(args.data, **flags.read_columns(args))
    where = {"device": args.device, "dtype": args.dtype}
    model, tokenizer, task = asked_of_head(args.model, None, data=data, name=NAME, **where)
    lm = ArceeLab(model, tokenizer, intervention=args.intervention, batch_size=args.batch_size)
    # Claimed only now, so that a mistyped file name leaves no folder of another run.
    storage.claim(args.out, settings)
    try:
        result = evaluate(lm, tasks=task, out=args.out)
    except TaskFailed:
        (args.out / storage.RUN_FILE).unlink()  # so that a corrected file can use the folder
        if not any(args.out.iterdir()):
            args.out.rmdir()
        raise
    print(f"{result.headline}\n\n{table(result.scores)}\n")
    print(f"files  {args.out}: results.json, scores.csv, samples_{NAME}.jsonl")
    return 0


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The settings that identify this run; files are identified by their content."""
    files = [file_of(args.data), args.intervention]
    names = ("model", "head", "data", *flags.COLUMNS, "batch_size", "dtype", "device")
    return {
        "command": "eval-head",
        "sha256": [storage.sha256(path) for path in files if path is not None and path.is_file()],
        "intervention": args.intervention is not None,
    } | {name: getattr(args, name) for name in names}
