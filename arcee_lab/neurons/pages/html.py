"""A neuron's page as HTML: inline styles only, all text escaped, at most 60,000 bytes."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from typing import Any

import numpy as np

from arcee_lab.neurons.pages.excerpts import Excerpt
from arcee_lab.results import counted
from arcee_lab.views import html_page
from arcee_lab.views.html import bar_list, key_table, number
from arcee_lab.views.scale import colour

MOST_BYTES = 60_000
_LONGEST = 32  # characters shown of one token
_LONGEST_TEXT = 600  # of a description
_TOKENS = 10  # shown of each list of tokens
_BINS = 16  # shown of a histogram
_SHADES = 32
_FIXED, _PER_EXEMPLAR = 10_000, 90  # bytes of a page, about, that do not go down with the text

_LINE = "border:1px solid rgba(128,128,128,.25)"
_FONT = "font-family:ui-monospace,Menlo,Consolas,monospace;font-size:13px"
_TOKEN = f"padding:2px 8px;text-align:left;white-space:pre;{_LINE}"
_CELL = f"padding:2px 8px;text-align:right;{_LINE}"
_HEAD = f"padding:2px 8px;text-align:left;{_LINE}"
_LEFT = "text-align:left"  # notebooks put cells to the right
_ROWS = (
    f'cellpadding="3" rules="rows" style="border-collapse:collapse;white-space:pre-wrap;'
    f'text-align:right;{_FONT}"'
)

Section = tuple[str, str, str]  # heading, how to read it, HTML


@dataclass(frozen=True)
class Room:
    """How much of each exemplar, and how many of them, a page shows.

    Attributes:
        before: Tokens before the peak.
        after: Tokens after it.
        most: Exemplars per group.
    """

    before: int
    after: int
    most: int


def fragment(page: Any) -> str:
    """A `NeuronPage` for a notebook, readable on any background, untrusted and on GitHub."""

    def build(room: Room) -> str:
        parts = [f"<p><b>{escape(_cut(page.headline, 300))}</b></p>"]
        for heading, note, body in sections(page, room):
            parts.append(f"<p><b>{escape(heading)}</b>. {escape(note)}</p>{body}")
        return "".join(parts)

    return _fitting(build, page)


def whole_page(page: Any, *, title: str | None = None) -> str:
    """The page as a file.

    Args:
        page: The page.
        title: The heading; by default the neuron's name and the model's.
    """

    def build(room: Room) -> str:
        return html_page.page(
            _cut(title or f"{page.name} of {page.model}", 120),
            f"{_cut(page.headline, 300)}.",
            sections(page, room),
            foot="Made by arcee-lab neurons. This page makes no request and runs no script.",
        )

    return _fitting(build, page)


def _fitting(build: Callable[[Room], str], page: Any) -> str:
    """The page in a room in which it fits: text around exemplars goes first, then exemplars.

    A page is built about twice: the second room follows from the size of the first.
    """
    tokens = max((len(x.ids) for x in page.excerpts), default=0)
    count = sum(1 for _ in page.excerpts)
    most, text = 30, ""
    while True:
        after = tokens // 4
        text = build(Room(tokens - 1 - after if tokens else 0, after, most))
        size = len(text.encode("utf-8", "replace"))
        if size <= MOST_BYTES or most == 1:
            return text
        if tokens > 1:
            fixed = min(_FIXED + _PER_EXEMPLAR * count, MOST_BYTES - 1000)
            share = (MOST_BYTES - fixed) / max(size - fixed, 1)
            tokens = max(1, int(tokens * min(share, 0.9)))
        else:
            most = max(1, most // 3)


def sections(page: Any, room: Room) -> list[Section]:
    """The parts of a page that have something to show.

    Args:
        page: The page.
        room: How much of the exemplars is shown.
    """
    found: list[Section] = []
    if page.description is not None:
        found.append(_description(page))
    if page.labels:
        found.append(_labels(page))
    if page.effects is not None:
        found.append(_effects(page.effects))
    if page.ablation:
        found.append(
            (
                "Without it",
                "Change in nats per token, with 95 % intervals.",
                key_table(page.ablation),
            )
        )
    if page.n_fired:
        found += [_top(page, room), _strata(page, room), _negatives(page, room), _sizes(page)]
    found.append(("In numbers", "Counted over the whole run.", _facts(page)))
    return [section for section in found if section[2]]


def _description(page: Any) -> Section:
    description = page.description
    assert description is not None
    text = escape(_cut(description.text, _LONGEST_TEXT))
    return (
        "Described as",
        f"By {_cut(description.generator, 80)}. {description.reading}",
        f"<p>{text}</p>{key_table(description.facts())}",
    )


def _labels(page: Any) -> Section:
    names = list(dict.fromkeys(name for label in page.labels for name in label.scores))
    rows = [
        [
            _cut(label.label, 60),
            *(number(label.scores.get(name, math.nan)) for name in names),
            "yes" if label.confirmed else "no",
        ]
        for label in page.labels[:_TOKENS]
    ]
    return (
        "Labels that it carries",
        "Scores on texts that had no part in the choice of neuron and threshold; confirmed: the "
        "label's best unit, and better than the controls.",
        _table(["label", *(_cut(name, 24) for name in names), "confirmed"], rows),
    )


def _effects(effects: Any) -> Section:
    lists = {
        "raises": effects.raises,
        "lowers": effects.lowers,
        "nearest input": effects.nearest,
    }
    lists = {name: entries[:_TOKENS] for name, entries in lists.items() if entries}
    longest = max(map(len, lists.values()), default=0)
    head = [word for name in lists for word in (name, "cosine" if "input" in name else "effect")]
    rows = []
    for place in range(longest):
        row: list[str] = []
        for entries in lists.values():
            token, value = entries[place] if place < len(entries) else ("", math.nan)
            row += [_shown(token), "" if math.isnan(value) else number(value, aligned=True)]
        rows.append(row)
    facts = [f"class {effects.kind}"] if effects.kind else []
    facts += [f"{name} {number(value)}" for name, value in effects.moments.items()]
    return (
        "What it writes and reads",
        "Effects on logits per unit of value, over the mean of the vocabulary; cosines of what it "
        "reads with the embeddings.",
        (_table(head, rows, texts=set(range(0, len(head), 2))) if rows else "")
        + (f"<p>{escape('; '.join(facts))}</p>" if facts else ""),
    )


def _top(page: Any, room: Room) -> Section:
    timed = page.values_seconds
    if timed is None:
        note = "Coloured is the token of the peak; values at the others were not computed."
    else:
        note = "Coloured by relu(u): every token at which it fires."
        note += f" Computed in {number(timed)} s." if timed else ""
    return ("Largest values", note, _exemplars(page, page.top, room))


def _strata(page: Any, room: Room) -> Section:
    parts = []
    for count, stratum in enumerate(reversed(page.strata)):
        if not stratum:
            continue
        low, high = (f(x.value for x in stratum) for f in (min, max))
        summary = f"{number(low)} to {number(high)}, {counted(len(stratum), 'exemplar')}"
        opened = " open" if count == 0 else ""
        body = _exemplars(page, stratum, room)
        parts.append(f"<details{opened}><summary>{escape(summary)}</summary>{body}</details>")
    note = "Drawn at random from the windows whose largest value is in one octave, high to low."
    return ("By size", note, "".join(parts))


def _negatives(page: Any, room: Room) -> Section:
    body = _exemplars(page, page.negatives, room)
    if body:
        count = counted(len(page.negatives), "window")
        body = f"<details><summary>{count}</summary>{body}</details>"
    return (
        "Where it never fires",
        "Windows of like length and domain in which its value is 0 at every token.",
        body,
    )


def _sizes(page: Any) -> Section:
    edges, counts = merged(page.edges, page.counts, _BINS)
    labels = [
        f"{number(low)} to {number(high)}" if math.isfinite(high) else f"from {number(low)}"
        for low, high in itertools.pairwise(edges.tolist())
    ]
    return ("Sizes", "Windows by the neuron's largest value in them.", bar_list(labels, counts))


def merged(edges: np.ndarray, counts: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """A histogram without empty bins at its ends, and with neighbours joined to at most so many.

    Args:
        edges: One more than the bins.
        counts: Per bin.
        most: Bins.
    """
    filled = np.flatnonzero(counts)
    if not len(filled):
        return edges[:1], counts[:0]
    first, stop = int(filled[0]), int(filled[-1]) + 1
    step = -(-(stop - first) // most)
    starts = np.arange(first, stop, step)
    return (
        np.append(edges[starts], edges[stop]),
        np.add.reduceat(counts[:stop], starts),
    )


def _facts(page: Any) -> str:
    facts: dict[str, object] = {
        "neuron": page.name,
        "model": _cut(page.model, 80),
        "tokens counted": page.n_tokens,
        "tokens at which it fired": page.n_fired,
        "rate": page.rate,
        "largest value": page.maximum,
    }
    if not page.n_fired:
        facts["95 % upper bound of the rate"] = 3 / max(page.n_tokens, 1)
    return key_table(facts)


def _exemplars(page: Any, excerpts: Sequence[Excerpt], room: Room) -> str:
    if not excerpts:
        return ""
    domains = any(x.domain for x in excerpts)
    rows = []
    for x in excerpts[: room.most]:
        cells = [number(x.value), f"{x.document}"]
        if domains:
            cells.append(escape(_cut(x.domain, 24)))
        plain = "".join(f"<td>{cell}</td>" for cell in cells)
        # Few bytes per row: what all cells share is said once, at the table.
        rows.append(f'<tr>{plain}<td style="{_LEFT}">{_strip(x, page.maximum, room)}</td></tr>')
    head = ["value", "document", *(["domain"] if domains else [])]
    cells = "".join(f"<th>{word}</th>" for word in head) + f'<th style="{_LEFT}">text</th>'
    table = f"<table {_ROWS}><tr>{cells}</tr>{''.join(rows)}</table>"
    left = len(excerpts) - room.most
    more = f"<p>… {left:,} more: see .frame()</p>" if left > 0 else ""
    return table + more


def _strip(x: Excerpt, maximum: float, room: Room) -> str:
    """The tokens of an excerpt; coloured ones have a background and a text colour of their own."""
    first, stop = x.around(room.before, room.after)
    tokens, values = x.tokens, x.known
    parts = ["… "] if x.start + first else []
    after = first  # the last coloured token
    for place in range(first, stop):
        value = values[place]
        if value <= 0:
            continue
        parts.append(_plain(tokens[after:place]))
        inner = escape(_shown(tokens[place]) or "·")
        inner = f"<b>{inner}</b>" if place == x.peak else inner
        paint = _paint(math.ceil(_SHADES * min(1.0, math.sqrt(value / maximum))))
        parts.append(f'<span style="{paint}" title="{number(value)}">{inner}</span>')
        after = place + 1
    parts.append(_plain(tokens[after:stop]))
    if x.start + stop < x.length:
        parts.append(" …")
    return "".join(parts)


def _plain(tokens: Sequence[str]) -> str:
    """Tokens that keep the page's own colours."""
    whole = "".join(tokens)
    if len(whole) > _LONGEST:
        whole = "".join(_cut(token, _LONGEST) for token in tokens)
    return escape(_lines(whole))


@lru_cache(maxsize=2 * _SHADES)
def _paint(step: int) -> str:
    """Background and text colour of a size, from 1 to `_SHADES`."""
    shade = colour(step, _SHADES)
    assert shade is not None
    return f"background:{shade.background};color:{shade.text}"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], *, texts: set[int] | None = None):
    """A table of texts, escaped here; columns of tokens keep their spaces."""
    texts = {0} if texts is None else texts
    body = [
        "<tr>"
        + "".join(
            f'<td style="{_TOKEN if column in texts else _CELL}">{escape(cell)}</td>'
            for column, cell in enumerate(row)
        )
        + "</tr>"
        for row in rows
    ]
    return _framed(head, body)


def _framed(head: Sequence[str], rows: Sequence[str]) -> str:
    cells = "".join(f'<th style="{_HEAD}">{escape(word)}</th>' for word in head)
    return (
        f'<table style="border-collapse:collapse;{_FONT}"><tr>{cells}</tr>{"".join(rows)}</table>'
    )


def _shown(token: str) -> str:
    """A token as it is shown: line breaks as signs, long ones cut."""
    return _lines(_cut(token, _LONGEST))


def _lines(text: str) -> str:
    return text.replace("\n", "↵").replace("\r", "↵").replace("\t", "⇥")


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
