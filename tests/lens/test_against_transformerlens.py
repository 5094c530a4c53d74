"""What TransformerLens computes from a cache after folding the norms, next to one call here.

`transformerlens.safetensors` is written by `python3 run.py bench lens_values`, on the weights that
are stored in tests/recording.
"""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import arcee_lab as al
from arcee_lab.attention import DuplicateToken, Induction, Offset
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

HERE = Path(__file__).parent
WEIGHTS = HERE.parent / "recording" / "lens_values.safetensors"
RIGHT, WRONG = 7, 11  # as in benchmarks/lens_values.py


@pytest.fixture(scope="module")
def model():
    with safe_open(WEIGHTS, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
        names = [name for name in file.keys() if name.startswith("weights/")]  # noqa: SIM118
        weights = {name.split("/")[1]: file.get_tensor(name) for name in names}
    made = ArceeForCausalLM(ArceeConfig(**config)).eval()
    made.load_state_dict(weights)
    return made


@pytest.fixture(scope="module")
def ids():
    with safe_open(WEIGHTS, framework="pt") as file:
        return file.get_tensor("ids")


@pytest.fixture(scope="module")
def theirs():
    with safe_open(HERE / "transformerlens.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def same(ours, other):
    """Within 1e-5 of the quantity's scale."""
    assert ours.shape == other.shape
    off = (ours - other).abs().max()
    assert off <= 1e-5 * other.abs().max(), float(off / other.abs().max())


def test_decompositions(model, ids, theirs):
    batch = {"input_ids": ids}
    parts = al.lens.decompose(model, None, batch, positions=None)
    same(parts.parts, theirs["decompose_resid"])
    same(parts.accumulated(), theirs["accumulated_resid"])
    same(parts.normalised() / parts.gain, theirs["apply_ln_to_stack"])  # theirs is in W_U
    mid = al.lens.decompose(model, None, batch, site="layers.1.hook_resid_mid", positions=None)
    same(mid.parts, theirs["decompose_resid_mid_1"])
    heads = al.lens.decompose(model, None, batch, by="head", positions=None)
    place = {label: number for number, label in enumerate(heads.labels)}
    order = [f"L{layer}H{head}" for layer in range(2) for head in range(4)]
    ours = heads.parts[[place[name.replace("H", "/H")] for name in order]]
    same(ours, theirs["stack_head_results"])
    full = torch.stack([*ours, *heads.parts[[place["L0/mlp"], place["L1/mlp"], place["embed"]]]])
    same(full, theirs["get_full_resid_decomposition"][:11])
    assert (theirs["get_full_resid_decomposition"][11] == 0).all()  # biases; Arcee has none


def test_attributions(model, ids, theirs):
    found = al.lens.attribute(
        model, None, {"input_ids": ids}, RIGHT, versus=WRONG, positions=None, by="neuron"
    )
    same(found.parts, theirs["logit_attrs_parts"])
    same(found.heads.flatten(0, 1), theirs["logit_attrs_heads"])
    neurons = theirs["logit_attrs_neurons"]  # 8 heads, 2 x 24 neurons, embedding, biases
    same(found.neurons.permute(0, 3, 1, 2).flatten(0, 1), neurons[8:56])
    same(found.parts[0], neurons[56])


def test_ranks(model, ids, theirs):
    """At all sites but the last place of each row, whose answer is another there."""
    found = al.lens.logit_lens(model, None, {"input_ids": ids})
    assert torch.equal(found.ranks[:, :, :-1, 0], theirs["ranks"][:, :, :-1])


def test_circuits(model, theirs):
    """Their matrices act on rows, ours on columns: each is the other's transpose.

    Folding the final norm leaves OV and QK alone; the gain of the layer's norm is in both.
    """
    for layer in range(2):
        for head in range(4):
            ov, qk = al.attention.ov(model, layer, head), al.attention.qk(model, layer, head)
            same(ov.dense().T, theirs["OV"][layer, head])
            same(qk.dense(), theirs["QK"][layer, head])
            same(ov.svd()[1], theirs["OV_singular_values"][layer, head][:4])
            same(ov.norm()[None], theirs["OV_norm"][layer, head].reshape(1))


@pytest.mark.parametrize("kind", ["q", "k", "v"])
def test_composition(model, theirs, kind):
    """Theirs is [writer layer, writer head, reader layer, reader head], 0 where ours is NaN."""
    ours = al.attention.composition(model, kind).scores.permute(2, 3, 0, 1)
    same(ours.nan_to_num(0), theirs[f"composition_{kind.upper()}"])


def test_detectors(model, theirs):
    """Theirs divides by all tokens, ours by those for which the rule marks a key."""
    ids = theirs["repeated"]
    rules = [Offset(1), DuplicateToken(), Induction()]
    with torch.no_grad(), al.attention.heads(model, rules) as stats:
        model(ids, use_cache=False)
    for rule, name in zip(rules, ("previous_token", "duplicate_token", "induction"), strict=True):
        found = stats[rule]
        ours = found.mean * found.n / ids.shape[1]
        same(ours.float(), theirs[f"detected_{name}"])
