"""Directions of three concepts that only the context tells, against the world's truth.

Numbers of one run: n of tokens and documents are asserted, so that an aim is not met by few.
"""

import pytest
from worlds import CONCEPTS

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.directions.auroc import auroc
from arcee_lab.directions.reading import find_places

pytestmark = pytest.mark.slow

SITES = {"number": 3, "review": 3, "person": 2}  # the layer that is read


@pytest.fixture(scope="module")
def loaded():
    models = {}

    def load(head):
        if head not in models:
            models[head] = al.load("demo", head=head)
        return models[head]

    return load


@pytest.mark.parametrize("name", CONCEPTS)
def test_it_detects_almost_as_well_as_the_best_possible_reader(loaded, name):
    head, concept, labels, best, _ = CONCEPTS[name]
    model, tokenizer = loaded(head)
    fit, confirm = labels("fit", 150), labels("confirm", 150)
    found = al.directions.detect(
        model,
        tokenizer,
        fit,
        concept,
        method="logistic",
        confirm=confirm,
        sites=f"layers.{SITES[name]}.hook_resid_post",
        max_positions=1500,
        batch_size=32,
        untrained=True,
        progress=False,
    )
    own, shuffled, gap = (
        found.check(what, 0)
        for what in ("AUROC", "AUROC, shuffled labels", "AUROC minus that of the untrained copy")
    )
    places = find_places(model, tokenizer, fit, concept, confirm=confirm, max_positions=1_000_000)
    ceiling = auroc(best("confirm", 150), places.truth[~places.fit])
    assert own.n >= 140
    assert own.documents >= 140
    assert own.value >= ceiling - 0.05
    assert shuffled.low < 0.5 < shuffled.high
    assert gap.low > 0
    assert f"{own.value:.3f}" in found.headline


@pytest.mark.parametrize("name", CONCEPTS)
def test_it_steers_as_well_as_replacing_the_whole_stream(loaded, name):
    head, concept, labels, _, case = CONCEPTS[name]
    model, tokenizer = loaded(head)
    direction = al.directions.mean_difference(
        model,
        tokenizer,
        labels("fit", 150),
        concept,
        confirm=labels("confirm", 150),
        site=f"layers.{SITES[name]}.hook_resid_post",
        max_positions=1500,
        shuffles=2,
        batch_size=32,
        progress=False,
    )
    asked = case(60)
    curve = al.directions.steer(
        model,
        tokenizer,
        direction,
        asked.prompts,
        target=asked.target,
        versus=asked.versus,
        sources=asked.sources,
        batch_size=30,
        progress=False,
    )
    assert curve.n == 60
    assert curve.whole > 0.7  # the aim below is of something
    assert curve.of_whole >= 0.8
    assert curve.success[0] <= 0.1
    # A random step of the same length does much less.
    assert curve.control[curve.best] <= curve.success[curve.best] - 0.5


def test_neurons_of_what_a_head_predicts(loaded):
    model, tokenizer = loaded("token")
    said = [
        al.directions.predicted_labels(
            model,
            tokenizer,
            [document.text for document in documents("news", n=60, split=split)],
            batch_size=32,
        )
        for split in ("validation", "test")
    ]
    found = al.neurons.find(
        model,
        tokenizer,
        said[0],
        names="B-PER",
        confirm=said[1],
        untrained=False,
        batch_size=32,
        progress=False,
    )
    best = found["B-PER"].best
    assert best.f1 > 0.9
