"""Documents of an evaluation as HTML: what was asked, answered and expected. All of it is escaped.

Everything here comes from a task's data or from the model, and either may hold markup.
"""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from arcee_lab.views.html import number

LONGEST = 4000  # characters shown of a text; of a prompt its end, which the model answers to
_HINT = 90  # characters in the line of a document

STYLE = """
details > summary { cursor: pointer; padding: .25rem 0 }
details.document { border-top: 1px solid var(--line) }
details.document > summary { display: flex; gap: .6rem; align-items: baseline }
details.document > summary span { color: var(--soft); overflow: hidden; text-overflow: ellipsis;
  white-space: nowrap; min-width: 0 }
details.document > summary > b { flex: none }
.mark { border: 1px solid var(--line); border-radius: .6rem; padding: 0 .5rem;
  font-size: .8rem }
.right .mark { border-color: #0072b2 } .wrong .mark { border-color: #d55e00; border-width: 2px }
dl.asked { margin: .2rem 0 1rem; display: grid; grid-template-columns: 6.5rem minmax(0, 1fr) }
dl.asked dt { color: var(--soft) } dl.asked dd { margin: 0 0 .4rem }
dl.asked pre { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; font: .85rem/1.45
  ui-monospace, Menlo, Consolas, monospace }
.documents:has(.only:checked) .right { display: none }
@media (max-width: 40rem) { dl.asked { grid-template-columns: minmax(0, 1fr) } }
"""


def document(
    number_of: int, parts: Sequence[tuple[str, Any]], *, hint: Any = "", mark: str = ""
) -> str:
    """One document: a line that opens.

    Args:
        number_of: Its number in the task.
        parts: Names and what was asked, answered and so on.
        hint: Shown in its line; the end of a long text.
        mark: "right", "wrong", "gained" or another word; "" for none.
    """
    shown = " ".join(str(hint).split())
    shown = shown if len(shown) <= _HINT else f"... {shown[-_HINT:]}"
    kind = {"right": "right", "gained": "right"}.get(mark, "wrong" if mark else "")
    badge = f'<b class="mark">{escape(mark)}</b>' if mark else ""
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd><pre>{escape(_cut(value))}</pre></dd>" for name, value in parts
    )
    return (
        f'<details class="document {kind}"><summary><b>{int(number_of)}</b>{badge}'
        f'<span>{escape(shown)}</span></summary><dl class="asked">{rows}</dl></details>'
    )


def documents(blocks: Sequence[str], *, summary: str, wrong: bool = False) -> str:
    """Several documents behind one line, with a choice of the wrong ones if there are such."""
    only = (
        '<label><input type="checkbox" class="only"> only those that are wrong</label>'
        if wrong
        else ""
    )
    return (
        f'<details class="documents"><summary>{escape(summary)}</summary>{only}'
        f"{''.join(blocks)}</details>"
    )


def sample(logged: Mapping[str, Any]) -> str:
    """One logged document of a run."""
    requests = logged["arguments"]
    prompt = requests[0][0] if requests else ""
    answers = logged.get("filtered_resps", [])
    parts: list[tuple[str, Any]] = [("prompt", prompt)]
    if len(requests) > 1:
        several = len({request[0] for request in requests}) > 1
        lines = [
            f"{_answer(answer)}  {(request[0] if several else request[-1])!r}"
            for request, answer in zip(requests, answers, strict=False)
        ]
        parts.append(("choices", "\n".join(lines)))
    else:
        if requests and len(requests[0]) > 1 and isinstance(requests[0][1], str):
            parts.append(("continuation", requests[0][1]))
        parts.append(("answer", answer_lines(answers)))
    parts.append(("target", logged["target"]))
    for metric in logged["metrics"]:
        parts.append((metric, _value(logged.get(metric))))
    return document(logged["doc_id"], parts, hint=prompt, mark=verdict(logged))


def verdict(logged: Mapping[str, Any]) -> str:
    """Whether a document is "right" or "wrong" by its first metric that says so; "" if none."""
    for metric in logged["metrics"]:
        value = logged.get(metric)
        if isinstance(value, (bool, int, float)) and value in (0, 1):
            return "right" if value else "wrong"
    return ""


def answer_lines(answers: Any) -> str:
    """Answers, one per line: a log-likelihood, or a text."""
    if not isinstance(answers, (list, tuple)):
        return str(answers)
    return "\n".join(map(_answer, answers))


def _answer(answer: Any) -> str:
    if isinstance(answer, (list, tuple)) and len(answer) == 2:
        size, greedy = answer
        size = f"{float(size):.3f}" if _is_number(size) else str(size)
        return f"{size}{' (likeliest)' if str(greedy) == 'True' else ''}"
    return str(answer)


def _value(value: Any) -> str:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return number(value) if math.isfinite(value) else str(value)
    return str(value)


def _is_number(value: Any) -> bool:
    try:
        return math.isfinite(float(value))
    except (TypeError, ValueError):
        return False


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"... {text[-LONGEST:]}"
