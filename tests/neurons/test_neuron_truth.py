"""The demo's truth: which neurons carry its concepts, and what happens without them.

The slow tests ask what benchmarks/neuron_truth.py prints; the fast one is a part of it.
"""

import sys
from pathlib import Path

import pytest

import arcee_lab as al

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
# With 200 documents per part all seventeen concepts have a confirmed neuron; the gain of this one
# over an untrained model is small, and rounding may decide which neuron is chosen.
UNSURE = {"good said"}
HARM = 0.02  # most that another skill may lose
DROP = 0.2  # least that the skill itself loses


@pytest.fixture
def truth(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import neuron_truth

    yield neuron_truth
    for name in ("neuron_truth", "results", "paired"):
        sys.modules.pop(name, None)


def test_neurons_of_names_are_confirmed_on_other_documents():
    model, tokenizer = al.load("demo")
    parts = [al.neurons.labels.demo("news", part=p, n=60) for p in ("search", "confirmation")]
    found = al.neurons.find(model, tokenizer, parts[0], confirm=parts[1], batch_size=32)
    assert found.confirmed == ("person", "place", "organisation")
    assert not found.missing
    for one in found.labels:
        assert one.best.f1 > 0.7
        assert one.best.f1_interval[0] > one.untrained.f1
        assert one.p == pytest.approx(1 / 21)


@pytest.mark.slow
def test_at_least_eight_of_seventeen_concepts_have_a_confirmed_neuron(truth):
    model, _, tokenizer = truth.demo()
    table = truth.found_units(model, tokenizer)
    assert len(table) == 17
    confirmed = table[table["confirmed"]]
    assert len(confirmed) >= 8
    assert set(table["label"]) - set(confirmed["label"]) <= UNSURE
    for control in ("shuffled", "untrained"):
        assert (confirmed[f"F1 gain over {control}, low"] > 0).all()
        assert (confirmed[f"AUPRC gain over {control}, low"] > 0).all()


@pytest.mark.slow
def test_two_concepts_are_confirmed_by_taking_out_twenty_neurons(truth):
    model, heads, tokenizer = truth.demo()
    costs = truth.attributions(model, tokenizer, n=truth.CHOSEN_ON)
    sets = {skill: truth.neurons_of(skill, costs) for skill, _ in truth.CAUSAL.values()}
    assert all(len(set(neurons)) == 20 for neurons in sets.values())
    for skill, rows in truth.ablated(model, heads, tokenizer, sets).items():
        for name, (change, low, high, n) in rows.items():
            assert n >= truth.LEAST, name
            if truth.group(name) == skill:
                assert high <= -DROP, (name, change)
            else:
                assert low >= -HARM, (name, change)


@pytest.mark.slow
@pytest.mark.parametrize("skill", ["agreement", "closer"])
def test_random_neurons_of_equal_firing_rate_do_less(truth, skill):
    model, _, tokenizer = truth.demo()
    costs = truth.attributions(model, tokenizer, n=truth.CHOSEN_ON)
    kind = dict(truth.CAUSAL.values())[skill]
    neurons = truth.neurons_of(skill, costs)
    mine, drops, n = truth.random_drops(model, tokenizer, skill, kind, neurons)
    assert n >= truth.LEAST
    assert len(drops) == 100
    assert max(drops) < mine


def test_random_sets_have_equal_firing_rates_and_other_neurons(truth):
    import torch

    rates = torch.rand(3, 200, generator=torch.Generator().manual_seed(0))
    neurons = [(0, 5), (1, 6), (2, 7), (2, 8)]
    for chosen in truth.random_sets(rates, neurons, 20):
        assert len(set(chosen)) == 4
        assert not set(chosen) & set(neurons)
        for mine, other in zip(neurons, chosen, strict=True):
            # 600 rates between 0 and 1: the 29 nearest are within a tenth.
            assert abs(float(rates[mine] - rates[other])) < 0.1
