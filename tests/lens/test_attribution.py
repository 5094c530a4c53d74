"""Direct logit attribution against transformers' logits and plain products of weights."""

import pytest
import torch
from lens_cases import SHAPES, batch_for, model_of, reference_logits, reference_streams

import arcee_lab as al

# Logits here are at most a few tens, sums of some hundred fp32 products: 1e-4 is the bound,
# some fifty times what such sums lose.
CLOSE = 1e-4


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("case", SHAPES)
def test_parts_add_up_to_transformers_logit(tiny, case, padding, attn):
    model, batch = model_of(tiny, case, attn=attn), batch_for(padding)
    logits = reference_logits(model, batch, attn)
    found = al.lens.attribute(model, None, batch, 7, versus=11, positions=None, by="neuron")
    real = batch["attention_mask"].bool()
    expected = logits[..., 7] - logits[..., 11]
    total = found.parts.sum(0) + found.head_bias
    assert (total - expected)[real].abs().max() < CLOSE
    assert found.remainder[real].abs().max() < CLOSE
    layers = case[3]
    for layer in range(layers):
        attn_part, mlp_part = found.parts[1 + 2 * layer], found.parts[2 + 2 * layer]
        heads = found.heads[layer].sum(0) + found.attn_bias[layer]
        assert (heads - attn_part)[real].abs().max() < CLOSE
        neurons = found.neurons[layer].sum(-1) + found.mlp_bias[layer]
        assert (neurons - mlp_part)[real].abs().max() < CLOSE
    assert found.parts[:, ~real].isnan().all()


@pytest.mark.parametrize("case", SHAPES)
def test_each_number_is_the_plain_product(tiny, case):
    """Scale and direction from the reference's last stream; heads and neurons from our captures."""
    model, batch = model_of(tiny, case), batch_for("right")
    _reference, streams, _ = reference_streams(model, batch, "sdpa")
    found = al.lens.attribute(model, None, batch, [7, 9], positions=[-1, 0], by="neuron")
    last = list(streams.values())[-1]
    eps = model.config.rms_norm_eps
    for row, (token, length) in enumerate(((7, 9), (9, 6))):
        along = (model.lm_head.weight[token] * model.model.norm.weight).double()
        for place, column in enumerate((length - 1, 0)):
            x = last[row, column].double()
            scale = 1 / (x.pow(2).mean() + eps).sqrt()
            assert (found.scale[row, place] - scale).abs() < 1e-5 * scale
            with (
                torch.no_grad(),
                al.capture(model, ["*hook_z", "*hook_post", "hook_embed"]) as acts,
            ):
                model(**batch)
            embed = (acts["hook_embed"][row, column].double() * along).sum() * scale
            assert (found.parts[0, row, place] - embed).abs() < CLOSE
            for number, layer in enumerate(model.model.layers):
                z = acts[f"layers.{number}.self_attn.hook_z"][row, column].double()
                o = layer.self_attn.o_proj.weight.double().view(32, *z.shape)
                for head in range(len(z)):
                    dense = o[:, head] @ z[head]
                    got = found.heads[number, head, row, place]
                    assert (got - (dense * along).sum() * scale).abs() < CLOSE
                post = acts[f"layers.{number}.mlp.hook_post"][row, column].double()
                dense = post * (along @ layer.mlp.down_proj.weight.double()) * scale
                got = found.neurons[number, row, place]
                assert (got - dense).abs().max() < CLOSE
                active = post > 0
                assert (got[~active] == 0).all()
                assert (got[active].sum() - dense.sum()).abs() < CLOSE


@pytest.mark.parametrize("head", ["sequence", "token", "qa"])
def test_labels_of_other_heads(tiny, head):
    model, batch = model_of(tiny, SHAPES[1], head), batch_for("right")
    with torch.no_grad():
        if head == "token":
            model.score.bias.copy_(torch.tensor([0.5, -2.0, 1.0]))
        if head == "qa":
            model.qa_outputs.bias.copy_(torch.tensor([0.5, -2.0]))
        with al.capture(model, "hook_logits") as acts:
            model(**batch)
    target = "end" if head == "qa" else model.config.id2label[1]
    found = al.lens.attribute(model, None, batch, target)
    logits = acts["hook_logits"]
    at = logits[..., 1] if head == "sequence" else logits[torch.arange(2), [8, 5], 1]
    assert (found.logit[:, 0] - at).abs().max() < CLOSE
    assert found.remainder.abs().max() < CLOSE
    assert float(found.head_bias[0, 0]) == (0.0 if head == "sequence" else -2.0)


@pytest.mark.parametrize("by", ["head", "neuron"])
def test_a_span_is_the_sum_of_its_start_and_its_end(tiny, by):
    model, batch = model_of(tiny, SHAPES[1], "qa"), batch_for("right")
    with torch.no_grad():
        model.qa_outputs.bias.copy_(torch.tensor([0.5, -2.0]))
        output = model(**batch)
    span = al.lens.attribute(model, None, batch, "span", positions=(2, 4), by=by)
    logits = torch.stack([output.start_logits[:, 2], output.end_logits[:, 4]], dim=1)
    assert (span.logit - logits).abs().max() < CLOSE
    assert span.remainder.abs().max() < CLOSE
    assert span.head_bias.tolist() == [[0.5, -2.0]] * 2
    for at, (side, position) in enumerate((("start", 2), ("end", 4))):
        alone = al.lens.attribute(model, None, batch, side, positions=position, by=by)
        assert (span.parts[..., at] - alone.parts[..., 0]).abs().max() < CLOSE
        assert (span.heads[..., at] - alone.heads[..., 0]).abs().max() < CLOSE
        if by == "neuron":
            assert (span.neurons[:, :, at] - alone.neurons[:, :, 0]).abs().max() < CLOSE
    parts = span.heads.sum(dim=1) + span.attn_bias
    assert (parts - span.parts[1::2]).abs().max() < CLOSE


def test_half_precision_says_what_is_left(tiny):
    """The model rounds each stream to 8 bits, so parts fall short by up to that of the stream."""
    model, batch = model_of(tiny, SHAPES[0], dtype=torch.bfloat16), batch_for("none")
    found = al.lens.attribute(model, None, batch, 7, positions=None)
    assert found.logit.dtype == torch.float32
    with torch.no_grad(), al.capture(model, "*hook_resid*") as acts:
        model(**batch)
    along = (model.lm_head.weight[7].float() * model.model.norm.weight.float()).abs()
    # Half a unit in the last place, 2^-9 of the size, at each of the additions.
    sizes = sum(x.float().abs() @ along for name, x in acts.items() if "pre" not in name)
    bound = 2.0**-9 * sizes * found.scale * 1.01
    assert (found.remainder.abs() <= bound).all()
    assert found.remainder.abs().max() > 0


def test_everything_ablated_leaves_the_embedding(tiny):
    """With biases: the embedding and the biases of both blocks, as a model without weights has."""
    model, batch = model_of(tiny, SHAPES[1]), batch_for("none")
    edits = [al.Ablate(["layers.*.self_attn.hook_z", "layers.*.mlp.hook_post"])]
    with al.intervene(model, edits):
        found = al.lens.attribute(model, None, batch, 7, positions=None, by="neuron")
    bare = model_of(tiny, SHAPES[1])
    with torch.no_grad():
        for layer in bare.model.layers:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        bare.load_state_dict(
            {
                n: x
                for n, x in model.state_dict().items()
                if "o_proj.w" not in n and "down_proj.w" not in n
            },
            strict=False,
        )
    logits = reference_logits(bare, batch, "sdpa")
    assert (found.heads == 0).all()
    assert (found.neurons == 0).all()
    total = found.parts[0] + found.attn_bias.sum(0) + found.mlp_bias.sum(0)
    assert (total - logits[..., 7]).abs().max() < CLOSE
    assert found.attn_bias.abs().max() > 0


def test_no_tensor_of_heads_tokens_and_width(tiny, monkeypatch):
    """Per-head numbers take one per head and token: nothing is larger than what a layer makes."""
    import sys
    from pathlib import Path

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "attention"))
    from largest import Largest

    model = tiny(
        hidden_size=96,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=6,
        intermediate_size=96,
        num_hidden_layers=2,
        vocab_size=60,
    )
    ids = torch.randint(3, 60, (1, 64), generator=torch.Generator().manual_seed(0))
    with Largest() as made:
        al.lens.attribute(model, None, {"input_ids": ids}, 7, positions=None)
    assert made.numel < 16 * 64 * 96 / 4  # heads x tokens x d_model would be 98,304
    assert "largest" in sys.modules


def test_views(demo):
    model, tokenizer = demo
    prompts = ["The dogs near the door", "The kings"]
    found = al.lens.attribute(model, tokenizer, prompts, " sleep", versus=" sleeps", by="neuron")
    table = found.frame()
    parts = table[table["head"].isna()].groupby("sequence")["logit"].sum()
    assert abs(parts[0] - float(found.logit[0, 0])) < CLOSE
    heads = table[table["head"].notna() & (table["sequence"] == 1)]
    assert len(heads) == 16
    best = found.top_neurons(4)
    values = found.neurons.mean(dim=(1, 2))
    assert float(best["logit"][0]) == pytest.approx(float(values.flatten()[values.abs().argmax()]))
    assert found.figure().axes
    assert found.figure(what="parts", dark=True).axes
    assert " sleep -  sleeps" in found.headline
