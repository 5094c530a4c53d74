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
    assert png(figure, colours=32).startswith(b"\x89PNG")
    assert len(png(figure, colours=32)) < len(png(figure))


def test_many_curves_take_the_sequential_scale():
    from arcee_lab.views.figures.curves import Line, lines

    x = np.arange(3)
    figure = lines([Line(f"layer {n}", x, x + n) for n in range(36)], x="x", y="y")
    colours = [line.get_color() for line in figure.axes[0].get_lines()]
    assert len(set(colours)) == 36
    assert len(figure.legends[0].get_texts()) == 36


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
    assert axes.images[0].get_array().mask.sum() == 1
    assert bar.get_ylabel() == "share"
