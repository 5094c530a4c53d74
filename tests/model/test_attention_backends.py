"""Every attention kernel of transformers is reached with the right tensors."""

import pytest
import torch
from reference import (
    NAMES,
    assert_close_where_attended,
    assert_same,
    batch,
    labels,
    loss_of,
    pair,
)
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import flash_attention_mask
from transformers.utils import is_flash_attn_2_available

STAND_IN = "stand_in"  # transformers looks for a package where a name has "flash" in it
calls: list[dict] = []


def stand_in(module, query, key, value, attention_mask, *, scaling, dropout=0.0, **kwargs):
    """What a flash kernel computes, from what a flash kernel is given: a 2-D mask or none."""
    calls.append(
        {
            "query": query,
            "key": key,
            "value": value,
            "mask": attention_mask,
            "scaling": scaling,
            "dropout": dropout,
            "layer": module.layer_idx,
            **kwargs,
        }
    )
    q_len, k_len = query.shape[2], key.shape[2]
    allowed = torch.ones(q_len, k_len, dtype=torch.bool).tril(k_len - q_len)[None, None]
    if attention_mask is not None:
        assert attention_mask.shape == (query.shape[0], k_len)
        allowed = allowed & attention_mask[:, None, None].bool()
    groups = module.num_key_value_groups
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    output = functional.scaled_dot_product_attention(query, key, value, allowed, scale=scaling)
    return output.transpose(1, 2).contiguous(), None


@pytest.fixture
def flash():
    """Registers the stand-in next to the real kernels; ends without a trace."""
    AttentionInterface.register(STAND_IN, stand_in)
    AttentionMaskInterface.register(STAND_IN, flash_attention_mask)
    calls.clear()
    yield STAND_IN
    del AttentionInterface._global_mapping[STAND_IN]
    del AttentionMaskInterface._global_mapping[STAND_IN]


@pytest.mark.parametrize("head", NAMES)
@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_flash_kernels_get_what_they_want(flash, head, padding):
    """[batch, head, pos, d_head], kv heads not repeated, and the 2-D mask only where it pads."""
    ours, theirs = pair(head, attn=flash)
    inputs = batch(padding=padding)
    with torch.no_grad():
        mine, other = ours(**inputs), theirs(**inputs)
    assert_same(mine, other)
    assert [call["layer"] for call in calls] == [0, 1, 0, 1]
    for own, reference in zip(calls[:2], calls[2:], strict=True):
        assert own["query"].shape == (3, 4, 10, 8)
        assert own["key"].shape == own["value"].shape == (3, 2, 10, 8)
        assert own["scaling"] == reference["scaling"] == 8**-0.5
        for name in ("query", "key", "value"):
            assert torch.equal(own[name], reference[name])
            assert own[name].stride() == reference[name].stride()
        if padding is None:
            assert own["mask"] is None
        else:
            assert torch.equal(own["mask"].long(), inputs["attention_mask"])
    sdpa, _ = pair(head)
    with torch.no_grad():
        assert_close_where_attended(mine, sdpa(**inputs), inputs["attention_mask"])


def test_flash_arguments_reach_the_kernel(flash):
    """Packed sequences for the flash kernels: cumulative lengths pass through every layer."""
    ours, _ = pair(attn=flash)
    ids = batch(padding=None, rows=1)["input_ids"]
    lengths = torch.tensor([0, 4, 10], dtype=torch.int32)
    packed = {"cu_seq_lens_q": lengths, "cu_seq_lens_k": lengths, "max_length_q": 6}
    with torch.no_grad():
        ours(ids, **packed)
    assert all(torch.equal(call["cu_seq_lens_q"], lengths) for call in calls)
    assert all(call["max_length_q"] == 6 for call in calls)


def test_dropout_reaches_the_kernel_only_in_training(flash):
    ours, _ = pair(attn=flash, attention_dropout=0.25)
    ours(**batch())
    ours.train()(**batch())
    assert [call["dropout"] for call in calls] == [0.0, 0.0, 0.25, 0.25]


def test_attentions_beside_a_flash_kernel(flash):
    """No flash kernel returns a pattern; ours comes from the same tensors and the 2-D mask."""
    _, theirs = pair(attn="eager")
    ours, _ = pair(attn=flash)
    for padding in (None, "left", "right"):
        inputs = batch(padding=padding)
        with torch.no_grad():
            mine = ours(**inputs, output_attentions=True)
            expected = theirs(**inputs, output_attentions=True)
        real = inputs["attention_mask"].bool()
        for got, want in zip(mine.attentions, expected.attentions, strict=True):
            assert (got - want).transpose(1, 2)[real].abs().max() < 2e-6


def test_decoding_through_a_flash_kernel(flash):
    ours, _ = pair(attn=flash)
    sdpa, _ = pair()
    inputs, options = batch(), {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    assert torch.equal(ours.generate(**inputs, **options), sdpa.generate(**inputs, **options))
    assert calls[-1]["query"].shape == (3, 4, 1, 8)
    assert calls[-1]["key"].shape == (3, 2, 15, 8)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
@pytest.mark.parametrize("head", NAMES)
def test_a_missing_flash_package_is_said(head):
    with pytest.raises(ImportError, match=r"[Ff]lash"):
        pair(head, attn="flash_attention_2")


@pytest.mark.gpu
@pytest.mark.parametrize("head", NAMES)
def test_flash_attention_2_itself(head):
    if not is_flash_attn_2_available():
        pytest.skip("flash-attn is not installed")
    models = [m.cuda() for m in pair(head, attn="flash_attention_2", dtype=torch.bfloat16)]
    inputs = {name: value.cuda() for name, value in batch().items()}
    with torch.no_grad():
        assert_same(*(model(**inputs) for model in models))


@pytest.mark.parametrize("head", NAMES)
def test_kernels_agree_and_can_be_switched(head):
    ours, _ = pair(head)
    inputs = batch()
    outputs = []
    for attn in ("sdpa", "eager", "sdpa"):
        ours.set_attn_implementation(attn)
        assert ours.config._attn_implementation == attn
        with torch.no_grad():
            outputs.append(ours(**inputs))
    assert_same(outputs[0], outputs[2])
    assert_close_where_attended(outputs[0], outputs[1], inputs["attention_mask"])


def test_an_unknown_kernel_is_an_error():
    with pytest.raises(ValueError, match="attn_implementation"):
        pair(attn="fastest")


def test_the_default_is_sdpa():
    from arcee_lab.model import ArceeConfig, ArceeModel

    small = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 1, "vocab_size": 10}
    model = ArceeModel(ArceeConfig(**small, num_attention_heads=2))
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("head", NAMES)
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_autocast(head, attn):
    """Mixed precision: the linears run in bf16, weights and their gradients stay fp32."""
    models = pair(head, attn=attn)
    inputs = batch()
    inputs |= labels(head, inputs)
    outputs = []
    for model in models:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            outputs.append(model(**inputs))
        loss_of(head, outputs[-1]).backward()
    assert_same(*outputs)
    weight = getattr(models[0], "model", models[0]).layers[0].mlp.up_proj.weight
    assert weight.grad.dtype == torch.float32


@pytest.mark.filterwarnings("ignore:_compile flag:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:flex_attention called without:UserWarning")
@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("head", NAMES)
def test_flex_attention(head, padding):
    """Outputs and pattern, without the compiler that transformers asks for.

    On CPU flex has no backward.
    """
    models = pair(head, attn="flex_attention")
    _, eager = pair(head, attn="eager")
    inputs = batch(padding=padding)
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        outputs = [model(**inputs) for model in models]
        shown = models[0](**inputs, output_attentions=True)
    assert_same(*outputs)
    expected = eager(**inputs, output_attentions=True)
    assert_close_where_attended(outputs[0], expected, inputs["attention_mask"])
    real = inputs["attention_mask"].bool()
    for got, want in zip(shown.attentions, expected.attentions, strict=True):
        assert (got - want).transpose(1, 2)[real].abs().max() < 2e-6
