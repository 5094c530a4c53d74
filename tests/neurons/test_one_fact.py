"""One fact of the demo changed by a fine-tune of its MLPs: which neurons carry the change.

Neurons are chosen by attribution on prompts of the validation split and confirmed on prompts of the
test split. What the fine-tune did, and what ten of its 3,584 neurons restore, was measured; the
bounds below leave room for another machine's rounding over 60 steps of training.
"""

import pytest
import torch
from one_fact import (
    FACT,
    NEW,
    OLD,
    RELATION,
    SUBJECT,
    batch_of_prompts,
    fact_prompts,
    fine_tuned,
    ids_of,
    last_logits,
)

import arcee_lab as al
from arcee_lab.demo.facts import FACTS
from arcee_lab.training.skills import measure_skills

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def demo():
    return al.load("demo")


@pytest.fixture(scope="module")
def tuned(demo):
    return fine_tuned(*demo, steps=60, rate=0.03, keep=10.0)


@pytest.fixture(scope="module")
def prompts(demo):
    select = batch_of_prompts(demo[1], fact_prompts(64, split="validation"))
    confirm = batch_of_prompts(demo[1], fact_prompts(128, split="test"))
    return select, confirm


def ranked(base, tuned, batch, metric, n):
    """Two neurons at a time; the next two are estimated with those before them in place."""
    chosen: list = list(al.neurons.transplant_attribution(base, tuned, batch, metric).top(2))
    while len(chosen) < n:
        with al.neurons.transplant(base, tuned, chosen):
            found = al.neurons.transplant_attribution(base, tuned, batch, metric)
        chosen += [one for one in found.top(len(chosen) + 2) if one not in chosen][:2]
    return chosen


def answers(model, tokenizer, batch, word):
    with torch.no_grad():
        return (last_logits(model, batch).argmax(-1) == ids_of(tokenizer, word)[0]).float().mean()


@pytest.fixture(scope="module")
def chosen(demo, tuned, prompts):
    new, old = ids_of(demo[1], NEW, OLD)
    metric = al.patching.LogitDifference(new, old)
    return ranked(demo[0], tuned, prompts[0], metric, 20)


def test_the_plant_is_one_fact(demo, tuned, prompts):
    base, tokenizer = demo
    assert answers(base, tokenizer, prompts[1], OLD) == 1
    assert answers(tuned, tokenizer, prompts[1], NEW) == 1
    for (subject, relation), value in FACTS.items():
        if subject == SUBJECT and relation != RELATION:
            other = fact_prompts(20, split="test", fact=f"{subject} {relation}")
            assert answers(tuned, tokenizer, batch_of_prompts(tokenizer, other), value) == 1
    mlps = {name for name, _ in base.named_parameters() if ".mlp." in name}
    for name, weight in base.named_parameters():
        assert torch.equal(weight, tuned.get_parameter(name)) == (name not in mlps), name


def test_ten_neurons_restore_the_change_and_twenty_its_logits(demo, tuned, prompts, chosen):
    base, tokenizer = demo
    new, old = ids_of(tokenizer, NEW, OLD)

    def probability(logits):
        return logits.softmax(-1)[:, new]

    curves = {
        name: al.neurons.transplant_curve(
            base, tuned, prompts[1], metric, chosen, sizes=(1, 2, 5, 10, 20)
        )
        for name, metric in (
            ("probability", probability),
            ("logits", al.patching.LogitDifference(new, old)),
        )
    }
    restored = {name: dict(zip(c.sizes, c.restored, strict=True)) for name, c in curves.items()}
    assert restored["probability"][10] >= 0.9
    assert restored["logits"][20] >= 0.85
    assert restored["logits"][10] < 0.9  # the logit difference takes more than ten
    with al.neurons.transplant(base, tuned, chosen[:10]):
        assert answers(base, tokenizer, prompts[1], NEW) == 1
    # Ten neurons at random among those that fire on these prompts do nothing of this.
    with al.capture(base, {"layers.*.mlp.hook_post": al.reducers.FiringRate()}) as stats:
        base(**prompts[0])
    fires = [
        (layer, unit)
        for layer in range(4)
        for unit in (stats[f"layers.{layer}.mlp.hook_post"].fired > 0).nonzero().flatten().tolist()
    ]
    source = torch.Generator().manual_seed(0)
    for _ in range(5):
        lot = [fires[i] for i in torch.randperm(len(fires), generator=source)[:10].tolist()]
        curve = al.neurons.transplant_curve(base, tuned, prompts[1], probability, lot)
        assert curve.restored[-1] < 0.2


def test_other_skills_stay(demo, tuned, chosen):
    base, tokenizer = demo
    before = {one.skill: one for one in measure_skills(base, None, tokenizer, n=200)[0]}
    with al.neurons.transplant(base, tuned, chosen[:10]):
        after = {one.skill: one for one in measure_skills(base, None, tokenizer, n=200)[0]}
    for skill, score in before.items():
        assert abs(after[skill].share - score.share) <= 0.01, skill


def test_the_texts_alone_show_where_the_change_is(demo, tuned, chosen):
    base, tokenizer = demo
    texts = [f"{text} {OLD} ." for text in fact_prompts(64, split="validation")]
    found = al.neurons.diff(base, tuned, tokenizer, texts)
    assert FACT in texts[0]
    # Ranked by the change of what they write, without being told which fact: of 3,584.
    shared = set(found.top(50)) & set(chosen[:10])
    assert len(shared) >= 3
    gained = found.frame(most=50)["gained"]
    assert gained.str.contains(NEW).sum() >= 3
