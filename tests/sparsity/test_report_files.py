"""A report on disk and on a page: what is written, what comes back, what the page shows."""

import json

import pandas as pd
import pytest
import safetensors.torch
import torch
from dense import Letters, activations, pair


def test_passage_shows_what_the_reference_computes():
    from arcee_lab.sparsity import measure, read_passage

    ours, reference = pair(layers=3, d_mlp=40)
    report = measure(ours, Letters(), ["abcdefghabcdefgh" * 3])
    text = "abcdefghgfedcba"
    passage = read_passage(ours, Letters(), text, report, per_layer=3)
    assert "".join(passage.tokens) == ">" + text
    post = torch.from_numpy(activations(reference, Letters()(text)["input_ids"]))
    assert torch.equal(passage.active, (post > 0).sum(-1))
    assert torch.allclose(passage.values, post[passage.layers, :, passage.neurons].float())
    for layer, neuron, rate in zip(passage.layers, passage.neurons, passage.rates, strict=True):
        assert rate == report.rates[layer, neuron] <= 0.25
        assert (post[layer, :, neuron] > 0).double().mean() <= 0.25
    assert max(passage.layers.count(layer) for layer in range(3)) <= 3
    assert [*passage.layers] == sorted(passage.layers)
    for row in passage.frame().itertuples():
        assert row.value == passage.values[row.Index].max()
        assert row.token == passage.tokens[row.position]
    assert passage.headline.startswith("N = 16 tokens, ")


def test_a_deep_model_still_fits_one_page(tmp_path):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import measure, read_passage
    from arcee_lab.sparsity.report.html_page import save_page

    ours, _ = pair(layers=36, d_mlp=40)
    windows = cut(Letters(), ["abcdefghgfedcba" * 4, "hhgg" * 9], context=64)
    report = measure(ours, Letters(), windows)
    passage = read_passage(ours, Letters(), "abcdefghgfedcba" * 4, report)
    # Three neurons of each of sixteen layers say more than one of each of 36.
    chosen = sorted(set(passage.layers))
    assert max(passage.layers.count(layer) for layer in chosen) == 3
    assert len(chosen) <= 16
    assert f"neurons of {len(chosen)} of 36 layers" in passage.headline
    assert passage.active.shape == (36, 48)  # the map shows all layers
    save_page(tmp_path, report, ours, Letters(), windows)
    assert (tmp_path / "report.html").stat().st_size < 3 * 2**20


def test_passage_of_one_token_and_of_too_many():
    from arcee_lab.sparsity import measure, read_passage

    ours, _ = pair()
    report = measure(ours, Letters(), ["abcdef"])
    with pytest.raises(ValueError, match="expected at least 2"):
        read_passage(ours, Letters(), "", report)
    assert len(read_passage(ours, Letters(), "abc" * 17, report).tokens) == 48


def test_save_writes_what_the_frames_hold_and_load_reads_it(tmp_path):
    from arcee_lab.sparsity import SparsityReport, measure

    report = measure(pair()[0], Letters(), ["abcdef" * 4, "hgf"])
    files = report.save(tmp_path)
    assert sorted(path.name for path in files) == sorted(entry.name for entry in tmp_path.iterdir())
    for name in ("neurons", "tokens", *report.results):
        table = pd.read_parquet(tmp_path / f"{name}.parquet")
        pd.testing.assert_frame_equal(table, report.frames[name], check_column_type=False)
    layers = json.loads((tmp_path / "layers.json").read_text())
    assert [row["zeros"] for row in layers] == report.zeros.tolist()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["tokens"] == report.n_tokens == 27
    assert summary["exact_zeros"] == pytest.approx(float(report.zeros.mean()))
    for name in ("sparsity", "rates", "tokens", *report.results):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    again = SparsityReport.load(tmp_path)
    for name in ("layers", "neurons", "costs", *report.results):
        pd.testing.assert_frame_equal(again.frames[name], report.frames[name])
    assert again.summary() == report.summary()
    twice = again.merge(report)
    assert twice.n_tokens == 2 * report.n_tokens
    assert torch.equal(twice.fired, 2 * report.fired)


@pytest.mark.parametrize(
    ("break_it", "match"),
    [
        (lambda folder: (folder / "report.json").unlink(), "report.json is missing"),
        (lambda folder: (folder / "counts.safetensors").write_bytes(b"x"), "is damaged"),
        (lambda folder: (folder / "report.json").write_text("{}"), "it states no version"),
        (lambda folder: (folder / "report.json").write_text('{"version": 5}'), "it lacks model"),
        (
            lambda folder: (folder / "report.json").write_text('{"version": "x"}'),
            "no release wrote",
        ),
    ],
)
def test_a_damaged_report_is_an_error(tmp_path, monkeypatch, break_it, match):
    from arcee_lab.sparsity import SparsityReport, measure
    from arcee_lab.views.figures import figure

    monkeypatch.setattr(figure, "png", lambda *args, **kwargs: b"")
    measure(pair()[0], Letters(), ["abc"], analyses=["core"]).save(tmp_path)
    break_it(tmp_path)
    with pytest.raises(ValueError, match=match):
        SparsityReport.load(tmp_path)


@pytest.mark.parametrize(
    ("version", "writer"),
    [(3, "arcee_lab 0.1"), (4, "arcee_lab 0.1"), (6, "a later release of arcee_lab")],
)
def test_a_report_of_another_version_names_its_release(tmp_path, version, writer):
    from arcee_lab.errors import OtherRun
    from arcee_lab.sparsity import SparsityReport

    # As 0.1 wrote it: other fields, and tensors that this release does not know.
    (tmp_path / "report.json").write_text(json.dumps({"version": version, "share": 8}))
    safetensors.torch.save_file({"core/fired": torch.zeros(1)}, tmp_path / "counts.safetensors")
    with pytest.raises(OtherRun) as refused:
        SparsityReport.load(tmp_path)
    said = str(refused.value)
    assert said == (
        f"{tmp_path / 'report.json'} was written by {writer} in format {version}, and this "
        "release reads format 5; measure again."
    )
    assert "\n" not in said


def test_a_report_gives_results_frames_and_figures_by_name():
    from arcee_lab.errors import UnknownName
    from arcee_lab.results import Result
    from arcee_lab.sparsity import measure
    from arcee_lab.views.figures.figure import Figure

    report = measure(pair()[0], Letters(), ["abcdef" * 4], analyses=["overlap"])
    assert isinstance(report, Result)
    names = ["coverage", "thresholds", "positions", "ids", "overlap", "saving"]
    assert list(report.results) == names
    assert list(report.frames) == ["layers", "neurons", "tokens", "costs", *names]
    assert list(report.figures) == ["layers", "rates", "tokens", *names]
    for mapping in (report.results, report.frames, report.figures):
        # Notebooks complete keys of instance fields only.
        assert mapping in (report.__dict__[name] for name in ("results", "frames", "figures"))
        assert mapping._ipython_key_completions_() == list(mapping)
        with pytest.raises(UnknownName, match="expected one of"):
            mapping["unoins"]
        with pytest.raises(UnknownName, match=r"measure\(\.\.\., analyses=\['unions'\]\)"):
            mapping["unions"]
    pd.testing.assert_frame_equal(report.frame(), report.frames["layers"])
    pd.testing.assert_frame_equal(report.frames["overlap"], report.results["overlap"].frame())
    assert isinstance(report.figures["overlap"], Figure)
    few = report.figures.draw("tokens", most=3, dark=True)
    assert len(few.axes[0].collections[0].get_array()[0]) == 3
    assert isinstance(report.figure(), Figure)


def test_page_is_whole_escaped_and_small(tmp_path):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.report.html_page import save_page

    class Evil(Letters):
        def decode(self, ids):
            return "<script>alert(1)</script>"

    ours, _ = pair()
    ours.name_or_path = '"><img src=x onerror=alert(1)>'
    windows = cut(Evil(), ["abcdefgh" * 3, "gf"], context=32)
    report = measure(ours, Evil(), windows)
    save_page(tmp_path, report, ours, Evil(), windows)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in html
    assert "<img src=x" not in html
    assert "&lt;script&gt;" in html
    assert f"N = {report.n_tokens:,} tokens" in html
    assert "http://" not in html
    assert "https://" not in html
    assert len(html) < 3 * 2**20


def test_repr_html_shows_n_and_every_layer():
    from arcee_lab.sparsity import measure

    report = measure(pair(layers=3)[0], Letters(), ["abcdef" * 4])
    html = report._repr_html_()
    assert "<script" not in html
    assert f"N = {report.n_tokens} tokens" in html
    assert html.count("<tr>") >= 3 + 1
    assert len(html) < 60 * 1024
