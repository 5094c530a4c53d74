"""Sweeps: one load, the clean run first, a lossless end that loses nothing, a measured fraction."""

import pytest

import arcee_lab as al
from arcee_lab.errors import Interrupted, TaskFailed
from arcee_lab.evals import ArceeLab, Sweep
from arcee_lab.evals.sweep_levels import POST, Level, by_layer, cett, random_control, top_k
from arcee_lab.evals.tasks.find import find_tasks

TASKS = ["arcee_demo_agreement_1", "arcee_demo_text_news", "arcee_demo_sentiment"]


@pytest.fixture(scope="module")
def lm():
    return ArceeLab("demo", device="cpu")


@pytest.fixture(scope="module")
def loaded():
    return find_tasks(TASKS)


@pytest.fixture(scope="module")
def result(lm, loaded):
    levels = [*top_k(lm.model, [896, 4]), *random_control(lm.model, [0.25])]
    return al.evals.sweep(lm, tasks=loaded, levels=levels, limit=10, progress=False)


def test_the_lossless_end_is_the_clean_run(lm, loaded, result):
    assert [step.level.name for step in result.steps] == ["clean", "k=896", "k=4", "25.00% kept"]
    assert result.steps[1].evaluation.scores == result.clean.evaluation.scores
    assert result.steps[1].active == result.clean.active
    unwatched = al.evals.run(lm, tasks=loaded, limit=10, progress=False)
    assert unwatched.scores == result.clean.evaluation.scores
    assert lm.interventions == ()


def test_less_is_active_and_the_score_falls(result):
    clean, _, four, drawn = result.steps
    assert four.active <= 4 / 896 < clean.active
    assert drawn.active < clean.active
    assert clean.tokens == four.tokens > 0
    news = [
        step.evaluation.score("arcee_demo_text_news", "nats_per_word").value
        for step in (clean, four, drawn)
    ]
    assert news[0] < news[1]
    assert news[0] < news[2]


def test_levels_are_compared_with_the_clean_run_document_by_document(result):
    frame = result.frame().set_index(["family", "level", "task", "metric"])
    assert frame.loc["clean"]["difference"].isna().all()
    for run, step in zip(result.comparison.runs, result.steps[1:], strict=True):
        for score in step.evaluation.scores:
            clean = result.clean.evaluation.score(score.task, score.metric).value
            row = frame.loc[(step.level.family, step.level.name, score.task, score.metric)]
            assert row["difference"] == pytest.approx(score.value - clean, abs=1e-9)
            one = result.comparison.difference(score.task, score.metric, run=run)
            assert (row["difference_low"], row["difference_high"]) == (one.low, one.high)
    assert result.comparison.base == "clean: clean"
    alone = Sweep(result.model, result.steps[:1])
    assert "difference" not in alone.frame()


def test_the_frame_and_the_figure_show_every_level(result):
    frame = result.frame()
    assert set(frame["family"]) == {"clean", "top-k", "random neurons"}
    assert {"active", "value", "low", "high", "n_tokens"} <= set(frame.columns)
    figure = result.figure()
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == [
        "arcee_demo_agreement_1: acc",
        "arcee_demo_text_news: nats_per_word",
        "arcee_demo_sentiment: acc",
    ]
    assert len(result.figure("nats_per_word").axes) == 1
    with pytest.raises(ValueError, match="No task has the metric 'bleu'"):
        result.figure("bleu")
    assert "<table" in result._repr_html_()
    assert f"{len(result.steps) - 1} levels after a clean run" in result.headline
    assert repr(result) == f"Sweep({result.headline})"


def test_levels(lm):
    model = lm.model
    assert [level.name for level in top_k(model)][-1] == "k=7"
    assert [level.interventions[0].eps for level in cett(model, [0.1, 0.2])] == [0.1, 0.2]
    assert [level.interventions[0].sites for level in by_layer(model, 2)] == [
        (f"layers.{n}.mlp.hook_post",) for n in range(4)
    ]
    half, less = random_control(model, [0.5, 0.25])
    for one, other in zip(half.interventions, less.interventions, strict=True):
        assert len(one.units) == 448
        assert set(one.units) < set(other.units)
    with pytest.raises(ValueError, match=r"shares has 1\.0; expected numbers between 0 and 1"):
        random_control(model, [1.0])
    assert Level("mine", "none").interventions == ()


def test_a_level_that_fails_keeps_whole_levels(lm, loaded):
    one = {"tasks": {TASKS[0]: loaded["tasks"][TASKS[0]]}}
    nowhere = Level("mine", "nowhere", (al.Scale(POST, 0.5, positions=[100]),))
    levels = [*top_k(lm.model, [8]), nowhere]
    with pytest.raises(TaskFailed, match=r"Level 'nowhere': Task '\w+': No token met") as failed:
        al.evals.sweep(lm, tasks=one, levels=levels, limit=2, progress=False)
    assert [step.level.name for step in failed.value.result.steps] == ["clean", "k=8"]
    assert lm.interventions == ()


def test_an_interrupt_keeps_whole_levels(lm, loaded, monkeypatch):
    asked = []
    own = ArceeLab.loglikelihood

    def second_time(self, requests, disable_tqdm=False):
        asked.append(1)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return own(self, requests, disable_tqdm)

    monkeypatch.setattr(ArceeLab, "loglikelihood", second_time)
    one = {"tasks": {TASKS[0]: loaded["tasks"][TASKS[0]]}}
    with pytest.raises(Interrupted, match=r"1 of 2 levels finished.*others \(k=8\)") as stopped:
        al.evals.sweep(lm, tasks=one, levels=top_k(lm.model, [8]), limit=2, progress=False)
    found = stopped.value.partial
    assert [step.level.name for step in found.steps] == ["clean"]
