"""report.html of an evaluation: scores with intervals and ceilings, and documents to browse."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from arcee_lab.evals.files.plain_json import plain
from arcee_lab.evals.pages import documents
from arcee_lab.results import counted
from arcee_lab.views.html import number
from arcee_lab.views.html_page import page

_DOCUMENTS = 60  # shown per task and filter
_STYLE = (
    documents.STYLE
    + """
table.scores { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums }
table.scores th { text-align: left; color: var(--soft); font-weight: 500 }
table.scores th, table.scores td { padding: .3rem .7rem .3rem 0; border-bottom: 1px solid
  var(--line); vertical-align: middle }
table.scores td.strip { min-width: 9rem; width: 30%; padding-right: 1.2rem }
table.scores td[data-name] { white-space: nowrap }
.range { position: relative; display: block; height: 1.1rem; margin: 0 .4rem }
.range i, .range b, .range u { position: absolute; top: 50%; transform: translate(-50%, -50%) }
.range::before { content: ""; position: absolute; inset: 50% 0 auto 0; height: 1px;
  background: var(--line) }
.range i { height: 3px; background: #56b4e9; transform: translateY(-50%) }
.range b { width: .55rem; height: .55rem; border-radius: 50%; background: #0072b2 }
.range u { width: 2px; height: 1rem; background: var(--ink) }
table.facts td { padding: .1rem .8rem .1rem 0; vertical-align: top }
@media (max-width: 40rem) {
  table.scores, table.scores tbody, table.scores tr, table.scores td { display: block; width: auto }
  table.scores thead { display: none }
  table.scores tr { border-bottom: 1px solid var(--line); padding: .4rem 0 }
  table.scores td { border: 0; padding: .05rem 0 }
  table.scores td.strip { width: auto; padding-right: 0 }
  table.scores td[data-name]::before { content: attr(data-name) " "; color: var(--soft) }
}
"""
)
_SETTINGS = (
    "num_fewshot",
    "limit",
    "apply_chat_template",
    "system_instruction",
    "fewshot_as_multiturn",
    "gen_kwargs",
    "repeats",
    "seeds",
    "bootstrap",
)
_INFO = (
    "interventions",
    "model_dtype",
    "model_fingerprint",
    "tokenizer_fingerprint",
    "packed",
    "unpacked_reason",
    "requests_truncated",
)


def run_page(run: Any) -> str:
    """The page, as one string of HTML without scripts.

    Args:
        run: The `Evaluation` that it shows.
    """
    sections = []
    if run.scores:
        sections.append(
            (
                "Scores",
                "The dot is the score, the line around it its 95 % bootstrap interval over "
                "documents, and the upright mark the best possible score where it is known. Rows "
                "of one metric share a scale. An arrow down means that less is better.",
                _scores(run.scores),
            )
        )
    sections += _documents(run.samples)
    if run.skipped:
        items = "".join(
            f"<li>{escape(one.task)}, document {int(one.doc_id)}: {escape(one.reason)}</li>"
            for one in run.skipped
        )
        note = "These documents are in no score."
        sections.append(("Documents that could not be scored", note, f"<ul>{items}</ul>"))
    sections.append(("Settings", "What decides the numbers.", _facts(run)))
    # Without the seconds, so that a resumed run gives the same page.
    lead = f"{counted(len(run.samples), 'task')}, 95 % bootstrap intervals over documents"
    if changes := run.info.get("interventions"):
        lead += f", under {counted(len(changes), 'intervention')}"
    if run.unfinished:
        lead += f"; unfinished: {', '.join(run.unfinished)}"
    return page(f"Evaluation of {run.model}", f"{lead}.", sections, style=_STYLE)


def _scores(scores: Sequence[Any]) -> str:
    """One row per task and metric."""
    names = ("task", "metric", "", "score", "95 %", "ceiling", "documents")
    head = "".join(f"<th>{name}</th>" for name in names)
    scales = {metric: _scale(scores, metric) for metric in {score.metric for score in scores}}
    rows = "".join(f"<tr>{_row(score, *scales[score.metric])}</tr>" for score in scores)
    return f'<table class="scores"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _scale(scores: Sequence[Any], metric: str) -> tuple[float, float]:
    """The ends of the scale that the scores of a metric share."""
    values = [
        value
        for score in scores
        if score.metric == metric
        for value in (score.value, score.low, score.high, score.ceiling)
        if value is not None and math.isfinite(value)
    ]
    low, high = min([0.0, *values]), max([0.0, *values])
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


def _row(score: Any, low: float, high: float) -> str:
    metric = score.metric if score.filter == "none" else f"{score.metric}, {score.filter}"
    metric += " ↓" if score.higher_is_better is False else ""
    task = f"{score.task} (of {len(score.members)})" if score.members else score.task
    between = "not known"
    if math.isfinite(score.low) and math.isfinite(score.high):
        between = f"{number(score.low, aligned=True)} – {number(score.high, aligned=True)}"
    documents_of = f"{score.n:,}"
    if score.n_skipped:
        documents_of += f", and {score.n_skipped:,} not scored"
    ceiling = "" if score.ceiling is None else number(score.ceiling, aligned=True)
    cells = [
        ("", task),
        ("", metric),
        None,
        ("score", number(score.value, aligned=True)),
        ("95 %", between),
        ("ceiling", ceiling),
        ("documents", documents_of),
    ]
    return "".join(
        f'<td class="strip">{_strip(score, low, high)}</td>'
        if cell is None
        else f"<td{_name(cell)}>{escape(cell[1])}</td>"
        for cell in cells
    )


def _name(cell: tuple[str, str]) -> str:
    return f' data-name="{cell[0]}"' if cell[0] and cell[1] else ""


def _strip(score: Any, low: float, high: float) -> str:
    """Interval, score and ceiling on a line."""

    def place(value: float) -> float:
        return 100 * min(1.0, max(0.0, (value - low) / (high - low)))

    parts = ""
    if math.isfinite(score.low) and math.isfinite(score.high):
        start, end = place(score.low), place(score.high)
        parts += f'<i style="left:{start:.2f}%;width:{max(end - start, 0):.2f}%"></i>'
    if score.ceiling is not None and math.isfinite(score.ceiling):
        parts += f'<u style="left:{place(score.ceiling):.2f}%"></u>'
    if math.isfinite(score.value):
        parts += f'<b style="left:{place(score.value):.2f}%"></b>'
    return f'<span class="range" aria-hidden="true">{parts}</span>'


def _documents(
    samples: Mapping[str, Sequence[Mapping[str, Any]]],
) -> Iterator[tuple[str, str, str]]:
    for task, logged in samples.items():
        for name in dict.fromkeys(one["filter"] for one in logged):
            mine = [one for one in logged if one["filter"] == name]
            verdicts = [documents.verdict(one) for one in mine]
            shown = mine[:_DOCUMENTS]
            note = counted(len(mine), "document")
            if any(verdicts):
                note += f", {verdicts.count('wrong'):,} of them wrong"
            if len(shown) < len(mine):
                note += f"; the first {len(shown)} are shown"
            heading = task if name == "none" else f"{task}, {name}"
            body = documents.documents(
                list(map(documents.sample, shown)),
                summary=f"Browse {counted(len(shown), 'document')}",
                wrong=any(verdicts),
            )
            yield heading, f"{note}.", body


def _facts(run: Any) -> str:
    facts = {name: run.settings.get(name) for name in _SETTINGS}
    facts |= {name: run.info.get(name) for name in _INFO}
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td>{escape(_shown(value))}</td></tr>"
        for name, value in facts.items()
        if value not in (None, "", [], {})
    )
    return f'<table class="facts">{rows}</table>'


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(plain(value), ensure_ascii=False)
    return text if len(text) <= documents.LONGEST else f"{text[: documents.LONGEST]} ..."
