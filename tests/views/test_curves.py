"""Curves and grids draw what they are given: colours, bands, baselines, marks, ticks."""

import numpy as np
import pytest


@pytest.mark.parametrize("dark", [False, True])
def test_a_baseline_has_the_colour_of_its_curve_and_a_band_its_interval(dark):
    from arcee_lab.views.figures.curves import Line, lines
    from arcee_lab.views.figures.figure import png

    x = np.array([1, 2, 4])
    curves = [
        Line("one", x, np.array([0.1, np.nan, 0.3]), np.array([0.1, 0.1, 0.05])),
        Line("two", x, np.array([0.5, 0.4, 0.3])),
        Line("", x, np.full(3, 0.2), dashed=True, of=1),
    ]
    figure = lines(curves, x="size", y="share", title="t", log_x=True, mark=2, dark=dark)
    (axes,) = figure.axes
    one, two, base, mark = axes.get_lines()
    assert base.get_color() == two.get_color() != one.get_color()
    assert (base.get_linestyle(), two.get_linestyle()) == ("--", "-")
    assert mark.get_xdata()[0] == 2
    low, high = axes.collections[0].get_paths()[0].vertices[:, 1].min(), 0.2
    assert low == pytest.approx(0.0)
    assert high <= axes.collections[0].get_paths()[0].vertices[:, 1].max()
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("size", "share", "log")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["one", "two"]
    assert png(figure, small=True).startswith(b"\x89PNG")
    assert len(png(figure, small=True)) < len(png(figure))


def test_of_many_curves_five_stand_out_and_the_legend_counts_the_others():
    from arcee_lab.views.figures.curves import Line, lines

    x = np.arange(3)
    curves = [Line(f"layer {n}", x, x + n) for n in range(36)]
    curves += [Line("", x, x + n, dashed=True, of=n) for n in range(36)]
    figure = lines(curves, x="x", y="y")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["layer 0", "layer 9", "layer 18", "layer 26", "layer 35", "the other 31"]
    drawn = figure.axes[0].get_lines()
    assert len(drawn) == 36 + 5 + 1  # baselines of those that stand out alone, and the legend's
    named = [line for line in drawn if line.get_label().startswith("layer")]
    assert len({line.get_color() for line in named}) == 5
    assert len({line.get_marker() for line in named}) == 5


def test_a_baseline_of_no_curve_is_in_ink():
    from arcee_lab.views.figures.curves import Line, lines
    from arcee_lab.views.figures.figure import ink

    x = np.arange(3)
    figure = lines([Line("a", x, x), Line("chance", x, x, dashed=True)], x="x", y="y")
    assert [line.get_color() for line in figure.axes[0].get_lines()][1] == ink()


def test_a_grid_shows_few_of_many_labels_and_leaves_nan_blank():
    from arcee_lab.views.figures.curves import grid

    cells = np.arange(200.0).reshape(2, 100)
    cells[0, 0] = np.nan
    figure = grid(
        cells, rows=["a", "b"], columns=[str(n) for n in range(100)], x="x", y="y", what="share"
    )
    axes, bar = figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "b"]
    assert [label.get_text() for label in axes.get_xticklabels()][:2] == ["0", "5"]
    assert axes.collections[0].get_array().mask.sum() == 1
    assert bar.get_xlabel() == "share"
