"""Labels from BIO files, in the form of the CoNLL tasks: one word and its tag per line."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from arcee_lab.data.rows import LARGEST, lines_of, require_file
from arcee_lab.data.word_columns import is_conll_u
from arcee_lab.errors import TextError
from arcee_lab.neurons.labels.labelled import Labels, Span

_DOCUMENT = "-DOCSTART-"
Sentence = list[tuple[str, str]]


def bio(path: str | Path) -> Labels:
    """Labels from a BIO file: one word per line, its tag in the last column, blank lines between.

    Columns are separated by spaces or tabs. `B-PER` and `I-PER` give the label `PER`, `O` gives
    none, and a tag without such a prefix is a label itself. The words of a sentence are joined by
    one space. Lines with `-DOCSTART-` begin a document; without any, each sentence is one.

    Args:
        path: The file, in UTF-8, also with `.gz`.

    Raises:
        TextError: The file is missing, too large, not UTF-8, in CoNLL-U, or has a line with one
            column or not as many as the first (the message names the line); or no word has a label.

    Example:
        >>> import arcee_lab as al
        >>> al.neurons.labels.bio("train.conll").names  # doctest: +SKIP
        ('LOC', 'ORG', 'PER')
    """
    path = Path(path)
    require_file(path)
    if is_conll_u(path):
        raise TextError(
            f"file {path} is in CoNLL-U, whose labels are in several columns; expected a file with "
            "one word and its tag per line, so write the word and one of the columns to a file."
        )
    if path.stat().st_size > LARGEST:
        raise TextError(
            f"file {path} has {path.stat().st_size:,} bytes; expected at most {LARGEST:,}. Split "
            "it."
        )
    sentences, documents = [], []
    for document, sentence in _sentences(lines_of(path), path):
        sentences.append(sentence)
        documents.append(document)
    names = sorted({tag for sentence in sentences for _, tag in sentence if tag})
    if not names:
        raise TextError(f"file {path} has no word with a label; expected tags such as B-PER.")
    where: dict[str, list[tuple[Span, ...]]] = {name: [] for name in names}
    for sentence in sentences:
        row: dict[str, list[Span]] = {name: [] for name in names}
        start = 0
        for word, tag in sentence:
            if tag:
                row[tag].append((start, start + len(word)))
            start += len(word) + 1
        for name in names:
            where[name].append(tuple(row[name]))
    if len(set(documents)) == 1:  # no file of documents: each sentence is one
        documents = list(range(len(sentences)))
    return Labels(
        tuple(" ".join(word for word, _ in sentence) for sentence in sentences),
        {name: tuple(rows) for name, rows in where.items()},
        documents=tuple(documents),
    )


def _sentences(lines: Iterable[str], path: Path) -> Iterator[tuple[int, Sentence]]:
    """Each sentence with the number of its document; a word without a label has the tag ''."""
    document, sentence = 0, []
    width = 0
    for number, line in enumerate([*lines, ""], start=1):
        cells = re.split(r"[ \t]+", line.strip(" \t\r"))
        if cells == [""] or cells[0] == _DOCUMENT:
            if sentence:
                yield document, sentence
                sentence = []
            document += cells[0] == _DOCUMENT
            continue
        if len(cells) < 2:
            raise TextError(
                f"{path} line {number}: {line[:40]!r} has one column; expected a word and its tag."
            )
        width = width or len(cells)
        if len(cells) != width:  # its last cell might be no tag
            raise TextError(
                f"{path} line {number} has {len(cells)} columns, and there are {width} on the "
                "first line; expected as many, so correct the line."
            )
        tag = cells[-1]
        sentence.append((cells[0], "" if tag == "O" else re.sub(r"^[BIESLU]-", "", tag)))
