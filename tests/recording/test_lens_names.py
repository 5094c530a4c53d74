"""TransformerLens's names: those we accept mean the same values, those we refuse do not.

`lens_values.safetensors` holds what TransformerLens's bridge computed for a tiny model, and the
model's weights; `python3 run.py bench lens_values` renews it.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import arcee_lab as al
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.sites import Legend

FILE = Path(__file__).with_name("lens_values.safetensors")
# What each of them is called here, to show that it differs.
REFUSED = {
    "ln1.hook_scale": "input_layernorm.hook_scale",
    "ln1.hook_normalized": "input_layernorm.hook_normalized",
    "ln2.hook_scale": "post_attention_layernorm.hook_scale",
    "ln2.hook_normalized": "post_attention_layernorm.hook_normalized",
    "attn.hook_attn_scores": "self_attn.hook_scores",
}
ACCEPTED = [
    "hook_resid_pre",
    "ln1.hook_out",
    *(f"attn.hook_{name}" for name in ("q", "k", "v", "rot_q", "rot_k", "pattern", "z")),
    "hook_attn_out",
    "hook_resid_mid",
    "ln2.hook_out",
    "mlp.hook_pre",
    "mlp.hook_post",
    "hook_mlp_out",
    "hook_resid_post",
]
# Sums of 24 terms at most, each rounded to 2**-24 of values below 100, through two layers: 6e-4;
# the values that are refused differ by more than 0.1.
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture(scope="module")
def stored():
    """(TransformerLens's values by its names, ours by our names, our model)."""
    with safe_open(FILE, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    model = ArceeForCausalLM(ArceeConfig(**config)).eval()
    weights = {n.split("/")[1]: x for n, x in tensors.items() if n.startswith("weights/")}
    model.load_state_dict(weights)
    with torch.no_grad(), al.capture(model, ["*", "*pattern", "*scores"]) as acts:
        model(input_ids=tensors["ids"])
    theirs = {n.split("/")[1]: x for n, x in tensors.items() if n.startswith("values/")}
    return theirs, dict(acts), model


def test_accepted_names_are_exactly_these(stored):
    theirs, _, _ = stored
    legend, accepted = Legend(2, "causal"), set()
    for name in theirs:
        try:
            legend.resolve(name)
        except ValueError:
            continue
        accepted.add(name)
    layers = {f"blocks.{layer}.{name}" for layer in range(2) for name in ACCEPTED}
    assert accepted == layers | {"hook_embed", "ln_final.hook_out"}


@pytest.mark.parametrize(
    "name",
    [
        *(f"blocks.{layer}.{name}" for layer in range(2) for name in ACCEPTED),
        "hook_embed",
        "ln_final.hook_out",
    ],
)
def test_an_accepted_name_means_the_same_value(stored, name):
    theirs, ours, _ = stored
    (site,) = Legend(2, "causal").resolve(name)
    assert torch.allclose(ours[site], theirs[name], **CLOSE)


@pytest.mark.parametrize(
    ("name", "site"),
    [
        *((f"blocks.1.{name}", f"layers.1.{site}") for name, site in REFUSED.items()),
        ("ln_final.hook_scale", "norm.hook_scale"),
        ("ln_final.hook_normalized", "norm.hook_normalized"),
    ],
)
def test_a_refused_name_means_another_value(stored, name, site):
    theirs, ours, model = stored
    with pytest.raises(ValueError, match="has no alias"):
        al.capture(model, name)
    x, y = ours[site], theirs[name].nan_to_num(neginf=-1e9)
    assert (x - y).abs().max() > 0.1
    if name.endswith("hook_normalized"):  # as the error says
        weight = model.get_submodule(f"model.{site.rsplit('.', 1)[0]}").weight
        assert torch.allclose(x / weight, theirs[name], **CLOSE)
    elif name.endswith("hook_scale"):
        assert torch.allclose(1 / x, theirs[name], **CLOSE)


def test_logits_are_the_same(stored):
    theirs, ours, _ = stored
    assert torch.allclose(ours["hook_logits"], theirs["unembed.hook_out"], **CLOSE)
