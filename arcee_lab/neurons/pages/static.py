"""Pages as files: some neurons in full, with a table of contents."""

import os
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from arcee_lab.errors import SettingError
from arcee_lab.neurons.pages._page import check_unit
from arcee_lab.neurons.pages.many import pages
from arcee_lab.neurons.pages.neuron_page import NeuronPage
from arcee_lab.results import Result, counted
from arcee_lab.runs import storage
from arcee_lab.runs.progress import progress_bar
from arcee_lab.views import html_page
from arcee_lab.views.html import number

MOST = 5_000  # pages per call
CONTENTS = "index.html"


@dataclass(frozen=True, repr=False)
class Written(Result):
    """Files that were written.

    Attributes:
        folder: Their folder.
        files: All of them.
        what: What they hold, for the headline.
        seconds: How long it took.
    """

    folder: Path
    files: tuple[Path, ...]
    what: str
    seconds: float

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(path.stat().st_size for path in self.files)

    @property
    def headline(self) -> str:
        """What, how many files and bytes, and how long it took."""
        return (
            f"{self.what} in {self.folder}: {counted(len(self.files), 'file')}, "
            f"{self.bytes:,} bytes, {self.seconds:.1f} s"
        )

    def frame(self) -> pd.DataFrame:
        """One row per file: file, bytes."""
        rows = [(str(path.relative_to(self.folder)), path.stat().st_size) for path in self.files]
        return pd.DataFrame(rows, columns=["file", "bytes"])


def write_pages(
    run: Any,
    units: Sequence[tuple[int, int]],
    out: str | os.PathLike[str],
    *,
    tokenizer: Any,
    title: str = "",
    progress: bool | None = None,
    **known: Any,
) -> Written:
    """Writes the page of each neuron as a file that opens offline, and a table of contents.

    Args:
        run: What `al.neurons.exemplars` found.
        units: Layer and number of each neuron, at most 5,000.
        out: A new or empty folder, or one that holds pages of the same run.
        tokenizer: The tokenizer that the run was made with.
        title: Heading of the table of contents.
        progress: Whether to show a bar.
        **known: The other arguments of `page`: `model=` or `values=` for values per token,
            `effects=`, `before=`, `after=`.

    Returns:
        The files: `L1-N32.html` for layer 1, neuron 32, and `index.html`.

    Raises:
        SettingError: No neuron, more than 5,000, one named twice, or one that the run does not
            have.
        FileError: A folder in use or a full disk; then no page stays.
    """
    began = time.perf_counter()
    units = [check_unit(run, *unit) for unit in units]
    if not 1 <= len(units) <= MOST:
        raise SettingError(
            f"{len(units):,} pages were asked for; expected 1 to {MOST:,}. Write the index of all "
            "neurons (--all), and pages of those that you choose from it."
        )
    if len(set(units)) < len(units):
        raise SettingError("units names a neuron twice; expected each neuron once.")
    out = claimed(out, run, "pages")

    def fill(folder: Path) -> None:
        rows = []
        bar = progress_bar(show=progress, total=len(units), unit="page", desc="pages")
        with bar:
            for page in pages(run, units, tokenizer=tokenizer, **known):
                name = file_name(page.layer, page.unit)
                # The folder is moved when it is complete, so its files need not be written apart.
                (folder / name).write_text(page.html(), encoding="utf-8", errors="replace")
                rows.append(_row(page, name))
                bar.update()
        heading = title or f"Neurons of {run.model}"
        text = contents(heading, rows, run, _others(out, folder))
        (folder / CONTENTS).write_text(text, encoding="utf-8", errors="replace")

    files = storage.write_folder(out, fill)
    what = counted(len(units), "page")
    return Written(out, tuple(files), what, time.perf_counter() - began)


def file_name(layer: int, unit: int) -> str:
    """The file of a neuron's page."""
    return f"L{layer}-N{unit}.html"


def claimed(out: str | os.PathLike[str], run: Any, what: str) -> Path:
    """A folder for files of this run; those that it holds may be written again.

    Args:
        out: The folder; it is made if it is missing.
        run: The run.
        what: What the files hold.

    Raises:
        FileError: It is a file or a URL, or holds other files or files of another run.
    """
    of = {"command": f"neurons, {what}", "model": run.model, "fingerprint": run.fingerprint}
    return storage.claim(out, {**of, "tokens": run.n_tokens, "windows": run.n_windows})


def _others(out: Path, made: Path) -> list[str]:
    """Names of pages that an earlier call wrote there."""
    pattern = "L*-N*.html"
    return sorted({p.name for p in out.glob(pattern)} - {p.name for p in made.glob(pattern)})


def contents(title: str, rows: Sequence[str], run: Any, others: Sequence[str] = ()) -> str:
    """The table of contents.

    Args:
        title: The heading.
        rows: Rows of the table, as HTML.
        run: The run.
        others: Names of further pages.
    """
    table = f"<table>{_HEAD}{''.join(rows)}</table>"
    parts = [("Pages", "One line per neuron; the name leads to its page.", table)]
    if others:
        links = ", ".join(f'<a href="{name}">{_NAME.sub(r"/", name[:-5])}</a>' for name in others)
        parts.append(("Further pages", "Written before.", f"<p>{links}</p>"))
    return html_page.page(
        title,
        f"{counted(len(rows), 'neuron')} of {run.model}; N = {run.n_tokens:,} tokens.",
        parts,
        foot="Made by arcee-lab neurons. This page makes no request and runs no script.",
        style=TABLE_STYLE,
    )


TABLE_STYLE = """
table { border-collapse: collapse } td, th { border: 1px solid var(--line); padding: 2px 8px;
  text-align: left; vertical-align: top } td.n { text-align: right; white-space: nowrap }
td.t { white-space: pre-wrap; font-family: ui-monospace, Menlo, Consolas, monospace }
a { color: inherit } th button { all: unset; cursor: pointer; font-weight: bold }
th button:focus-visible { outline: 2px solid }
"""
_NAME = re.compile("-(?=N)")
_HEAD = "<tr><th>neuron</th><th>rate</th><th>largest</th><th>best label</th><th>fires at</th></tr>"


def _row(page: NeuronPage, name: str) -> str:
    label = page.labels[0].label if page.labels else ""
    peaks = dict.fromkeys(x.tokens[x.peak].strip() for x in page.top if x.peak is not None)
    shown = " · ".join(token[:24] for token in list(peaks)[:6])
    return (
        f'<tr><td><a href="{name}">{page.name}</a></td><td class="n">{number(page.rate)}</td>'
        f'<td class="n">{number(page.maximum)}</td><td>{escape(label[:60])}</td>'
        f'<td class="t">{escape(shown)}</td></tr>'
    )
