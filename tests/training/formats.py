"""Files in the field's own formats, made from the demo's world."""

import csv
import json
from itertools import islice

from arcee_lab.demo import stream
from arcee_lab.demo.tasks import dataset

TOPICS = ("story", "facts", "news", "brackets")  # AG's four classes


def sentiment_tsv(path, n, split):
    """SST-2's sentences without a header: the sentence, a tab, the label."""
    rows = _rows("sequence", n, split)
    path.write_text("".join(f"{row['text']}\t{row['label']}\n" for row in rows))
    return path


def topics_csv(path, n, split):
    """AG's news: class 1 to 4, title, description; every cell in quotation marks."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, quoting=csv.QUOTE_ALL)
        for number in range(n):
            topic = number % len(TOPICS)
            document = next(islice(stream(TOPICS[topic], seed=number, split=split), 1))
            words = document.text.split(" ")
            writer.writerow([topic + 1, " ".join(words[:3]), " ".join(words[3:]) + ' "quoted", so'])
    return path


def conll_columns(path, n, split):
    """CoNLL-2003: word, part of speech, chunk, name; spaces; `-DOCSTART-`."""
    lines = ["-DOCSTART- -X- O O", ""]
    for row in _rows("token", n, split):
        lines += [f"{word} XX O {tag}" for word, tag in _words(row)]
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


def wnut(path, n, split):
    """WNUT17: word and name, a tab between; some blank lines hold a tab."""
    lines = []
    for row in _rows("token", n, split):
        lines += [f"{word}\t{tag}" for word, tag in _words(row)]
        lines.append("\t")
    path.write_text("\n".join(lines) + "\n")
    return path


def conll_u(path, n, split):
    """CoNLL-U with free labels: `upos` is the kind of the word, `misc` has its name."""
    lines = []
    for number, row in enumerate(_rows("token", n, split), start=1):
        lines.append(f"# sent_id = {number}")
        for place, (word, tag) in enumerate(_words(row), start=1):
            kind = "PROPN" if tag != "O" else "PUNCT" if word == "." else "X"
            cells = [place, word, "_", kind, "_", "_", 0, "_", "_", f"Name={tag}"]
            lines.append("\t".join(map(str, cells)))
        lines.append("")
    path.write_text("\n".join(lines) + "\n")
    return path


def squad(path, n, split, *, impossible=False):
    """SQuAD v1, or v2 in which every third question is about somebody who is not there."""
    rows = list(_rows("qa", n, split))
    paragraphs = []
    for number, row in enumerate(rows):
        found = zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)
        answers = [{"text": text, "answer_start": start} for text, start in found]
        asked = {"id": str(number), "question": row["question"], "answers": answers}
        if impossible:
            asked["is_impossible"] = False
        if impossible and number % 3 == 0:
            others = (one["question"] for one in rows if person(one) not in row["context"])
            asked |= {"question": next(others), "answers": [], "is_impossible": True}
            asked["plausible_answers"] = answers
        paragraphs.append({"context": row["context"], "qas": [asked]})
    version = "v2.0" if impossible else "1.1"
    content = {"version": version, "data": [{"title": "world", "paragraphs": paragraphs}]}
    path.write_text(json.dumps(content))
    return path


def person(row):
    """Who is asked about."""
    return row["question"].removeprefix("Where did ").removesuffix(" go?")


def _rows(task, n, split):
    sizes = dict.fromkeys(("train", "validation", "test"), 1) | {split: n}
    return dataset(task, **sizes)[split]


def _words(row):
    from arcee_lab.demo.tasks import BIO

    return [(word, BIO[tag]) for word, tag in zip(row["tokens"], row["tags"], strict=True)]
