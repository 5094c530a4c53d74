"""`arcee-lab verify`: every checksum and count of an activation store."""

import argparse
import sys
from pathlib import Path
from typing import Any

from arcee_lab.cli import flags

HELP = "Check every checksum and count of an activation store, and name what is damaged."
EXAMPLE = "arcee-lab verify out/acts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `verify`."""
    parser.add_argument("store", metavar="DIR", help="the store, or its fsspec URL")
    parser.add_argument(
        "--repair", action="store_true", help="compute the damaged shards again, and only these"
    )
    parser.add_argument(
        "--model",
        metavar="MODEL",
        help="the model for --repair (default: the one the store names, if that is demo or a "
        "folder here)",
    )
    parser.add_argument(
        "--device", metavar="NAME", help="where --repair computes (default: as the store says)"
    )


def run(args: argparse.Namespace) -> int:
    """Checks, repairs where that was asked, and exits with 2 if anything is still damaged."""
    from arcee_lab.dump.checking import verify

    found = verify(args.store, progress=True)
    if found.whole or not args.repair:
        print(found, file=sys.stdout if found.whole else sys.stderr)
        return 0 if found.whole else 2
    print(found)
    from arcee_lab.dump.manifest import Manifest
    from arcee_lab.dump.repairing import repair
    from arcee_lab.model.loading import load

    manifest = Manifest.load(args.store)
    model, tokenizer = load(
        args.model or _named_model(manifest),
        dtype=manifest.model["dtype"],
        device=args.device or manifest.settings.get("device"),
    )
    texts = flags.read_texts(_source(manifest), tokenizer)
    found = repair(args.store, model, tokenizer, texts, found=found, progress=True)
    print(found)
    return 0 if found.whole else 2


def _named_model(manifest: Any) -> str:
    """The model that a store names; a stranger's store shall not choose what is downloaded."""
    name = manifest.model["name"]
    if name != "demo" and not Path(name).is_dir():
        raise ValueError(
            f"the store is of {name!r}, which is no folder here; expected to be told where the "
            "model comes from. Repeat the command with --model"
        )
    return name


def _source(manifest: Any) -> argparse.Namespace:
    """The text flags that a store was made with."""
    names = ("text", "text_column", "dataset", "world", "max_tokens", "seed")
    given = {name: manifest.data.get(name) for name in names}
    if not (given["text"] or given["dataset"] or given["world"]):
        raise ValueError(
            "the store does not say which texts it is of; expected one that `arcee-lab dump` "
            "wrote. Repair it from Python: al.dump.repair(store, model, tokenizer, texts)"
        )
    given["text"] = [Path(path) for path in given["text"] or ()]
    return argparse.Namespace(**given)
