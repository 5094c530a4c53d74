"""Metrics against scikit-learn, seqeval and plain counting, on drawn items."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval import metrics as seqeval
from seqeval.metrics.sequence_labeling import get_entities
from sklearn import metrics as sklearn

from arcee_lab.evals import metrics

LABELS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=40
)  # (right, given)
TAGS = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-LOC", "S-PER"])


def scored(metric, items) -> float:
    return metric([item[metric.name] for item in items])


@given(LABELS)
def test_labels_as_scikit_learn_has_them(pairs):
    right, given_ = zip(*pairs, strict=True)
    assert metrics.macro_f1(pairs) == pytest.approx(
        sklearn.f1_score(right, given_, average="macro"), abs=1e-12
    )
    assert metrics.mcc(pairs) == pytest.approx(sklearn.matthews_corrcoef(right, given_), abs=1e-12)


def draw_log_probs(n: int, labels: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    logits = rng.normal(size=(n, labels)) * 2
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return logs, rng.integers(labels, size=n)


def test_probabilities_as_scikit_learn_has_them():
    logs, gold = draw_log_probs(300, 4)
    items = [metrics.label_items(int(g), row.tolist()) for g, row in zip(gold, logs, strict=True)]
    probs = np.exp(logs)
    assert scored(metrics.acc, items) == pytest.approx(
        sklearn.accuracy_score(gold, logs.argmax(-1)), abs=1e-12
    )
    assert scored(metrics.nll, items) == pytest.approx(sklearn.log_loss(gold, probs), abs=1e-9)
    brier = np.mean([((p - np.eye(4)[g]) ** 2).sum() for p, g in zip(probs, gold, strict=True)])
    assert scored(metrics.brier, items) == pytest.approx(brier, abs=1e-12)


def test_calibration_error_by_plain_bins():
    logs, gold = draw_log_probs(500, 3)
    items = [metrics.label_items(int(g), row.tolist()) for g, row in zip(gold, logs, strict=True)]
    expected = 0.0
    confidence, right = np.exp(logs).max(-1), logs.argmax(-1) == gold
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = abs(confidence[inside].mean() - right[inside].mean())
            expected += inside.mean() * gap
    assert scored(metrics.ece, items) == pytest.approx(expected, abs=1e-9)


def test_calibration_error_of_certainty():
    assert metrics.ece([(1.0, 1.0), (1.0, 1.0)]) == 0
    assert metrics.ece([(1.0, 1.0), (1.0, 0.0)]) == 0.5


@given(st.lists(TAGS, max_size=14))
def test_entities_as_seqeval_has_them(tags):
    assert metrics.entities(tags) == set(get_entities(tags))


@given(st.lists(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=9), min_size=1, max_size=8))
@pytest.mark.filterwarnings("ignore::Warning")  # seqeval warns where nothing is there to be found
def test_entity_scores_as_seqeval_has_them(documents):
    gold = [[a for a, _ in words] for words in documents]
    found = [[b for _, b in words] for words in documents]
    items = [metrics.entity_items(a, b) for a, b in zip(gold, found, strict=True)]
    assert scored(metrics.entity_f1, items) == pytest.approx(seqeval.f1_score(gold, found))
    assert scored(metrics.entity_precision, items) == pytest.approx(
        seqeval.precision_score(gold, found)
    )
    assert scored(metrics.entity_recall, items) == pytest.approx(seqeval.recall_score(gold, found))
    assert scored(metrics.token_acc, items) == pytest.approx(seqeval.accuracy_score(gold, found))


def test_name_acc_asks_the_words_that_open_an_entity():
    items = [metrics.entity_items(["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-ORG"])]
    assert scored(metrics.name_acc, items) == 0.5


@pytest.mark.parametrize("label", ["PER", "X-PER", "B-", ""])
def test_unknown_form_of_label(label):
    with pytest.raises(ValueError, match="neither 'O' nor a side"):
        metrics.entities(["O", label])


def test_labels_and_words_must_match():
    with pytest.raises(ValueError, match="Got 1 labels for 2 words"):
        metrics.entity_items(["O", "O"], ["O"])


@pytest.mark.parametrize(
    ("golds", "given", "em", "f1"),
    [
        (["The red barn"], "red barn.", 1, 1),
        (["the barn", "a red barn"], "red barn", 1, 1),
        (["old red barn"], "red barn door", 0, 2 / 3),
        (["barn barn"], "barn", 0, 2 / 3),
        (["barn"], "", 0, 0),
        ([], "", 1, 1),
        ([], "barn", 0, 0),
        (["the"], "", 1, 1),  # nothing is left of this answer: SQuAD counts it as none
        (["U.S."], "us", 1, 1),
    ],
)
def test_answers_by_hand(golds, given, em, f1):
    items = metrics.answer_items(golds, given)
    assert items["em"] == em
    assert items["f1"] == pytest.approx(f1)


def test_answers_and_none_are_scored_apart():
    items = [
        metrics.answer_items(["barn"], "barn"),
        metrics.answer_items(["barn"], "door"),
        metrics.answer_items([], "door"),
    ]
    assert scored(metrics.em, items) == pytest.approx(1 / 3)
    assert scored(metrics.em_answer, items) == 0.5
    assert scored(metrics.em_none, items) == 0
    assert math.isnan(scored(metrics.em_none, items[:1]))


def test_likelihoods():
    items = [metrics.likelihood_items(-12.0, 4, 10.0), metrics.likelihood_items(-3.0, 2, 3.5)]
    assert scored(metrics.nats_per_word, items) == pytest.approx(15 / 6)
    assert scored(metrics.word_perplexity, items) == pytest.approx(math.exp(15 / 6))
    assert scored(metrics.excess, items) == pytest.approx(1.5 / 6)


@pytest.mark.parametrize("name", ["macro_f1", "mcc", "ece", "entity_f1", "acc", "em_answer"])
def test_a_redrawn_set_scores_as_if_it_were_the_set(name):
    """What a bootstrap does: `value(counts @ moments)` is the metric of the redrawn items."""
    rng = np.random.default_rng(3)
    logs, gold = draw_log_probs(60, 3)
    items = [metrics.label_items(int(g), row.tolist()) for g, row in zip(gold, logs, strict=True)]
    for item in items:
        tags = rng.choice(["O", "B-PER", "I-PER"], size=(2, 6)).tolist()
        item |= metrics.entity_items(*tags)
        item |= metrics.answer_items(["a red barn"], str(rng.choice(["barn", "red barn", "door"])))
    metric = getattr(metrics, name)
    own = [item[name] for item in items]
    draws = rng.integers(60, size=(5, 60))
    counts = np.stack([np.bincount(draw, minlength=60) for draw in draws])
    fast = metric.value(counts @ metric.moments(own))
    slow = [metric([own[i] for i in draw]) for draw in draws]
    np.testing.assert_allclose(fast, slow, atol=1e-12)
