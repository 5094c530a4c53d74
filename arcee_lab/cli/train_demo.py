"""`arcee-lab train-demo`: trains the demo's weights again, or a shorter version of them."""

import argparse
import time

from arcee_lab.cli import flags
from arcee_lab.runs import bounds

HELP = "Train the demo from its seed. Rerun the command to resume after an interruption."
EXAMPLE = "arcee-lab train-demo --out out/demo --quick"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `train-demo`."""
    flags.add_out(parser)
    parser.add_argument(
        "--quick", action="store_true", help="a short recipe: rising zeros, not every skill"
    )
    parser.add_argument(
        "--seed", type=flags.seed, default=0, metavar="N", help="default: 0, the shipped demo's"
    )
    parser.add_argument(
        "--threads",
        type=flags.Whole(1, bounds.THREADS),
        default=1,
        metavar="N",
        help=f"of torch, up to {bounds.THREADS} here (default: 1)",
    )


def run(args: argparse.Namespace) -> int:
    """Trains, measures, and writes checkpoint, scores and card."""
    import torch

    from arcee_lab.runs.storage import require_local, write_atomic
    from arcee_lab.training import Recipe, quick, train
    from arcee_lab.training.card import model_card
    from arcee_lab.training.export import export
    from arcee_lab.training.score_demo import score_demo

    require_local(args.out)
    torch.set_num_threads(args.threads)
    recipe = quick(args.seed) if args.quick else Recipe(seed=args.seed)
    start = time.monotonic()
    trained = train(recipe, args.out)
    folder = args.out / "checkpoint"
    export(
        folder,
        model=trained.model,
        heads=trained.heads,
        tokenizer=trained.tokenizer,
        log=trained.log,
    )
    card = score_demo(
        trained.model, trained.heads, trained.tokenizer, n=200 if args.quick else 1500
    )
    card.save(folder / "scores.json")
    write_atomic(folder / "MODEL_CARD.md", model_card(card, recipe, steps=trained.steps))
    print(card.frame().to_string(index=False, float_format="{:.3f}".format))
    zeros = ", ".join(f"{layer.zeros:.3f}" for layer in card.zeros)
    print(f"zeros by layer: {zeros} (untrained: about one half)")
    print(f"{time.monotonic() - start:.0f} s; checkpoint, scores and card in {folder}")
    return 0
