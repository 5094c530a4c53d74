"""What `arcee-lab neurons` writes of a run next to the run itself: pages, index, exports."""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError
from arcee_lab.neurons.exports.kinds import KINDS

if TYPE_CHECKING:
    from arcee_lab.neurons import Effects, Exemplars
    from arcee_lab.neurons.labels import Labels

_UNIT = re.compile(r"L(\d{1,6})/N(\d{1,9})", re.ASCII)


def unit(word: str) -> tuple[int, int]:
    """Parses a neuron such as `L1/N32`.

    Raises:
        argparse.ArgumentTypeError: The word is none.
    """
    found = _UNIT.fullmatch(word)
    if found is None:
        raise argparse.ArgumentTypeError(
            f"expected a layer and a neuron such as L1/N32, got {word!r}"
        )
    return int(found[1]), int(found[2])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say what is written of a run."""
    parser.add_argument(
        "--unit",
        nargs="+",
        type=unit,
        metavar="L1/N32",
        help="write the pages of these neurons to OUT/pages, at most 5000",
    )
    parser.add_argument(
        "--label",
        metavar="NAME",
        help="write the pages of the neurons that carry a label: a concept of the demo's world, "
        "NAME=PATTERN for the places where a regular expression matches the texts, or a label of "
        "--label-file",
    )
    parser.add_argument(
        "--label-file",
        metavar="FILE",
        type=Path,
        help="a BIO or CoNLL file that has the label: one word per line, its tag in the last "
        "column, blank lines between sentences; also with .gz",
    )
    parser.add_argument(
        "--all",
        action="store_true",
        help="write a table of all neurons to OUT/index: a page per layer, and units.parquet",
    )
    parser.add_argument(
        "--values",
        action="store_true",
        help="store the values per token of all exemplars in OUT/values; pages then need no model",
    )
    parser.add_argument(
        "--export",
        choices=KINDS,
        help="write the neurons of --unit (delphi: all) to OUT/export-KIND for another program",
    )


def check(args: argparse.Namespace) -> None:
    """Refuses flags that have no effect, before anything is read.

    Raises:
        SettingError: They do not fit each other.
    """
    if args.export == "delphi" and args.unit is not None:
        raise SettingError("--export delphi writes whole layers; leave --unit out.")
    if args.export not in (None, "delphi") and args.unit is None:
        raise SettingError(f"--export {args.export} needs neurons; name them: --unit L1/N32.")
    if args.label_file is not None and args.label is None:
        raise SettingError(
            f"--label-file {args.label_file} came without --label; expected the name of one of its "
            "labels, such as --label PER."
        )
    pattern = _pattern(args)
    if pattern is None:
        return
    try:
        re.compile(pattern)
    except re.error as error:
        raise SettingError(
            f"--label {args.label!r}: {error}; expected NAME=PATTERN, a regular expression."
        ) from error
    if not pattern or not _name(args):
        raise SettingError(
            f"--label {args.label!r} lacks the name or the pattern; expected NAME=PATTERN."
        )


def _pattern(args: argparse.Namespace) -> str | None:
    """The regular expression of `--label`, if it is one."""
    if args.label is None or args.label_file is not None or "=" not in args.label:
        return None
    return args.label.partition("=")[2]


def _name(args: argparse.Namespace) -> str:
    """The name of `--label`."""
    return args.label if _pattern(args) is None else args.label.partition("=")[0]


def named_labels(args: argparse.Namespace) -> "Labels | None":
    """The labels of `--label` where they are those of a file or of the demo's world.

    They need no model, so a mistyped name or a bad line is an error before one is loaded.

    Args:
        args: A namespace with the flags of `add_arguments` and `add_texts`.

    Raises:
        SettingError: An unknown label; the nearest are named.
        TextError: The file cannot be read.
    """
    from arcee_lab.neurons import labels

    if args.label is None or _pattern(args) is not None:
        return None
    if args.label_file is not None:
        known = labels.bio(args.label_file)
    else:
        known = labels.demo(args.world if args.world not in (None, flags.ALL) else None)
    known.require(args.label)
    return known


def matched_labels(
    args: argparse.Namespace, domains: dict[str, list[Path]], tokenizer: Any
) -> "Labels | None":
    """The labels of `--label NAME=PATTERN`, in the texts that the run reads.

    Args:
        args: A namespace with the flags of `add_arguments` and `add_texts`.
        domains: What `flags.read_domains` gave.
        tokenizer: The tokenizer: for conversations, and to end where the run ends.

    Raises:
        SettingError: The pattern matches nothing.
        TextError: The texts cannot be read.
    """
    from arcee_lab.neurons import labels

    pattern = _pattern(args)
    if pattern is None:
        return None
    sources: list[Iterator[str]] = list(
        flags.read_texts_by_domain(args, domains, tokenizer).values()
    ) or [flags.read_texts(args, tokenizer)]
    texts = [text for one in sources for text in _read(one, tokenizer, args.max_tokens)]
    found = labels.regex(texts, {_name(args): pattern})
    if not any(found.spans[_name(args)]):
        raise SettingError(
            f"--label {args.label!r} matches none of {len(texts)} texts; expected a pattern that "
            "occurs in them."
        )
    return found


def _read(texts: Iterator[str], tokenizer: Any, most: int | None) -> Iterator[str]:
    """Documents up to the one with the last token that the run reads."""
    tokens = 0
    for text in texts:
        yield text
        if most is not None:
            tokens += len(tokenizer(text, verbose=False).input_ids)
            if tokens >= most:
                return


def check_units(args: argparse.Namespace, facts: Any) -> None:
    """Checks `--unit`, before the run takes its time.

    Args:
        args: A namespace with the flags of `add_arguments`.
        facts: What is going to be run: its layers and d_mlp.

    Raises:
        SettingError: A neuron that the model does not have.
    """
    from arcee_lab.neurons.pages._page import check_unit

    for layer, number in args.unit or ():
        check_unit(facts, layer, number)


def write(
    args: argparse.Namespace,
    run: "Exemplars",
    model: Any,
    tokenizer: Any,
    labels: "Labels | None",
) -> Iterator[str]:
    """Writes what the flags ask for; a line about each part, as soon as it is there.

    Args:
        args: A namespace with the flags of `add_arguments`, `add_texts` and `add_out`.
        run: The run.
        model: The model of the run.
        tokenizer: Its tokenizer.
        labels: What `named_labels` or `matched_labels` gave.
    """
    from arcee_lab import neurons

    known: dict[str, Any] = {"tokenizer": tokenizer}
    if args.values:
        size = neurons.values_bytes(run)
        yield f"values of all exemplars: {size / 1e6:,.1f} MB in {args.out / 'values'}"
        neurons.write_values(run, model, args.out / "values", batch_size=args.batch_size)
        valued: dict[str, Any] = {"values": neurons.StoredValues.load(args.out / "values")}
    else:
        valued = {"model": model}
    if args.unit:
        effects = _effects(model, tokenizer, args.unit)
        pages = args.out / "pages"
        made = neurons.write_pages(run, args.unit, pages, effects=effects, **valued, **known)
        yield f"{made.headline}\nopen   {pages / 'index.html'}"
    found = None
    if labels is not None:
        name = _name(args)
        role = None if _pattern(args) is None else args.role  # other labels have their own texts
        found = neurons.find(
            model, tokenizer, labels, names=name, role=role, batch_size=args.batch_size
        )
        units = [(one.layer or 0, one.unit) for one in found[name].units]
        yield found.headline
        pages = args.out / f"pages-{re.sub('[^A-Za-z0-9]+', '-', name).strip('-') or 'label'}"
        made = neurons.write_pages(
            run,
            units,
            pages,
            effects=_effects(model, tokenizer, units),
            found=found,
            title=f"Neurons that carry {name}",
            **valued,
            **known,
        )
        yield f"{made.headline}\nopen   {pages / 'index.html'}"
    if args.all:
        effects = neurons.effects(model, tokenizer, layers=list(run.layers), top=5)
        index = args.out / "index"
        made = neurons.write_index(run, index, effects=effects, found=found, **known)
        yield f"{made.headline}\nopen   {index / 'index.html'}"
    if args.export is not None:
        made = neurons.export(
            run,
            args.export,
            args.out / f"export-{args.export}",
            units=args.unit,
            effects=_effects(model, tokenizer, args.unit or []),
            model=model,
            **known,
        )
        yield made.headline


def _effects(model: Any, tokenizer: Any, units: list[tuple[int, int]]) -> "dict[int, Effects]":
    """What the weights of some neurons say, by layer."""
    from arcee_lab import neurons

    by_layer: dict[int, list[int]] = {}
    for layer, number in dict.fromkeys(units):
        by_layer.setdefault(layer, []).append(number)
    return {
        layer: neurons.effects(model, tokenizer, layers=layer, units=numbers)
        for layer, numbers in by_layer.items()
    }
