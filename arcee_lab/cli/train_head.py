"""`arcee-lab train-head`: a head for any data set, and probes of every layer."""

import argparse
from typing import Any

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError
from arcee_lab.runs import storage
from arcee_lab.training.heads.labelled import file_of
from arcee_lab.training.heads.recipe import HeadRecipe

HELP = "Train a sequence, token or QA head; with --probes, also fit a linear probe per layer."
EXAMPLE = (
    "arcee-lab train-head demo --head sequence --train demo:train --test demo:test --out out/head"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train-head`; the training settings are the fields of `HeadRecipe`."""
    flags.add_model(parser)
    flags.add_head(parser)
    parser.add_argument(
        "--train", metavar="DATA", required=True, help=f"training texts: {flags.LABELLED}"
    )
    parser.add_argument(
        "--validation",
        metavar="DATA",
        help="held-out texts, scored after each epoch, for --patience and --calibrate (default: a "
        "part of the training texts, where one of the two needs them)",
    )
    parser.add_argument("--test", metavar="DATA", help="held-out texts, scored at the end")
    flags.add_columns(parser)
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
    if args.probes and args.head == "qa":
        raise SettingError(
            "--probes has no effect with --head qa, whose spans are no labels; leave it out."
        )
    for flag in ("test", "validation"):
        if getattr(args, flag) == args.train:
            raise SettingError(
                f"--{flag} {args.train} names the training texts; give held-out texts."
            )
    from arcee_lab import load
    from arcee_lab.training.heads import probe_layers, read_labelled, train_head
    from arcee_lab.training.heads.fitting import CHECKPOINT, check_data

    columns = flags.read_columns(args)
    train = read_labelled(args.train, **columns)
    test, validation = (
        None if source is None else read_labelled(source, **columns, names=train.names)
        for source in (args.test, args.validation)
    )
    check_data(train, validation, test, recipe)
    model, tokenizer = load(args.model, head="base", dtype=args.dtype, device=args.device)
    # Claimed only now, so that a mistyped file name leaves no folder of another run.
    storage.claim(args.out, settings)
    if args.probes and test is not None:  # before the backbone may change
        from arcee_lab.views.figures.figure import png

        probes = probe_layers(model, tokenizer, train, test, batch_size=recipe.batch_size)
        storage.write_atomic(args.out / "probes.csv", probes.frame().to_csv(index=False))
        storage.write_atomic(args.out / "probes.png", png(probes.figure()))
        print(probes.frame().to_string(index=False, float_format="{:.3f}".format) + "\n")
    trained = train_head(
        model, tokenizer, train, validation=validation, test=test, recipe=recipe, out=args.out
    )
    folder = args.out / CHECKPOINT
    print(trained)
    print(f"\nload   al.load({str(folder)!r}, head={args.head!r})")
    print(f"files  {args.out}: {', '.join(sorted(path.name for path in args.out.iterdir()))}")
    return 0


def _settings(args: argparse.Namespace, recipe: HeadRecipe) -> dict[str, Any]:
    """The settings that identify this run; a file is identified by its content."""
    sources = [args.train, args.validation, args.test]
    files = [file_of(name) for name in sources if name is not None]
    names = ("model", "head", "train", "validation", "test", *flags.COLUMNS, "probes")
    return {
        "command": "train-head",
        "sha256": [storage.sha256(path) for path in files if path and path.is_file()],
        "recipe": recipe.settings(),
    } | {name: getattr(args, name) for name in (*names, "dtype", "device")}
