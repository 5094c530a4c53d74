"""Tasks by name, group, pattern and path; and what is wrong with a file or a name."""

import json

import pytest

from arcee_lab.evals.tasks import find
from arcee_lab.evals.tasks.find import check_names, find_tasks, task_folder

CHOICE = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: question
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with one task of two documents; the process stands elsewhere."""
    rows = [
        {"question": "The dogs near the barn", "choices": ["sleep", "sleeps"], "answer": 0},
        {"question": "The dog near the barns", "choices": ["sleep", "sleeps"], "answer": 1},
    ]
    data = tmp_path / "tasks" / "rows.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (data.parent / "mine.yaml").write_text(CHOICE.format(name="mine", file=data))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    return data.parent


def no_defaults(monkeypatch):
    """Fails the test where lm-eval's own thousands of files are indexed."""
    own = find.TaskManager

    def manager(*args, include_defaults=True, **settings):
        assert not include_defaults, "lm-eval's own tasks were indexed"
        return own(*args, include_defaults=include_defaults, **settings)

    monkeypatch.setattr(find, "TaskManager", manager)


def test_ours_are_found_without_lm_evals_own(folder, monkeypatch):
    no_defaults(monkeypatch)
    loaded = find_tasks(["arcee_demo_agreement_1", "mine"], include=[folder])
    assert list(loaded["tasks"]) == ["arcee_demo_agreement_1", "mine"]
    assert check_names(["arcee_all", "arcee_demo_text_*"])
    path = find_tasks(folder / "mine.yaml")
    assert list(path["tasks"]) == ["mine"]
    assert list(find_tasks(f"{folder}/*.yaml")["tasks"]) == ["mine"]


def test_a_group_holds_its_tasks(monkeypatch):
    no_defaults(monkeypatch)
    monkeypatch.setattr(find, "_load", lambda spec, manager: {"tasks": {spec: manager}})
    assert list(find_tasks("arcee_lm,arcee_heads")["tasks"]) == ["arcee_lm", "arcee_heads"]


def test_our_files_lie_beside_the_package_or_in_it():
    assert (task_folder() / "groups" / "arcee_all.yaml").is_file()


def test_an_unknown_name_shows_the_nearest(folder, monkeypatch):
    own = find.TaskManager
    # lm-eval's own index takes seconds, and is asked for here only because the name is nowhere.
    monkeypatch.setattr(
        find, "TaskManager", lambda include_defaults=True, **k: own(include_defaults=False, **k)
    )
    with pytest.raises(
        ValueError, match=r"no task.*'arcee_demo_sentment'; nearest: arcee_demo_sen"
    ):
        find_tasks("arcee_demo_sentment")
    with pytest.raises(ValueError, match="No task was named"):
        find_tasks([])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("task: [unclosed", "broken.yaml is broken: while parsing"),
        ("tusk: mine\n", "neither `task:` nor `group:`"),
        ("task: mine\ninclude: absent.yaml\n", "broken.yaml is broken"),
    ],
)
def test_a_broken_file_is_no_silence(folder, text, message):
    (folder / "broken.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        find_tasks("mine", include=[folder])
    with pytest.raises(ValueError, match=message):
        find_tasks(folder / "broken.yaml")


def test_files_that_others_include_are_no_tasks(folder):
    (folder / "_shared.yaml").write_text("num_fewshot: 0\n")
    assert list(find_tasks("mine", include=[folder])["tasks"]) == ["mine"]


def test_missing_data_names_the_task(folder):
    (folder / "rows.jsonl").unlink()
    with pytest.raises(ValueError, match=r"Task 'mine' could not be loaded.*rows.jsonl"):
        find_tasks("mine", include=[folder])


def test_a_file_that_no_task_reads_is_no_silence(folder):
    (folder / "dev.tsv").write_text("sentence\tlabel\nfine\t1\n")
    file = folder / "dev.tsv"
    for names in ("arcee_demo_facts", "mine"):
        with pytest.raises(ValueError, match=f"dev.tsv' is read by none of the tasks {names}"):
            find_tasks(names, include=[folder], data=file)
    with pytest.raises(ValueError, match=r"the task 'arcee_demo_facts', which reads no file"):
        find_tasks("arcee_demo_facts", data={"arcee_demo_facts": file})
    for name in ("arcee_sts2", "arcee_squad"):  # the first is told before the Hub is asked
        with pytest.raises(ValueError, match=f"the task '{name}', which is not among those"):
            find_tasks("arcee_demo_facts", data={name: file})
    both = find_tasks(["arcee_sst2", "arcee_demo_facts"], data=file)
    assert len(both["tasks"]["arcee_sst2"].eval_docs) == 1
    (folder / "makes.py").write_text(
        "from datasets import Dataset\n"
        "def rows(**told):\n"
        "    return {'test': Dataset.from_list([{'q': told['data'], 'a': ' x'}])}\n"
    )
    (folder / "made.yaml").write_text(
        "task: made\ncustom_dataset: !function makes.rows\noutput_type: loglikelihood\n"
        "test_split: test\ndoc_to_text: q\ndoc_to_target: a\nmetric_list: [{metric: acc}]\n"
    )
    made = find_tasks(folder / "made.yaml", data={"made": file})["tasks"]["made"]
    assert made.eval_docs[0]["q"]["made"] == str(file)


@pytest.mark.parametrize("asked", ["arcee_sst2", "heads/sst2.yaml", "own"])
def test_an_error_of_ours_is_told_as_it_is(folder, asked):
    """It names the task, whatever was asked for, and adds no advice that does not fit."""
    (folder / "own.yaml").write_text("group: own\ntask: [arcee_sst2]\n")
    (folder / "dev.tsv").write_text("sentence\tlabel\nfine\t7\n")
    name = task_folder() / asked if asked.endswith(".yaml") else asked
    with pytest.raises(ValueError, match=r"^Task 'arcee_sst2', row 0 has the label '7'") as failed:
        find_tasks(name, include=[folder], data=folder / "dev.tsv")
    assert "Check its data" not in str(failed.value)


def test_a_path_that_is_not_there(folder):
    with pytest.raises(ValueError, match=r"no task file 'absent\.yaml'"):
        find_tasks("absent.yaml")
    with pytest.raises(ValueError, match="no folder"):
        find_tasks("mine", include=[folder / "absent"])
