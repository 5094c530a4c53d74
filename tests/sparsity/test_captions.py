"""What a report says in words is what its numbers are, of the text that it names."""

import re

import numpy as np
import pytest
import torch
from dense import Letters, pair, plant

SIZES = (16, 32, 64, 128)


@pytest.fixture(scope="module")
def model():
    return plant(*pair(d_mlp=256, bias=True))[0]


@pytest.fixture(scope="module")
def report(model):
    from arcee_lab.sparsity import measure

    return measure(model, Letters(), ["abcdefgh" * 5, "hgf" * 7, "acegbdfh" * 4], sample_every=1)


@pytest.fixture
def drawn(monkeypatch):
    """The figures of a page, in place of their pictures."""
    from arcee_lab.sparsity.report import html_page

    figures = []

    def png(figure, **options):
        return b"\x89PNG\r\n"

    def svg(figure, **options):
        figures.append(figure)
        return "<svg></svg>"

    monkeypatch.setattr(html_page, "png", png)
    monkeypatch.setattr(html_page, "svg", svg)
    return figures


def page_of(folder):
    html = (folder / "report.html").read_text(encoding="utf-8")
    (title,) = re.findall(r"<h1>(.*?)</h1>", html)
    lead = re.search(r"</h1><p>(.*?)</p>", html)
    return title, lead[1], re.findall(r"<h2>(.*?)</h2>", html), html


def titles(figures):
    found = [axes.get_title(loc="left") for figure in figures for axes in figure.axes]
    return [title for title in found if title]


def test_a_page_of_several_texts_says_which_each_part_is_of(model, tmp_path, drawn):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import domains, measure
    from arcee_lab.sparsity.report.html_page import save_page

    texts = {"prose": ["abcdefgh" * 4, "hgfe" * 8], "code": ["ab" * 20]}
    windows = {name: cut(Letters(), text, context=48) for name, text in texts.items()}
    reports = {
        name: measure(model, Letters(), windows[name], label=name, analyses=["blocks"])
        for name in texts
    }
    together = domains(reports)
    save_page(tmp_path, reports["prose"], model, Letters(), windows["prose"], domains=together)
    title, lead, headings, html = page_of(tmp_path)
    assert title.endswith("on 2 kinds of text: prose, code")
    assert together.headline in lead
    for name, one in reports.items():
        assert f"{name} {float(one.zeros.mean()):.1%} (N = {one.n_tokens:,})" in lead
    assert headings[0] == "The same model on several texts"
    assert all(heading.startswith("prose: ") for heading in headings[1:])
    assert len(set(headings)) == len(headings)
    others = [name for name in titles(drawn) if not name.startswith("Exact zeros: ")]
    assert len(titles(drawn)) - len(others) == 1
    assert others
    assert all(name.startswith("prose: ") for name in others)
    alts = re.findall(r'alt="(.*?)"', html)
    assert sum(not alt.startswith("prose: ") for alt in alts) == 1
    assert f"on prose, {reports['prose'].dtype}" in reports["prose"].headline
    assert "on prose" in repr(reports["prose"])


def test_a_page_of_one_text_names_no_other(model, report, tmp_path, drawn):
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity.report.html_page import save_page

    windows = cut(Letters(), ["abcdefgh" * 5], context=16)
    save_page(tmp_path, report, model, Letters(), windows)
    title, lead, headings, _ = page_of(tmp_path)
    assert title == f"Activation sparsity of {report.model}"
    assert lead == f"{report.headline}."
    assert len(set(headings)) == len(headings)
    assert "Which neurons fire where: document 0, window 1" in headings
    assert "How many fire: document 0, window 2" in headings


def test_passages_have_names_of_their_own():
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity.report.html_page import choose_passages

    def of(*texts):
        return choose_passages(cut(Letters(), texts, context=16))

    long = "abcdefgh" * 5
    assert of(long) == [("document 0, window 1", 0), ("document 0, window 2", 1)]
    # Different documents come first, though document 0 has several windows before.
    several = of(long, long)
    assert [name for name, _ in several] == ["document 0", "document 1"]
    assert several[0][1] == 0
    assert of("ab", long[:14], "a", long[:13]) == [("document 1", 1), ("document 3", 3)]
    assert of("ab", "abcd") == [("document 1", 1)]  # none is long: the longest
    assert of("ab", long[:14]) == [("document 1", 1)]


def test_the_words_on_empty_blocks_are_those_of_the_numbers():
    """The same sentence on nearly empty and on nearly full layers gives other shares."""
    from arcee_lab.sparsity import measure, registry

    shares = []
    for bias in (-0.3, 0.3):
        model, _ = pair(d_mlp=256, bias=True)
        for block in model.model.layers:
            torch.nn.init.constant_(block.mlp.up_proj.bias, bias)
        report = measure(model, Letters(), ["abcdefgh" * 5], sample_every=1, analyses=["blocks"])
        frame, headline = report.frames["blocks"], report.results["blocks"].headline
        for size in (16, 128):
            share, chance = frame[f"zero_{size}"].mean(), frame[f"zero_{size}_chance"].mean()
            assert f"{share:.1%} of blocks of {size} ({chance:.1%} by chance)" in headline
        shares.append(frame["zero_16"].mean())
    assert shares[0] > 0.5 > 0.1 > shares[1]
    assert "few" not in registry.streamed("blocks").reading


@pytest.mark.parametrize("name", ["overlap", "unions", "blocks", "predictors", "neighbours"])
def test_readings_claim_no_result(name):
    """How to read a figure is the same for every model; what came out is in the headline."""
    from arcee_lab.sparsity import registry

    assert not re.search(r"\b(few|most|still|always|never) ", registry.streamed(name).reading)


def test_predictors_have_one_operating_point_in_words_and_figure(report):
    result = report.results["predictors"]
    figure = result.figure()
    (axes,) = figure.axes
    at_mark = {
        line.get_label(): float(line.get_ydata()[np.argmax(line.get_xdata() == 1.0)])
        for line in axes.lines
        if len(line.get_xdata()) > 2
    }
    # The first layer has none before it, whose numbers it could look ahead from.
    later = f"layers 1 to {len(result.active) - 1}" if len(result.active) > 2 else "layer 1"
    assert set(at_mark) == {"sign", "int8", "int4", f"lookahead ({later})", "the most frequent"}
    (mark,) = [line for line in axes.lines if len(line.get_xdata()) == 2]
    assert list(mark.get_xdata()) == [1.0, 1.0]
    headline, frame = result.headline, report.frames["predictors"]
    assert "recall and precision at a budget of as many neurons as fire" in headline
    for name in ("sign", "int8", "int4", f"lookahead ({later})"):
        assert f"{name} {at_mark[name]:.1%}" in headline
    before = frame.query("predictor == 'previous'")
    assert (
        f"previous, a set of its own size: {before['recall'].mean():.1%} and "
        f"{before['precision'].mean():.1%}"
    ) in headline
    rates = np.sort(report.rates.numpy(), axis=1)[:, ::-1]
    sizes = [int(np.ceil(layer.sum())) for layer in rates]
    held = [layer[:size].sum() for layer, size in zip(rates, sizes, strict=True)]
    recall = np.mean([top / layer.sum() for top, layer in zip(held, rates, strict=True)])
    precision = np.mean([top / size for top, size in zip(held, sizes, strict=True)])
    assert recall == pytest.approx(at_mark["the most frequent"])
    assert f"hot, a fixed set: {recall:.1%} and {precision:.1%}" in headline


def test_marks_are_written_in_the_unit_of_their_axis(model):
    from arcee_lab.sparsity import cett

    curves = cett(model, Letters(), ["abcdefgh" * 5, "hgf" * 7])
    (axes,) = curves.figure_curves().axes
    written = axes.xaxis.get_major_formatter()
    marks = {text.get_text().strip(): text.get_position()[0] for text in axes.texts}
    assert list(marks) == ["1%", "5%", "10%", "20%"]
    for text, place in marks.items():
        assert written(place, None) == text
    names = [text.get_text() for text in curves.figure_layers().legends[0].get_texts()]
    assert names[1:] == [f"left at CETT {text}" for text in marks]
    for text in marks:
        assert f"at {text}" in curves.headline


def test_bars_and_rates_have_axes_in_the_unit_of_their_labels(report):
    (axes,) = report.figures["layers"].axes
    assert axes.xaxis.get_major_formatter()(0.25, None) == "25%"
    assert axes.texts[0].get_text().endswith("%")
    from arcee_lab.sparsity import measure

    report = measure(pair()[0], Letters(), ["abcdefgh" * 5, "hgf" * 7], analyses=["core"])
    (axes,) = report.figures["rates"].axes
    assert axes.xaxis.get_major_formatter()(0.001, None) == "0.1%"
    rates = np.sort(report.rates.numpy().ravel())
    stated = float(re.search(r"at most ([\d.]+)%", axes.get_title(loc="left"))[1]) / 100
    # Three digits are shown, which are off by less than half a per cent of the number.
    assert (rates <= 1.005 * stated).mean() >= 0.5
    assert (rates < 0.995 * stated).mean() <= 0.5


def test_a_model_that_mostly_never_fires_is_told_so():
    from arcee_lab.sparsity import measure

    model, _ = pair(bias=True)
    for block in model.model.layers:
        torch.nn.init.constant_(block.mlp.up_proj.bias, -10.0)
        block.mlp.up_proj.bias.data[:6] = 10.0
    report = measure(model, Letters(), ["abcdefgh" * 5], analyses=["core"])
    (axes,) = report.figures["rates"].axes
    assert axes.get_title(loc="left") == "75% of the neurons fired on none of 40 tokens"


def test_one_function_writes_the_numbers_of_a_table():
    from arcee_lab.evals.result import Score, table
    from arcee_lab.views.html import number

    shown = {
        0: "0", 0.5: "0.5", 0.12345: "0.123", 12.345: "12.3", 999.0: "999", 1000.4: "1,000",
        32220000.0: "32,220,000", -12343068.057: "-12,343,068", 1e300: "1e+300",
        float("nan"): "nan", float("inf"): "inf",
    }  # fmt: skip
    for value, text in shown.items():
        assert number(value) == text
    aligned = {0.5: "0.500", 9.9994: "9.999", 12.345: "12.35", 32220000.0: "32,220,000"}
    for value, text in aligned.items():
        assert number(value, aligned=True) == text
    scores = [
        Score("t", "ppl", "none", 32220000.0, 12343068.057, 61234567.891, 8),
        Score("t", "acc", "none", 0.5, 0.25, 0.75, 8, ceiling=1.0),
    ]
    lines = table(scores).splitlines()
    assert "32,220,000  12,343,068 – 61,234,568" in lines[1]
    assert "0.500" in lines[2]
    assert "0.250 – 0.750" in lines[2]
    assert "e+" not in table(scores)


def test_a_result_shows_its_table_by_the_same_function(report):
    html = report.results["spikes"]._repr_html_()
    largest = report.frames["spikes"]["largest"].max()
    from arcee_lab.views.html import number

    assert f"<td>{number(largest)}</td>" in html
    assert f"the largest relu(u)² is {number(largest)};" in html
