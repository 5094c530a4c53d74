"""A head fitted on a task's data is scored by that task, without an edit between the two."""

import json

import pytest
import torch
from seqeval.metrics import f1_score
from seqeval.scheme import IOB2

import arcee_lab as al
from arcee_lab.evals.tasks.datasets.classification import BY_TASK
from arcee_lab.evals.tasks.find import find_tasks
from arcee_lab.training.heads import HeadRecipe, read_labelled, train_head
from arcee_lab.training.heads.labelled import file_of

PAIRS = (
    ("The soup was warm.", "The soup was not cold.", "entailment"),
    ("The soup was warm.", "The table was clean.", "neutral"),
    ("The soup was warm.", "The soup was cold.", "contradiction"),
    ("The music was loud.", "The music was not quiet.", "entailment"),
    ("The music was loud.", "The bread was dull.", "neutral"),
    ("The music was loud.", "The music was quiet.", "contradiction"),
)
SENTENCES = ("the soup was very good \t1", "dull bread \t0", "a clean room \t1", "dirty music\t0")
NEWS = (
    '"1","The port flooded","Two towns, one river."',
    '"2","A cup is won","The firm lost."',
    '"3","Bread is dear","He said ""soup"" rose."',
    '"4","A moon","It has a moon of its own."',
)
# IOB1: B- only between neighbours of one type
CONLL = """-DOCSTART- -X- O O

Bovork NNP I-NP I-PER
Zavim NNP I-NP B-PER
left VBD I-VP O
Port NNP I-NP I-LOC
Gazis NNP I-NP I-LOC
. . O O

Stofex NNP I-NP I-ORG
won VBD I-VP O
"""
WIKIANN = "en:Port\tB-LOC\nen:Gazis\tI-LOC\nen:flooded\tO\n\nen:Bovork\tB-PER\nen:won\tO\n"


def mnli_table(rows) -> str:
    lines = [f"{n}\t{a}\t{b}\t{label}" for n, (a, b, label) in enumerate(rows)]
    return "\n".join(["index\tsentence1\tsentence2\tgold_label", *lines]) + "\n"


def mnli_lines(rows) -> str:
    keys = ("sentence1", "sentence2", "gold_label")
    return "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows)


def write(path, text) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


def fitted(train, test, folder):
    """A few steps on the demo's backbone: the result, and its checkpoint read again."""
    model, tokenizer = al.load("demo", head="base")
    recipe = HeadRecipe(epochs=4, batch_size=2, learning_rate=1e-2)
    trained = train_head(model, tokenizer, train, test=test, recipe=recipe, progress=False)
    path = trained.save(folder)
    return trained, path, *al.load(path, head=train.head)


@pytest.mark.parametrize(
    ("task", "train", "test", "texts"),
    [
        (
            "arcee_sst2",
            ("train.tsv", "sentence\tlabel\n" + "\n".join(SENTENCES)),
            ("dev.tsv", "sentence\tlabel\n" + "\n".join(SENTENCES[1:])),
            ["dull bread", "a clean room", "dirty music"],
        ),
        (
            "arcee_ag_news",
            ("train.csv", "\n".join(NEWS)),
            ("test.csv", "\n".join(NEWS[2:])),
            ['Bread is dear He said "soup" rose.', "A moon It has a moon of its own."],
        ),
        (
            "arcee_mnli_matched",
            ("train.tsv", mnli_table(PAIRS)),
            ("dev.jsonl", mnli_lines([("x", "y", "-"), *PAIRS[1:]])),
            [f"{premise}\n{hypothesis}" for premise, hypothesis, _ in PAIRS[1:]],
        ),
    ],
    ids=["sst2", "ag_news", "mnli"],
)
def test_a_sequence_head_is_scored_by_the_task_it_was_fitted_on(tmp_path, task, train, test, texts):
    files = [write(tmp_path / name, text) for name, text in (train, test)]
    fit, held = (read_labelled(f"{task}:{file}", head="sequence") for file in files)
    asked = find_tasks(task, data=files[1])["tasks"][task]
    assert held.texts == tuple(texts) == tuple(doc["text"] for doc in asked.eval_docs)
    assert list(fit.names) == list(held.names) == asked.config.doc_to_choice
    trained, folder, model, tokenizer = fitted(fit, held, tmp_path / "head")
    assert model.config.id2label == dict(enumerate(asked.config.doc_to_choice))

    rights, nats = [], []
    with torch.no_grad():
        for text, label in zip(texts, held.labels, strict=True):
            logs = model(**tokenizer(text, return_tensors="pt")).logits[0].log_softmax(-1)
            rights.append(logs.argmax().item() == label)
            nats.append(-logs[label].item())
    result = al.evals.run(str(folder), tasks=task, data=files[1], progress=False)
    own = {score.metric: score.value for score in trained.scores}
    for metric, values in (("acc", rights), ("nll", nats)):
        expected = sum(values) / len(values)
        assert result.score(task, metric).value == pytest.approx(expected, abs=1e-6)
        assert own[metric] == pytest.approx(expected, abs=1e-6)
    assert sum(rights) > len(rights) / 2, "labels and texts belong together"


@pytest.mark.parametrize(
    ("task", "text", "labels"),
    [
        (
            "arcee_conll2003",
            CONLL,
            [["B-PER", "B-PER", "O", "B-LOC", "I-LOC", "O"], ["B-ORG", "O"]],
        ),
        ("arcee_wikiann", WIKIANN, [["B-LOC", "I-LOC", "O"], ["B-PER", "O"]]),
    ],
    ids=["conll2003", "wikiann"],
)
def test_a_token_head_is_scored_by_the_task_it_was_fitted_on(tmp_path, task, text, labels):
    file = write(tmp_path / "eng.train", text)
    data = read_labelled(f"{task}:{file}", head="token")
    assert [[data.names[one] for one in row] for row in data.labels] == labels
    assert data.names == BY_TASK[task].names, "also those that the file lacks"
    trained, folder, model, tokenizer = fitted(data, data, tmp_path / "head")
    assert model.config.id2label == dict(enumerate(data.names))

    found = []
    with torch.no_grad():
        for words in data.words:
            encoded = tokenizer(" ".join(words), return_offsets_mapping=True, return_tensors="pt")
            last = encoded.pop("offset_mapping")[0, :, 1].tolist()  # a word ends where a token does
            best = model(**encoded).logits[0].argmax(-1)
            ends = [len(" ".join(words[: n + 1])) for n in range(len(words))]
            found.append([model.config.id2label[best[last.index(end)].item()] for end in ends])
    pairs = [(a, b) for row in zip(labels, found, strict=True) for a, b in zip(*row, strict=True)]
    result = al.evals.run(str(folder), tasks=task, data=file, progress=False)
    own = {score.metric: score.value for score in trained.scores}
    for metric, expected in (
        ("token_acc", sum(a == b for a, b in pairs) / len(pairs)),
        ("entity_f1", f1_score(labels, found, mode=None, scheme=IOB2)),
    ):
        assert result.score(task, metric).value == pytest.approx(expected, abs=1e-6)
        assert own[metric] == pytest.approx(expected, abs=1e-6)
        assert expected > 0.5, "labels and words belong together"


def test_the_command_from_a_tasks_file_to_its_score(tmp_path, monkeypatch):
    from arcee_lab.cli import main

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "train.tsv", mnli_table(PAIRS))
    write(tmp_path / "dev.tsv", mnli_table(PAIRS[:2]))
    words = ["train-head", "demo", "--head", "sequence", "--epochs", "1", "--out", "head"]
    words += ["--train", "arcee_mnli_matched:train.tsv", "--test", "arcee_mnli_matched:dev.tsv"]
    assert main(words) == 0
    told = json.loads((tmp_path / "head" / "run.json").read_text())
    assert len(set(told["sha256"])) == 2, "both files count by their content"
    words = ["eval", "head/checkpoint", "--tasks", "arcee_mnli_matched", "--data", "dev.tsv"]
    assert main([*words, "--out", "scores"]) == 0
    own = json.loads((tmp_path / "head" / "checkpoint" / "scores.json").read_text())["scores"]
    of = {score["metric"]: score["value"] for score in own}
    lines = (tmp_path / "scores" / "scores.csv").read_text().splitlines()
    names = lines[0].split(",")
    rows = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    (nll,) = [float(row["value"]) for row in rows if row["metric"] == "nll"]
    assert nll == pytest.approx(of["nll"], abs=1e-6)


def test_what_follows_a_task_is_a_file_or_a_split():
    for source, file in (
        ("arcee_sst2:train.tsv", "train.tsv"),
        ("arcee_wikiann:./train", "train"),
        ("arcee_wikiann:en/train", "en/train"),
        ("arcee_wikiann:train", None),
        ("arcee_wikiann", None),
        ("arcee_notes.tsv", "arcee_notes.tsv"),
        ("./arcee_sst2.csv", "arcee_sst2.csv"),
        ("owner/arcee_sst2:train", None),
    ):
        found = file_of(source)
        assert (None if found is None else found.as_posix()) == file


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("arcee_sst", "no task 'arcee_sst' to fit a head on; nearest: arcee_sst2"),
        ("acree_sst2:train.tsv", "no task 'acree_sst2' to fit a head on; nearest: arcee_sst2"),
        ("arcee_squad:train.json", r"'arcee_squad' asks for spans .*\(--head qa\)"),
        ("arcee_conll2003:eng.train", r"one of the token head; .*\(--head token\)"),
        ("arcee_sst2:none.tsv", "'arcee_sst2': data file none.tsv is missing"),
        ("arcee_sst2:strange.tsv", "row 1 has the label '2'; expected 0 to 1 .*negative, positive"),
        ("arcee_mnli_matched:train", "did not give 'nyu-mll/glue', split 'train'.*TASK:FILE"),
        ("arcee_ag_news", "did not give 'fancyzhx/ag_news', split 'train'"),
    ],
)
def test_bad_tasks_end_with_code_2_and_one_line(tmp_path, monkeypatch, capsys, source, said):
    from arcee_lab.cli import main

    monkeypatch.chdir(tmp_path)
    write(tmp_path / "strange.tsv", "sentence\tlabel\nfine soup\t1\nsoup\t2\n")
    words = ["train-head", "demo", "--head", "sequence", "--train", source, "--out", "run"]
    with pytest.raises(ValueError, match=said):
        read_labelled(source, head="sequence")
    assert main(words) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_columns_and_labels_are_the_tasks(tmp_path):
    file = write(tmp_path / "dev.tsv", mnli_table(PAIRS))
    with pytest.raises(ValueError, match="knows its columns; leave the names of columns out"):
        read_labelled(f"arcee_mnli_matched:{file}", head="sequence", label_column="gold_label")
    with pytest.raises(ValueError, match="row 0 has the label 'entailment'; expected one of no"):
        read_labelled(f"arcee_mnli_matched:{file}", head="sequence", names=["no", "yes"])
    assert len(read_labelled(f"arcee_mnli_matched:{file}", head="sequence", limit=2)) == 2
