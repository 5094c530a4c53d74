"""`arcee-lab dump`: writes the activations of many hook points to a crash-safe store."""

import argparse
from typing import Any

from arcee_lab.cli import flags
from arcee_lab.dump.config import DumpConfig

HELP = "Write activations to a small, exact store; interrupted, the same command continues."
EXAMPLE = "arcee-lab dump demo --world all --max-tokens 20000 --out out/acts"
SPLITS = {"layers": {"device_map": "auto"}, "tensors": {"tp_plan": "auto"}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `dump`, among them the fields of `DumpConfig`."""
    flags.add_model(parser)
    flags.add_texts(parser)
    parser.add_argument(
        "--out",
        metavar="DIR",
        required=True,
        help="folder of the store, or an fsspec URL such as s3://bucket/store; one that holds "
        "another run is refused",
    )
    flags.add_place(parser)
    flags.add_fields(parser, DumpConfig)
    parser.add_argument(
        "--split",
        choices=tuple(SPLITS),
        help="spread one model: its layers over the GPUs of this process, or its tensors over the "
        "ranks that torchrun started (default: each rank holds the model)",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print expected size, time and memory; write nothing"
    )


def run(args: argparse.Namespace) -> int:
    """Estimates, writes, and prints how to open and check the store."""
    config = flags.read_fields(args, DumpConfig)
    flags.require_used_seed(args)
    from arcee_lab.dump.folders.open import folder_of
    from arcee_lab.dump.writing.estimate import size
    from arcee_lab.dump.writing.job import DumpJob
    from arcee_lab.model.loading import load
    from arcee_lab.runs.ranks import joined

    folder = folder_of(args.out)
    with joined(args.device) as ranks:
        place: dict[str, Any] = SPLITS[args.split] if args.split else {"device": ranks.device}
        model, tokenizer = load(args.model, dtype=args.dtype, **place)
        job = DumpJob(
            model, tokenizer, flags.read_texts(args, tokenizer), config, source=source_of(args)
        )
        estimate = job.estimate()
        if ranks.first:
            print(estimate)
        if args.dry_run:
            free = folder.free_bytes()
            if ranks.first and free is not None:
                print(f"{size(free)} are free in {folder}; nothing was written")
            return 0
        store = job.run(folder, progress=ranks.first)
        if ranks.first:
            print(f"{store!r}\n\nopen   al.dump.open({str(folder)!r})")
            print(f"check  arcee-lab verify {folder}")
    return 0


def source_of(args: argparse.Namespace) -> dict[str, Any]:
    """The manifest's facts about the texts; `arcee-lab verify --repair` asks for them by these."""
    name = args.dataset or (f"world:{args.world}" if args.world else " ".join(map(str, args.text)))
    return {
        "name": name,
        "text": [str(path) for path in args.text or ()],
        "text_column": args.text_column,
        "dataset": args.dataset,
        "world": args.world,
        "max_tokens": args.max_tokens,
        "seed": args.seed,
    }
