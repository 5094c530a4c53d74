"""Comparing runs: against scipy, numpy loops and counts by hand, in memory and from saved runs."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest

import arcee_lab as al
from arcee_lab.cli import main
from arcee_lab.errors import FileError, SavedDamaged, SettingError, TaskError, UnknownName
from arcee_lab.evals.compared import significance
from arcee_lab.evals.compared.aggregations import aggregation_name, named_aggregation
from arcee_lab.evals.metrics import acc, macro_f1
from arcee_lab.evals.result import Evaluation, Score

TASKS = ["arcee_demo_agreement_1", "arcee_demo_text_news", "arcee_demo_sentiment", "arcee_demo_ner"]
LIMIT = 40


@pytest.fixture(scope="module")
def runs():
    """The demo, and the demo with half of a layer's neurons switched off."""
    model, tokenizer = al.load("demo")
    settings = {"tasks": TASKS, "limit": LIMIT, "progress": False}
    change = [al.Ablate("layers.1.mlp.hook_post", units=list(range(800)))]
    return (
        al.evals.run(model, tokenizer, heads={"sequence": "demo", "token": "demo"}, **settings),
        al.evals.run(
            model,
            tokenizer,
            heads={"sequence": "demo", "token": "demo"},
            interventions=change,
            **settings,
        ),
    )


def made(values, *, metric="acc", aggregation="arcee_lab.acc", task="t", hashes=None):
    """A run with given values per document."""
    hashes = range(len(values)) if hashes is None else hashes
    samples = [
        {
            "doc_id": n,
            "doc_hash": f"h{name}",
            "filter": "none",
            "metrics": [metric],
            "arguments": [["prompt", "answer"]],
            "target": "a",
            "filtered_resps": ["b"],
            metric: value,
        }
        for n, (name, value) in enumerate(zip(hashes, values, strict=True))
    ]
    function = named_aggregation(aggregation) if aggregation else acc
    score = Score(
        task, metric, "none", function(values), 0.0, 1.0, len(values), aggregation=aggregation
    )
    return Evaluation("m", (score,), {task: samples}, {}, {}, 0.0)


@pytest.mark.parametrize("seed", range(20))
def test_mcnemar_is_scipys_exact_test(seed):
    generator = np.random.default_rng(seed)
    gained, lost = (int(one) for one in generator.integers(0, [60, 5][seed % 2] + 1, size=2))
    expected = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
    assert significance.mcnemar(gained, lost) == pytest.approx(expected, rel=1e-9)
    assert significance.mcnemar(lost, gained) == significance.mcnemar(gained, lost)


def test_mcnemar_of_many_documents():
    expected = binomtest(40_000, 90_000).pvalue
    assert significance.mcnemar(40_000, 50_000) == pytest.approx(expected, rel=1e-6)


def test_holm_by_hand():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1: .02, .03, .06, .04, which may not fall again.
    found = significance.holm([0.01, 0.04, math.nan, 0.03, 0.005])
    assert found[:2] == pytest.approx([0.03, 0.06])
    assert math.isnan(found[2])
    assert found[3:] == pytest.approx([0.06, 0.02])
    assert significance.holm([0.9, 0.8]) == [1.0, 1.0]
    assert significance.holm([]) == []


def test_a_bootstrap_p_value_by_counting():
    drawn = np.array([-1.0, 2.0, 3.0, 4.0, np.nan])
    assert significance.bootstrap_p(drawn) == pytest.approx(2 * (1 + 1) / 5)
    assert significance.bootstrap_p(np.zeros(9)) == 1.0
    assert math.isnan(significance.bootstrap_p(np.full(3, np.nan)))


@pytest.mark.parametrize("kind", ["acc", "macro_f1"])
def test_the_interval_is_that_of_paired_documents(kind):
    generator = np.random.default_rng(3)
    gold = generator.integers(0, 3, 60)
    answers = [np.where(generator.random(60) < p, gold, (gold + 1) % 3) for p in (0.6, 0.7)]
    if kind == "acc":
        items = [(gold == one).astype(float).tolist() for one in answers]
    else:
        items = [list(zip(gold.tolist(), one.tolist(), strict=True)) for one in answers]
    base, other = (made(one, metric=kind, aggregation=f"arcee_lab.{kind}") for one in items)
    found = base.compare(other, draws=400, seed=7).difference("t", kind)

    function = acc if kind == "acc" else macro_f1
    picks = np.random.default_rng(7).integers(60, size=(400, 60))  # as the bootstrap draws them
    looped = [
        function([items[1][at] for at in pick]) - function([items[0][at] for at in pick])
        for pick in picks
    ]
    # The same 400 numbers up to the rounding of sums of 60 products in float64.
    expected = np.quantile(looped, [0.025, 0.975])
    assert [found.low, found.high] == pytest.approx(expected, abs=1e-12)
    assert found.difference == pytest.approx(function(items[1]) - function(items[0]))
    if kind == "acc":
        assert found.gained == sum(b > a for a, b in zip(*items, strict=True))
        assert found.lost == sum(b < a for a, b in zip(*items, strict=True))
        assert found.test == "McNemar"
        assert found.p == pytest.approx(binomtest(found.gained, found.gained + found.lost).pvalue)
    else:
        assert found.test == "bootstrap"


def test_paired_intervals_are_narrower_where_runs_agree():
    generator = np.random.default_rng(0)
    before = (generator.random(400) < 0.7).astype(float)
    after = before.copy()
    after[:12] = 1 - after[:12]
    found = made(before.tolist()).compare(made(after.tolist())).difference("t", "acc")
    assert found.high - found.low < 0.5 * (found.unpaired_high - found.unpaired_low)


def test_documents_are_matched_by_their_hash():
    base = made([1.0, 0.0, 1.0, 1.0], hashes="abca")
    turned = made([1.0, 0.0, 1.0, 0.0], hashes="aabc")  # the second "a" and "c" are wrong
    found = base.compare(turned)
    one = found.difference("t", "acc")
    assert (one.n, one.gained, one.lost) == (4, 1, 2)
    flips = found.flips("t", "acc")
    assert flips["change"].tolist() == ["gained", "lost", "lost"]
    assert flips["doc_id"].tolist() == [1, 2, 3]
    part = made([1.0, 0.0, 0.0], hashes="axc")
    with pytest.raises(TaskError, match="4 and 3, of which 2 are in both; give documents='common'"):
        base.compare(part)
    assert base.compare(part, documents="common").difference("t", "acc").n == 2
    with pytest.raises(TaskError, match="no document in common"):
        base.compare(made([1.0], hashes="z"), documents="common")


def test_a_run_compared_with_itself_differs_nowhere(runs):
    found = runs[0].compare(runs[0])
    assert not found.skipped
    for one in found.differences:
        assert (one.difference, one.low, one.high) == (0, 0, 0)
        assert math.isnan(one.p) or one.p == one.p_holm == 1
        assert one.members or found.flips(one.task, one.metric).empty


def test_the_demo_with_fewer_neurons(runs):
    found = runs[0].compare(runs[1])
    compared = {(one.task, one.metric) for one in found.differences}
    assert compared == {(one.task, one.metric) for one in runs[0].scores}
    for one in found.differences:
        assert one.base == pytest.approx(runs[0].score(one.task, one.metric).value, abs=1e-12)
        assert one.value == pytest.approx(runs[1].score(one.task, one.metric).value, abs=1e-12)
        assert one.low <= one.high
    assert found.difference("arcee_demo_text_news", "nats_per_word").low > 0
    assert "compared with demo" in found.headline
    assert "demo (1 intervention)" in found.headline
    html = found._repr_html_()
    assert "arcee_demo_ner" in html
    assert found.figure().axes
    assert len(found.frame()) == len(found.differences)


def test_every_metric_of_our_tasks_has_a_name(runs):
    for score in runs[0].scores:
        assert score.members or named_aggregation(score.aggregation) is not None
    assert aggregation_name(acc) == "arcee_lab.acc"
    assert aggregation_name(lambda items: 0.0) is None
    assert named_aggregation("os.system") is None
    assert named_aggregation("arcee_lab.label_items") is None


def test_saved_runs_compare_alike(runs, tmp_path, capsys):
    folders = [tmp_path / "base", tmp_path / "fewer"]
    for run, folder in zip(runs, folders, strict=True):
        folder.mkdir()
        run.save(folder)
        assert Evaluation.load(folder).frame().equals(run.frame())
    expected = runs[0].compare(runs[1], names=["base", "fewer"]).frame()
    out = tmp_path / "out"
    code = main(["compare", *map(str, folders), "--out", str(out)])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    base, fewer = map(Evaluation.load, folders)
    loaded = base.compare(fewer, names=["base", "fewer"])
    # Samples are saved as decimal numbers that read back to the bit.
    assert loaded.frame().equals(expected)
    assert "fewer compared with base" in printed.out
    page = (out / "report.html").read_text()
    assert "<script" not in page
    assert (out / "comparison.csv").read_text().startswith("run,task,metric")
    assert main(["compare", *map(str, folders), "--out", str(out)]) == 0
    assert main(["compare", *map(str, folders), "--common", "--out", str(out)]) == 2


def test_groups_average_their_tasks():
    tasks = [made([1.0, 0.0, 1.0, 1.0], task="a"), made([0.0, 1.0], task="b")]
    scores = tuple(run.scores[0] for run in tasks)
    group = Score("g", "acc", "none", 0.6, 0.0, 1.0, 6, members=("a", "b"), weights=(0.75, 0.25))
    samples = tasks[0].samples | tasks[1].samples
    base = Evaluation("m", (*scores, group), samples, {}, {}, 0.0)
    changed = [made([1.0, 0.0, 0.0, 1.0], task="a"), made([1.0, 1.0], task="b")]
    other = Evaluation(
        "n",
        (*(run.scores[0] for run in changed), group),
        changed[0].samples | changed[1].samples,
        {},
        {},
        0.0,
    )
    one = base.compare(other).difference("g", "acc")
    assert one.difference == pytest.approx(0.75 * -0.25 + 0.25 * 0.5)
    assert (one.n, math.isnan(one.p), one.members) == (6, True, ("a", "b"))
    with pytest.raises(UnknownName, match="is a group"):
        base.compare(other).flips("g", "acc")


def test_several_runs_share_one_correction():
    base = made([0.0] * 12 + [1.0] * 8)
    better, worse = made([1.0] * 20), made([0.0] * 20)
    found = base.compare(better, worse, names=["base", "better", "worse"])
    p = [binomtest(12, 12).pvalue, binomtest(8, 8).pvalue]
    assert [one.p_holm for one in found.differences] == pytest.approx([2 * p[0], p[1]])
    assert "2 runs compared with base" in found.headline


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda run: run.compare(), SettingError, "no run to compare"),
        (lambda run: run.compare(run, names=["a"]), SettingError, "1 names for 2 runs"),
        (lambda run: run.compare(run, names=["a", "a"]), SettingError, "a different one for each"),
        (lambda run: run.compare(run, documents="all"), SettingError, "'same' or 'common'"),
        (lambda run: run.compare(run, draws=1), SettingError, "at least 2"),
        (lambda run: run.compare(made([1.0], task="u")), TaskError, "no such task"),
        (lambda run: run.compare(made([1.0], metric="em")), TaskError, "no such metric"),
        (
            lambda run: made([1.0], aggregation=None).compare(run),
            TaskError,
            "of its own",
        ),
        (lambda run: run.compare(run).difference("t", "em"), UnknownName, "t acc"),
        (lambda run: run.compare(run).flips("t", "acc", run="x"), UnknownName, "'x'"),
    ],
)
def test_what_cannot_be_compared(call, error, words):
    with pytest.raises(error, match=words):
        call(made([1.0]))


def edited(change):
    def apply(folder):
        path = folder / "results.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))

    return apply


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "results.json").write_text("[" * 50_000),
        lambda folder: (folder / "results.json").write_text("{}"),
        lambda folder: (folder / "results.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "samples_t.jsonl").unlink(),
        lambda folder: (folder / "samples_t.jsonl").write_text('{"doc_id": 1}\n'),
        lambda folder: (folder / "samples_t.jsonl").write_text(""),
        edited(lambda value: value["scores"][0].pop("aggregation")),
        edited(lambda value: value["scores"][0].update(n="2")),
        edited(lambda value: value["scores"][0].update(value="high")),
        edited(lambda value: value["scores"][0].update(members=5)),
        edited(lambda value: value.update(scores=5)),
        edited(lambda value: value.update(seconds="1")),
    ],
)
def test_a_damaged_run_is_refused_in_one_line(tmp_path, damage, capsys):
    for name in ("base", "other"):
        (tmp_path / name).mkdir()
        made([1.0, 0.0]).save(tmp_path / name)
    damage(tmp_path / "other")
    with pytest.raises(SavedDamaged):
        Evaluation.load(tmp_path / "other")
    assert main(["compare", str(tmp_path / "base"), str(tmp_path / "other")]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileError, match="holds no results"):
        Evaluation.load(tmp_path)
