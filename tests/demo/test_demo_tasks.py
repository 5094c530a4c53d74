"""Data sets, concepts and the command that shows the world."""

import itertools
import json

import pytest


def test_datasets_share_no_text_between_or_within_splits():
    from arcee_lab.demo.tasks import TASKS, dataset

    for task in TASKS:
        found = dataset(task, train=30, validation=20, test=20)
        column = "context" if task == "qa" else "text"
        texts = [set(found[split][column]) for split in ("train", "validation", "test")]
        assert [len(t) for t in texts] == [30, 20, 20]
        for one, other in itertools.combinations(texts, 2):
            assert not one & other


def test_rows_say_what_the_documents_say():
    from arcee_lab.demo.tasks import BIO, dataset

    for row in dataset("qa", train=2, validation=2, test=40)["test"]:
        answer, start = row["answers"]["text"][0], row["answers"]["answer_start"][0]
        assert row["context"][start : start + len(answer)] == answer
        person = row["question"].removeprefix("Where did ").removesuffix(" go?")
        assert f"{person} visited" in row["context"]
        assert row["ambiguous"] == (" or " in row["context"].split(person)[1].split(".")[0])
    for row in dataset("token", train=2, validation=2, test=40)["test"]:
        for word, start, end, tag in zip(
            row["tokens"], row["starts"], row["ends"], row["tags"], strict=True
        ):
            assert row["text"][start:end] == word
            assert BIO[tag] == "O" or word[0].isupper()
        tags = [BIO[tag] for tag in row["tags"]]
        for before, tag in itertools.pairwise(["O", *tags]):
            if tag.startswith("I-"):
                assert before in (f"B-{tag[2:]}", tag)
    for row in dataset("sequence", train=2, validation=2, test=40)["test"]:
        assert row["text"].endswith("Verdict:")


def test_an_unknown_task_and_an_empty_split_are_refused():
    from arcee_lab.demo.tasks import dataset

    with pytest.raises(ValueError, match="lm, sequence, token, qa"):
        dataset("ner")
    with pytest.raises(ValueError, match="at least 1 row"):
        dataset("qa", test=0)


def test_every_concept_has_both_answers_and_its_parts_share_no_document():
    from arcee_lab.demo.concepts import CONCEPTS, concept_labels

    for name in CONCEPTS:
        search, confirm = (concept_labels(name, part=p, n=40) for p in ("search", "confirmation"))
        assert not {d.text for d in search.documents} & {d.text for d in confirm.documents}
        for found in (search, confirm):
            labels = [label for row in found.labels for label in row if label is not None]
            assert 0.02 < sum(labels) / len(labels) < 0.7, name
            assert len(found.frame()) == len(labels)
            assert f"is true of {sum(labels)} of {len(labels):,} words in 40 doc" in found.headline


def test_concepts_read_words_of_a_known_sentence():
    from arcee_lab.demo.concepts import concept_labels

    for found in (concept_labels("plural subject in scope", n=20), concept_labels("negated", n=20)):
        for document, labels in zip(found.documents, found.labels, strict=True):
            for word, label in zip(document.words, labels, strict=True):
                before = document.text[: word.start].split(".")[-1].split()
                if found.concept.name == "negated" and label is not None:
                    negated = word.text == "not" or "not" in before or "doubt" in before
                    assert label == (negated or (word.text in ("I", "doubt")))
    with pytest.raises(ValueError, match="nearest: negated"):
        concept_labels("negation")
    with pytest.raises(ValueError, match="search, confirmation"):
        concept_labels("negated", part="test")


def test_world_command(tmp_path, capsys):
    from arcee_lab.cli import main
    from arcee_lab.demo import documents

    assert main(["world", "copy", "--n", "2", "--seed", "1"]) == 0
    assert capsys.readouterr().out.splitlines() == [d.text for d in documents("copy", n=2, seed=1)]
    target = tmp_path / "new" / "world.jsonl"
    assert main(["world", "all", "--n", "3", "--out", str(target)]) == 0
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert rows == json.loads(json.dumps([d.record() for d in documents(None, n=3)]))
    capsys.readouterr()
    assert main(["world", "story", "--n", "1", "--tags"]) == 0
    assert "role=noun number=" in capsys.readouterr().out
    for words, said in (
        (["world", "stroy"], "nearest: story"),
        (["world", "story", "--n", "0"], "expected a whole number above 0, got '0'"),
        (["world", "story", "--out", str(target)], "exists"),
        (["world", "story", "--out", str(tmp_path / "x.csv")], ".jsonl or .txt"),
    ):
        try:  # argparse exits by itself where a flag's value is refused
            code = main(words)
        except SystemExit as error:
            code = error.code
        assert code == 2
        err = capsys.readouterr().err
        assert said in err
        assert err.count("\n") == 1
