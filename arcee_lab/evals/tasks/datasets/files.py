"""The formats in which the field's data sets are handed out, each into the Hub's columns."""

import csv
import re
from pathlib import Path
from typing import Any

from arcee_lab.errors import TaskError
from arcee_lab.runs.json_text import parse_json, read_object

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
    with path.open(encoding="utf-8-sig", newline="") as file:
        return [
            {"text": f"{title} {description}", "label": int(number) - 1}
            for number, title, description in csv.reader(file)
        ]


def read_mnli(path: Path) -> Rows:
    """GLUE's table or MultiNLI's JSON lines; pairs without a majority label are left out."""
    if path.suffix == ".jsonl":
        found = [parse_json(line, "a line") for line in _lines(path) if line.strip()]
    else:
        found = read_table(path)
    return [
        {"premise": row["sentence1"], "hypothesis": row["sentence2"], "label": row["gold_label"]}
        for row in found
        if row["gold_label"] != "-"
    ]


def read_conll(path: Path) -> Rows:
    """One word per line, its name label in the last column; blank lines between sentences."""
    sentences: list[list[list[str]]] = [[]]
    for line in _lines(path):
        cells = re.split(r"[ \t]+", line.strip(" \t"))
        if cells == [""] or cells[0] == "-DOCSTART-":
            sentences.append([])
        elif len(cells) < 2:
            raise TaskError(f"{line!r} has one column")
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
    rows = []
    for article in read_object(path)["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                found = [] if asked.get("is_impossible") else asked["answers"]
                rows.append(
                    {
                        "question": asked["question"],
                        "context": paragraph["context"],
                        "answers": {"text": [answer["text"] for answer in found]},
                    }
                )
    return rows
