"""The map of signed effects and the scatter, from arrays alone."""

import numpy as np
import pytest

from arcee_lab.views.figures.effects import effect_map
from arcee_lab.views.figures.scatter import scatter


def draw(values, **options):
    rows, columns = values.shape
    return effect_map(
        values,
        [f"r{i}" for i in range(rows)],
        [f"c{i}" for i in range(columns)],
        across="position",
        down="layer",
        what="share",
        **options,
    )


def test_cells_say_their_number_and_blank_is_none():
    figure = draw(np.array([[0.5, -1.0, np.nan], [0.0, -0.001, 1.25]]))
    texts = figure.axes[0].texts
    assert [t.get_text() for t in texts] == ["0.50", "−1.00", "0.00", "0.00", "1.25"]
    mesh = figure.axes[0].collections[0]
    assert mesh.get_clim() == (-1.25, 1.25)  # pale is zero, whatever the values
    low, middle, high = mesh.cmap([0.0, 0.5, 1.0])
    assert low[2] > low[0]
    assert high[0] > high[2]
    assert min(middle) > 0.8
    with pytest.raises(ValueError, match=r"expected \(1 rows, 3 columns\)"):
        effect_map(np.zeros((2, 3)), ["a"], ["b"] * 3, across="", down="", what="")


def test_a_large_map_stays_small_and_a_zero_one_draws():
    figure = draw(np.random.default_rng(0).normal(size=(40, 900)), dark=True)
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_xticks()) <= 24
    assert figure.get_size_inches()[1] < 8
    assert len(figure._repr_png_()) < 300_000
    assert draw(np.zeros((1, 1)))._repr_png_()


def test_dots_lie_on_axes_of_one_scale():
    x, y = np.array([0.0, 1.0, np.nan]), np.array([2.0, -1.0, 0.0])
    figure = scatter(x, y, ["a", "b", "a"], across="x", up="y")
    (axes,) = figure.axes
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-1.15, 2.15))
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["both agree", "a", "b"]
    many = scatter(np.arange(9.0), np.arange(9.0), list("abcdefghi"), across="x", up="y")
    assert len(many.legends[0].get_texts()) == 1
    with pytest.raises(ValueError, match="one per group name"):
        scatter(x, y, ["a"], across="x", up="y")
