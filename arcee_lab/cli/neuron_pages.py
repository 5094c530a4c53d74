"""What `arcee-lab neurons` writes of a run next to the run itself: pages, index, exports."""

import argparse
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from arcee_lab.cli import flags
from arcee_lab.errors import SettingError

if TYPE_CHECKING:
    from arcee_lab.neurons import Effects, Exemplars
    from arcee_lab.neurons.labels import Labels

KINDS = ("neuronpedia", "sae_dashboard", "neuron_explainer", "delphi")
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
        help="write the pages of the neurons that carry a label: a concept of the demo's world, or "
        "NAME=PATTERN, a regular expression that --text is searched for",
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
    if args.label is not None and "=" in args.label:
        name, _, pattern = args.label.partition("=")
        try:
            re.compile(pattern)
        except re.error as error:
            raise SettingError(
                f"--label {args.label!r}: {error}; expected NAME=PATTERN, a regular expression."
            ) from error
        if not name or not pattern or not args.text:
            raise SettingError(
                f"--label {args.label!r}: expected NAME=PATTERN together with --text FILE."
            )


def prepare(args: argparse.Namespace, facts: Any, tokenizer: Any) -> "Labels | None":
    """The labels of `--label`, and a check of `--unit`, before the run takes its time.

    Args:
        args: A namespace with the flags of `add_arguments` and `add_texts`.
        facts: What is going to be run: its layers and d_mlp.
        tokenizer: The tokenizer, for conversations.

    Raises:
        SettingError: A neuron that the model does not have, or an unknown label.
    """
    from arcee_lab.neurons import labels
    from arcee_lab.neurons.pages._page import check_unit

    for layer, number in args.unit or ():
        check_unit(facts, layer, number)
    if args.label is None:
        return None
    name, _, pattern = args.label.partition("=")
    if pattern:
        return labels.regex(list(flags.read_texts(args, tokenizer)), {name: pattern})
    kind = args.world if args.world not in (None, "all") else None
    known = labels.demo(kind)
    known.require(name)
    return known


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
        labels: What `prepare` gave.
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
        name = args.label.partition("=")[0]
        found = neurons.find(model, tokenizer, labels, names=name, batch_size=args.batch_size)
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
