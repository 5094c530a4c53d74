"""Documents that cannot be scored: left out, counted and listed, or an error on request."""

import copy
import json
import math

import pytest
import torch
from asking import choices, plain_answer
from flagged import SPECIFIC, theirs, write_tasks

import arcee_lab as al
import arcee_lab.evals.__main__ as command
from arcee_lab.cli import main
from arcee_lab.errors import TaskFailed, TextError
from arcee_lab.evals import ArceeLab, Evaluation, run
from arcee_lab.evals.scoring.unscorable import Unscorable
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.training.heads import evaluate_head, read_labelled

ROWS = [
    {"question": "The dogs", "choices": [" sleep.", " sleeps."], "gold": 0},
    {"question": "The cat", "choices": ["", " sings."], "gold": 1},  # an empty label
    {"question": "The do", "choices": ["gs", " sleeps."], "gold": 0},  # "dogs" is one token
    {"question": "The birds", "choices": [" sings.", " sing."], "gold": 0},
    {"question": "A", "choices": [" dog" * 200, " cat."], "gold": 1},  # the demo reads 128 tokens
]
GAPS = SPECIFIC["choice"].replace('description: "Choose an ending.\\n"', 'target_delimiter: ""')
LEFT = {1: "is empty", 2: "merges into the last token", 4: "a continuation of 20"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The task, and one in which nothing can be scored."""
    folder = tmp_path_factory.mktemp("gaps")
    write_tasks(folder, {"gaps": ROWS, "none": ROWS[1:3]}, {"gaps": GAPS, "none": GAPS})
    return folder


@pytest.fixture(scope="module")
def lm():
    return ArceeLab("demo", device="cpu")


@pytest.fixture
def ask(lm, folder):
    def ask(tasks="gaps", **settings):
        return run(lm, tasks=tasks, include=[folder], progress=False, **settings)

    return ask


def by_hand(lm):
    """Accuracy over the first and the fourth document, each choice by a plain forward."""
    model, encoder = lm.model, lm._encoder()
    right = 0
    for row in (ROWS[0], ROWS[3]):
        scores = [plain_answer(model, encoder, row["question"], c)[0] for c in row["choices"]]
        right += scores.index(max(scores)) == row["gold"]
    return right / 2


def test_they_cost_neither_their_task_nor_the_other_documents(lm, ask):
    result = ask()
    score = result.score("gaps", "acc")
    assert score.value == by_hand(lm)
    assert (score.n, score.n_skipped) == (2, 3)
    assert [one.doc_id for one in result.skipped] == list(LEFT)
    for one in result.skipped:
        assert LEFT[one.doc_id] in one.reason
        assert one.task == "gaps"
    assert [sample["doc_id"] for sample in result.samples["gaps"]] == [0, 3]
    told = result.to_lm_eval()
    assert told["results"]["gaps"]["sample_len"] == 2
    assert told["n-samples"]["gaps"] == {"original": 5, "effective": 2}
    assert "3 documents could not be scored" in result.headline
    assert result.frame()["n_skipped"].tolist() == [3, 3]


def test_what_is_scored_is_as_without_them(lm, ask):
    alone = ask(samples={"gaps": [3, 0]})
    assert not alone.skipped
    both = ask()
    assert alone.score("gaps", "acc").value == both.score("gaps", "acc").value
    for one, other in zip(alone.samples["gaps"], both.samples["gaps"], strict=True):
        assert one["doc_id"] == other["doc_id"]
        # Other documents in the batch: fp32 rounds elsewhere.
        for (ll, _), (same, _) in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert ll == pytest.approx(same, abs=1e-4)


def test_named_documents_keep_their_numbers(ask):
    result = ask(samples={"gaps": [2, 3]})
    assert [one.doc_id for one in result.skipped] == [2]
    assert [sample["doc_id"] for sample in result.samples["gaps"]] == [3]


@pytest.mark.parametrize("exact", [False, True])
def test_strict_names_the_task_and_the_document(folder, exact):
    lm = ArceeLab("demo", device="cpu", exact=exact)
    settings = {"tasks": "gaps", "include": [folder], "progress": False}
    with pytest.raises(TaskFailed, match=r"Task 'gaps', document 1: the continuation '' is empty"):
        run(lm, strict=True, **settings)
    assert run(lm, **settings).score("gaps", "acc").n == 2
    assert not lm.marks_unscorable


def test_without_a_runner_it_is_an_error_as_in_hf(lm):
    with pytest.raises(TextError, match=r"Task 'task', document 1: .*merges into the last token"):
        lm.loglikelihood(choices([("The", [" dogs"]), ("The do", ["gs"])]), disable_tqdm=True)


def test_a_task_without_any_scorable_document_fails_by_name(ask):
    with pytest.raises(TaskFailed, match=r"Task 'none': none of its 2 documents can be scored"):
        ask("none")


def test_kept_answers_say_it_too(ask, tmp_path):
    first = ask(use_cache=tmp_path / "answers")
    again = ask(use_cache=tmp_path / "answers")
    assert again.skipped == first.skipped
    assert again.score("gaps", "acc").value == first.score("gaps", "acc").value


def test_both_commands_leave_them_out(folder, lm, tmp_path, capsys, caplog):
    words = ["eval", "demo", "--tasks", "gaps", "--include", str(folder), "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "not scored  gaps, document 2: the continuation 'gs' has no token" in printed
    loaded = Evaluation.load(tmp_path / "out")
    assert [one.doc_id for one in loaded.skipped] == list(LEFT)
    assert loaded.score("gaps", "acc").n_skipped == 3
    assert main([*words, str(tmp_path / "strict"), "--strict"]) == 2
    assert "document 1" in capsys.readouterr().err

    flags = ["--model_args", "pretrained=demo", "--include_path", str(folder), "--device", "cpu"]
    flags += ["--output_path", str(tmp_path / "theirs")]
    assert command.main(["run", "--tasks", "gaps", *flags]) == 0
    (file,) = (tmp_path / "theirs").glob("**/results_*.json")
    told = json.loads(file.read_text())["results"]["gaps"]
    assert (told["acc,none"], told["sample_len"]) == (by_hand(lm), 2)
    said = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Not scored")]
    assert len(said) == 3


def test_a_resumed_run_remembers_them(ask, tmp_path):
    saved = ask(out=tmp_path)
    assert Evaluation.load(tmp_path).skipped == saved.skipped
    assert json.loads((tmp_path / "results.json").read_text())["skipped"][0]["doc_id"] == 1


def test_the_marker_is_an_answer_to_lm_eval_and_copies():
    one = Unscorable("why")
    assert (len(one), one[1], one.reason) == (2, False, "why")
    assert copy.deepcopy([one])[0].reason == "why"


EMPTY = [  # lm-eval's own check of a task reads the first character of the first document's choices
    {"question": "The cat", "choices": ["", "sings."], "gold": 1},
    {"question": "The dogs", "choices": ["sleep.", "sleeps."], "gold": 0},
    {"question": "The birds", "choices": ["sing.", ""], "gold": 1},
    {"question": "The cats", "choices": ["sing.", "sings."], "gold": 0},
]


@pytest.mark.parametrize(("delimiter", "gone"), [("", [0, 2]), (" ", [])])
def test_an_empty_choice(lm, tmp_path, delimiter, gone):
    """Left out where nothing is to be scored; behind a space, the space is, as in `hf`."""
    form = SPECIFIC["choice"].replace(
        'description: "Choose an ending.\\n"', f'target_delimiter: "{delimiter}"'
    )
    write_tasks(tmp_path, {"holes": EMPTY}, {"holes": form})
    result = run(lm, tasks="holes", include=[tmp_path], progress=False)
    assert [one.doc_id for one in result.skipped] == gone
    right, normed = [], []
    for number, row in enumerate(EMPTY):
        if number in gone:
            continue
        scores = [
            plain_answer(lm.model, lm._encoder(), row["question"], delimiter + choice)[0]
            for choice in row["choices"]
        ]
        right.append(scores.index(max(scores)) == row["gold"])
        # What has no length is never the answer of acc_norm.
        each = [
            score / len(choice) if choice else -math.inf
            for score, choice in zip(scores, row["choices"], strict=True)
        ]
        normed.append(each.index(max(each)) == row["gold"])
    for metric, hits in (("acc", right), ("acc_norm", normed)):
        score = result.score("holes", metric)
        assert score.value == sum(hits) / len(hits)
        assert (score.n, score.n_skipped) == (4 - len(gone), len(gone))
    settings = {"include": [tmp_path], "progress": False, "strict": True}
    if gone:
        with pytest.raises(TaskFailed, match=r"Task 'holes', document 0: the continuation '' is"):
            run(lm, tasks="holes", **settings)
        return
    assert run(lm, tasks="holes", **settings).scores == result.scores
    # With an empty choice in its first document, lm-eval alone does not even load the task.
    write_tasks(tmp_path, {"holes": EMPTY[::-1]}, {"holes": form})
    result = run(lm, tasks="holes", **settings)
    results, samples = theirs(lm.model, lm.tokenizer, tmp_path, ["holes"], {})
    assert results["holes"]["acc,none"] == result.score("holes", "acc").value
    assert results["holes"]["acc_norm,none"] == result.score("holes", "acc_norm").value
    for one, other in zip(result.samples["holes"], samples["holes"], strict=True):
        for (ll, _), (same, _) in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert ll == pytest.approx(same, abs=1e-4)


def test_a_head_may_have_a_label_without_a_name():
    model, tokenizer = al.load("demo", head="sequence")
    data = read_labelled("demo:test", head="sequence", limit=12)
    named = evaluate_head(model, tokenizer, data=data, progress=False)
    names = ["", *data.names]
    wider = torch.nn.Linear(model.score.in_features, len(names), bias=False)
    with torch.no_grad():
        wider.weight[0] = -model.score.weight.sum(0)
        wider.weight[1:] = model.score.weight
    model.score, model.num_labels = wider, len(names)
    model.config.id2label = dict(enumerate(names))
    model.config.label2id = {name: number for number, name in enumerate(names)}
    found = evaluate_head(model, tokenizer, data=data, progress=False)
    logs = score_sequence(model, tokenizer, data.texts)
    right = (logs.argmax(-1) == torch.tensor(data.labels) + 1).double().mean()
    assert found.score("labelled", "acc").value == pytest.approx(float(right), abs=1e-12)
    assert found.score("labelled", "acc").n == named.score("labelled", "acc").n == 12
