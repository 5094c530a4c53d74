"""CETT, its perplexity and truncation asked for by name: in the report, on disk, on the page."""

import json

import numpy as np
import pandas as pd
import pytest
import torch

TEXTS = [
    "The dogs near the gate bark .",
    "Nipu likes olives .",
    "The lamp above the doors is red .",
]
NAMES = ("cett", "cett_ppl", "truncation")


@pytest.fixture(scope="module")
def report(demo):
    from arcee_lab.sparsity import measure

    return measure(*demo, TEXTS, analyses=["further"])


def test_further_stands_for_all_three_and_each_says_what_it_cost(report):
    assert tuple(report.further) == NAMES
    assert set(report.states) == {"core"}
    costs = report.frames["costs"].set_index("analysis")
    assert set(NAMES) < set(costs.index)
    assert (costs.loc[list(NAMES), "seconds"] > 0).all()
    assert (costs["n_tokens"] == report.n_tokens).all()  # fewer than the sample may hold


def test_they_equal_the_calls_of_their_own(report, demo):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import cett, cett_ppl

    windows = cut(demo[1], TEXTS, context=1024)
    pd.testing.assert_frame_equal(report.frames["cett"], cett(*demo, windows).frame())
    alone = cett_ppl(*demo, windows)
    pd.testing.assert_frame_equal(report.frames["cett_ppl"], alone.frame())
    sparsest = report.frames["cett"].query("target == 0.2")
    assert (sparsest["sparsity"] > sparsest["zeros"]).all()


def test_the_seed_draws_their_samples(demo, monkeypatch):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import cett, measure
    from arcee_lab.sparsity.sampled import sample

    monkeypatch.setattr(sample, "DEFAULT_TOKENS", 12)  # less than the texts hold
    found = measure(*demo, TEXTS, analyses=["cett"], seed=3)
    assert found.further["cett"].seed == 3
    windows = cut(demo[1], TEXTS, context=1024)
    frames = [cett(*demo, windows, seed=seed).frame() for seed in (3, 0)]
    pd.testing.assert_frame_equal(found.frames["cett"], frames[0])
    assert not frames[0].equals(frames[1])


def test_the_estimate_names_them_and_their_time(demo):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import registry
    from arcee_lab.sparsity.job import plan_pass
    from arcee_lab.sparsity.run_estimate import estimate

    assert set(registry.READINGS) == set(registry.FURTHER)
    windows = cut(demo[1], TEXTS, context=1024)
    run = plan_pass(demo[0], windows, (), sample_every=None, batch_size=2)
    found = estimate(run, further=["cett", "truncation"])
    assert found.sampled == 0
    assert "sampled" not in str(found)
    # So short a text is the sample itself.
    assert found.further_seconds == pytest.approx(found.seconds * 3 * (3 + 72))
    assert str(found).endswith(" for cett, truncation")
    assert "then" not in str(estimate(run))


def test_saved_and_read_again_they_are_the_same(report, tmp_path):
    from arcee_lab.sparsity import SparsityReport

    files = {path.name for path in report.save(tmp_path)}
    assert files == {path.name for path in tmp_path.iterdir()}
    assert {f"{name}.{end}" for name in NAMES for end in ("png", "parquet")} <= files
    again = SparsityReport.load(tmp_path)
    for name in (*NAMES, "costs"):
        pd.testing.assert_frame_equal(again.frames[name], report.frames[name])
        if name != "costs":
            assert again.results[name].headline == report.results[name].headline
    one, two = (r.results["cett_ppl"] for r in (again, report))
    pd.testing.assert_frame_equal(one.trials(), two.trials())
    one, two = (r.results["truncation"] for r in (again, report))
    assert torch.equal(one.parameters.nan_to_num(-1), two.parameters.nan_to_num(-1))
    pd.testing.assert_frame_equal(one.critical(), two.critical())


def test_a_damaged_file_of_theirs_is_an_error(report, tmp_path):
    from safetensors.torch import save_file

    from arcee_lab.sparsity.sampled import result_files

    result_files.save({"cett": report.further["cett"]}, tmp_path)
    assert list(result_files.load(tmp_path)) == ["cett"]
    made_up = {"cett": {"class": "Popen", "fields": {}}}
    file = tmp_path / result_files.FILE
    for content in (made_up, [], {"cett": {"tensor": "no/such"}}):
        save_file({"x": torch.zeros(1)}, file, metadata={"results": json.dumps(content)})
        with pytest.raises(ValueError, match="is damaged"):
            result_files.load(tmp_path)
    file.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="is damaged"):
        result_files.load(tmp_path)


def test_merging_leaves_them_out(report):
    twice = report.merge(report)
    assert not twice.further
    assert np.array_equal(twice.fired, 2 * report.fired)
    assert set(twice.frames["costs"]["analysis"]) == set(report.costs) - set(NAMES)
    with pytest.raises(ValueError, match="'cett' was not measured; ask for it"):
        twice.frames["cett"]


def test_the_page_shows_them(report, demo, tmp_path, monkeypatch):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity.report import html_page

    # Each figure is drawn twice; turning them into pictures is tested elsewhere.
    monkeypatch.setattr(html_page, "png", lambda figure, **options: b"")
    html_page.save_page(tmp_path, report, *demo, cut(demo[1], TEXTS, context=1024))
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    for title in ("Sparsity beyond exact zeros", "What the cut does to the loss", "can be zero at"):
        assert title in html
