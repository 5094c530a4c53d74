"""Documents that cannot be scored: left out, counted and listed, or an error on request."""

import copy
import json

import pytest
from asking import choices, plain_answer
from flagged import SPECIFIC, write_tasks

import arcee_lab.evals.__main__ as command
from arcee_lab.cli import main
from arcee_lab.errors import TaskFailed, TextError
from arcee_lab.evals import ArceeLab, Evaluation, run
from arcee_lab.evals.scoring.unscorable import Unscorable

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
