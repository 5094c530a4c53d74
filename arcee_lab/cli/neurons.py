"""`arcee-lab neurons`: where every neuron fires, found in one pass over texts."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcee_lab.cli import flags, neuron_pages
from arcee_lab.runs import storage

if TYPE_CHECKING:
    from arcee_lab.neurons import Exemplars

HELP = "Find where every neuron fires: top and drawn windows, rates, histograms, for all layers."
EXAMPLE = "arcee-lab neurons demo --world all --max-tokens 20000 --out out/neurons"
COUNTS = {
    "top": (20, "windows with the largest values, per neuron"),
    "strata": (10, "octaves of window maxima, up to the largest, from which windows are drawn"),
    "per_stratum": (5, "windows drawn from each octave"),
    "negatives": (20, "windows in which the neuron never fires"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `neurons`."""
    flags.add_model(parser)
    flags.add_texts(parser, required=False)
    flags.add_domains(parser, "kinds of text; negatives are of the same kind; a name may repeat")
    flags.add_role(parser)
    flags.add_out(parser)
    flags.add_compute(parser)
    parser.add_argument(
        "--context",
        type=flags.positive,
        metavar="N",
        help="longest window in tokens (default: 1024, or what the model can read if less)",
    )
    parser.add_argument(
        "--layers",
        nargs="+",
        type=flags.whole,
        metavar="N",
        help="numbers of layers, from 0 (default: all)",
    )
    for name, (default, what) in COUNTS.items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=flags.whole if name == "negatives" else flags.positive,
            default=default,
            metavar="N",
            help=f"{what} (default: {default})",
        )
    neuron_pages.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Reads, saves, and says how to open the run. Under torchrun, ranks share the work."""
    domains = flags.read_domains(args)
    flags.require_used_seed(args)
    neuron_pages.check(args)
    labels = neuron_pages.named_labels(args)
    settings = _settings(args, domains)
    storage.check_claim(args.out, settings)
    from arcee_lab import load
    from arcee_lab.neurons.reading.job import ExemplarsJob
    from arcee_lab.runs.ranks import joined

    with joined(args.device) as ranks:
        model, tokenizer = load(args.model, dtype=args.dtype, device=str(ranks.device))
        texts: Any = flags.read_texts_by_domain(args, domains, tokenizer)
        job = ExemplarsJob(
            model,
            tokenizer,
            texts or flags.read_texts(args, tokenizer),
            layers=args.layers,
            context=args.context,
            batch_size=args.batch_size,
            max_tokens=args.max_tokens,
            role=args.role,
            **{name: getattr(args, name) for name in COUNTS},
        )
        neuron_pages.check_units(args, job.facts)
        if labels is None:
            labels = neuron_pages.matched_labels(args, domains, tokenizer)
        # Claimed only now: a mistyped file name must not leave a folder that is "another run".
        if ranks.first:
            storage.claim(args.out, settings)
            storage.remove_partial_files(args.out)  # of a run that was interrupted
            print(f"{args.model}: {job.estimate(processes=ranks.size)}", flush=True)
        ranks.barrier()
        found = job.run(ranks=ranks, out=args.out, progress=True)
        if ranks.first:
            print(table(found), end="\n\n")
            print(f"open   al.neurons.Exemplars.load({str(args.out)!r})")
            for line in neuron_pages.write(args, found, model, tokenizer, labels):
                print(line, flush=True)
    return 0


def table(found: "Exemplars") -> str:
    """The layers as lines of text, under the headline."""
    lines = [found.headline, "", "layer   mean rate   never fired   largest value"]
    for layer in found.layers:
        rates, largest = found.rates(layer), found.maxima(layer).max()
        dead = int((rates == 0).sum())
        lines.append(
            f"{layer:>5}   {float(rates.mean()):9.2%}   {dead:>11,}   {float(largest):.4g}"
        )
    lines.append(
        f"A neuron that never fired fires on less than {3 / found.n_tokens:.2g} of tokens (95 %)."
    )
    return "\n".join(lines)


def _settings(args: argparse.Namespace, domains: dict[str, list[Path]]) -> dict[str, Any]:
    """What makes this run this run."""
    settings = {"command": "neurons", **flags.text_settings(args, domains)}
    settings |= {name: getattr(args, name) for name in ("context", "layers", *COUNTS)}
    if args.role is not None:
        settings["role"] = args.role
    return settings | flags.compute_settings(args)
