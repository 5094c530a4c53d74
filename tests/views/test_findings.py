"""Titles state what was found, with numbers that plain arithmetic on the data gives."""

import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))


def title(figure):
    return " ".join(figure.title.split())


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_titles_in_notebooks_are_findings(notebook):
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [one for cell in cells for one in cell.get("outputs", ()) if "data" in one]
    told = [one.data.get("text/plain", "") for one in outputs]
    for text in told:
        if text.startswith("Figure("):
            assert re.search(r"\d", text), f"a name and no finding: {text}"
            assert "?" not in text, text


def test_positions():
    from arcee_lab.sparsity.core.positions import Positions

    active = np.array([[10.0, 30.0], [4.0, 4.0], [np.nan, np.nan]])
    found = Positions(np.array([1, 2, 4]), active, np.array([5, 6, 0]), d_mlp=100)
    # (10 + 30) / 2 and (4 + 4) / 2 of 100 neurons; nothing is at 4.
    assert title(found.figure()) == (
        "A token uses 20.0% of the neurons at position 1, 4.0% from 2 on (mean over layers, "
        "N = 11 tokens)"
    )


def test_thresholds():
    from arcee_lab.sparsity.core.magnitudes import BINS, places
    from arcee_lab.sparsity.core.thresholds import Thresholds

    counts = np.zeros((1, BINS), dtype=np.int64)
    for value, n in ((2.0**-9, 3), (1.5, 7)):
        counts[0, int(places(torch.tensor([value])))] = n
    found = Thresholds(counts, d_mlp=10, tokens=4)  # 40 activations, of which 30 are zero
    assert title(found.figure()).startswith(
        "75.0% of activations are zero, the left end; another 7.5% are below 0.0078"
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [([0.3, 0.2], "more neurons"), ([-0.3, np.nan], "fewer neurons"),
     ([0.3, -0.25], "more neurons in 1 of 2 layers, fewer in 1"),
     ([0.05, -0.05], "about as many neurons"), ([np.nan], "about as many neurons"),
     ([0.4, 0.05], "more neurons in 1 of 2 layers"),
     ([0.4, 0.3, -0.2, 0.05], "more neurons in 2 of 4 layers, fewer in 1")],
)  # fmt: skip
def test_correlations_with_a_number_of_neurons(values, said):
    from arcee_lab.sparsity.core.window_means import as_many

    assert as_many(np.array(values)) == said


def test_many_layers_are_told_by_their_ends():
    from arcee_lab.sparsity.core.window_means import by_layer

    assert by_layer(np.array([0.5, -0.25])) == "+0.50, −0.25"
    assert by_layer(np.linspace(-0.2, 0.3, 36)) == "−0.20 to +0.30"


def test_no_scores_are_no_picture():
    from arcee_lab.errors import SettingError
    from arcee_lab.views.figures.forest import interval_rows

    with pytest.raises(SettingError, match="nothing to draw"):
        interval_rows([])


def test_layers_against_each_other():
    from arcee_lab.sparsity.core.window_means import Mean
    from arcee_lab.sparsity.streamed.across_layers import AcrossLayersResult

    none = Mean(np.full(2, np.nan), np.full(2, np.nan), np.zeros(2))
    for r, said in (
        (0.4, "Layers are busy at the same tokens"),
        (-0.4, "Layers are busy at different tokens"),
        (0.05, "How busy one layer is says little about another"),
    ):
        found = AcrossLayersResult(np.array([[1.0, r], [r, 1.0]]), none, 7)
        told = f"{r:.2f}".replace("-", "−")
        assert title(found.figure()) == f"{said}: correlation {told} (N = 7 tokens)"
    several = np.array([[1, 0.6, -0.2], [0.6, 1, 0.5], [-0.2, 0.5, 1]])
    none = Mean(np.full(3, np.nan), np.full(3, np.nan), np.zeros(3))
    assert title(AcrossLayersResult(several, none, 7).figure()) == (
        "Most pairs of layers are busy at the same tokens: correlation −0.20 to 0.60, mean 0.30 "
        "(N = 7 tokens)"
    )


def test_a_number_of_the_sample_names_the_sample():
    """The largest value is of all tokens; the mean share and the cosine are of some windows."""
    from arcee_lab.sparsity.core.window_means import Mean
    from arcee_lab.sparsity.streamed.across_layers import AcrossLayersResult
    from arcee_lab.sparsity.streamed.spikes import SpikesResult

    some = Mean(np.array([0.25, 0.75]), np.full(2, 0.1), np.array([5, 5]))
    spikes = SpikesResult(np.array([3.0, 9.0]), np.zeros(2), some, 7_000)
    assert "mean, N = 5 windows" in title(spikes.figure())
    assert spikes.headline.startswith("N = 7,000 tokens: the largest relu(u)² is 9")
    layers = AcrossLayersResult(np.eye(2), some, 7_000)
    assert layers.headline.startswith("N = 5 windows: inputs of neighbouring layers")
    assert "N = 7,000 tokens" in title(layers.figure())


def test_training_that_loses_zeros_says_so():
    from arcee_lab.sparsity.compared.training_history import History

    steps = np.array([1, 2])
    for zeros, verb in (([[0.5], [0.9]], "rise from 50.0% to 90.0%"),
                        ([[0.9], [0.5]], "fall from 90.0% to 50.0%")):  # fmt: skip
        found = History(steps, steps * 1_000_000, np.array(zeros))
        assert title(found.figure()) == f"Exact zeros {verb} over 2 million tokens of training"


def test_domains():
    from arcee_lab.sparsity.compared.domains import Domains

    rates = np.array([[[0.1, 0.3]], [[0.5, 0.5]]])
    found = Domains(("prose", "code"), rates, (10, 30))
    assert title(found.figure()) == (
        "Exact zeros: 80.0% in prose, 50.0% in code, means over layers (N = 40 tokens)"
    )


def test_heads():
    from arcee_lab.attention import Offset
    from arcee_lab.attention.detected import Detected
    from arcee_lab.attention.result import HeadStatistic

    mean = torch.tensor([[0.1, 0.2], [0.9, torch.nan]])
    n = torch.tensor([[8, 8], [8, 0]])
    one = HeadStatistic(Offset(1), (3, 5), mean, n, {})
    assert one.strongest == ("L5/H0", pytest.approx(0.9))
    assert title(one.figure()).endswith(
        "largest in L5/H0, 0.90; mean of all heads 0.40 (N = 0 to 8 tokens)"
    )
    found = Detected({"texts": {"offset_1": one}})
    assert title(found.figure()) == (
        "Texts: Of 4 heads, over half of the attention goes to the previous token in 1 "
        "(N = 8 tokens)"
    )
    weak = HeadStatistic(Offset(1), (3, 5), mean / 2, n, {}, even=0.25)
    assert title(Detected({"texts": {"offset_1": weak}}).figure()) == (
        "Texts: None of 4 heads gives half of its attention to what is marked; the most is 45%, "
        "L5/H0 to the previous token; even attention gives 25% (N = 8 tokens)"
    )
    none = HeadStatistic(
        Offset(1), (0,), torch.full((1, 2), torch.nan), torch.zeros(1, 2).long(), {}
    )
    assert none.strongest is None
    assert "no token counts" in title(none.figure())


def test_intervals_show_zero_for_differences_and_ceilings_for_scores():
    from matplotlib.colors import to_hex

    from arcee_lab.views.figures.forest import Row, interval_rows
    from arcee_lab.views.scale import CATEGORIES

    rows = [Row("a", 0.5, 0.4, 0.6, ceiling=0.9), Row("b", 0.2, 0.1, 0.3)]
    figure = interval_rows([("acc", rows)], title="t")
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["0.500", "0.200"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "score, 95% interval", "best possible",
    ]  # fmt: skip
    (mark,) = [line for line in axes.get_lines() if to_hex(line.get_color()) == CATEGORIES[1]]
    assert mark.get_xdata()[0] == 0.9

    rows = [Row("a", 0.5, 0.4, 0.6), Row("b", 0.2, -0.1, 0.3, clear=False)]
    figure = interval_rows([("acc", rows)], x="change", differences=True)
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["0.5 [0.4, 0.6]", "0.2 [-0.1, 0.3]"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "clear difference", "may be chance",
    ]  # fmt: skip
    assert list(axes.get_lines()[0].get_xdata()) == [0, 0]
    faces = [line.get_markerfacecolor() for line in axes.get_lines() if line.get_marker() == "o"]
    assert faces == [CATEGORIES[0], "none"]
