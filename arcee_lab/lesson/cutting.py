"""Texts in pieces that a model reads at once, cut where a reader would cut them."""

import re
from collections.abc import Sequence
from typing import Any

from arcee_lab.data.tokenization import token_ids

FEW = 24  # fewer texts than these are cut into sentences
_ENDS = (re.compile(r"(?<=[.!?])\s+|\n+"), re.compile(r"\s+"))


def pieces_of(texts: Sequence[str], tokenizer: Any, most: int) -> list[str]:
    """Different texts, or sentences where there are few texts; each of at most `most` tokens.

    None comes twice, so that some can be read and others be tests.

    Args:
        texts: The texts.
        tokenizer: What counts the tokens.
        most: As many as the model reads at once.
    """
    if len(texts) < FEW:
        texts = [piece for text in texts for piece in _ENDS[0].split(text) if piece.strip()]
    return list(dict.fromkeys(fitting(texts, tokenizer, most)))


def fitting(texts: Sequence[str], tokenizer: Any, most: int) -> list[str]:
    """Texts of at most `most` tokens: longer ones are halved until they are.

    They are cut at the end of a sentence, of a word where there is none, or else anywhere.
    """
    found: list[str] = []
    rows = token_ids(tokenizer, list(texts)) if texts else []
    for text, ids in zip(texts, rows, strict=True):
        if len(ids) <= most or len(text) < 2:
            found.append(text)
        else:
            halves = [half for half in _halves(text) if half.strip()]
            found += fitting(halves, tokenizer, most)
    return found


def _halves(text: str) -> tuple[str, str]:
    middle = len(text) // 2
    for pattern in _ENDS:
        ends = [found.end() for found in pattern.finditer(text) if 0 < found.end() < len(text)]
        if ends:
            middle = min(ends, key=lambda end: abs(end - middle))
            break
    return text[:middle].rstrip(), text[middle:]
