"""Files of one word per line, and SQuAD's JSON: what is read, and what is said of bad ones."""

import gzip
import json

import pytest

from arcee_lab.data.squad import read_squad
from arcee_lab.data.word_columns import read_word_columns

CONLL = """-DOCSTART- -X- O O

Bovork NNP I-NP B-PER
# SYM O O

Port NNP I-NP B-LOC
"""
CONLL_U = """# sent_id = 1
# text = Don't go
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVB\tMood=Imp|VerbForm=Fin\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\tNER=B-X|SpaceAfter=No
2.1\tempty\tempty\tVERB\t_\t_\t_\t_\t_\t_
3\tgo now\tgo\tVERB\tVB\tMood=Imp\t0\troot\t_\t_

"""


def rows(path, text, **more):
    path.write_text(text, encoding="utf-8")
    return list(read_word_columns(path, **more))


def test_conll(tmp_path):
    first, second = rows(tmp_path / "a.conll", CONLL)
    assert first.values == {
        "tokens": ["Bovork", "#"],
        "2": ["NNP", "SYM"],
        "3": ["I-NP", "O"],
        "tags": ["B-PER", "O"],
    }
    assert first.where.endswith("a.conll line 3")
    assert second.values["tokens"] == ["Port"]
    assert second.where.endswith("a.conll line 6")
    named, _ = rows(tmp_path / "a.conll", CONLL, names=["word", "pos", "chunk", "ner"])
    assert named.values["pos"] == ["NNP", "SYM"]


def test_other_ends_of_lines_and_gzip(tmp_path):
    text = "\ufeffa\tO\r\nb\tB-X\r\n \t \r\nc\tO"
    path = tmp_path / "a.conll.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert [row.values for row in read_word_columns(path)] == [
        {"tokens": ["a", "b"], "tags": ["O", "B-X"]},
        {"tokens": ["c"], "tags": ["O"]},
    ]


def test_conll_u(tmp_path):
    (row,) = rows(tmp_path / "a.conllu", CONLL_U)
    assert row.values["form"] == ["Do", "n't", "go now"], "no range, no empty node"
    assert row.values["upos"] == ["AUX", "PART", "VERB"]
    assert row.values["head"] == ["3", "3", "0"]
    assert [one["Mood"] for one in row.values["feats"]] == ["Imp", "_", "Imp"]
    assert [one["NER"] for one in row.values["misc"]] == ["_", "B-X", "_"]


@pytest.mark.parametrize(
    ("name", "text", "more", "said"),
    [
        ("a.conll", "a O\nb\n", {}, r"a\.conll line 2: 'b' has one column"),
        ("a.conll", "a X O\n\nb O\n", {}, r"a\.conll line 3 has 2 columns, and there are 3 on the"),
        ("a.conll", "a O\n", {"names": ["w", "x", "y"]}, "line 1 has 2 columns, .* 3 names of col"),
        ("a.conllu", "1\ta\tX\n", {}, r"a\.conllu line 1 has 3 columns, .* 10 names of columns"),
        ("a.conll", b"a O\n\xff O\n", {}, r"a\.conll line 2 is not UTF-8"),
        ("a.conll", b"a O\n\0 O\n", {}, r"a\.conll line 2 is binary"),
    ],
)
def test_bad_columns(tmp_path, name, text, more, said):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=said) as error:
        list(read_word_columns(path, **more))
    assert "\n" not in str(error.value)


def asked(**changed):
    question = {"question": "Who?", "id": "1", "answers": [{"text": "Zavim", "answer_start": 0}]}
    return {"data": [{"paragraphs": [{"context": "Zavim left.", "qas": [question | changed]}]}]}


def test_squad(tmp_path):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(asked()))
    (row,) = read_squad(path)
    assert row.values == {
        "question": "Who?",
        "context": "Zavim left.",
        "answers": {"text": ["Zavim"], "answer_start": [0]},
    }
    path.write_text(json.dumps(asked(is_impossible=True, plausible_answers=[], answers=[])))
    (row,) = read_squad(path)
    assert row.values["answers"] == {"text": [], "answer_start": []}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([], r"dev\.json holds a list without 'data'"),
        ({"data": 3}, r"dev\.json: 'data' is a number; expected a list"),
        ({"data": [3]}, r"dev\.json article 1 has a number; expected SQuAD's form"),
        ({"data": [{}]}, "article 1 has an object without 'paragraphs'"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "article 1, paragraph 1 has .* 'context'"),
        (asked(question=3), "paragraph 1, question 1: 'question' is a number; expected a text"),
        (asked(is_impossible="no"), "question 1: 'is_impossible' is a text"),
        (asked(answers=None), "question 1: 'answers' is null; expected a list"),
        (asked(answers=[{"text": 3}]), "question 1: 'text' is a number"),
        (asked(answers=["Zavim"]), "question 1 has a text; expected SQuAD's form"),
    ],
)
def test_bad_squad(tmp_path, value, said):
    path = tmp_path / "dev.json"
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=said) as error:
        list(read_squad(path))
    assert "\n" not in str(error.value)
