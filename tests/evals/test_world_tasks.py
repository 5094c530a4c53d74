"""The world's tasks: their documents against the world, and their files against themselves."""

import math
from pathlib import Path

import pytest
import yaml

from arcee_lab import demo
from arcee_lab.demo import MIX, news, passages, reviews
from arcee_lab.evals import metrics
from arcee_lab.evals.tasks import ceilings, demo_documents

EVALS = Path(__file__).parent.parent.parent / "evals"
FILES = sorted([*EVALS.glob("heads/*.yaml"), *EVALS.glob("lm/*.yaml")])


def test_sentiment_is_the_worlds():
    rows = demo_documents.sentiment(n=40, seed=3)["test"]
    assert len(set(rows["text"])) == 40
    told = {d.prompt: d.facts["label"] for d in demo.documents("review", n=200, seed=3)}
    assert [reviews.LABELS[label] for label in rows["label"]] == [told[t] for t in rows["text"]]
    assert all(text.endswith("Verdict:") for text in rows["text"])


def test_same_seed_same_documents():
    assert (
        demo_documents.names(n=5, seed=1)["test"].to_list()
        == demo_documents.names(n=5, seed=1)["test"].to_list()
    )
    assert (
        demo_documents.names(n=5, seed=1)["test"].to_list()
        != demo_documents.names(n=5, seed=2)["test"].to_list()
    )


def test_best_labels_are_right_as_often_as_the_ceiling_says():
    rows = demo_documents.names(n=ceilings.NAMES)["test"]
    items = [metrics.entity_items(row["labels"], row["best"]) for row in rows]
    share = metrics.name_acc([item["name_acc"] for item in items])
    names = sum(item["name_acc"][1] for item in items)
    spread = math.sqrt(0.1 * 0.9 / names)
    assert share == pytest.approx(news.best_accuracy(both_sides=False), abs=4 * spread)


def test_passages_hold_their_answers():
    for row in demo_documents.passages(n=20)["test"]:
        assert row["question"].startswith("Where did ")
        assert row["answers"][0] in row["context"]
        assert "Answer" not in row["context"]


@pytest.mark.parametrize("attractors", [0, 1, 2])
def test_agreement_offers_both_forms_in_turn(attractors):
    rows = demo_documents.pairs(skill="agreement", attractors=attractors, n=30)["test"]
    assert rows["label"][:4] == [0, 1, 0, 1]
    for row in rows:
        right, wrong = row["choices"][row["label"]], row["choices"][1 - row["label"]]
        assert right == wrong + "s" or wrong == right + "s"


def test_verdicts_follow_the_review():
    rows = demo_documents.pairs(skill="verdict", n=30)["test"]
    told = {d.prompt: d.facts["label"] for d in demo.documents("review", n=100)}
    for row in rows:
        assert row["choices"][row["label"]].strip() == reviews.VERDICT[told[row["text"]]]


def test_words_and_copies_continue_their_texts():
    texts = [d.text for d in demo.documents("table", n=40)]
    for row in demo_documents.words(skill="recall", n=20)["test"]:
        assert any(text.startswith(row["text"] + row["target"]) for text in texts)
        key = row["text"].split()[-2]
        assert f"{key} ={row['target']};" in row["text"].split("Look up:")[0]
    for row in demo_documents.copies(n=10)["test"]:
        assert row["text"] == f"Say: {row['target']}. Again:"


def test_texts_pay_for_their_kind():
    rows = demo_documents.texts(kind="story", n=5)["test"]
    for row, document in zip(rows, demo.documents("story", n=5), strict=True):
        assert row["text"] == document.text + "<eos>"
        assert row["words"] == len(document.words) + 1
        assert row["nats"] == pytest.approx(document.nats - math.log(MIX["story"]))


def test_known_ceilings():
    assert ceilings.sentiment() == reviews.best_accuracy()
    assert ceilings.exact_match() == passages.best_exact_match()
    assert ceilings.statements() == 0.95
    assert ceilings.entity_f1() < ceilings.token_acc() < 1
    rows = demo_documents.texts(kind="copy", n=ceilings.TEXTS)["test"]
    assert ceilings.entropy_copy() == pytest.approx(sum(rows["nats"]) / sum(rows["words"]))


@pytest.fixture(scope="module")
def settings():
    """Each task file as lm-eval reads it, functions resolved."""
    from lm_eval.tasks._yaml_loader import load_yaml

    return {file: load_yaml(file) for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_task_files_agree_with_themselves(file, settings):
    config = settings[file]
    assert config["task"] == f"arcee_{file.stem}"
    asked = {entry["metric"]: entry for entry in config["metric_list"]}
    for name, entry in asked.items():
        assert entry["aggregation"] is getattr(metrics, name)
        falls = name in {"nll", "brier", "ece", "nats_per_word", "word_perplexity", "excess"}
        assert entry["higher_is_better"] is not falls
    for name, value in config["metadata"].get("ceilings", {}).items():
        assert name in asked
        number = value() if callable(value) else value
        assert isinstance(number, float)
    n = config.get("dataset_kwargs", {}).get("n")
    if file.stem == "demo_ner":
        assert n == ceilings.NAMES
    if file.stem.startswith("demo_text_"):
        assert n == ceilings.TEXTS


def test_groups_name_tasks_that_exist():
    tasks = {f"arcee_{file.stem}" for file in FILES}
    groups = {
        file.stem: yaml.safe_load(file.read_text()) for file in (EVALS / "groups").glob("*.yaml")
    }
    assert set(groups) == {"arcee_heads", "arcee_lm", "arcee_all", "arcee_standard", "afm"}
    for name, group in groups.items():
        assert group["group"] == name
        if name != "afm":
            assert set(group["task"]) <= tasks | set(groups)
    ours = ("arcee_heads", "arcee_lm", "arcee_standard")
    listed = {task for name in ours for task in groups[name]["task"]}
    assert listed == tasks, "every task is in a group"


def test_tasks_of_the_afm_group_are_lm_evals_own():
    import lm_eval.tasks

    folder = Path(lm_eval.tasks.__file__).parent
    wanted = set(yaml.safe_load((EVALS / "groups" / "afm.yaml").read_text())["task"])
    for file in folder.rglob("*.yaml"):
        lines = file.read_text(encoding="utf-8", errors="ignore").splitlines()
        heads = [line for line in lines if line.startswith(("task:", "group:"))]
        wanted -= {line.partition(":")[2].strip() for line in heads}
        wanted -= {line.strip("- ") for line in lines if line.startswith("  - ")}
    assert not wanted
