"""From files in the field's own formats to scores that equal independent computations.

Heads are trained by the command, loaded from the saved folder by transformers' own classes, run
one unpadded text at a time, and scored by scikit-learn, seqeval, or brute force: 1e-6, since both
sides count, and differ only in the rounding of fp32 logits at other batch sizes.
"""

import json
import re
import string
from collections import Counter

import formats
import numpy as np
import pytest
import torch
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics import precision_score, recall_score
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef
from transformers import AutoTokenizer
from transformers.models.arcee import modeling_arcee

from arcee_lab.cli import main
from arcee_lab.training.heads import evaluate_head, read_labelled

NEAR = {"abs": 1e-6}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Trains by the command; the saved folder and the scores that it printed there."""

    def train(train, test, *words):
        out = tmp_path_factory.mktemp("head") / "out"
        given = ["train-head", "demo", "--train", train, "--test", test, "--out", out, *words]
        assert main([str(word) for word in given]) == 0
        folder = out / "checkpoint"
        rows = json.loads((folder / "scores.json").read_text())["scores"]
        return folder, {row["metric"]: row["value"] for row in rows}

    return train


def stock(folder, kind):
    """transformers' own class, from the saved folder."""
    model = getattr(modeling_arcee, f"ArceeFor{kind}").from_pretrained(folder).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def judged(folder, data, tmp_path, *words, head):
    """What the command says of a file, checked against the call in Python."""
    out = tmp_path / "scores"
    given = ["eval-head", folder, "--head", head, "--data", data, "--out", out, *words]
    assert main([str(word) for word in given]) == 0
    found = json.loads((out / "results.json").read_text())
    return {row["metric"]: row["value"] for row in found["scores"]}


def ece(probs, gold):
    """15 bins of equal width, each with its upper edge, in a loop."""
    sure, right = probs.max(1), probs.argmax(1) == gold
    total = 0.0
    for edge in range(15):
        inside = (sure > edge / 15) & (sure <= (edge + 1) / 15)
        if inside.any():
            total += inside.sum() * abs(sure[inside].mean() - right[inside].mean())
    return total / len(gold)


@torch.no_grad()
def label_scores(folder, texts, gold):
    model, tokenizer = stock(folder, "SequenceClassification")
    rows = [model(**tokenizer(text, return_tensors="pt")).logits[0] for text in texts]
    probs = torch.stack(rows).double().softmax(-1).numpy()
    gold, given = np.array(gold), probs.argmax(1)
    names = list(range(probs.shape[1]))
    return {
        "acc": accuracy_score(gold, given),
        "macro_f1": f1_score(gold, given, average="macro"),
        "mcc": matthews_corrcoef(gold, given),
        "nll": log_loss(gold, probs, labels=names),
        "brier": float(((probs - np.eye(len(names))[gold]) ** 2).sum(1).mean()),
        "ece": ece(probs, gold),
    }


def test_sentiment_in_a_table_without_a_header(trained, tmp_path):
    train = formats.sentiment_tsv(tmp_path / "train.tsv", 120, "train")
    test = formats.sentiment_tsv(tmp_path / "dev.tsv", 60, "test")
    columns = ["--columns", "text", "label"]
    words = ["--head", "sequence", "--epochs", "2", *columns, "--class-weights", "balanced"]
    folder, own = trained(train, test, *words)
    lines = [line.split("\t") for line in test.read_text().splitlines()]
    expected = label_scores(folder, [text for text, _ in lines], [int(label) for _, label in lines])
    assert own == pytest.approx(expected, **NEAR)
    assert judged(folder, test, tmp_path, *columns, head="sequence") == pytest.approx(
        expected, **NEAR
    )


def test_topics_in_ags_table(trained, tmp_path):
    train = formats.topics_csv(tmp_path / "train.csv", 80, "train")
    test = formats.topics_csv(tmp_path / "test.csv", 40, "test")
    words = ["--head", "sequence", "--epochs", "2"]
    folder, own = trained(f"arcee_ag_news:{train}", f"arcee_ag_news:{test}", *words)
    data = read_labelled(f"arcee_ag_news:{test}", head="sequence")
    expected = label_scores(folder, data.texts, data.labels)
    assert own == pytest.approx(expected, **NEAR)
    assert own["acc"] > 0.5, "texts and labels belong together"
    # by columns, whose classes are called by their numbers, a head of its own
    columns = ["--columns", "label", "title", "text", "--label-column", "label"]
    folder, own = trained(train, test, *words, *columns)
    data = read_labelled(test, head="sequence", columns=["label", "title", "text"])
    assert data.names == ("1", "2", "3", "4")
    assert own == pytest.approx(label_scores(folder, data.texts, data.labels), **NEAR)


@torch.no_grad()
def word_labels(folder, sentences):
    model, tokenizer = stock(folder, "TokenClassification")
    found = []
    for words in sentences:
        encoded = tokenizer(" ".join(words), return_offsets_mapping=True, return_tensors="pt")
        last = encoded.pop("offset_mapping")[0, :, 1].tolist()
        best = model(**encoded).logits[0].argmax(-1).tolist()
        ends = np.cumsum([len(word) + 1 for word in words]) - 1
        found.append([model.config.id2label[best[last.index(end)]] for end in ends])
    return found


@pytest.mark.parametrize(
    ("write", "name", "words"),
    [
        (formats.conll_columns, "eng.train", []),
        (formats.wnut, "wnut17train.conll", []),
        (formats.conll_u, "a.conllu", ["--label-column", "misc.Name"]),
    ],
)
def test_entities_in_columns(trained, tmp_path, write, name, words):
    (tmp_path / "train").mkdir()
    train = write(tmp_path / "train" / name, 60, "train")
    test = write(tmp_path / name, 30, "test")
    folder, own = trained(train, test, "--head", "token", "--epochs", "4", *words)
    column = words[1] if words else None
    data = read_labelled(test, head="token", label_column=column)
    gold = [[data.names[label] for label in row] for row in data.labels]
    given = word_labels(folder, data.words)
    pairs = [(a, b) for row in zip(gold, given, strict=True) for a, b in zip(*row, strict=True)]
    expected = {
        "token_acc": sum(a == b for a, b in pairs) / len(pairs),
        "entity_f1": entity_f1(gold, given),
        "entity_precision": precision_score(gold, given),
        "entity_recall": recall_score(gold, given),
    }
    assert own == pytest.approx(expected, **NEAR)
    assert own["token_acc"] > 0.5, "words and labels belong together"
    found = judged(folder, test, tmp_path, *words, head="token")
    del found["name_acc"]
    assert found == pytest.approx(expected, **NEAR)


def test_free_labels_in_conll_u(trained, tmp_path):
    train = formats.conll_u(tmp_path / "train.conllu", 40, "train")
    test = formats.conll_u(tmp_path / "test.conllu", 20, "test")
    folder, own = trained(train, test, "--head", "token", "--epochs", "2")
    data = read_labelled(test, head="token")
    assert data.names == ("PROPN", "PUNCT", "X")
    given = word_labels(folder, data.words)
    gold = [[data.names[label] for label in row] for row in data.labels]
    flat = [[label for row in rows for label in row] for rows in (gold, given)]
    expected = {"token_acc": pytest.approx(accuracy_score(*flat), **NEAR)}
    assert own == expected
    assert judged(folder, test, tmp_path, head="token") == expected


# ---------------------------------------------------------------- answer spans


def official(text):
    """SQuAD's normalisation, as its evaluation script describes it."""
    text = "".join(one for one in text.lower() if one not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def official_f1(gold, given):
    gold, given = official(gold).split(), official(given).split()
    if not gold or not given:
        return float(gold == given)
    same = sum((Counter(gold) & Counter(given)).values())
    if not same:
        return 0.0
    precision, recall = same / len(given), same / len(gold)
    return 2 * precision * recall / (precision + recall)


@torch.no_grad()
def brute_force(model, tokenizer, question, context, *, may_be_empty):
    encoded = tokenizer(question, context, return_offsets_mapping=True, return_tensors="pt")
    inside = [part == 1 for part in encoded.sequence_ids(0)]
    offsets = encoded.pop("offset_mapping")[0].tolist()
    output = model(**encoded)
    starts, ends = output.start_logits[0].tolist(), output.end_logits[0].tolist()
    best, answer = -np.inf, ""
    for i in range(len(starts)):
        for j in range(i, min(i + 30, len(ends))):
            if inside[i] and inside[j] and starts[i] + ends[j] > best:
                best, answer = starts[i] + ends[j], context[offsets[i][0] : offsets[j][1]].strip()
    return "" if may_be_empty and starts[0] + ends[0] > best else answer


@pytest.mark.parametrize("impossible", [False, True], ids=["v1", "v2"])
def test_answers_in_squads_files(trained, tmp_path, impossible):
    train = formats.squad(tmp_path / "train.json", 200, "train", impossible=impossible)
    test = formats.squad(tmp_path / "dev.json", 40, "test", impossible=impossible)
    task = f"arcee_squad{'_v2' if impossible else ''}"
    words = ["--head", "qa", "--epochs", "3", "--learning-rate", "0.02"]
    folder, own = trained(train, f"{task}:{test}", *words)
    model, tokenizer = stock(folder, "QuestionAnswering")
    rows = []
    for paragraph in json.loads(test.read_text())["data"][0]["paragraphs"]:
        (asked,) = paragraph["qas"]
        given = brute_force(
            model, tokenizer, asked["question"], paragraph["context"], may_be_empty=impossible
        )
        golds = [answer["text"] for answer in asked["answers"]] or [""]
        em = max(float(official(gold) == official(given)) for gold in golds)
        rows.append((em, max(official_f1(gold, given) for gold in golds), bool(asked["answers"])))
    em, f1, answered = map(np.array, zip(*rows, strict=True))
    expected = {"em": em.mean(), "f1": f1.mean()}
    if impossible:
        expected |= {
            "em_answer": em[answered].mean(),
            "f1_answer": f1[answered].mean(),
            "em_none": em[~answered].mean(),
        }
    assert own == pytest.approx(expected, **NEAR)
    assert own["em"] > 0.4, "questions and answers belong together"
    assert judged(folder, test, tmp_path, head="qa") == pytest.approx(expected, **NEAR)
    result = evaluate_head(str(folder), data=read_labelled(test, head="qa"), progress=False)
    assert {one.metric: one.value for one in result.scores} == pytest.approx(expected, **NEAR)
