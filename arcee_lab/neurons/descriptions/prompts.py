"""What a language model is asked about a neuron: for a description, and for its judgement.

The protocol is that of Paulo et al., "Automatically Interpreting Millions of Features in Large
Language Models" (arXiv:2410.13928); the words are our own.
"""

import re
from collections.abc import Collection, Sequence

from arcee_lab.neurons.pages.excerpts import Excerpt

OPEN, CLOSE = "<<", ">>"
MARKED_FROM = 0.3  # of the largest value in an excerpt: what is marked
LONGEST = 600  # characters kept of a description

_DESCRIBE = """\
One neuron of a language model fires at some tokens and is silent at all others. Below are texts \
in which it fires strongly; the tokens at which it does are between << and >>.

{excerpts}

Which property do the marked tokens, or the text right before them, have in common? Answer with \
one short sentence that would let a reader find such places in other texts. Leave out the marks.
Description:"""

_DETECT = """\
A neuron of a language model fires at some places of a text. This is a description of where:
{description}

Does it fire anywhere in each of these {n} texts? Use nothing but the description.

{excerpts}

Answer with a list of {n} numbers in the order of the texts, 1 for yes and 0 for no, such as \
{example}.
Answer:"""

_FUZZ = """\
A neuron of a language model fires at some places of a text. This is a description of where:
{description}

In each of these {n} texts some tokens are between << and >>. Are the marked tokens those at which \
it fires? Use nothing but the description.

{excerpts}

Answer with a list of {n} numbers in the order of the texts, 1 for yes and 0 for no, such as \
{example}.
Answer:"""

_LIST = re.compile(r"\[\s*([01](?:\s*,\s*[01])*)\s*\]")


def active(excerpt: Excerpt) -> list[int]:
    """The places at which a neuron fires strongly in an excerpt: what is marked."""
    values = excerpt.known
    limit = MARKED_FROM * max(values, default=0.0)
    return [place for place, value in enumerate(values) if value > 0 and value >= limit]


def marked(excerpt: Excerpt, places: Collection[int]) -> str:
    """The text of an excerpt in one line, with marks around runs of some of its tokens."""
    safe = OPEN not in excerpt.text and CLOSE not in excerpt.text
    parts, inside = [], False
    for place, token in enumerate(excerpt.tokens):
        if not safe:  # the text's own signs must not look like marks
            token = token.replace("<", "‹").replace(">", "›")
        here = place in places
        if here != inside:
            # A mark goes after the space that begins a token, as a reader would write it.
            space = token[: len(token) - len(token.lstrip(" "))] if here else ""
            parts.append(f"{space}{OPEN}" if here else CLOSE)
            token, inside = token[len(space) :], here
        parts.append(token)
    if inside:
        parts.append(CLOSE)
    return "".join(parts).replace("\n", "↵").strip()


def describe(excerpts: Sequence[Excerpt]) -> str:
    """The question for a description.

    Args:
        excerpts: What the generator sees, with values.
    """
    return _DESCRIBE.format(excerpts=_numbered([marked(x, active(x)) for x in excerpts]))


def detect(description: str, texts: Sequence[str]) -> str:
    """The question whether the neuron fires in some texts."""
    return _DETECT.format(**_asked(description, texts))


def fuzz(description: str, texts: Sequence[str]) -> str:
    """The question whether the marks in some texts are right."""
    return _FUZZ.format(**_asked(description, texts))


def read_description(answer: str) -> str:
    """The description in an answer: its first line, without what introduces it."""
    lines = [line.strip() for line in answer.strip().splitlines() if line.strip()]
    text = lines[0] if lines else ""
    text = re.sub(r"^\W*description\W*", "", text, flags=re.IGNORECASE)
    return text.strip()[:LONGEST]


def read_list(answer: str, n: int) -> list[bool] | None:
    """The yes and no in an answer: its first list of n zeros and ones; None if there is none."""
    for found in _LIST.finditer(answer):
        numbers = found[1].replace(" ", "").split(",")
        if len(numbers) == n:
            return [number.strip() == "1" for number in numbers]
    return None


def _asked(description: str, texts: Sequence[str]) -> dict[str, object]:
    example = "[" + ", ".join(str((i + 1) % 2) for i in range(len(texts))) + "]"
    return {
        "description": description,
        "n": len(texts),
        "excerpts": _numbered(texts),
        "example": example,
    }


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
