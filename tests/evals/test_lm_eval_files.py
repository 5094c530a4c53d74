"""Saved evaluations in lm-eval's shape: lm-eval's own functions read them; and report.html."""

import json
import re
from html import escape
from pathlib import Path

import pytest
from flagged import write_tasks
from lm_eval.utils import (
    get_file_datetime,
    get_file_task_name,
    get_latest_filename,
    get_results_filenames,
    get_sample_results_filenames,
    make_table,
)

import arcee_lab.evals.__main__ as command
from arcee_lab.evals import ArceeLab, Evaluation, run
from arcee_lab.evals.pages import documents
from arcee_lab.evals.pages.run_page import run_page

TASKS = ["both", "cloze", "pages", "school"]  # the group holds the others
GROUP = "group: both\ngroup_alias: Both\ntask: [pairs, choice]\n"
GROUP += "aggregate_metric_list: [{metric: acc, weight_by_size: true}]\n"
EVIL = "<script>alert(1)</script>'\"&"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of ours, saved both ways, and lm-eval's own run of the same tasks."""
    place = tmp_path_factory.mktemp("saved")
    (place / "tasks").mkdir()
    write_tasks(place / "tasks")
    (place / "tasks" / "both.yaml").write_text(GROUP)
    lm = ArceeLab("demo", device="cpu")
    settings = {"include": [place / "tasks"], "progress": False}
    result = run(lm, tasks=TASKS, out=place / "ours", **settings)
    result.save_as_lm_eval(place / "layout")
    words = ["run", "--model_args", "pretrained=demo", "--tasks", *TASKS, "--device", "cpu"]
    words += ["--include_path", str(place / "tasks"), "--log_samples"]
    assert command.main([*words, "--output_path", str(place / "theirs")]) == 0
    return place, result


def lines(path):
    return Path(path).read_text(encoding="utf-8").splitlines()


def files_of(folder):
    return [str(path) for path in folder.rglob("*")]


def test_the_results_have_all_keys_of_lm_evals_file(saved):
    place, _ = saved
    (theirs,) = get_results_filenames(files_of(place / "theirs"))
    (ours,) = get_results_filenames(files_of(place / "layout"))
    theirs, ours = (json.loads(Path(file).read_text()) for file in (theirs, ours))
    missing = set(theirs) - set(ours)
    assert not missing
    assert set(theirs["config"]) <= set(ours["config"])
    for key in ("versions", "n-shot", "higher_is_better", "n-samples", "group_subtasks"):
        assert ours[key] == theirs[key], key
    assert ours["task_hashes"] == theirs["task_hashes"]
    assert set(ours["configs"]) == set(theirs["configs"])
    for task in theirs["results"]:
        assert set(theirs["results"][task]) == set(ours["results"][task]), task
        for key, value in theirs["results"][task].items():
            if isinstance(value, float) and "_stderr" not in key:
                assert ours["results"][task][key] == pytest.approx(value, rel=2e-4)
            elif "_stderr" not in key:
                assert ours["results"][task][key] == value, (task, key)
    # lm-eval's formula for a mean.
    for task in ("choice", "pairs"):
        key = "acc_stderr,none"
        assert ours["results"][task][key] == pytest.approx(theirs["results"][task][key])
    own = json.loads((place / "ours" / "results.json").read_text())
    assert set(own) - set(ours) == {
        "model", "scores", "info", "settings", "seconds", "unfinished", "skipped",
    }  # fmt: skip


def test_lm_evals_table_shows_them(saved):
    place, result = saved
    told = json.loads((place / "ours" / "results.json").read_text())
    for source in (told, result.to_lm_eval()):
        table = make_table(source)
        for task in ("choice", "cloze", "pages", "school", "Both"):
            assert task in table
        assert "word_perplexity" in table
        assert "Both" in make_table(source, "groups")


def test_lm_evals_functions_find_files_tasks_and_dates(saved):
    place, _ = saved
    names = files_of(place / "layout")
    samples = get_sample_results_filenames(names)
    found = {get_file_task_name(name.rsplit("/", 1)[1]) for name in samples}
    assert found == {"choice", "cloze", "pages", "pairs", "school"}
    dates = {get_file_datetime(name) for name in samples}
    assert len(dates) == 1
    assert get_latest_filename(samples) in samples
    theirs = get_sample_results_filenames(files_of(place / "theirs"))
    for task in found:
        (one,) = (name for name in samples if f"samples_{task}_" in name)
        (other,) = (name for name in theirs if f"samples_{task}_" in name)
        for mine, line in zip(lines(one), lines(other), strict=True):
            mine, yours = json.loads(mine), json.loads(line)
            assert set(yours) == set(mine)
            for key in ("doc_id", "doc", "target", "arguments", "filter", "metrics"):
                assert mine[key] == yours[key], (task, key)
            assert _types(mine["resps"]) == _types(yours["resps"])
            assert _types(mine["filtered_resps"]) == _types(yours["filtered_resps"])


def _types(value):
    return [_types(one) for one in value] if isinstance(value, list) else type(value).__name__


def test_hub_data_sets_reads_the_samples(saved):
    from datasets import Dataset

    place, _ = saved
    rows = [json.loads(line) for line in lines(place / "ours" / "samples_choice.jsonl")]
    table = Dataset.from_list(rows)
    assert table["arguments"][0]["gen_args_0"]["arg_0"].endswith("The dogs near the tree")


def test_it_is_read_back(saved):
    place, result = saved
    loaded = Evaluation.load(place / "ours")
    assert loaded.frame().equals(result.frame())
    assert loaded.settings["apply_chat_template"] is False
    (place / "again").mkdir(exist_ok=True)
    loaded.save(place / "again")
    one, two = (
        json.loads((place / name / "results.json").read_text()) for name in ("ours", "again")
    )
    assert one == two
    compared = loaded.compare(result)
    assert all(not one.difference for one in compared.differences)


def test_a_run_without_scores_is_saved_too(tmp_path):
    write_tasks(tmp_path)
    (tmp_path / "out").mkdir()
    settings = {"include": [tmp_path], "progress": False, "predict_only": True}
    result = run("demo", tasks=["choice", "school"], out=tmp_path / "out", **settings)
    assert result.scores == ()
    loaded = Evaluation.load(tmp_path / "out")
    assert [len(loaded.samples[task]) for task in ("choice", "school")] == [3, 6]
    again = run("demo", tasks=["choice"], progress=False, include=[tmp_path])
    assert again.score("choice", "acc").n == 3  # the metrics are back


# ------------------------------------------------------------------------------ report.html


def test_the_page_shows_scores_and_documents(saved):
    place, result = saved
    page = (place / "ours" / "report.html").read_text()
    assert page == run_page(result)
    for score in result.scores:
        assert score.task in page
        assert f"{score.value:.3f}" in page or f"{score.value:.2f}" in page or score.value > 999
    assert page.count('class="document ') >= 3 * 5
    assert "Choose an ending." in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_everything_on_the_page_is_escaped(saved, tmp_path):
    _, result = saved
    task = "choice"
    evil = {
        **result.samples[task][0],
        "arguments": [[EVIL, EVIL], [EVIL, EVIL]],
        "filtered_resps": [EVIL, (EVIL, EVIL)],
        "target": EVIL,
        EVIL: EVIL,
        "metrics": [EVIL],
    }
    scores = [result.scores[0].__class__(EVIL, EVIL, EVIL, 0.5, 0.1, 0.9, 3)]
    made = Evaluation(EVIL, tuple(scores), {EVIL: [evil]}, {"interventions": [EVIL]}, {}, 0.0)
    page = run_page(made)
    assert "<script" not in page
    assert escape(EVIL) in page
    # No attribute of ours can be left: outside of tags there is no quote that is not escaped.
    assert not re.search(r'="[^"]*alert', page)
    block = documents.document(3, [(EVIL, EVIL)], hint=EVIL, mark=EVIL)
    assert "<script" not in block


def test_long_texts_are_cut_and_long_tasks_too(saved):
    _, result = saved
    sample = {**result.samples["choice"][0], "arguments": [["x" * 9000 + "the end", "a"]]}
    made = Evaluation("m", (), {"t": [sample] * 500}, {}, {}, 0.0)
    page = run_page(made)
    assert "500 documents" in page
    assert "the first 60 are shown" in page
    assert "the end" in page
    assert len(page) < 60 * 6000 + 50_000


def test_the_page_of_a_comparison_shows_both_answers(saved, tmp_path):
    _, result = saved
    turned = {
        task: [
            {**one, **{m: 1 - one[m] for m in one["metrics"] if one[m] in (0, 1)}, "target": EVIL}
            for one in samples
        ]
        for task, samples in result.samples.items()
    }
    other = Evaluation("other", result.scores, turned, result.info, result.settings, 0.0)
    found = result.compare(other, names=["base", EVIL])
    found.save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "<script" not in page
    assert page.count('class="document ') == sum(
        (one.gained or 0) + (one.lost or 0) for one in found.differences if not one.members
    )
