"""Views are pure, escaped, readable in light and dark, and small."""

import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

NASTY = '<script>alert("1")</script>&\'"'
COLOURED = re.compile(r"background:(#[0-9a-f]{6});color:(#[0-9a-f]{6})")


def test_html_views_load_no_matplotlib(run_clean):
    modules = "arcee_lab.views.html, arcee_lab.views.html_page"
    code = f"import sys, {modules}; print('matplotlib' in sys.modules)"
    assert run_clean(code).strip() == "False"


@given(value=st.floats(-5, 5), kind=st.sampled_from(["sequential", "diverging"]))
def test_text_reads_on_every_colour(value, kind):
    from arcee_lab.views.scale import colour, contrast

    shade = colour(value, 3.0, kind=kind)
    if value == 0 or (kind == "diverging" and abs(value) < 3.0 / 50):
        assert shade is None
    else:
        assert contrast(*shade) >= 4.5


def test_scales_are_ordered_and_clip():
    from arcee_lab.views.scale import DIVERGING, SEQUENTIAL, colour, contrast

    darker = [contrast("#ffffff", colour(v, 1.0).background) for v in np.linspace(0.01, 1, 30)]
    assert darker == sorted(darker)
    assert colour(9, 1.0).background == SEQUENTIAL[-1]
    assert colour(-9, 1.0, kind="diverging").background == DIVERGING[0]
    assert colour(9, 1.0, kind="diverging").background == DIVERGING[-1]
    assert colour(float("nan"), 1.0) is colour(1.0, 0.0) is colour(0.0, 1.0) is None


def test_contrast_is_wcag():
    from arcee_lab.views.scale import contrast

    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


def test_numbers_read_well():
    from arcee_lab.views.html import number

    shown = [number(v) for v in (0, 1234567, 2048.4, 0.0123456, 99.95, 1, -3, float("nan"))]
    assert shown == ["0", "1,234,567", "2,048", "0.0123", "100", "1", "-3", "nan"]


def test_token_strip_escapes_colours_and_leaves_zeros_plain():
    from arcee_lab.views.html import token_strip

    html = token_strip([NASTY, " plain", "\n"], [2.0, 0.0, 1.0])
    assert "<script" not in html
    assert "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#x27;&quot;" in html
    assert len(COLOURED.findall(html)) == 2 + 4  # the strip's and the legend's
    assert 'title="0: 2"' in html
    assert "↵" in html
    assert "white-space:pre-wrap" in html


def test_the_space_before_a_word_has_no_colour():
    """A line may end there, and a stub of colour would be left at its end."""
    from arcee_lab.views.html import token_strip

    html = token_strip([" dogs", "  ", "x y"], [1.0, 1.0, 1.0], legend=False)
    assert re.findall(r"(?:^|>)( *)<span[^>]*><b>([^<]*)</b>", html) == [
        (" ", "dogs"),
        ("", "  "),
        ("", "x y"),
    ]


def test_a_table_with_a_scale_per_column_says_so():
    from arcee_lab.views.html import heat_table

    for by_column in (False, True):
        html = heat_table([[1.0], [2.0]], ["a", "b"], ["n"], by_column=by_column)
        assert ("Each column has a scale of its own" in html) is by_column


def test_every_background_comes_with_its_text_colour():
    from arcee_lab.views.html import heat_table, token_strip

    values = np.linspace(-1, 1, 9)
    both = token_strip(list("abcdefghi"), values, kind="diverging")
    both += heat_table(values.reshape(3, 3), list("abc"), list("xyz"), kind="diverging")
    assert both.count("background:") == len(COLOURED.findall(both)) == 8 + 8 + 4


def test_token_strip_caps_and_checks():
    from arcee_lab.views.html import token_strip

    html = token_strip(["word"] * 5000, np.ones(5000))
    assert html.count("<span") == 256 + 4  # and the legend's
    assert "4,744 more tokens" in html
    assert len(html) < 60 * 1024
    with pytest.raises(ValueError, match="got 2 tokens and 1 values"):
        token_strip(["a", "b"], [1.0])
    assert "<span" not in token_strip([], [])


def test_tables_escape_show_their_numbers_and_cap():
    from arcee_lab.views.html import bar_list, heat_table, key_table

    table = heat_table([[0.5, 0.25]], [NASTY], ["zeros", NASTY], corner="layer")
    bars = bar_list([NASTY, "b"], [0.5, 1.0])
    keys = key_table({NASTY: NASTY, "n": 12345, "flag": True})
    for html in (table, bars, keys):
        assert "<script" not in html
        assert "&lt;script&gt;" in html
    assert ">0.5<" in table
    assert ">0.25<" in table
    assert "width:50.0%" in bars
    assert "width:100.0%" in bars
    assert "12,345" in keys
    assert "True" in keys
    many = np.random.default_rng(0).random((900, 3))
    for html in (
        heat_table(many, ["row"] * 900, list("abc")),
        bar_list(["bar"] * 900, many[:, 0]),
    ):
        assert "700 more rows" in html
        assert html.count("<tr>") <= 201
        assert len(html) < 110 * 1024


def test_page_holds_its_parts_and_loads_nothing():
    from arcee_lab.views.html_page import drawing, page

    html = page(NASTY, NASTY, [(NASTY, NASTY, drawing("light", alt=NASTY))], foot=NASTY)
    assert "<script" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert 'src="data:image/svg+xml;base64,bGlnaHQ="' in html
    assert not re.search(r"https?://", html)


# ---------------------------------------------------------------- figures


def bars(**kwargs):
    from arcee_lab.views.figures.layers import share_bars

    share = np.array([0.78, 0.94, 0.91])
    words = dict.fromkeys(("baseline_name", "what", "spread"), "words")
    return share_bars(share, share - 0.1, share + 0.05, baseline=0.5, **words, **kwargs)


def ridges(rates, **kwargs):
    from arcee_lab.views.figures.layers import rate_ridges

    return rate_ridges(rates, floor=0.001, floor_name="floor", what="rate", **kwargs)


def test_figures_are_deterministic_and_leave_matplotlib_alone():
    import matplotlib as mpl

    from arcee_lab.views.figures.figure import png

    before = dict(mpl.rcParams)
    assert png(bars()) == png(bars())
    assert png(bars()) != png(bars(dark=True))
    assert bars()._repr_png_().startswith(b"\x89PNG")
    assert dict(mpl.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_bars_are_the_values():
    from arcee_lab.views.figures.layers import share_bars

    share, words = np.array([0.2, 0.9]), {"what": "active", "spread": "spread"}
    figure = share_bars(
        share, share, share + 0.05, baseline=0.5, baseline_name="half", title="Zeros", **words
    )
    (axes,) = figure.axes
    assert [patch.get_width() for patch in axes.patches] == [0.2, 0.9]
    assert axes.get_title("left") == "Zeros"
    assert [text.get_text() for text in axes.texts] == ["20.0%", "90.0%"]
    assert axes.get_xlim() == pytest.approx((0, 1.14 * 0.95))


def test_shares_that_are_alike_are_dots_on_an_axis_that_begins_near_the_smallest():
    (axes,) = bars().axes  # 78 to 94 %, from 68 to 99 %, next to a baseline of 50 %
    assert not axes.patches
    dots = next(line for line in axes.lines if line.get_marker() == "o")
    assert list(dots.get_xdata()) == [0.78, 0.94, 0.91]
    assert [text.get_text() for text in axes.texts] == ["78.0%", "94.0%", "91.0%"]
    left, right = axes.get_xlim()
    assert 0.4 < left < 0.5
    assert right > 0.99
    from arcee_lab.views.figures.layers import share_bars

    same = np.full(3, 0.5)  # no spread at all: the axis still has a width
    words = {"what": "active", "spread": "spread", "baseline_name": "half"}
    (axes,) = share_bars(same, same, same, baseline=0.5, **words).axes
    assert axes.get_xlim()[0] < 0.5 < axes.get_xlim()[1]


def test_small_shares_fill_the_axis_and_a_far_baseline_is_named():
    """Bars of 2 % and 6 % must not look alike because of a baseline of one half."""
    from arcee_lab.views.figures.layers import share_bars

    share = np.array([0.06, 0.02])
    words = {"what": "active", "spread": "spread", "baseline_name": "untrained"}
    figure = share_bars(share, share, share, baseline=0.5, **words)
    (axes,) = figure.axes
    assert axes.get_xlim()[1] < 0.08
    assert "untrained: 50%" in [text.get_text() for text in figure.legends[0].get_texts()]


def test_ridges_count_every_neuron_once():
    rates = [np.array([0, 0, 0.001, 0.5, 1.0]), np.zeros(4), np.full(3, 0.25)]
    (axes,) = ridges(rates).axes
    steps = [patch for patch in axes.patches if type(patch).__name__ == "StepPatch"]
    heights = [patch.get_data().values - patch.get_data().baseline for patch in steps]
    highest = 3
    totals = [np.round(height.sum() * highest / 0.92) for height in heights]
    assert totals == [3, 0, 3]
    assert [text.get_text() for text in axes.texts] == ["2", "4", "0", "never"]


def test_raster_shows_values_scaled_by_row_and_blank_zeros():
    from arcee_lab.views.figures.raster import raster

    values = np.array([[0.0, 1.0, 4.0], [0.0, 0.0, 0.0]])
    figure = raster(values, ["The", " $5", "\n"], ["0.1", "0.2"], notes=["1%", "2%"], title="T")
    axes, _ = figure.axes
    shown = axes.collections[0].get_array()
    assert shown.mask.tolist() == [[True, False, False], [True, True, True]]
    assert shown[0].compressed().tolist() == [0.5, 1.0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["The", "$5", "↵"]
    assert [text.get_text() for text in axes.texts] == ["1%", "2%"]
    with pytest.raises(ValueError, match=r"expected \(1 rows, 3 tokens\)"):
        raster(values, ["a", "b", "c"], ["0.1"])


def test_raster_marks_tokens_by_category():
    from arcee_lab.views.figures.raster import raster

    figure = raster(
        np.eye(3), ["dogs", "near", "gate"], list("abc"), marks=["plural", None, "singular"],
        groups=["0", "0", "1"],
    )  # fmt: skip
    boxes = [label.get_bbox_patch() for label in figure.axes[0].get_xticklabels()]
    assert [box is None for box in boxes] == [False, True, False]
    assert boxes[0].get_facecolor() != boxes[2].get_facecolor()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["plural", "singular"]


def test_patterns_draw_each_head_and_check_shapes():
    from arcee_lab.views.figures.patterns import patterns

    values = np.tril(np.ones((2, 3, 3))) / np.array([1, 2, 3])[None, :, None]
    figure = patterns(values, [" a", "b", "c"], ["0.1", "0.3"], title="Heads")
    shown = [axes.collections[0].get_array() for axes in figure.axes[:2]]
    assert [array.shape for array in shown] == [(3, 3), (3, 3)]
    assert shown[0].mask.tolist() == (values[0] == 0).tolist()
    assert [axes.get_title("left") for axes in figure.axes[:2]] == ["0.1", "0.3"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["a", "b", "c"]
    with pytest.raises(ValueError, match=r"expected \(1 heads, 3, 3 tokens\)"):
        patterns(values, ["a", "b", "c"], ["0.1"])


@pytest.mark.parametrize("n_layers", [1, 36])
def test_figures_hold_for_few_and_many_layers(n_layers):
    from arcee_lab.views.figures.figure import png
    from arcee_lab.views.figures.layers import share_bars

    share = np.linspace(0.5, 0.9, n_layers)
    words = dict.fromkeys(("baseline_name", "what", "spread"), "words")
    assert png(share_bars(share, share, share, baseline=0.5, **words))
    assert png(ridges([np.linspace(0, 1, 50)] * n_layers))
