"""`al.plan` of statistics: bytes of the states that a run really makes."""

import pytest
import torch

import arcee_lab as al
from arcee_lab.neurons.reading import state
from arcee_lab.reducers import FiringRate, TopK

POST = "layers.*.mlp.hook_post"


@pytest.fixture(scope="module")
def lab():
    return al.load("demo")


def test_reducers_take_what_is_planned(lab):
    model, tokenizer = lab
    asked = {POST: [TopK(3), FiringRate()], "hook_embed": FiringRate()}
    plan = al.plan(model, asked, batch=2, length=8)
    with al.capture(model, asked) as stats:
        model(**tokenizer("The dogs sleep .", return_tensors="pt"))
    taken = sum(x.nbytes for site in stats.states.values() for one in site for x in one.values())
    assert plan.bytes == taken
    assert [row.site for row in plan.sites] == list(stats)


def test_exemplars_take_what_is_planned(lab):
    model, tokenizer = lab
    texts = [one.text for one in al.demo.documents(n=30)]
    run = al.neurons.exemplars(model, tokenizer, texts, progress=False)
    places = al.neurons.Places(pool=len(run.pool), longest=run.context, dtype=model.dtype)
    plan = al.plan(model, {POST: places}, batch=8, length=128)
    taken = sum(x.nbytes for one in run.states.values() for x in one.values())
    assert plan.bytes == taken
    assert run.facts.places == places


def test_afm_is_planned_below_its_limit():
    config = al.ArceeConfig(
        hidden_size=2560, intermediate_size=18432, num_hidden_layers=36, num_attention_heads=20,
        num_key_value_heads=4, head_dim=128, vocab_size=128,
    )  # fmt: skip
    with torch.device("meta"):
        model = al.ArceeForCausalLM(config).to(torch.bfloat16)
    places = al.neurons.Places(dtype=torch.bfloat16)
    plan = al.plan(model, {POST: places}, batch=8, length=1024)
    assert len(plan.sites) == 36
    assert 280e6 < plan.bytes <= 560e6
    one = state.new_state(places, 18432, torch.device("meta"))
    assert plan.bytes == 36 * sum(x.nbytes for x in one.values())


@pytest.mark.parametrize(
    ("asked", "more", "match"),
    [
        ({POST: 3}, {}, r"mapped to 3; expected a reducer"),
        ({POST: []}, {}, r"mapped to \[\]"),
        ({POST: FiringRate()}, {"units": [1]}, "leave units= out"),
        ({"layers.*.nothing": FiringRate()}, {}, "nothing"),
    ],
)
def test_what_cannot_be_planned_is_refused(lab, asked, more, match):
    with pytest.raises(al.errors.ArceeLabError, match=match):
        al.plan(lab[0], asked, batch=1, length=1, **more)
