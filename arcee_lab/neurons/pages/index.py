"""All neurons of a run as one table: data in Parquet, and a page per layer that opens offline."""

import os
import time
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from arcee_lab.neurons.pages import joined
from arcee_lab.neurons.pages.static import CONTENTS, TABLE_STYLE, Written, claimed
from arcee_lab.neurons.pages.token_text import TokenText
from arcee_lab.results import counted
from arcee_lab.runs import storage
from arcee_lab.runs.progress import progress_bar
from arcee_lab.views import html_page
from arcee_lab.views.html import number

UNITS = "units.parquet"
_TOKENS = 5  # shown of each list
_LONGEST = 24  # characters shown of a token
_SORTED = {"neuron": "n", "rate": "n", "largest": "n", "best label": "", "fires at": "t"}
# Sorting is the script's only purpose; the page is complete without it.
_SCRIPT = """
document.querySelectorAll("th button").forEach((button, column) => {
  let down = column > 0 && column < 3;
  button.addEventListener("click", () => {
    const body = document.querySelector("tbody");
    const key = row => row.cells[column].dataset.v ?? row.cells[column].textContent;
    const rows = [...body.rows].map(row => [key(row), row]);
    const order = column < 3 ? (a, b) => a[0] - b[0] : (a, b) => a[0].localeCompare(b[0]);
    rows.sort((a, b) => down ? order(b, a) : order(a, b));
    down = !down;
    body.replaceChildren(...rows.map(row => row[1]));
  });
});
"""


def write_index(
    run: Any,
    out: str | os.PathLike[str],
    *,
    tokenizer: Any,
    effects: Any = None,
    found: Any = None,
    progress: bool | None = None,
) -> Written:
    """Writes the table of all neurons of a run, as data and as one offline page per layer.

    Args:
        run: What `al.neurons.exemplars` found.
        out: A new or empty folder, or one that holds the same of the same run.
        tokenizer: The tokenizer that the run was made with.
        effects: What `al.neurons.effects` found, for the tokens that each neuron raises.
        found: What `al.neurons.find` found, for the best label of each neuron.
        progress: Whether to show a bar.

    Returns:
        The files: `units.parquet`, `layer-N.html` and `index.html`.

    Raises:
        FileError: A folder in use or a full disk; then no file stays.
    """
    began = time.perf_counter()
    out = claimed(out, run, "index")
    text = TokenText(tokenizer)

    def fill(folder: Path) -> None:
        frames = []
        for layer in progress_bar(list(run.layers), show=progress, unit="layer", desc="index"):
            frame = units_frame(run, layer, text, effects=effects, found=found)
            page = layer_page(run, layer, frame)
            (folder / _file_name(layer)).write_text(page, encoding="utf-8", errors="replace")
            frames.append(frame)
        pd.concat(frames, ignore_index=True).to_parquet(folder / UNITS)
        (folder / CONTENTS).write_text(_contents(run, frames), encoding="utf-8", errors="replace")

    files = storage.write_folder(out, fill)
    what = f"{counted(len(run.layers) * run.d_mlp, 'neuron')} of {run.model}"
    return Written(out, tuple(files), what, time.perf_counter() - began)


def units_frame(
    run: Any, layer: int, text: TokenText, *, effects: Any = None, found: Any = None
) -> pd.DataFrame:
    """One row per neuron of a layer.

    Args:
        run: The run.
        layer: The layer.
        text: Decodes token ids.
        effects: As for `write_index`.
        found: As for `write_index`.

    Returns:
        Columns layer, unit, rate, n_fired, n_tokens, max, label, f1 and confirmed (of its best
        label), class, fires_at (texts of the tokens of the largest values, each once), raises
        (texts of tokens).
    """
    d_mlp, nothing = run.d_mlp, [None] * run.d_mlp
    labels = nothing if found is None else joined.best_labels(found, layer, d_mlp)
    raised = nothing if effects is None else joined.raised(effects, layer, d_mlp, text, _TOKENS)
    kinds = nothing if effects is None else joined.kinds(effects, layer, d_mlp)
    return pd.DataFrame(
        {
            "layer": layer,
            "unit": np.arange(run.d_mlp),
            "rate": run.rates(layer).numpy(),
            "n_fired": run.fired(layer).numpy(),
            "n_tokens": run.n_tokens,
            "max": run.maxima(layer).numpy(),
            "label": [None if one is None else one.label for one in labels],
            "f1": [np.nan if one is None else one.scores["F1"] for one in labels],
            "confirmed": [one is not None and one.confirmed for one in labels],
            "class": kinds,
            "fires_at": _peaks(run, layer, text),
            "raises": [one or [] for one in raised],
        }
    )


def _peaks(run: Any, layer: int, text: TokenText) -> list[list[str]]:
    """The tokens at which each neuron of a layer has its largest values, each once."""
    kept, windows = run.states[layer], run.corpus.windows
    which = kept["top_windows"].numpy()
    places = windows.bounds[np.maximum(which, 0)] + kept["top_positions"].numpy()
    ids = np.where(which >= 0, windows.ids[np.maximum(places, 0)], -1)
    found = []
    for row in ids.tolist():
        distinct = dict.fromkeys(number for number in row if number >= 0)
        found.append([text.one(number) for number in list(distinct)[:_TOKENS]])
    return found


def layer_page(run: Any, layer: int, frame: pd.DataFrame) -> str:
    """The page of a layer.

    Args:
        run: The run.
        layer: The layer.
        frame: Its neurons, from `units_frame`.
    """
    columns = dict(_SORTED)
    raised = bool(frame["raises"].str.len().any())
    if raised:
        columns["raises"] = "t"
    head = "".join(f"<th><button>{name}</button></th>" for name in columns)
    body = "".join(_row(row, raised) for row in frame.itertuples())
    dead = int(np.count_nonzero(frame["n_fired"] == 0))
    return html_page.page(
        f"Layer {layer} of {run.model}",
        f"{counted(len(frame), 'neuron')}, of which {dead:,} never fired; N = {run.n_tokens:,} "
        "tokens.",
        [
            (
                "Neurons",
                "A heading sorts by its column. A neuron's full page: arcee-lab neurons ... --unit "
                f"L{layer}/N0, or al.neurons.page(run, {layer}, 0, tokenizer=tokenizer).",
                f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>",
            )
        ],
        foot="Made by arcee-lab neurons. This page makes no request; its one script sorts the "
        "table.",
        style=TABLE_STYLE,
        script=_SCRIPT,
    )


def _row(row: Any, raised: bool) -> str:
    known = isinstance(row.label, str)  # pandas makes NaN of None in a column of texts
    label = f"{escape(row.label[:60])} ({row.f1:.2f})" if known else ""
    cells = [
        f'<td class=n data-v="{row.unit}">L{row.layer}/N{row.unit}',
        f'<td class=n data-v="{row.rate:.6g}">{number(row.rate)}',
        f'<td class=n data-v="{row.max:.6g}">{number(row.max)}',
        f"<td>{label}",
        f"<td class=t>{_listed(row.fires_at)}",
    ]
    if raised:
        cells.append(f"<td class=t>{_listed(row.raises)}")
    return f"<tr>{''.join(cells)}\n"


def _listed(tokens: Sequence[str]) -> str:
    return escape(" · ".join(token.strip("\n\r\t ")[:_LONGEST] for token in tokens))


def _contents(run: Any, frames: Sequence[pd.DataFrame]) -> str:
    rows = []
    for layer, frame in zip(run.layers, frames, strict=True):
        dead = int(np.count_nonzero(frame["n_fired"] == 0))
        rows.append(
            f'<tr><td><a href="{_file_name(layer)}">layer {layer}</a></td>'
            f'<td class="n">{len(frame):,}</td><td class="n">{dead:,}</td>'
            f'<td class="n">{number(np.mean(frame["rate"]))}</td></tr>'
        )
    head = "<tr><th>layer</th><th>neurons</th><th>never fired</th><th>mean rate</th></tr>"
    return html_page.page(
        f"Neurons of {run.model}",
        f"N = {run.n_tokens:,} tokens in {run.n_windows:,} windows.",
        [("Layers", "A page per layer.", f"<table>{head}{''.join(rows)}</table>")],
        foot="Made by arcee-lab neurons. This page makes no request and runs no script.",
        style=TABLE_STYLE,
    )


def _file_name(layer: int) -> str:
    return f"layer-{layer:02d}.html"
