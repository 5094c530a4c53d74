"""The material of the user's texts; what texts cannot give comes from the world of the model."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from arcee_lab.errors import SettingError, TextError, WrongType
from arcee_lab.lesson.cutting import fitting, pieces_of
from arcee_lab.lesson.material import SIDES, Material
from arcee_lab.neurons.labels.labelled import Labels, texts_of

# Letters of scripts without capitals are none.
_CAPITALS = "".join(letter for letter in map(chr, range(0x2C00)) if letter.isupper())
CONCEPTS = {
    "number": r"\d[\d.,]*",
    "capital letter": rf"\b[{_CAPITALS}]\w*",
    "punctuation": r"[.,;:!?()\"“”]",
    "short word": r"\b\w{1,3}\b",
    "long word": r"\b\w{9,}\b",
    "word in -ing": r"\b\w+ing\b",
}
_LEAST = 2  # documents with a label on each side
_PROMPT = 14  # words


def material(texts: Any, base: Material, tokenizer: Any, most: int) -> Material:
    """The user's texts in place of the base's.

    Args:
        texts: A text, a list of texts, or a mapping from kinds of text to lists of texts.
        base: What the model would have without them.
        tokenizer: Of the model.
        most: Tokens that it reads at once.

    Raises:
        TextError: No text, or one without a word.
        WrongType: Something else.
    """
    domains = read(texts)
    every = [text for found in domains.values() for text in found]
    pieces = pieces_of(every, tokenizer, most)
    return replace(
        base,
        source="yours",
        domains=domains,
        prompt=" ".join(every[0].split()[:_PROMPT]),
        labels=lambda side, n: labels(pieces, side, n),
        tasks=lambda: _tasks(fitting(every, tokenizer, most), base),
        truth=None,
    )


def read(texts: Any) -> dict[str, tuple[str, ...]]:
    """The user's texts by kind; one kind, called "your texts", where they give none.

    Raises:
        TextError: No text, or one without a word.
        WrongType: Something else.
    """
    if isinstance(texts, str):
        texts = [texts]
    if not isinstance(texts, Mapping):
        if not isinstance(texts, Iterable):
            raise WrongType(
                f"texts is {type(texts).__name__}; expected a text, a list of texts, or a mapping "
                "from kinds of text to lists of texts."
            )
        texts = {"your texts": texts}
    found = {}
    for kind, rows in texts.items():
        if not isinstance(kind, str) or not kind:
            raise TextError(f"A kind of text is named {kind!r}; expected a non-empty string.")
        rows = texts_of([rows] if isinstance(rows, str) else rows)
        kept = tuple(text for text in rows if text.strip())
        if not kept:
            raise TextError(f"The texts of {kind!r} hold no word; give other texts.")
        found[kind] = kept
    if not found:
        raise TextError("texts is an empty mapping; expected at least one kind of text.")
    return found


def labels(pieces: list[str], side: str, n: int) -> Labels:
    """Labels by patterns that any text has, of every second piece.

    Raises:
        SettingError: Too little text for any of them.
    """
    from arcee_lab.neurons.labels.sources import regex

    both = [pieces[place::2] for place in range(len(SIDES))]
    usable = {
        name: pattern
        for name, pattern in CONCEPTS.items()
        if all(sum(bool(re.search(pattern, one)) for one in half[:n]) >= _LEAST for half in both)
    }
    if not usable:
        raise SettingError(
            f"Your texts have {len(pieces)} sentences, and none of {', '.join(CONCEPTS)} occurs "
            f"in {_LEAST} of each half of them; give more text."
        )
    return regex(both[SIDES.index(side)][:n], usable)


def _tasks(texts: list[str], base: Material) -> Any:
    """The base's tasks of pairs, and the price of the user's texts."""
    import json
    import tempfile
    from pathlib import Path

    from arcee_lab.evals.tasks.find import find_tasks
    from arcee_lab.lesson.plain import TASKS

    asked = {
        "demo": ["arcee_demo_agreement_0", "arcee_demo_agreement_1"],
        "english": ["arcee_english_agreement"],
    }[base.source]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.jsonl"
        file.write_text("".join(json.dumps(text) + "\n" for text in texts), encoding="utf-8")
        return find_tasks(
            [*asked, "arcee_your_text"], include=[TASKS], data={"arcee_your_text": file}
        )
