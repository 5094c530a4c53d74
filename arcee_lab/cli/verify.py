"""`arcee-lab verify`: checks every checksum and count of an activation store."""

import argparse
import shlex
import sys
from typing import Any

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError

HELP = "Check every checksum and count of an activation store, and name what is damaged."
EXAMPLE = "arcee-lab verify out/acts"
_DEVICES = ("cpu", "cuda", "mps")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `verify`."""
    parser.add_argument("store", metavar="DIR", help="the store, or its fsspec URL")
    parser.add_argument(
        "--repair",
        action="store_true",
        help="compute only the damaged shards again, from the model and the texts of the store, "
        "given by --model and by --text, --dataset or --world",
    )
    parser.add_argument(
        "--model", metavar="MODEL", help="for --repair: demo, a folder, or a Hub id"
    )
    flags.add_texts(parser, required=False)
    parser.add_argument(
        "--device", metavar="NAME", help="device for --repair (default: as stated by the store)"
    )


def run(args: argparse.Namespace) -> int:
    """Checks, repairs if requested, and exits with 2 if anything is still damaged."""
    from arcee_lab.dump.integrity.checking import verify

    named = (args.model, args.text, args.dataset, args.world, args.device)
    if not args.repair and any(named):
        raise SettingError(
            "--model, --text, --dataset, --world and --device say what to repair with; expected "
            "--repair with them. Add it, or leave them out."
        )
    found = verify(args.store, progress=True)
    if found.intact or not args.repair:
        print(found, file=sys.stdout if found.intact else sys.stderr)
        return 0 if found.intact else 2
    print(found)
    from arcee_lab.dump.format.manifest import Manifest
    from arcee_lab.dump.integrity.repairing import config_of, repair
    from arcee_lab.model.loading import load

    manifest = Manifest.load(args.store)
    _check_named(args, manifest)
    config = config_of(manifest)
    args.seed, args.max_tokens = config.seed, config.max_tokens
    model, tokenizer = load(
        args.model, dtype=_dtype(manifest), device=args.device or _device(manifest)
    )
    texts = flags.read_texts(args, tokenizer)
    found = repair(args.store, model, tokenizer, texts, found=found, progress=True)
    print(found)
    return 0 if found.intact else 2


def _check_named(args: argparse.Namespace, manifest: Any) -> None:
    """The user, not the store, decides which files or downloads are opened."""
    texts = args.text or args.dataset or args.world
    if args.model and texts:
        return
    wanted = [] if args.model else [f"--model {_word(manifest.model['name'], 'MODEL')}"]
    if not texts:
        wanted.append(_text_flag(manifest.data))
    raise SettingError(
        "--repair opens only what you name, and the model or the texts are not named; expected "
        "--model, and --text, --dataset or --world. The store says that it was made with "
        f"`{' '.join(wanted)}`: if you trust that, repeat the command with it."
    )


def _text_flag(data: Any) -> str:
    if data.get("world"):
        return f"--world {_word(data['world'], 'KIND')}"
    if data.get("dataset"):
        return f"--dataset {_word(data['dataset'], 'NAME')}"
    paths = data.get("text")
    if not isinstance(paths, list) or not 0 < len(paths) <= 3:
        paths = [None]
    return f"--text {' '.join(_word(path, 'FILE') for path in paths)}"


def _word(value: Any, otherwise: str) -> str:
    """A word of an untrusted store, if it is printable and short; else the placeholder."""
    if not isinstance(value, str) or not value or len(value) > 200 or not value.isprintable():
        return otherwise
    return shlex.quote(value)


def _dtype(manifest: Any) -> str:
    if (got := manifest.model["dtype"]) not in flags.DTYPES:
        raise SettingError(
            f"the store says that its model computed in {got[:20]!r}; expected one of "
            f"{', '.join(flags.DTYPES)}. Repair it from Python: al.dump.repair(store, model, "
            "tokenizer, texts)."
        )
    return got


def _device(manifest: Any) -> str:
    if (got := manifest.settings.get("device")) not in _DEVICES:
        raise SettingError(
            f"the store does not say where it was computed; expected one of {', '.join(_DEVICES)}. "
            "Name it with --device."
        )
    return got
