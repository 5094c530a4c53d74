"""The field's data sets from tiny files in their own formats: labels, splits, documents, errors."""

import json

import pyarrow
import pytest
from pyarrow import parquet

from arcee_lab.evals.tasks import datasets
from arcee_lab.evals.tasks.datasets import classification, entities, labels


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_sst2(tmp_path):
    file = write(tmp_path / "dev.tsv", 'sentence\tlabel\na "fine soup\t1\ndull .\t0\n')
    rows = datasets.sst2(data=file, pretrained="ignored", version=1.0)["test"].to_list()
    assert rows == [
        {"head": "sequence", "text": 'a "fine soup', "label": 1},
        {"head": "sequence", "text": "dull .", "label": 0},
    ]
    assert labels.SST2 == ("negative", "positive")


def test_ag_news(tmp_path):
    file = write(tmp_path / "test.csv", '"3","Soup, again","He said ""no""."\n"4","A","B"\n')
    rows = datasets.ag_news(data=file)["test"].to_list()
    assert [row["text"] for row in rows] == ['Soup, again He said "no".', "A B"]
    assert [labels.AG_NEWS[row["label"]] for row in rows] == ["Business", "Sci/Tech"]


def test_mnli_from_both_formats(tmp_path):
    table = write(
        tmp_path / "dev_matched.tsv",
        "index\tsentence1\tsentence2\tgold_label\n0\tIt rains.\tIt is wet.\tentailment\n",
    )
    lines = write(
        tmp_path / "dev.jsonl",
        "\n".join(
            json.dumps({"sentence1": "A\u2028b.", "sentence2": "C.", "gold_label": label})
            for label in ("-", "contradiction")
        ),
    )
    (row,) = datasets.mnli(side="matched", data={"arcee_mnli_matched": table})["test"]
    assert row == {"head": "sequence", "text": "It rains.\nIt is wet.", "label": 0}
    (row,) = datasets.mnli(side="mismatched", data=lines)["test"]
    assert labels.MNLI[row["label"]] == "contradiction"
    assert row["text"] == "A\u2028b.\nC."


def test_conll_in_its_old_and_new_schemes(tmp_path):
    words = "-DOCSTART- -X- O O\n\nU.N. NNP I-NP {0}-ORG\nman NN I-NP O\nEkeus NNP I-NP {0}-PER\n"
    words += "Rolf NNP I-NP B-PER\n\nPeace NN I-NP O\n"
    for side in "IB":
        file = write(tmp_path / f"eng.{side}", words.format(side))
        first, second = datasets.conll2003(data=file)["test"].to_list()
        assert first["words"] == ["U.N.", "man", "Ekeus", "Rolf"]
        assert first["labels"] == ["B-ORG", "O", "B-PER", "B-PER"]
        assert first["text"] == "U.N. man Ekeus Rolf"
        assert second["labels"] == ["O"]
    assert entities.CONLL2003[7] == "B-MISC"


def test_iob2_keeps_entities():
    assert entities.iob2(["I-PER", "I-PER", "I-LOC", "O", "I-LOC", "B-LOC"]) == [
        "B-PER",
        "I-PER",
        "B-LOC",
        "O",
        "B-LOC",
        "B-LOC",
    ]


def test_wikiann(tmp_path):
    file = write(tmp_path / "test", "en:Upper\tB-LOC\nen:Lolom\tI-LOC\nen::\tO\n\nen:x\u00a0y\tO\n")
    first, second = datasets.wikiann(data=file)["test"].to_list()
    assert first["words"] == ["Upper", "Lolom", ":"]
    assert first["labels"] == ["B-LOC", "I-LOC", "O"]
    assert second["words"] == ["x\u00a0y"]


def squad_file(path, *, impossible: bool) -> str:
    asked = [
        {
            "id": "1",
            "question": " Where? ",
            "answers": [{"text": "the barn", "answer_start": 3}, {"text": "the barn"}],
        }
    ]
    if impossible:
        asked += [
            {
                "id": "2",
                "question": "Who?",
                "is_impossible": True,
                "answers": [],
                "plausible_answers": [{"text": "barn"}],
            }
        ]
    article = {"title": "x", "paragraphs": [{"context": "In the barn.", "qas": asked}]}
    return write(path, json.dumps({"version": "v2.0", "data": [article]}))


def test_squad(tmp_path):
    (row,) = datasets.squad(data=squad_file(tmp_path / "dev.json", impossible=False))["test"]
    assert row == {
        "head": "qa",
        "question": "Where?",
        "context": "In the barn.",
        "answers": ["the barn"],
        "may_be_empty": False,
    }


def test_squad_v2(tmp_path):
    file = squad_file(tmp_path / "dev.json", impossible=True)
    first, second = datasets.squad_v2(data=file)["test"].to_list()
    assert first["answers"] == ["the barn"]
    assert second["answers"] == []
    assert second["may_be_empty"]
    with pytest.raises(ValueError, match="'arcee_squad', row 1 has no answer"):
        datasets.squad(data=file)


def test_parquet_holds_the_hubs_columns(tmp_path):
    file = tmp_path / "ner.parquet"
    table = {"tokens": [["Ekeus", "ran"]], "ner_tags": [[1, 0]]}
    parquet.write_table(pyarrow.table(table), file)
    (row,) = datasets.conll2003(data=str(file))["test"]
    assert row["labels"] == ["B-PER", "O"]


def test_errors_name_task_and_file(tmp_path):
    with pytest.raises(ValueError, match=r"'arcee_sst2': data file .*none.tsv is missing"):
        datasets.sst2(data=str(tmp_path / "none.tsv"))
    file = write(tmp_path / "dev.tsv", "sentence\tlabel\nfine\t-1\n")
    with pytest.raises(ValueError, match="'arcee_sst2', row 0 has the label '-1'; expected 0 to 1"):
        datasets.sst2(data=file)
    with pytest.raises(ValueError, match=r"not in the format of sst2 .*line 2 has 1 columns"):
        datasets.sst2(data=write(tmp_path / "broken.tsv", "sentence\tlabel\nfine\n"))
    with pytest.raises(ValueError, match="row 0 has no column 'sentence'"):
        datasets.sst2(data=write(tmp_path / "other.tsv", "text\tlabel\nfine\t1\n"))
    with pytest.raises(ValueError, match="holds no row"):
        datasets.sst2(data=write(tmp_path / "empty.tsv", "sentence\tlabel"))
    with pytest.raises(ValueError, match=r"'B-X'.* unknown; expected one of O, B-PER"):
        datasets.wikiann(data=write(tmp_path / "wiki", "en:a\tB-X\n"))
    with pytest.raises(ValueError, match="not in the format of squad"):
        datasets.squad(data=write(tmp_path / "squad.json", "{"))


def test_without_a_network_the_error_says_what_to_do():
    with pytest.raises(
        ValueError, match=r"'arcee_sst2': the Hub did not give 'stanfordnlp/sst2'.*data"
    ):
        classification.SST2.documents()


def test_one_argument_puts_a_file_in_place_of_the_hub(tmp_path, monkeypatch, demo):
    from arcee_lab.evals.runner import run
    from arcee_lab.evals.tasks.find import find_tasks

    monkeypatch.chdir(tmp_path)
    file = write(tmp_path / "dev.tsv", "sentence\tlabel\nfine soup\t1\nbad soup\t0\n")
    names = ("arcee_sst2", "arcee_squad")
    asked = squad_file(tmp_path / "dev.json", impossible=False)
    loaded = find_tasks(names, data={"arcee_sst2": file, "arcee_squad": asked})
    assert [len(loaded["tasks"][name].eval_docs) for name in names] == [2, 1]
    with pytest.raises(ValueError, match="data names the task 'arcee_ag_news', which is not among"):
        find_tasks(["arcee_sst2"], data={"arcee_sst2": file, "arcee_ag_news": file})
    with pytest.raises(ValueError, match=r"^Task .arcee_sst2.: data file other.tsv is missing"):
        find_tasks(["arcee_sst2"], data="other.tsv")
    # the demo's head says bad and good, not negative and positive
    with pytest.raises(ValueError, match="'arcee_sst2': The head has no label 'negative'"):
        run(
            demo[0],
            demo[1],
            tasks="arcee_sst2",
            data="dev.tsv",
            heads={"sequence": "demo"},
            progress=False,
        )


def test_the_command_takes_files():
    from arcee_lab.cli.eval import _data

    assert _data(["a.tsv"]) == "a.tsv"
    assert _data(["arcee_sst2=a.tsv", "arcee_squad=b=c.json"]) == {
        "arcee_sst2": "a.tsv",
        "arcee_squad": "b=c.json",
    }
    assert _data([]) is None
    with pytest.raises(ValueError, match="expected one FILE, or TASK=FILE per task"):
        _data(["a.tsv", "b.tsv"])
