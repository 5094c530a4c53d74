"""Few-shot examples: lm-eval's rule, said and recorded; and arguments that would have no effect."""

import json
import re
from pathlib import Path

import pytest
from lm_eval.utils import apply_template

import arcee_lab as al
from arcee_lab.evals import ArceeLab, run
from arcee_lab.evals.sweep_levels import top_k
from arcee_lab.evals.tasks.find import find_tasks

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A task that takes examples, the same with 0 set, and one of whole texts."""
    folder = tmp_path_factory.mktemp("tasks")
    for split, count in (("train", 6), ("test", 4)):
        rows = [{"q": f"The dogs {split} {n}", "a": " sleep."} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = f"{{train: {folder}/train.jsonl, test: {folder}/test.jsonl}}"
    common = (
        f"dataset_path: json\ndataset_kwargs: {{data_files: {files}}}\ntest_split: test\n"
        "training_split: train\nfewshot_split: train\ndoc_to_text: q\ndoc_to_target: a\n"
    )
    choice = f"{common}output_type: loglikelihood\nmetric_list: [{{metric: acc}}]\n"
    (folder / "some.yaml").write_text(f"task: some\n{choice}")
    (folder / "two.yaml").write_text(f"task: two\n{choice}num_fewshot: 2\n")
    (folder / "none.yaml").write_text(f"task: none\n{choice}num_fewshot: 0\n")
    (folder / "same.yaml").write_text(
        f"task: same\n{choice}".replace("fewshot_split: train", "fewshot_split: test")
    )
    whole = (
        f"{common}output_type: loglikelihood_rolling\nmetric_list: [{{metric: word_perplexity}}]"
    )
    (folder / "whole.yaml").write_text(f"task: whole\n{whole}\n")
    return folder


@pytest.fixture(scope="module")
def lm():
    return ArceeLab("demo", device="cpu")


@pytest.fixture
def ask(lm, folder):
    def ask(tasks, **settings):
        return run(lm, tasks=tasks, include=[folder], progress=False, **settings)

    return ask


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "arcee_lab"]


NAMES = ["some", "two", "none", "whole"]


def test_a_task_that_keeps_0_says_so_once(ask, caplog):
    result = ask(NAMES, num_fewshot=3)
    assert result.settings["num_fewshot"] == {"some": 3, "two": 3, "none": 0, "whole": 0}
    shown = [result.samples[name][0]["arguments"][0][0].count("The dogs") for name in NAMES]
    assert shown == [4, 4, 1, 0]  # a whole text is the target alone
    none, whole = said(caplog)
    assert re.match("Task 'none' sets num_fewshot: 0: it gets 0 .*num_fewshot=3 is not used", none)
    assert re.match("Task 'whole' scores whole texts, which take none: .* not used", whole)


def test_a_sweep_says_it_once_for_all_levels(lm, folder, caplog):
    levels = top_k(lm.model, [896, 448])
    swept = al.evals.sweep(
        lm, tasks="none", include=[folder], levels=levels, num_fewshot=1, progress=False
    )
    assert len(said(caplog)) == 1
    for step in swept.steps:
        assert step.evaluation.settings["num_fewshot"] == {"none": 0}


@pytest.mark.parametrize("wanted", [None, 0])
def test_what_is_as_asked_is_not_remarked_upon(ask, caplog, wanted):
    result = ask(NAMES, num_fewshot=wanted)
    two = 2 if wanted is None else 0
    assert result.settings["num_fewshot"] == {"some": 0, "two": two, "none": 0, "whole": 0}
    assert said(caplog) == []


def test_more_examples_than_there_are(ask):
    assert ask("some", num_fewshot=6).settings["num_fewshot"] == {"some": 6}
    with pytest.raises(ValueError, match="Task 'some' has 6 documents to take examples from; got"):
        ask("some", num_fewshot=7)
    assert ask("same", num_fewshot=3).settings["num_fewshot"] == {"same": 3}
    with pytest.raises(ValueError, match="Task 'same' has 3 documents to take examples from"):
        ask("same", num_fewshot=4)  # of four, one is the question
    with pytest.raises(ValueError, match="num_fewshot=-1; expected 0 or more"):
        ask("some", num_fewshot=-1)


def test_examples_are_drawn_with_their_own_seed(ask):
    def prompts(seed):
        found = ask("some", num_fewshot=3, seed=seed)
        return [sample["arguments"][0][0] for sample in found.samples["some"]]

    assert prompts((0, 1234, 1234, 1234)) == prompts((5, 6, 7, 1234))
    assert prompts((0, 1234, 1234, 1234)) != prompts((0, 1234, 1234, 5))


def test_what_would_have_no_effect_is_refused(lm, demo, folder):
    loaded = find_tasks("some", include=[folder])
    quiet = {"progress": False}
    for late in ({"include": [folder]}, {"data": "dev.tsv"}):
        with pytest.raises(ValueError, match=f"{next(iter(late))}= came with tasks that are load"):
            run(lm, tasks=loaded, **late, **quiet)
    with pytest.raises(ValueError, match="include= came with tasks"):
        al.evals.sweep(lm, tasks=loaded, include=[folder], **quiet)
    for mine in ({"batch_size": 8}, {"device": "cpu"}, {"exact": True}):
        with pytest.raises(
            ValueError, match=f"already an ArceeLab; pass {next(iter(mine))} to its constructor"
        ):
            run(lm, tasks=loaded, **mine, **quiet)
    with pytest.raises(ValueError, match="already an ArceeLab; pass batch_size"):
        al.evals.sweep(lm, tasks=loaded, batch_size=2, **quiet)
    for mine in ({"device": "cpu"}, {"dtype": "float32"}, {"attn": "sdpa"}, {"revision": "main"}):
        with pytest.raises(ValueError, match=f"{next(iter(mine))} came with a model in memory"):
            ArceeLab(*demo, **mine)
    assert (
        ArceeLab(*demo, device="cpu", heads={"token": "demo"}).main == "causal"
    )  # the head is loaded there
    with pytest.raises(ValueError, match="batch_tokens=64 has no effect with exact=True"):
        ArceeLab(*demo, exact=True, batch_tokens=64)
    for size in ({"batch_size": 0}, {"batch_tokens": 0}, {"max_length": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(size))}=0; expected a whole number"):
            ArceeLab(*demo, **size)
    with pytest.raises(ValueError, match="max_length=129, but the model reads 128 tokens at most"):
        ArceeLab(*demo, max_length=129)
    for draws in (0, 10**9):
        with pytest.raises(ValueError, match=r"draws=.*; expected from 1 to 1000000 draws"):
            run(lm, tasks=loaded, draws=draws, **quiet)


def test_a_template_reaches_any_function():
    """Why the warning names templates next to `!function`."""
    assert apply_template("{{ cycler.__init__.__globals__.os.sep.join(words) }}", {"words": "ab"})
    for file in ("README.md", "docs/how-to/evals.md", "arcee_lab/cli/eval.py"):
        text = (ROOT / file).read_text(encoding="utf-8")
        warning = text[text.index("file runs code") :][:300]
        assert "!function" in warning
        assert "Jinja templates" in warning
