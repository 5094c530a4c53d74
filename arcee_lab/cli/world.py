"""`arcee-lab world`: documents of the little world, with their tags and their information."""

import argparse
import json
from pathlib import Path

from arcee_lab.cli import flags
from arcee_lab.demo import KINDS, SPLITS, Document, documents
from arcee_lab.errors import SettingError
from arcee_lab.results import counted
from arcee_lab.runs import bounds, storage

HELP = "Print or write documents of the little world, with their tags and their information."
EXAMPLE = "arcee-lab world story --n 3 --tags"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `world`."""
    parser.add_argument(
        "kind", metavar="KIND", help=f"{', '.join(KINDS)}, or {flags.ALL} for a mix of them"
    )
    parser.add_argument(
        "--n",
        type=flags.Whole(1, bounds.DOCUMENTS),
        default=5,
        metavar="N",
        help="how many (default: 5)",
    )
    parser.add_argument(
        "--seed", type=flags.seed, default=0, metavar="N", help="random seed (default: 0)"
    )
    parser.add_argument(
        "--split", choices=SPLITS, default="test", help="splits share no document (default: test)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--tags", action="store_true", help="print each word with its tags")
    form.add_argument("--jsonl", action="store_true", help="one JSON object per line, with tags")
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write here (.jsonl or .txt) instead of printing"
    )


def run(args: argparse.Namespace) -> int:
    """Draws the documents and prints or writes them."""
    kind = None if args.kind == flags.ALL else args.kind
    jsonl = args.jsonl
    if args.out is not None:
        storage.require_local(args.out)
    if args.out is not None and args.out.exists():
        raise SettingError(f"--out {args.out} exists; choose a new name, or remove it.")
    if args.out is not None and not args.tags:
        if args.out.suffix not in (".jsonl", ".txt"):
            raise SettingError(f"--out {args.out} has another suffix; expected .jsonl or .txt.")
        if jsonl and args.out.suffix == ".txt":
            raise SettingError(
                f"--jsonl writes JSON lines, but --out {args.out} ends in .txt; expected .jsonl."
            )
        jsonl = args.out.suffix == ".jsonl"
    found = documents(kind, n=args.n, seed=args.seed, split=args.split)
    lines = [
        json.dumps(document.record(), ensure_ascii=False)
        if jsonl
        else _tagged(document)
        if args.tags
        else document.text
        for document in found
    ]
    if args.out is None:
        print("\n".join(lines))
        return 0
    storage.make_folder(args.out.parent)
    storage.write_atomic(args.out, "\n".join(lines) + "\n")
    print(f"{counted(len(found), 'document')} in {args.out}")
    return 0


def _tagged(document: Document) -> str:
    """A document as a header and one line per word."""
    lines = [f"# {document.kind}: {document.nats:.3f} nats, {len(document.words)} words"]
    for word in document.words:
        tags = " ".join(f"{key}={value}" for key, value in word.tags.items() if value is not False)
        lines.append(f"{word.text:<14} {tags}".rstrip())
    return "\n".join(lines) + "\n"
