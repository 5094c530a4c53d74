"""Flags that several commands share.

`add_model`, `add_texts` and `add_compute` add them to a parser; `read_texts` reads the documents
that the text flags name. `add_head` and `add_columns` are those of labelled data. `add_fields` adds
the flags of a command's own dataclass.
"""

import argparse
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from arcee_lab.errors import SettingError
from arcee_lab.runs import bounds
from arcee_lab.runs.seeds import Seeds

Config = TypeVar("Config")
DTYPES = ("float32", "bfloat16", "float16")
ALL = "all"  # the word for a mix of every kind of document
WORLD_DOCUMENTS = 512  # read for --world if --max-tokens sets no other limit


class Whole:
    """A whole number within bounds, as the type of a flag.

    Every number from outside decides a size or a loop, so each has an upper bound too; see
    `arcee_lab.runs.bounds`.

    Args:
        least: The smallest.
        most: The largest.
    """

    def __init__(self, least: int, most: int):
        self.least, self.most = least, most

    def __call__(self, word: str) -> int:
        """Parses a word.

        Raises:
            argparse.ArgumentTypeError: The word is no such number.
        """
        try:
            number = int(word)
        except ValueError:
            number = None
        if number is None or number < self.least:
            kind = {0: "from 0 up", 1: "above 0"}.get(self.least, f"from {self.least} up")
            raise argparse.ArgumentTypeError(f"expected a whole number {kind}, got {_short(word)}")
        if number > self.most:
            raise argparse.ArgumentTypeError(
                f"expected at most {self.most}, got {_short(word)}; give a smaller number"
            )
        return number


def number_or_share(word: str) -> int | float:
    """The type of `--limit`: a whole number above 0, or a fraction between 0 and 1.

    Raises:
        argparse.ArgumentTypeError: The word is neither.
    """
    try:
        share = float(word)
    except ValueError:
        share = 0.0
    return share if 0 < share < 1 else positive(word)


def yes_or_no(word: str) -> bool:
    """The type of a flag that takes true or false.

    Raises:
        argparse.ArgumentTypeError: The word is neither.
    """
    found = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if word.lower() not in found:
        raise argparse.ArgumentTypeError(f"expected true or false, got {_short(word)}")
    return found[word.lower()]


def _short(word: str) -> str:
    return repr(word if len(word) <= 40 else f"{word[:37]}...")


positive = Whole(1, bounds.ANY)
whole = Whole(0, bounds.ANY)
seed = Whole(0, bounds.SEED)


def seeds(word: str) -> Seeds:
    """Parses one seed for all generators of an evaluation, or four.

    Raises:
        argparse.ArgumentTypeError: The word is neither.
    """
    try:
        return Seeds.read(word)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def add_model(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """Adds MODEL: `demo`, a folder or a Hub id."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?" if optional else None,
        help="demo, a folder, or a Hub id such as arcee-ai/AFM-4.5B",
    )


def add_out(parser: argparse.ArgumentParser, *, default: str | None = None) -> None:
    """Adds `--out DIR`, which is required unless it has a default."""
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        default=default and Path(default),
        required=default is None,
        help="folder for the results; one that holds another run is refused"
        + (f" (default: {default})" if default else ""),
    )


LABELLED = (
    "a .jsonl, .ndjson, .json, .csv, .tsv or .parquet file, for words also CoNLL or .conllu, for "
    "questions SQuAD's .json, each also with .gz; a Hub id or folder NAME[:SPLIT]; demo[:SPLIT]; "
    "or a task of `arcee-lab eval` as TASK:FILE (the data set's own format) or TASK[:SPLIT] (Hub)"
)
COLUMNS = ("text_column", "label_column", "columns", "limit")


def add_head(parser: argparse.ArgumentParser) -> None:
    """Adds `--head`: which kind of head labelled data are for."""
    parser.add_argument(
        "--head",
        choices=("sequence", "token", "qa"),
        required=True,
        help="one label per text (sequence), one per word (token), or answer spans (qa)",
    )


def add_columns(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say where labelled data have their texts and labels."""
    parser.add_argument(
        "--text-column",
        metavar="NAME",
        help="texts, or lists of words (default: text, or tokens; form in CoNLL-U)",
    )
    parser.add_argument(
        "--label-column",
        metavar="NAME",
        help="labels (default: label, or tags; upos in CoNLL-U); a.b is b inside a",
    )
    parser.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="names of the columns of a file without a header: .csv, .tsv, CoNLL's columns",
    )
    parser.add_argument(
        "--limit",
        type=positive,
        metavar="N",
        help="most rows to read of each data set (default: all)",
    )


def read_columns(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_head` and `add_columns` as arguments of `read_labelled`."""
    return {name: getattr(args, name) for name in ("head", *COLUMNS)}


def add_texts(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Adds `--text`, `--dataset` and `--world`, which exclude each other."""
    group = parser.add_mutually_exclusive_group(required=required)
    group.add_argument(
        "--text",
        nargs="+",
        metavar="FILE",
        type=Path,
        help="files: .jsonl, .ndjson, .json, .csv, .tsv and .parquet hold one text per row, any "
        "other file (.txt, .md, code) is one text; each also with .gz",
    )
    group.add_argument(
        "--dataset",
        metavar="NAME[:SPLIT[:COLUMN]]",
        help="a Hugging Face data set, an id or a folder (default split: train, default column: "
        "text)",
    )
    group.add_argument(
        "--world",
        metavar="KIND",
        help="held-out documents of the demo's little world: story, facts, ..., or "
        f"{ALL} (as many as --max-tokens needs, else {WORLD_DOCUMENTS})",
    )
    parser.add_argument(
        "--text-column",
        metavar="NAME",
        help="column of the text in tables; a.b is column b inside column a; conversations are "
        "turned into text by the tokenizer's chat template (default: text)",
    )


def add_domains(parser: argparse.ArgumentParser, what: str) -> None:
    """Adds `--domains`, which takes the place of the flags of `add_texts`.

    Args:
        parser: The command's parser.
        what: What the domains are for.
    """
    parser.add_argument(
        "--domains", nargs="+", metavar="NAME=FILE", help=f"in place of --text: {what}"
    )


def read_domains(args: argparse.Namespace) -> dict[str, list[Path]]:
    """`--domains` as files by name, in order; exactly one source of text must be named.

    Args:
        args: A namespace with the flags of `add_texts(required=False)` and `add_domains`.

    Raises:
        SettingError: No source of text or several, or a domain that is no NAME=FILE.
    """
    from arcee_lab.data.rows import is_table

    named = [flag for flag in ("text", "dataset", "world", "domains") if getattr(args, flag)]
    if len(named) != 1:
        got = ", ".join(f"--{flag}" for flag in named) or "none"
        raise SettingError(f"expected one of --text, --dataset, --world, --domains; got {got}.")
    domains: dict[str, list[Path]] = {}
    for word in args.domains or ():
        name, equals, file = word.partition("=")
        # The name becomes a folder in --out.
        if not (equals and file and name.replace("-", "").replace("_", "").isalnum()):
            raise SettingError(
                f"--domains {word!r}: expected NAME=FILE, a name of letters, digits, - and _."
            )
        domains.setdefault(name, []).append(Path(file))
    if len(domains) == 1:
        raise SettingError(
            f"--domains names only {next(iter(domains))!r}; expected two or more, or use --text."
        )
    if domains and args.text_column and not any(is_table(f) for s in domains.values() for f in s):
        raise SettingError(
            f"--text-column {args.text_column} was given, and no file of --domains has columns; "
            "leave it out, or give a table such as a .jsonl file."
        )
    return domains


def read_texts_by_domain(
    args: argparse.Namespace, domains: dict[str, list[Path]], tokenizer: Any
) -> dict[str, Iterator[str]]:
    """The documents of each domain, one at a time.

    Args:
        args: The namespace that `read_domains` read.
        domains: What it gave.
        tokenizer: The tokenizer, for conversations.
    """
    from arcee_lab.data.documents import read_files
    from arcee_lab.data.rows import is_table

    return {
        name: read_files(
            files,
            # Of several domains some may have columns, and some be plain documents.
            column=args.text_column if any(map(is_table, files)) else None,
            tokenizer=tokenizer,
        )
        for name, files in domains.items()
    }


def text_settings(args: argparse.Namespace, domains: dict[str, list[Path]]) -> dict[str, Any]:
    """What names the model and the texts of a run; a file counts by its content."""
    from arcee_lab.runs import storage

    files = [*(args.text or ()), *(file for some in domains.values() for file in some)]
    return {
        "model": args.model,
        "text": [str(path) for path in args.text or ()],
        "text_column": args.text_column,
        "domains": {name: [str(file) for file in some] for name, some in domains.items()},
        "sha256": [storage.sha256(path) for path in files if path.is_file()],
        "dataset": args.dataset,
        "world": args.world,
    }


def compute_settings(args: argparse.Namespace) -> dict[str, Any]:
    """The flags of `add_compute`, as a part of the settings of a run."""
    names = ("dtype", "device", "batch_size", "max_tokens", "seed")
    return {name: getattr(args, name) for name in names}


def add_role(parser: argparse.ArgumentParser) -> None:
    """Adds `--role`."""
    parser.add_argument(
        "--role",
        metavar="NAME",
        help="of conversations, whose tokens count: system, user, assistant, or 'not user' and so "
        "on for all but theirs (default: all)",
    )


def add_place(parser: argparse.ArgumentParser) -> None:
    """Adds `--device` and `--dtype`."""
    parser.add_argument(
        "--device", default="cpu", metavar="NAME", help="cpu, cuda, cuda:1, mps (default: cpu)"
    )
    parser.add_argument(
        "--dtype", choices=DTYPES, help="dtype of the weights (default: the checkpoint's own)"
    )


def add_fields(parser: argparse.ArgumentParser, config: type) -> None:
    """Adds a flag per field of a dataclass, with the field's default, help and choices.

    Args:
        parser: The command's parser.
        config: A dataclass whose fields hold `help` in their metadata, and may hold `choices`,
            `metavar`, `type`, and `most`, the largest number.
    """
    for field in fields(config):
        flag = "--" + field.name.replace("_", "-")
        more: dict[str, Any] = {}
        more |= {
            key: field.metadata[key]
            for key in ("choices", "metavar", "type")
            if key in field.metadata
        }
        text = field.metadata["help"]
        if isinstance(field.default, bool):
            parser.add_argument(flag, action="store_true", help=text)
            continue
        if isinstance(field.default, tuple):
            more["nargs"] = "+"
            text += f" (default: {' '.join(field.default)})"
        elif "choices" not in more and "type" not in more:
            least, most = 0 if field.default == 0 else 1, field.metadata.get("most", bounds.ANY)
            more |= {"type": Whole(least, most), "metavar": "N"}
        if field.default is not None and not isinstance(field.default, tuple):
            text += f" (default: {field.default})"
        parser.add_argument(flag, default=field.default, help=text, **more)


def read_fields(args: argparse.Namespace, config: type[Config]) -> Config:
    """The dataclass with the values of its flags.

    Raises:
        SettingError: A field out of its range.
    """
    given = {field.name: getattr(args, field.name) for field in fields(config)}  # type: ignore[arg-type]
    return config(**given)


def add_compute(
    parser: argparse.ArgumentParser,
    *,
    batch_size: int = 8,
    max_tokens: int | None = None,
    texts: bool = True,
    seeds_what: str = "--world",
) -> None:
    """Adds `--device`, `--dtype`, `--batch-size`, `--max-tokens` and `--seed`.

    Args:
        parser: The command's parser.
        batch_size: The default of `--batch-size`, in sequences.
        max_tokens: The default of `--max-tokens`; None reads all the text.
        texts: Whether the command reads texts; if not, there is no `--max-tokens` and no `--seed`.
        seeds_what: What `--seed` is the random seed of, for its help.
    """
    add_place(parser)
    parser.add_argument(
        "--batch-size",
        type=Whole(1, bounds.ROWS),
        default=batch_size,
        metavar="N",
        help=f"sequences per forward (default: {batch_size})",
    )
    if texts:
        parser.add_argument(
            "--max-tokens",
            type=positive,
            default=max_tokens,
            metavar="N",
            help=f"stop after this many tokens of text (default: {max_tokens or 'no limit'})",
        )
        parser.add_argument(
            "--seed",
            type=seed,
            default=0,
            metavar="N",
            help=f"random seed of {seeds_what} (default: 0)",
        )


def require_used_seed(args: argparse.Namespace) -> None:
    """Checks that `--seed` has an effect.

    Raises:
        SettingError: The texts are not random.
    """
    if args.seed and not args.world:
        raise SettingError(
            f"--seed {args.seed} has no effect: only the documents of --world are random; "
            "leave it out."
        )


def read_texts(args: argparse.Namespace, tokenizer: Any = None) -> Iterator[str]:
    """The documents that the text flags name, one at a time.

    Args:
        args: A namespace with the flags of `add_texts`, `--max-tokens` and `--seed`.
        tokenizer: The tokenizer, for conversations.

    Returns:
        The texts, in order. With `--world` and `--max-tokens` they are endless: the reader stops.

    Raises:
        TextError: A file, a data set or a kind of document that cannot be read.
    """
    from arcee_lab import demo
    from arcee_lab.data import documents

    if args.text:
        return documents.read_files(args.text, column=args.text_column, tokenizer=tokenizer)
    if args.text_column:
        raise SettingError(
            f"--text-column {args.text_column} applies to files of --text; expected none here. For "
            "a data set, write --dataset NAME:SPLIT:COLUMN."
        )
    if args.dataset:
        return documents.read_dataset(args.dataset, tokenizer=tokenizer)
    kind = None if args.world == ALL else args.world
    documents = demo.stream(kind, seed=args.seed, split="test")
    end = WORLD_DOCUMENTS if args.max_tokens is None else None
    return (document.text for document in islice(documents, end))
