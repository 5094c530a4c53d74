"""The formats in which the field's data sets are handed out, each into the Hub's columns."""

import csv
import re
from pathlib import Path
from typing import Any

from arcee_lab.data import squad
from arcee_lab.errors import TaskError
from arcee_lab.runs.json_text import kind_of, parse_json

Rows = list[dict[str, Any]]


def _lines(path: Path) -> list[str]:
    """Lines without their ends; not `splitlines`, which also breaks at marks inside a text."""
    text = path.read_text(encoding="utf-8-sig")
    return [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]


def read_table(path: Path) -> Rows:
    """GLUE's tables: tabs, a header, and quotation marks that mean nothing."""
    header, *lines = _lines(path)
    names = header.split("\t")
    rows = []
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) != len(names):
            raise TaskError(f"line {number} has {len(cells)} columns, the header {len(names)}")
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def read_ag_news(path: Path) -> Rows:
    """AG's CSV without a header: a class from 1 to 4, the title, the description."""
    rows = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        while True:
            where = f"line {reader.line_num + 1}"
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise TaskError(f"{where} is no row of a CSV file: {error}") from None
            if cells is None:
                return rows
            if len(cells) != 3 or not cells[0].isdecimal():
                raise TaskError(
                    f"{where} has {len(cells)} cells, the first {''.join(cells[:1])[:20]!r}; "
                    "expected a class from 1 to 4, a title and a description"
                )
            number, title, description = cells
            rows.append({"text": f"{title} {description}", "label": int(number[:9]) - 1})


def read_mnli(path: Path) -> Rows:
    """GLUE's table or MultiNLI's JSON lines; pairs without a majority label are left out."""
    found = _objects(path) if path.suffix == ".jsonl" else read_table(path)
    wanted = ("sentence1", "sentence2", "gold_label")
    for number, row in enumerate(found):
        missing = [name for name in wanted if name not in row]
        if missing:
            raise TaskError(f"row {number} has no column {missing[0]!r}; it has {', '.join(row)}")
    return [
        {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": row["gold_label"]}
        for row in found
        if row["gold_label"] != "-"
    ]


def _objects(path: Path) -> Rows:
    """JSON lines; blank ones are skipped."""
    found = []
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            value = parse_json(line, f"line {number}", error=TaskError, do="get the file again")
            if not isinstance(value, dict):
                raise TaskError(f"line {number} holds {kind_of(value)}; expected an object")
            found.append(value)
    return found


def read_conll(path: Path) -> Rows:
    """One word per line, its name label in the last column; blank lines between sentences."""
    sentences: list[list[list[str]]] = [[]]
    for number, line in enumerate(_lines(path), start=1):
        cells = re.split(r"[ \t]+", line.strip(" \t"))
        if cells == [""] or cells[0] == "-DOCSTART-":
            sentences.append([])
        elif len(cells) < 2:
            raise TaskError(f"line {number}, {line[:40]!r}, has one column")
        else:
            sentences[-1].append(cells)
    return [
        {"tokens": [cells[0] for cells in found], "ner_tags": [cells[-1] for cells in found]}
        for found in sentences
        if found
    ]


def read_wikiann(path: Path) -> Rows:
    """As CoNLL's files, the word behind its language and a colon (`en:word`)."""
    rows = read_conll(path)
    for row in rows:
        row["tokens"] = [word.partition(":")[2] or word for word in row["tokens"]]
    return rows


def read_squad(path: Path) -> Rows:
    """SQuAD's JSON: articles, paragraphs, questions; v2 marks those without an answer."""
    return [row.values for row in squad.read_squad(path)]
