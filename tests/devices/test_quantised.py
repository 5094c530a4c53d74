"""int8 weights: every site has its name, its shape and its place in the order; blocks act there."""

import pytest
import torch
from tiny_calls import EVERYTHING, batch_of, hooks_of
from transformers import QuantoConfig

import arcee_lab as al
from arcee_lab.model.anatomy import HEADS

SPREAD = 0.1  # of the largest value: int8 rounds a weight by 1/254 of its row's largest


@pytest.fixture(scope="module")
def pairs(tiny, tmp_path_factory):
    """By head a model and the same in int8."""

    def both(head):
        full, folder = tiny(head), tmp_path_factory.mktemp(head)
        full.save_pretrained(folder)
        config = QuantoConfig(weights="int8")
        small = HEADS[head].from_pretrained(folder, quantization_config=config).eval()
        backbone = getattr(small, "model", small)
        assert type(backbone.layers[0].mlp.up_proj) is not torch.nn.Linear
        return full, small

    return {head: both(head) for head in HEADS}


def near(got, expected):
    return (got - expected).abs().max() <= SPREAD * expected.abs().max()


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_every_site_fires_under_its_name(pairs, head):
    full, small = pairs[head]
    batch = batch_of(padding="left")
    plain = small(**batch)[0]
    with al.capture(full, EVERYTHING) as wanted:
        full(**batch)
    with al.capture(small, EVERYTHING) as acts:
        assert torch.equal(small(**batch)[0], plain)
    assert list(acts) == list(wanted)
    for site in wanted:
        assert acts[site].shape == wanted[site].shape
        assert acts[site].dtype == wanted[site].dtype
        assert near(acts[site], wanted[site]), site
    assert any(not torch.equal(acts[site], wanted[site]) for site in acts)


@torch.no_grad()
def test_interventions_and_head_statistics(pairs):
    full, small = pairs["causal"]
    batch = batch_of(padding="left")
    plain, hooks = small(**batch).logits, hooks_of(small)
    changes = [
        al.Ablate("layers.1.mlp.hook_post", units=[3, 70]),
        al.Scale("layers.0.self_attn.hook_pattern", 0.5, heads=[1]),
    ]
    found = []
    for model in (full, small):
        stats = al.attention.heads(model, [al.attention.Entropy(), al.attention.Offset(1)])
        with al.intervene(model, changes), stats, al.capture(model, "*.hook_post") as acts:
            logits = model(**batch).logits
        assert (acts["layers.1.mlp.hook_post"][..., [3, 70]] == 0).all()
        found.append((logits, stats["entropy"].mean.float(), stats["offset_1"].mean.float()))
    assert all(near(got, expected) for expected, got in zip(*found, strict=True))
    assert not torch.equal(found[1][0], plain)
    assert hooks_of(small) == hooks
    assert torch.equal(small(**batch).logits, plain)
