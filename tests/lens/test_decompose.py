"""The residual stream as a sum, against transformers' own streams."""

import pytest
import torch
from lens_cases import SHAPES, batch_for, model_of, reference_streams

import arcee_lab as al


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("by", ["part", "head"])
def test_parts_add_up_to_the_stream_at_every_site(tiny, case, padding, by):
    model, batch = model_of(tiny, case), batch_for(padding)
    reference, streams, _ = reference_streams(model, batch, "sdpa")
    real = batch["attention_mask"].bool()
    for name, stream in streams.items():
        found = al.lens.decompose(model, None, batch, site=name, by=by, positions=None)
        assert torch.equal(found.stream[real], stream[real])
        # Sums of at most forty vectors whose entries are of size one.
        assert (found.parts.sum(0) - stream)[real].abs().max() < 1e-5
        assert found.remainder[real].abs().max() < 1e-5
        assert (found.accumulated()[-1] - stream)[real].abs().max() < 1e-5
        path = reference.model.get_submodule(found.norm)
        with torch.no_grad():
            normed = path(stream)
        assert (found.normalised().sum(0) - normed)[real].abs().max() < 1e-4
        assert found.stream[~real].isnan().all()


def test_labels_and_parts_are_what_was_added(tiny):
    model, batch = model_of(tiny, SHAPES[1]), batch_for("right")  # with biases
    with torch.no_grad(), al.capture(model, ["*attn_out", "*mlp_out", "*hook_z", "*embed"]) as acts:
        model(**batch)
    found = al.lens.decompose(model, None, batch)
    assert found.labels == ("embed", "L0/attn", "L0/mlp", "L1/attn", "L1/mlp")
    for number, name in enumerate(
        ["hook_embed", *(f"layers.{i}.hook_{w}_out" for i in (0, 1) for w in ("attn", "mlp"))]
    ):
        last = acts[name][torch.arange(2), [8, 5]]
        assert torch.equal(found.parts[number, :, 0], last)
    heads = al.lens.decompose(model, None, batch, by="head", site="layers.0.hook_resid_mid")
    assert heads.labels == ("embed", *(f"L0/H{h}" for h in range(4)), "L0/attn bias")
    block = model.model.layers[0].self_attn
    z = acts["layers.0.self_attn.hook_z"][0, 8]
    weight = block.o_proj.weight.view(32, *z.shape)
    for head in range(4):
        torch.testing.assert_close(
            heads.parts[1 + head, 0, 0], weight[:, head] @ z[head], rtol=1e-5, atol=1e-6
        )
    assert torch.equal(heads.parts[-1, 1, 0], block.o_proj.bias)
    pre = al.lens.decompose(model, None, batch, site="layers.1.hook_resid_pre")
    assert pre.labels == ("embed", "L0/attn", "L0/mlp")
    assert pre.norm == "layers.1.input_layernorm"


def test_accumulated_are_the_streams_after_each_part(tiny):
    model, batch = model_of(tiny, SHAPES[0]), batch_for("none")
    _, streams, _ = reference_streams(model, batch, "sdpa")
    found = al.lens.decompose(model, None, batch, positions=None).accumulated()
    for number, stream in enumerate(streams.values()):
        assert (found[number] - stream).abs().max() < 1e-5


def test_products_with_the_target_are_the_attribution(demo):
    """The two calls agree: a part, normalised, times the row of the head."""
    model, tokenizer = demo
    prompt = "The dogs near the door"
    parts = al.lens.decompose(model, tokenizer, prompt, by="part").normalised()
    (token,) = al.lens.first_tokens(tokenizer, " sleep")
    found = al.lens.attribute(model, tokenizer, prompt, " sleep")
    products = parts @ model.lm_head.weight[token].detach()
    torch.testing.assert_close(products, found.parts, rtol=1e-4, atol=1e-4)


def test_views(demo):
    model, tokenizer = demo
    found = al.lens.decompose(model, tokenizer, ["The dogs", "The kings sleep"], by="head")
    table = found.frame()
    assert table.groupby("sequence")["share"].sum().sub(1).abs().max() < 1e-4
    assert found.figure().axes
    assert "21 parts" in found.headline
