"""What a capture holds: every site against plain arithmetic, in every kernel and dtype."""

import pytest
import torch
from tiny_calls import CASES, EVERYTHING, POST, batch_of, call_of, reference_of, reference_patterns
from torch import nn

import arcee_lab as al


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_outputs_do_not_change_by_a_bit(tiny, attn, padding, dtype):
    model, batch = tiny(attn=attn, dtype=dtype), batch_of(padding=padding)
    before = model(**batch).logits
    with al.capture(model, EVERYTHING) as acts:
        during = model(**batch).logits
    assert torch.equal(before, during)
    assert torch.equal(before, model(**batch).logits)
    assert torch.equal(acts["hook_logits"], before)


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_sites_equal_arithmetic_on_the_reference(tiny, attn, padding):
    """Each captured site against the same quantity read from transformers' own model."""
    model, batch = tiny(attn=attn, attention_bias=True, mlp_bias=True), batch_of(padding=padding)
    reference = reference_of(model)
    flow: dict[str, torch.Tensor] = {}
    for name, module in reference.named_modules():
        if isinstance(module, nn.Linear) or "norm" in name.lower() or name.endswith("layers.0"):

            def keep(m, args, out, name=name):
                flow[name + "<"], flow[name] = args[0], out

            module.register_forward_hook(keep)
    with torch.no_grad():
        expected = reference(**batch, output_hidden_states=True, output_attentions=True)
    with al.capture(model, EVERYTHING) as acts:
        model(**batch)
    real = batch["attention_mask"].bool()
    heads, kv_heads, d_head = 4, 2, 8

    def close(site, value, *, rows=None):
        got, value = acts[site], value.detach()
        if rows is not None:
            got, value = got[rows], value[rows]
        torch.testing.assert_close(got, value, atol=2e-6, rtol=2e-5, msg=lambda m: f"{site}: {m}")

    close("hook_embed", expected.hidden_states[0])
    for i in range(3):
        at, path = f"layers.{i}", f"model.layers.{i}"
        close(f"{at}.hook_resid_pre", expected.hidden_states[i], rows=real)
        close(f"{at}.hook_resid_mid", flow[f"{path}.post_attention_layernorm<"], rows=real)
        attn_out, mlp_out = flow[f"{path}.self_attn.o_proj"], flow[f"{path}.mlp.down_proj"]
        close(f"{at}.hook_attn_out", attn_out, rows=real)
        close(f"{at}.hook_mlp_out", mlp_out, rows=real)
        resid_post = flow[f"{path}.post_attention_layernorm<"] + mlp_out
        close(f"{at}.hook_resid_post", resid_post, rows=real)
        u = flow[f"{path}.mlp.up_proj"]
        close(f"{at}.mlp.hook_pre", u, rows=real)
        close(f"{at}.mlp.hook_relu", u.clamp_min(0), rows=real)
        close(f"{at}.mlp.hook_post", u.clamp_min(0) ** 2, rows=real)
        zeros = flow[f"{path}.mlp.down_proj<"][real] == 0
        assert torch.equal(acts[f"{at}.mlp.hook_post"][real] == 0, zeros)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            x = flow[f"{path}.{norm}<"]
            scale = (x.pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps) ** -0.5
            close(f"{at}.{norm}.hook_scale", scale, rows=real)
            close(f"{at}.{norm}.hook_normalized", flow[f"{path}.{norm}"], rows=real)
        q, k, v = (
            flow[f"{path}.self_attn.{p}_proj"].unflatten(-1, (n, d_head))
            for p, n in (("q", heads), ("k", kv_heads), ("v", kv_heads))
        )
        close(f"{at}.self_attn.hook_q", q, rows=real)
        close(f"{at}.self_attn.hook_k", k, rows=real)
        close(f"{at}.self_attn.hook_v", v, rows=real)
        positions = torch.arange(9)[:, None] / 10000 ** (torch.arange(0, d_head, 2) / d_head)
        turn = torch.polar(torch.ones_like(positions), positions)[None, :, None]
        rotated = []
        for name, x in (("rot_q", q), ("rot_k", k)):
            turned = torch.complex(x[..., : d_head // 2], x[..., d_head // 2 :]) * turn
            rotated.append(torch.cat([turned.real, turned.imag], -1))
            close(f"{at}.self_attn.hook_{name}", rotated[-1], rows=real)
        shared = rotated[1].repeat_interleave(heads // kv_heads, dim=2)
        scores = torch.einsum("bqhd,bkhd->bhqk", rotated[0], shared) / d_head**0.5
        # Pad rows of the two kernels differ, so that only queries of real tokens are compared.
        queries = real[:, None, :].expand(-1, heads, -1)
        keys = real[:, None, None, :].expand(-1, heads, 9, -1)[queries]
        got = acts[f"{at}.self_attn.hook_scores"][queries]
        torch.testing.assert_close(got[keys], scores[queries][keys], atol=2e-6, rtol=2e-5)
        close(f"{at}.self_attn.hook_pattern", expected.attentions[i], rows=queries)
        z = flow[f"{path}.self_attn.o_proj<"].unflatten(-1, (heads, d_head))
        close(f"{at}.self_attn.hook_z", z, rows=real)
    close("norm.hook_normalized", expected.hidden_states[-1], rows=real)
    close("hook_logits", expected.logits, rows=real)


def test_pattern_rows_of_pads_are_zero_and_others_sum_to_one(tiny):
    for attn in ("eager", "sdpa"):
        model, batch = tiny(attn=attn), batch_of(padding="left")
        with al.capture(model, "*pattern") as acts:
            model(**batch)
        for pattern in acts.values():
            expected = batch["attention_mask"][:, None, :].expand(-1, 4, -1).float()
            torch.testing.assert_close(pattern.sum(-1), expected)


@pytest.mark.parametrize("head", ["base", "causal", "sequence", "token", "qa"])
def test_every_head_reads_the_same_backbone_sites(tiny, head):
    model, causal = tiny(head), tiny("causal")
    getattr(model, "model", model).load_state_dict(causal.model.state_dict())
    batch = batch_of(padding="left")
    with al.capture(causal, ["layers.*", "norm.*"]) as expected:
        causal(**batch)
    with al.capture(model, ["layers.*", "norm.*"]) as acts:
        model(**batch)
    assert list(acts) == list(expected)
    assert all(torch.equal(acts[name], expected[name]) for name in acts)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_write_mode_without_an_edit_is_the_eager_kernel(tiny, attn):
    model, batch = tiny(attn=attn), batch_of(padding="left")
    eager = tiny(attn="eager")
    eager.load_state_dict(model.state_dict())
    for layer in model.model.layers:
        layer.self_attn.pattern_mode = "write"
    assert torch.equal(model(**batch).logits, eager(**batch).logits)


def test_autocast(tiny):
    model, batch = tiny(), batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        before = model(**batch).logits
        with al.capture(model, [POST, "*hook_scale"]) as acts:
            assert torch.equal(model(**batch).logits, before)
    assert acts["layers.0.mlp.hook_post"].dtype == torch.bfloat16
    assert acts["layers.0.input_layernorm.hook_scale"].dtype == torch.float32


def test_meta_device_proves_that_no_capture_reads_back(tiny):
    """On the meta device any host read raises and any stray CPU tensor fails."""
    model = tiny(attn="eager").to("meta")
    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    mask = torch.ones(2, 9, dtype=torch.long, device="meta")
    with al.capture(model, EVERYTHING, positions=[0, -1], dtype=torch.bfloat16) as acts:
        model(input_ids=ids, attention_mask=mask)
    assert all(x.is_meta for x in acts.values())
    assert acts["layers.0.self_attn.hook_pattern"].shape == (2, 4, 2, 9)


def reading(model, **call):
    """The pattern of layer 0 as read next to the kernel."""
    with al.capture(model, "layers.0.self_attn.hook_pattern") as acts:
        model(**call)
    pattern = acts["layers.0.self_attn.hook_pattern"]
    return pattern[-1] if isinstance(pattern, list) else pattern


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_pattern_of_every_mask_is_the_references(tiny, attn, case):
    model = tiny(attn=attn)
    got = reading(model, **call_of(model, case))
    expected = reference_patterns(model, case)[0]
    read_any = ~got.sum(-1).eq(0)
    assert read_any.sum() >= read_any.numel() - 3 * 4
    torch.testing.assert_close(got[read_any], expected[read_any], atol=2e-6, rtol=2e-5)
    assert not got.isnan().any()


@pytest.mark.parametrize("case", ["plain", "chunk", "packed", "padded"])
def test_pattern_beside_a_flash_kernel(tiny, case):
    """A stand-in for the flash kernels, which read no mask matrix and align with the last key."""
    from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
    from transformers.masking_utils import flash_attention_mask

    seen = {}

    def kernel(module, query, key, value, attention_mask, scaling, **kwargs):
        from arcee_lab.model.attention import repeat_kv

        q, k = query.shape[2], key.shape[2]
        allowed = torch.ones(q, k, dtype=torch.bool).tril(k - q)[None, None]
        if attention_mask is not None:
            allowed = allowed & attention_mask[:, None, None, :].bool()
        positions = kwargs["position_ids"]
        if q == k and attention_mask is None:
            sequence = (positions == 0).cumsum(-1)
            allowed = allowed & (sequence[:, None, :, None] == sequence[:, None, None, :])
        groups = module.num_key_value_groups
        scores = query @ repeat_kv(key, groups).transpose(2, 3) * scaling
        pattern = scores.masked_fill(~allowed, -1e30).softmax(-1)
        seen[module.layer_idx] = pattern
        return (pattern @ repeat_kv(value, groups)).transpose(1, 2), None

    AttentionInterface.register("flash_stand_in", kernel)
    AttentionMaskInterface.register("flash_stand_in", flash_attention_mask)
    model, batch = tiny(), batch_of(padding="right", batch=2)
    model.config._attn_implementation = "flash_stand_in"
    ids = batch["input_ids"][:1]
    call: dict = {"input_ids": ids}
    if case == "chunk":
        call["cache"] = DynamicCache(config=model.config)
        model(input_ids=ids[:, :4], cache=call["cache"])
        call["input_ids"] = ids[:, 4:]
    elif case == "packed":
        call["position_ids"] = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
        call["use_cache"] = False
    elif case == "padded":
        call = dict(batch)
    got = reading(model, **call)
    torch.testing.assert_close(got, seen[0], atol=2e-6, rtol=2e-5)
    if case == "packed":
        with pytest.raises(ValueError, match="cu_seq_lens"):
            reading(model, **call, cu_seq_lens_q=torch.tensor([0, 4, 9]))


def test_a_boolean_mask_means_the_same_to_the_eager_kernel(tiny):
    """The reference would add True as 1; here eager, SDPA and the pattern that is read agree."""
    eager, sdpa = tiny(attn="eager"), tiny(attn="sdpa")
    sdpa.load_state_dict(eager.state_dict())
    allowed = torch.ones(9, 9, dtype=torch.bool).tril()[None, None].expand(2, 1, 9, 9)
    call = {"input_ids": batch_of()["input_ids"], "attention_mask": allowed}
    torch.testing.assert_close(eager(**call).logits, sdpa(**call).logits, atol=2e-6, rtol=2e-5)
    with al.capture(eager, ["*pattern", "*hook_z", "*hook_v"]) as acts:
        eager(**call)
    for layer in range(3):
        at = f"layers.{layer}.self_attn"
        v = acts[f"{at}.hook_v"].repeat_interleave(2, dim=2)
        z = torch.einsum("bhqk,bkhd->bqhd", acts[f"{at}.hook_pattern"], v)
        torch.testing.assert_close(z, acts[f"{at}.hook_z"], atol=2e-6, rtol=2e-5)


def test_autocast_pattern_has_the_dtype_that_flowed(tiny):
    model, batch = tiny(attn="eager"), batch_of()
    with torch.autocast("cpu", dtype=torch.bfloat16), al.capture(model, "*pattern") as acts:
        flowed = model(**batch, output_attentions=True).attentions
    for got, expected in zip(acts.values(), flowed, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-5)
