"""`arcee-lab train-head`: a classification head for any data set, and probes of every layer."""

import argparse
from typing import Any

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError
from arcee_lab.runs import storage
from arcee_lab.training.heads.labelled import file_of
from arcee_lab.training.heads.recipe import HeadRecipe

HELP = "Train a sequence or token head; with --probes, also fit a linear probe per layer."
EXAMPLE = (
    "arcee-lab train-head demo --head sequence --train demo:train --test demo:test --out out/head"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train-head`; the training settings are the fields of `HeadRecipe`."""
    flags.add_model(parser)
    parser.add_argument(
        "--head",
        choices=("sequence", "token"),
        required=True,
        help="one label per text (sequence) or per word (token)",
    )
    source = (
        "a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, each also with .gz, a Hub id or "
        "folder NAME[:SPLIT], demo[:SPLIT], or a task of "
        "`arcee-lab eval` as TASK:FILE (the data set's own format) or TASK[:SPLIT] (the Hub)"
    )
    parser.add_argument("--train", metavar="DATA", required=True, help=f"training texts: {source}")
    parser.add_argument("--test", metavar="DATA", help="held-out texts, scored at the end")
    parser.add_argument(
        "--text-column", metavar="NAME", help="texts, or lists of words (default: text, or tokens)"
    )
    parser.add_argument("--label-column", metavar="NAME", help="labels (default: label, or tags)")
    parser.add_argument(
        "--limit",
        type=flags.positive,
        metavar="N",
        help="most rows to read of each data set (default: all)",
    )
    flags.add_out(parser)
    flags.add_place(parser)
    flags.add_fields(parser, HeadRecipe)
    parser.add_argument(
        "--probes", action="store_true", help="also fit a linear probe after every layer"
    )


def run(args: argparse.Namespace) -> int:
    """Trains, scores and saves the head, and prints where its checkpoint is."""
    recipe = flags.read_fields(args, HeadRecipe)
    settings = _settings(args, recipe)
    storage.check_claim(args.out, settings)
    if args.probes and args.test is None:
        raise SettingError(
            "--probes needs held-out texts to score the probes on; give --test DATA."
        )
    if args.test == args.train:
        raise SettingError(f"--test {args.test} names the training texts; give held-out texts.")
    from arcee_lab import load
    from arcee_lab.training.heads import probe_layers, read_labelled, train_head
    from arcee_lab.training.heads.fitting import CHECKPOINT

    columns: dict[str, Any] = {
        "head": args.head,
        "text_column": args.text_column,
        "label_column": args.label_column,
        "limit": args.limit,
    }
    train = read_labelled(args.train, **columns)
    test = None
    if args.test is not None:
        test = read_labelled(args.test, **columns, names=train.names)
    model, tokenizer = load(args.model, head="base", dtype=args.dtype, device=args.device)
    # Claimed only now, so that a mistyped file name leaves no folder of another run.
    storage.claim(args.out, settings)
    if args.probes and test is not None:  # before the backbone may change
        probes = probe_layers(model, tokenizer, train, test, batch_size=recipe.batch_size)
        storage.write_atomic(args.out / "probes.csv", probes.frame().to_csv(index=False))
        figure = probes.figure()
        storage.write_atomic(args.out / "probes.png", figure._repr_png_())
        print(probes.frame().to_string(index=False, float_format="{:.3f}".format) + "\n")
    trained = train_head(model, tokenizer, train, test=test, recipe=recipe, out=args.out)
    folder = args.out / CHECKPOINT
    print(trained)
    print(f"\nload   al.load({str(folder)!r}, head={args.head!r})")
    print(f"files  {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")
    return 0


def _settings(args: argparse.Namespace, recipe: HeadRecipe) -> dict[str, Any]:
    """The settings that identify this run; a file is identified by its content."""
    files = [file_of(name) for name in (args.train, args.test) if name is not None]
    names = ("model", "head", "train", "test", "text_column", "label_column", "limit", "probes")
    return {
        "command": "train-head",
        "sha256": [storage.sha256(path) for path in files if path and path.is_file()],
        "recipe": recipe.settings(),
    } | {name: getattr(args, name) for name in (*names, "dtype", "device")}
