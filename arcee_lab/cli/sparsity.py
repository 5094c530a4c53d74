"""`arcee-lab sparsity`: how sparse the MLPs are, as files and as one page to look at."""

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arcee_lab.cli import flags
from arcee_lab.runs import storage
from arcee_lab.runs.one_writer import only_writer

if TYPE_CHECKING:
    from arcee_lab.runs.ranks import Ranks
    from arcee_lab.sparsity import SparsityReport

HELP = "Measure the sparsity of the MLPs, by layer, neuron and token; write a report to look at."
EXAMPLE = "arcee-lab sparsity demo --world all --max-tokens 20000 --out out/zeros"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `sparsity`."""
    flags.add_model(parser)
    flags.add_texts(parser, required=False)
    flags.add_domains(parser, "kinds of text to compare; a name may be repeated")
    flags.add_role(parser)
    flags.add_out(parser)
    flags.add_compute(
        parser, seeds_what="--world, and of the samples of cett, cett_ppl and truncation"
    )
    parser.add_argument(
        "--context",
        type=flags.positive,
        metavar="N",
        help="longest window in tokens (default: 1024, or what the model can read if less)",
    )
    parser.add_argument(
        "--analyses",
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="what to measure in addition to the core: all (of one pass), core (nothing), further "
        "(CETT and truncation, with forward passes of their own), or names (default: all)",
    )
    parser.add_argument(
        "--sample-every",
        type=flags.positive,
        metavar="N",
        help="analyses other than the core look at every Nth window, and predictors at 1 token in "
        "16 of every fourth of those; 1 shows them all (default: 8, or every window below 64)",
    )


def run(args: argparse.Namespace) -> int:
    """Measures, saves, and says where the results are. Under torchrun, ranks share the work."""
    domains = flags.read_domains(args)
    _require_used_seed(args)
    settings = _settings(args, domains)
    storage.check_claim(args.out, settings)
    from arcee_lab import load
    from arcee_lab.data.limits import windows_of
    from arcee_lab.runs.ranks import joined
    from arcee_lab.sparsity import registry

    registry.chosen(args.analyses)  # a mistyped name is reported before anything is loaded
    with ExitStack() as alone, joined(args.device) as ranks:
        model, tokenizer = load(args.model, dtype=args.dtype, device=str(ranks.device))
        from arcee_lab.sparsity.report.html_page import PAGE
        from arcee_lab.sparsity.streamed import resume_files

        texts = flags.read_texts_by_domain(args, domains, tokenizer) or {
            "": flags.read_texts(args, tokenizer)
        }
        windows = {
            name: windows_of(
                model,
                tokenizer,
                documents,
                context=args.context,
                max_tokens=args.max_tokens,
                role=args.role,
            )
            for name, documents in texts.items()
        }
        # Claimed only now: a mistyped file name must not leave a folder that is "another run".
        if ranks.first:
            storage.claim(args.out, settings)
            alone.enter_context(only_writer(args.out))
            storage.remove_partial_files(args.out)  # of a run that was interrupted
        ranks.barrier()
        reports = {
            name: _measured(args, ranks, model, tokenizer, windows[name], name) for name in windows
        }
        if ranks.first:
            _finish(args, model, tokenizer, windows, reports)
        ranks.barrier()  # until all is written, an interrupted run may need what was saved
        for name in windows:
            resume_files.remove(_resume(args.out / name, ranks))
        ranks.barrier()
        if ranks.first:
            print(f"open   {args.out / PAGE}\nfiles  {_listed(args.out)}")
    return 0


def _listed(folder: Path) -> str:
    """The files of a folder by kind, at most three names of each, so that they fit on one line."""
    kinds: dict[str, list[str]] = {}
    for path in sorted(folder.iterdir()):
        kinds.setdefault(path.suffix if path.is_file() else "/", []).append(path.name)
    parts = []
    for suffix, names in kinds.items():
        if len(names) > 3:
            parts.append(f"{len(names)} {suffix}")
        else:
            parts += names
    return ", ".join(parts)


def _require_used_seed(args: argparse.Namespace) -> None:
    """Checks that `--seed` has an effect: on the documents of `--world`, or on an analysis."""
    if args.seed and not args.world:
        from arcee_lab.sparsity import registry

        if not set(registry.chosen(args.analyses)) & set(registry.FURTHER):
            flags.require_used_seed(args)


def _resume(folder: Path, ranks: "Ranks") -> Path:
    return folder / f"resume-{ranks.rank}.safetensors"


def _measured(
    args: argparse.Namespace, ranks: "Ranks", model: Any, tokenizer: Any, windows: Any, name: str
) -> "SparsityReport":
    """One text: its estimate, its pass, its files."""
    from arcee_lab.sparsity import SparsityReport
    from arcee_lab.sparsity.job import MeasureJob
    from arcee_lab.sparsity.report import report_files

    folder = args.out / name
    done = bool(name) and (folder / report_files.REPORT).is_file()  # the last one that is written
    ranks.barrier()  # the first rank may write this file while another still looks for it
    if done:
        return SparsityReport.load(folder)
    job = MeasureJob(
        model,
        tokenizer,
        windows,
        analyses=args.analyses,
        sample_every=args.sample_every,
        batch_size=args.batch_size,
        seed=args.seed,
    )
    if ranks.first:
        folder.mkdir(exist_ok=True)
        print(f"{name or args.model}: {job.estimate(processes=ranks.size)}", flush=True)
    ranks.barrier()
    report = job.run(
        label=name or None,
        ranks=ranks,
        resume=_resume(folder, ranks),
        keep_resume=True,
        progress=True,
    )
    if ranks.first:
        report.save(folder)
    return report


def _finish(
    args: argparse.Namespace,
    model: Any,
    tokenizer: Any,
    windows: dict[str, Any],
    reports: dict[str, "SparsityReport"],
) -> None:
    """The page, and what the terminal shows."""
    from arcee_lab.sparsity import domains
    from arcee_lab.sparsity.report.html_page import save_page

    first = next(iter(reports))
    compared = domains(reports) if len(reports) > 1 else None
    if compared is not None:
        for name, frame in (("domains", compared.frame()), ("pairs", compared.pairs())):
            storage.write_atomic(args.out / f"{name}.parquet", frame.to_parquet)
    save_page(args.out, reports[first], model, tokenizer, windows[first], domains=compared)
    for report in reports.values():
        print(table(report), end="\n\n")
    if compared is not None:
        print(compared.headline, end="\n\n")


def table(report: "SparsityReport") -> str:
    """The layers as lines of text, under the model, N and the speed; below, what it cost."""
    n_tokens, d_mlp = report.n_tokens, report.fired.shape[1]
    lines = [
        report.headline.replace("; ", ";\n", 1),
        f"{report.tokens_per_second:,.0f} tokens/s on {report.device}",
        "",
        f"layer   zeros   active of {d_mlp:,} neurons (5-95 % of tokens)   never fired",
    ]
    for row in report.frames["layers"].to_dict(orient="records"):
        active = f"{row['active_mean']:.0f} ({row['active_p05']}-{row['active_p95']})"
        lines.append(f"{row['layer']:>5}  {row['zeros']:6.1%}   {active:<46}  {row['dead']:>6}")
    lines.append(
        f"A neuron that never fired fires on less than {3 / n_tokens:.2g} of tokens (95 %)."
    )
    lines += ["", "analysis      seconds   tokens   result"]
    for row in report.frames["costs"].to_dict(orient="records"):
        result = report.results.get(row["analysis"])
        said = "" if result is None else result.headline
        lines.append(
            f"{row['analysis']:<12} {row['seconds']:8.2f} {row['n_tokens']:8,}   {said}".rstrip()
        )
    return "\n".join(lines)


def _settings(args: argparse.Namespace, domains: dict[str, list[Path]]) -> dict[str, Any]:
    """What makes this run this run."""
    settings = {"command": "sparsity", **flags.text_settings(args, domains)}
    settings |= {name: getattr(args, name) for name in ("context", "analyses", "sample_every")}
    if args.role is not None:
        settings["role"] = args.role
    return settings | flags.compute_settings(args)
