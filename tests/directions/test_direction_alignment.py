"""Distributed alignment search: its interchange by hand, and what it finds in the demo."""

import numpy as np
import pytest
import torch
from worlds import number_case

import arcee_lab as al

SITE = "layers.2.hook_resid_post"


@pytest.fixture(scope="module")
def case():
    return number_case(40)


def interchanged(model, tokenizer, case, basis, pairs):
    """Answers after the interchange, one pair at a time, with plain torch hooks."""
    found = []
    layer = model.model.layers[2]
    for n in pairs:
        one, two = (
            torch.tensor([tokenizer(texts[n]).input_ids]) for texts in (case.prompts, case.sources)
        )
        with torch.no_grad():
            there = model(two, output_hidden_states=True).hidden_states[3][:, -1]

        def edit(m, args, out, source=there):
            new = out.clone()
            new[:, -1] += (source - out[:, -1]) @ basis.T @ basis
            return new

        handle = layer.register_forward_hook(edit)
        with torch.no_grad():
            logits = model(one).logits[0, -1]
        handle.remove()
        right, wrong = (
            tokenizer(words[n], add_special_tokens=False).input_ids[0]
            for words in (case.target, case.versus)
        )
        found.append(bool(logits[right] > logits[wrong]))
    return np.array(found)


def test_it_finds_what_decides_the_verb(demo, case):
    model, tokenizer = demo
    before = [p.requires_grad for p in model.parameters()]
    found = al.directions.distributed_alignment(
        model,
        tokenizer,
        case.prompts,
        case.sources,
        site=SITE,
        target=case.target,
        versus=case.versus,
        concept="plural",
        toward=[True] * len(case.prompts),
        steps=25,
        seed=1,
        progress=False,
    )
    checks = {check.name: check for check in found.checks}
    trained = checks["interchange accuracy"]
    assert (trained.n, found.rank) == (20, 1)
    order = np.random.default_rng(1).permutation(40)
    by_hand = interchanged(model, tokenizer, case, found.vectors, sorted(order[20:]))
    assert trained.value == by_hand.mean()
    whole = checks["interchange accuracy, whole activations"].value
    assert whole == interchanged(model, tokenizer, case, torch.eye(128), sorted(order[20:])).mean()
    # One direction carries at least what all 128 do together, less two of the 20 pairs; a random
    # one, and one trained on answers exchanged at random, carry less.
    assert trained.value >= whole - 0.1
    assert checks["interchange accuracy, random subspace"].value < trained.value - 0.3
    assert float(found.scale[0]) > 0
    assert [p.requires_grad for p in model.parameters()] == before
    assert all(p.grad is None for p in model.parameters())
    again = al.directions.distributed_alignment(
        model,
        tokenizer,
        case.prompts[:8],
        case.sources[:8],
        site=SITE,
        steps=2,
        progress=False,
        target=case.target[:8],
        versus=case.versus[:8],
        rank=2,
    )
    same = al.directions.distributed_alignment(
        model,
        tokenizer,
        case.prompts[:8],
        case.sources[:8],
        site=SITE,
        steps=2,
        progress=False,
        target=case.target[:8],
        versus=case.versus[:8],
        rank=2,
    )
    assert again == same
    torch.testing.assert_close(again.vectors @ again.vectors.T, torch.eye(2), atol=1e-5, rtol=0)


BAD = [
    ({"rank": 0}, "expected a rank of 1 to 128"),
    ({"rank": 129}, "expected a rank of 1 to 128"),
    ({"steps": 0}, "one step or more"),
    ({"learning_rate": float("nan")}, "a positive rate"),
    ({"site": "layers.*.hook_resid_post"}, "names 4 hook points"),
    ({"site": "layers.0.self_attn.hook_z"}, "one vector per token"),
    ({"target": "keep the"}, "expected an answer of one token"),
    ({"positions": 90}, "no token at position 90"),
    ({"toward": [True]}, "one per pair"),
    ({"batch_size": 0}, "expected at least 1"),
]


@pytest.mark.parametrize(("changes", "said"), BAD)
def test_what_cannot_be_searched_is_refused(demo, case, changes, said):
    settings = {"site": SITE, "target": "sleep", "versus": "sleeps", "steps": 1, "progress": False}
    with pytest.raises(al.errors.ArceeLabError, match=said) as caught:
        al.directions.distributed_alignment(
            *demo, case.prompts[:6], case.sources[:6], **(settings | changes)
        )
    assert str(caught.value).endswith(".")
