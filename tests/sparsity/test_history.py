"""Zeros over training, from the demo's own log."""

import json

import pytest
from scipy.stats import spearmanr

import arcee_lab as al


def test_zeros_rise_from_one_half_to_the_trained_level(demo):
    found = al.sparsity.history("demo")
    first, last = found.zeros[[0, -1]].mean(axis=1)
    assert found.zeros[0].min() > 0.4
    assert found.zeros[0].max() < 0.6
    assert last > first + 0.2
    assert spearmanr(found.tokens, found.zeros.mean(axis=1)).statistic > 0.8
    # The log's last row is the shipped model: measured again on other text, it is near.
    from arcee_lab.demo import documents

    texts = [document.text for document in documents(n=60, seed=4, split="test")]
    report = al.sparsity.measure(*demo, texts, analyses=["core"])
    assert float(report.zeros.mean()) == pytest.approx(last, abs=0.05)


def test_frame_figure_and_words():
    found = al.sparsity.history("demo")
    frame = found.frame()
    assert len(frame) == found.zeros.size
    row = frame.iloc[found.zeros.shape[1] + 1]
    assert (row["step"], row["layer"], row["zeros"]) == (found.steps[1], 1, found.zeros[1, 1])
    assert "exact zeros rise from" in repr(found)
    assert found.figure()._repr_png_().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no training log"),
        ('{"zeros": [0.5], "step": 0}\n', "is no training log"),
        (json.dumps({"zeros": [0.5], "step": 0, "tokens": 1}), "holds 1 rows with zeros"),
        ('{"step": 0}\n', "holds 0 rows with zeros"),
    ],
)
def test_refuses_what_is_no_log(tmp_path, text, message):
    (tmp_path / "training_log.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        al.sparsity.history(tmp_path)


def test_refuses_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        al.sparsity.history(tmp_path / "none.jsonl")
