"""Names of files, models and domains are shown as they are in figures: none is mathematics."""

import pytest

from arcee_lab.views.figures import figure

NAMES = ["$\\frac$", "$x", "a_b^c$ and $", "\\alpha", "100 % of $5"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_drawn_as_it_is(name):
    with figure.style():
        made, (axes,) = figure.new(2.0)
        axes.plot([1, 2], [1, 2], label=name)
        axes.set(title=name, xlabel=f"{name} per {name}", ylabel=name)
        axes.set_xticks([1, 2], [name, name])
        axes.legend()
        made.suptitle(name)
    made = figure.titled(made, name)
    assert figure.png(made).startswith(b"\x89PNG")  # mathematics would end in a ParseException
    assert axes.get_title(loc="left") == f"{name}: {name}"
    assert axes.get_xlabel() == f"{name} per {name}"


def test_logarithmic_axes_show_numbers():
    with figure.style():
        made, (axes,) = figure.new(2.0)
        axes.loglog([1e-4, 1e5], [1, 1000])
    figure.png(made)
    for axis in (axes.xaxis, axes.yaxis):
        shown = [text.get_text() for text in axis.get_ticklabels() if text.get_text()]
        assert len(shown) > 1
        for text in shown:
            float(text.replace(",", ""))  # a number, without signs of mathematics
    assert "1,000" in [text.get_text() for text in axes.yaxis.get_ticklabels()]


def test_the_callers_settings_stay():
    import matplotlib as mpl

    with figure.style():
        pass
    assert mpl.rcParams["text.parse_math"]
