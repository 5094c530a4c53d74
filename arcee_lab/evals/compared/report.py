"""report.html of a comparison: the forest plot, the numbers, and the documents that flipped."""

from html import escape
from typing import TYPE_CHECKING, Any

from arcee_lab.evals.pages import documents
from arcee_lab.results import counted
from arcee_lab.views.html import number
from arcee_lab.views.html_page import drawing, page

if TYPE_CHECKING:
    import pandas as pd

_FLIPS = 40  # documents shown per task and metric
_STYLE = (
    documents.STYLE
    + """
.drawing { min-width: 36rem }
table.dataframe { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
table.dataframe th, table.dataframe td { text-align: left; padding: .2rem .8rem .2rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: normal }
"""
)
_COLUMNS = [
    "run",
    "task",
    "metric",
    "base",
    "value",
    "difference",
    "low",
    "high",
    "ceiling",
    "n",
    "p_holm",
    "test",
    "gained",
    "lost",
]


def comparison_page(comparison: Any) -> str:
    """The page, as one string of HTML without scripts.

    Args:
        comparison: The `Comparison` that it shows.
    """
    from arcee_lab.views.figures.drawing.svg import svg

    frame = comparison.frame()
    shown = [name for name in _COLUMNS if name in frame and frame[name].notna().any()]
    table = frame[shown]
    sections = [
        (
            "Differences",
            "A filled mark is a clear difference: its p-value is below 0.05 after Holm's "
            "correction for all tests on this page. An open one may be chance.",
            drawing(svg(comparison.figure()), alt=comparison.headline),
        ),
        (
            "Numbers",
            "low and high are the ends of the paired 95 % bootstrap interval of the difference. "
            "gained and lost count documents that only the run, or only the base, answers rightly; "
            "ceiling is the best possible value where it is known.",
            table.to_html(index=False, border=0, float_format=number, na_rep=""),
        ),
        *_flips(comparison),
    ]
    if comparison.skipped:
        items = "".join(f"<li>{escape(line)}</li>" for line in comparison.skipped)
        sections.append(("Not compared", "", f"<ul>{items}</ul>"))
    return page(
        f"Compared with {comparison.base}", f"{comparison.headline}.", sections, style=_STYLE
    )


def _flips(comparison: Any) -> list[tuple[str, str, str]]:
    """One section per run and task: documents that are right in one of both runs only."""
    sections = []
    for one in comparison.differences:
        if one.gained is None or one.members or not one.gained + (one.lost or 0):
            continue
        found = comparison.flips(one.task, one.metric, run=one.run, filter=one.filter)
        shown = found.head(_FLIPS)
        note = f"{one.gained} gained and {one.lost} lost of {one.n}"
        if len(found) > len(shown):
            note += f"; the first {len(shown)} are shown"
        heading = f"{one.task}, {one.metric}: {one.run}"
        sections.append((heading, f"{note}.", _documents(shown)))
    return sections


def _documents(flips: "pd.DataFrame") -> str:
    blocks = [
        documents.document(
            row["doc_id"],
            [
                ("prompt", row["prompt"]),
                ("target", row["target"]),
                ("base's answer", documents.answer_lines(row["base_answer"])),
                ("its answer", documents.answer_lines(row["answer"])),
            ],
            hint=row["prompt"],
            mark=row["change"],
        )
        for row in flips.to_dict("records")
    ]
    return documents.documents(blocks, summary=counted(len(blocks), "document"))
