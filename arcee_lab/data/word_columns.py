"""Files of one word per line with its labels in columns, as CoNLL's shared tasks and treebanks.

CoNLL's files separate columns by tabs or by spaces and sentences by blank lines; they have no
comments, because a word may be `#`. CoNLL-U (https://universaldependencies.org/format.html) has ten
columns separated by tabs, and comments.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from arcee_lab.data.rows import Row, lines_of
from arcee_lab.errors import TextError

CONLL_U = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
WORD, LABEL = "tokens", "tags"  # what the first and the last column are called by default
_PAIRS = ("feats", "misc")  # columns of CoNLL-U that hold `Key=Value|Key=Value`
_NONE = "_"  # what CoNLL-U writes where there is nothing
_DOCUMENT = "-DOCSTART-"


def is_conll_u(path: Path) -> bool:
    """Whether a file is in CoNLL-U, by its suffix."""
    return path.name.lower().removesuffix(".gz").endswith((".conllu", ".conllup"))


def read_word_columns(path: Path, *, names: Sequence[str] | None = None) -> Iterator[Row]:
    """Yields the sentences of a file: of each column the list of its cells.

    Args:
        path: A file of columns, in UTF-8, also with `.gz`. One that ends in `.conllu` is read as
            CoNLL-U: ranges of words (`3-4`) and empty nodes (`5.1`) are left out, and the columns
            `feats` and `misc` are objects per word.
        names: Names of the columns, in order. By default those of CoNLL-U, or "tokens" for the
            first and "tags" for the last; columns in between are called by their numbers, from 2.

    Raises:
        TextError: The file cannot be read, a line has one column or not as many as the first, or
            the names are not as many as the columns; file and line are named.
    """
    universal = is_conll_u(path)
    names = tuple(names) if names else (CONLL_U if universal else None)
    sentence: list[list[str]] = []
    start = width = 0
    for number, line in enumerate([*lines_of(path), ""], start=1):
        where = f"{path} line {number}"
        if universal and line.startswith("#"):
            continue
        cells = _cells(line, tabs=universal)
        if not cells or cells[0] == _DOCUMENT:
            if sentence:
                yield Row(f"{path} line {start}", _columns(sentence, names, universal, start))
            sentence = []
            continue
        if len(cells) < 2:
            raise TextError(
                f"{where}: {line.strip()[:40]!r} has one column; expected a word and its labels, "
                "separated by tabs or spaces."
            )
        width = width or len(cells)
        wanted = len(names) if names else width
        if len(cells) != wanted:
            other = f"{wanted} names of columns" if names else f"{wanted} on the first line"
            raise TextError(
                f"{where} has {len(cells)} columns, and there are {other}; expected as many, so "
                "correct the line or the names."
            )
        if universal and re.fullmatch(r"\d+[-.]\d+", cells[0]):
            continue
        if not sentence:
            start = number
        sentence.append(cells)


def _cells(line: str, *, tabs: bool) -> list[str]:
    """The columns of a line; none of a blank one."""
    if not line.strip():
        return []
    if tabs:
        return [cell.strip() for cell in line.split("\t")]
    return re.split(r"[ \t]+", line.strip(" \t\r"))


def _columns(
    sentence: list[list[str]], names: Sequence[str] | None, universal: bool, start: int
) -> dict[str, Any]:
    if names is None:
        names = (WORD, *(str(n) for n in range(2, len(sentence[0]))), LABEL)
    found: dict[str, Any] = {
        name: [cells[column] for cells in sentence] for column, name in enumerate(names)
    }
    if universal:
        for name in set(_PAIRS) & set(found):
            found[name] = [_pairs(text) for text in found[name]]
    return found


class _Pairs(dict[str, str]):
    """What a word says under `Key=Value`; `_` under any other key, as CoNLL-U writes it."""

    def __missing__(self, key: str) -> str:
        return _NONE


def _pairs(text: str) -> _Pairs:
    return _Pairs(pair.split("=", 1) for pair in text.split("|") if "=" in pair)
