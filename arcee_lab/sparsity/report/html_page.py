"""report.html: one measurement as a page that opens offline and runs no script."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from arcee_lab.data.windows import Windows
from arcee_lab.runs import storage
from arcee_lab.sites import unit_name
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.compared.domains import Domains
from arcee_lab.sparsity.report.passage import OFTEN, Passage, read_passage
from arcee_lab.sparsity.report.report import SparsityReport
from arcee_lab.sparsity.report.tables import RARE
from arcee_lab.views.figures.drawing.series import spread
from arcee_lab.views.figures.drawing.svg import svg
from arcee_lab.views.figures.figure import Figure, png, titled
from arcee_lab.views.html import bar_list, key_table
from arcee_lab.views.html_page import drawing, page

PAGE = "report.html"
_PASSAGES = 2  # shown neuron by neuron
_SHORTEST = 12  # tokens that make a passage worth showing
_STRIPS = 8  # layers shown word by word; the map above them shows all

_NOTES = {
    "which": "One row per neuron, one column per token. Blank is exactly zero: the neuron does not "
    "take part there. Each row is scaled by its own peak; on the right, how often it fires over "
    f"all the text. Picked are the neurons that write most to the residual stream here, of those "
    f"that fire on at most {OFTEN:.0%} of this passage and of all the text.",
    "layers": "The shorter a bar, the more of the layer is exactly zero. Symmetric untrained "
    "weights leave one half active. The line on a bar goes from the sparsest 5% of tokens to the "
    "densest 5%.",
    "rates": "Each neuron is counted once, at the share of tokens on which it fires. "
    "The numbers on the left count the neurons that never fired.",
    "tokens": "One column per token, in the order of the text: the deeper the blue, the more of a "
    "layer's neurons fire there. ReLU² sets no fixed number, so hard and easy tokens may differ.",
    "costs": "Seconds that the host spent on each analysis, of the pass as a whole; the model's "
    "own forward passes are the rest. CETT and truncation run forward passes of their own later.",
    "strip": "The deeper the blue, the more of a layer's neurons fire at the token; hover over it "
    "for the share. All layers have one scale, which the first line shows. Of a deeper model some "
    "layers are shown here, and all in the map above.",
}

_READINGS = {
    "coverage": (
        "How few neurons do most of the firing",
        "The faster a line rises, the fewer neurons are worth keeping in fast memory. Neurons that "
        "all fire alike give a straight line.",
    ),
    "thresholds": (
        "Sizes and thresholds",
        "Each line starts at the exact zeros and climbs as the threshold drops more; where it is "
        "flat, a threshold drops nothing more. ReLU² squares, which spreads the sizes over twice "
        "as many octaves.",
    ),
    "positions": (
        "Active neurons by position",
        "A flat line says that where a token stands does not matter. Every count is of exact "
        "zeros, so a step is no matter of a threshold.",
    ),
    "ids": (
        "Active neurons by frequency of the token",
        "A falling line says that common tokens need fewer neurons. With ReLU² the number of "
        "neurons is the model's own choice at each token.",
    ),
    "saving": (
        "What skipping zeros could save",
        "Dense bytes over bytes read, for one token or several sequences at once. The lower "
        "line loses nothing, because relu(u)² of 0 adds exactly 0; the upper one needs an oracle.",
    ),
    "cett": (
        "Sparsity beyond exact zeros",
        "How many neurons each layer can lose for a stated error of its output. Without a gate the "
        "cut is one threshold per neuron.",
    ),
    "cett_ppl": (
        "What the cut does to the loss",
        "The largest common error at which perplexity stays within the stated bound. The bars are "
        "the neurons left in the cut run itself, in which later layers see what earlier ones left.",
    ),
    "truncation": (
        "How much can be dropped",
        "A curve stays flat as long as what is dropped does not matter; the critical point is "
        "where it leaves the flat part. At the right end nothing is dropped.",
    ),
    "domains": (
        "The same model on several texts",
        "Lines that part say that a kind of text needs more neurons in those layers. The files "
        "domains.parquet and pairs.parquet hold the numbers.",
    ),
}


def save_page(
    folder: str | Path,
    report: SparsityReport,
    model: Any,
    tokenizer: Any,
    windows: Windows,
    *,
    domains: Domains | None = None,
) -> list[Path]:
    """Writes `report.html`, and `neurons.png` with its first picture.

    Args:
        folder: A folder that exists.
        report: What was measured.
        model: The model.
        tokenizer: Its tokenizer.
        windows: The text that was measured; its first passages of some length are shown.
        domains: The model on several texts, of which `report` is the first; shown too, and then
            every other heading and figure names the text that it is of.

    Returns:
        The files.
    """
    folder = Path(folder)
    passages = [
        (name, read_passage(model, tokenizer, torch.from_numpy(windows[number]).long(), report))
        for name, number in choose_passages(windows)
    ]
    first = titled(passages[0][1].figure(), report.label if domains is not None else "")
    return [
        storage.write_atomic(folder / PAGE, report_html(report, passages, domains)),
        storage.write_atomic(folder / "neurons.png", png(first)),
    ]


def choose_passages(windows: Windows) -> list[tuple[str, int]]:
    """The windows to show neuron by neuron, each with a name of its own.

    Args:
        windows: The text. Windows of different documents come first, and no short ones where there
            are others.

    Returns:
        `(name, number of the window)`, such as "document 3", or "document 0, window 2" where
        several windows of one document are shown.
    """
    sizes = np.diff(windows.bounds)
    long = np.flatnonzero(sizes >= _SHORTEST)
    if not len(long):
        long = np.array([sizes.argmax()])
    documents = windows.documents[long]
    begins = np.unique(documents, return_index=True)[1]  # the first window of each document
    others = np.setdiff1d(np.arange(len(long)), begins)
    shown = np.sort(long[np.concatenate([np.sort(begins), others])[:_PASSAGES]])
    named = []
    for number in shown.tolist():
        document = windows.documents[number]
        name = f"document {document}"
        if (windows.documents[shown] == document).sum() > 1:
            place = int((windows.documents[:number] == document).sum())
            name += f", window {place + 1}"
        named.append((name, number))
    return named


def report_html(
    report: SparsityReport, passages: list[tuple[str, Passage]], domains: Domains | None = None
) -> str:
    """The page, as one string of HTML.

    Args:
        report: The measurement.
        passages: `(name, passage)`, shown in this order.
        domains: The model on several texts, of which `report` is the first.
    """
    of = "" if domains is None else report.label
    tokens = f"{report.n_tokens:,} tokens"
    zeros = ", ".join(f"{value:.3f}" for value in report.zeros.tolist())
    rare = (
        f"Rare: fires on fewer than {RARE:.1%} of tokens. Dead: fired on none of the {tokens}, so "
        f"with 95 % confidence on less than {3 / report.n_tokens:.2g} of all."
    )

    def both(figure: Callable[..., Figure], alt: str) -> str:
        return _drawn(figure, alt, of)

    def named(name: str, alt: str) -> str:
        return both(partial(report.figures.draw, name), alt)

    sections = [
        *(
            (
                f"Which neurons fire where: {name}",
                _NOTES["which"],
                both(p.figure, f"Neurons in {name}"),
            )
            for name, p in passages
        ),
        (
            "Exact zeros by layer",
            _NOTES["layers"],
            named("layers", f"Exact zeros by layer: {zeros}"),
        ),
        ("Layers in numbers", rare, report.layers_html()),
        (
            "How often neurons fire",
            _NOTES["rates"],
            both(
                partial(report.figures.draw, "rates"), "Histogram of firing rates, layer by layer"
            ),
        ),
        (
            f"Layer by token: {passages[0][0]}",
            _NOTES["tokens"],
            both(passages[0][1].figure_layers, "Share of neurons that fire, by layer and token"),
        ),
        *(_section(name, result, of) for name, result in report.results.items()),
        *((f"How many fire: {name}", _NOTES["strip"], _strips(p)) for name, p in passages),
        ("Busiest neurons", "The share of tokens on which each fires.", _busiest(report)),
        ("The run", "What was measured, and how fast.", key_table(report.summary())),
        ("What it cost", _NOTES["costs"], _costs(report)),
    ]
    title, lead = f"Activation sparsity of {report.model}", f"{report.headline}."
    if domains is not None:
        title += f" on {len(domains.names)} kinds of text: {', '.join(domains.names)}"
        lead = (
            f"{report.model}, {report.dtype}: {domains.headline}. The first section is of all of "
            f"them; the others are of {of!r}, as their headings say. What the others gave is in a "
            "folder each."
        )
        sections = [(f"{of}: {heading}", note, body) for heading, note, body in sections]
        sections = [_section("domains", domains, ""), *sections]
    return page(
        title,
        lead,
        sections,
        foot="Made by arcee-lab sparsity. This page makes no request and runs no script.",
        contents=True,
    )


def _section(name: str, result: Any, of: str) -> tuple[str, str, str]:
    """A result as a section: its headline, how to read its figure, the figure."""
    if name in registry.STREAMED:
        analysis = registry.streamed(name)
        title, reading = analysis.title, analysis.reading
    else:
        title, reading = _READINGS.get(name, (name.replace("_", " ").capitalize(), ""))
    return (
        title,
        f"{result.headline}. {reading}",
        _drawn(result.figure, f"{title}: {result.headline}", of),
    )


def _drawn(figure: Callable[..., Figure], alt: str, of: str) -> str:
    """A figure that follows the page, with the text that it is of in its title."""
    made = titled(figure(), of)
    return drawing(svg(made, title=made.title), alt=f"{of}: {alt}" if of else alt)


def _costs(report: SparsityReport) -> str:
    frame = report.frames["costs"]
    return key_table(
        {
            row["analysis"]: f"{row['seconds']:.2f} s, {row['of_pass']:.1%} of the pass, "
            f"N = {row['n_tokens']:,} tokens"
            for row in frame.to_dict(orient="records")
        }
    )


def _strips(passage: Passage) -> str:
    shown = spread(len(passage.active), _STRIPS).tolist()
    return "".join(
        f"<p>layer {layer}</p>{passage.strip(layer, legend=layer == shown[0])}" for layer in shown
    )


def _busiest(report: SparsityReport, most: int = 12) -> str:
    top = report.frames["neurons"].nlargest(most, "rate")
    labels = [unit_name(*pair) for pair in zip(top["layer"], top["unit"], strict=True)]
    return bar_list(labels, top["rate"].tolist(), limit=1.0)
