"""`arcee-lab compare`: saved evaluations compared document by document."""

import argparse
from pathlib import Path

from arcee_lab.cli import flags
from arcee_lab.runs import bounds, storage

HELP = "Compare saved evaluations, document by document."
EXAMPLE = "arcee-lab compare out/base out/ablated --out out/comparison"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `compare`."""
    parser.add_argument("base", metavar="BASE", help="folder of `arcee-lab eval --out`")
    parser.add_argument("runs", metavar="RUN", nargs="+", help="folders to compare with it")
    parser.add_argument(
        "--common",
        action="store_true",
        help="compare the documents that both runs have; without it, they must be the same",
    )
    parser.add_argument(
        "--draws",
        type=flags.Whole(2, bounds.ROWS),
        default=10_000,
        metavar="N",
        help="how often documents are redrawn (default: 10000)",
    )
    parser.add_argument(
        "--seed", type=flags.seed, default=0, metavar="N", help="random seed (default: 0)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for comparison.csv and report.html"
    )


def run(args: argparse.Namespace) -> int:
    """Compares, prints the table, and saves it if asked to."""
    settings = {
        "command": "compare",
        "runs": [str(Path(one).absolute()) for one in (args.base, *args.runs)],
        "common": args.common,
        "draws": args.draws,
        "seed": args.seed,
    }
    if args.out is not None:
        storage.check_claim(args.out, settings)
    from arcee_lab.evals.compared._compare import compare
    from arcee_lab.evals.result import Evaluation

    folders = [Path(one) for one in (args.base, *args.runs)]
    found = compare(
        *(Evaluation.load(folder) for folder in folders),
        names=_names(folders),
        documents="common" if args.common else "same",
        draws=args.draws,
        seed=args.seed,
    )
    columns = ["run", "task", "metric", "base", "value", "difference", "low", "high", "n", "p_holm"]
    frame = found.frame()
    print(f"{found.headline}\n")
    shown = frame.to_string(columns=columns, index=False, float_format=lambda x: f"{x:.3f}")
    print(shown)
    for line in found.skipped:
        print(f"not compared  {line}")
    if args.out is not None:
        storage.claim(args.out, settings)
        files = found.save(args.out)
        print(f"\nfiles  {args.out}: {', '.join(path.name for path in files)}")
    return 0


def _names(folders: list[Path]) -> list[str]:
    """The folders' own names if they differ, else their paths."""
    short = [folder.name for folder in folders]
    return short if len(set(short)) == len(short) else [str(folder) for folder in folders]
