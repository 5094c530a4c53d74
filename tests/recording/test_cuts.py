"""Positions, heads, units, dtypes and devices: what is cut from an activation, and how."""

import pytest
import torch
from tiny_calls import POST, batch_of

import arcee_lab as al


@pytest.mark.parametrize("padding", [None, "left", "right"])
def test_positions_count_attended_tokens(tiny, padding):
    model, batch = tiny(), batch_of(padding=padding)
    sites = [
        "layers.1.mlp.hook_post",
        "layers.1.self_attn.hook_pattern",
        "layers.1.self_attn.hook_q",
    ]
    with al.capture(model, sites) as whole:
        model(**batch)
    with al.capture(model, sites, positions=[0, 2, -1, 7]) as cut:
        model(**batch)
    for site, axis in zip(sites, (1, 2, 1), strict=True):
        for row in range(2):
            real = batch["attention_mask"][row].nonzero().flatten()
            full = whole[site][row].movedim(axis - 1, 0)
            part = cut[site][row].movedim(axis - 1, 0)
            for i, p in enumerate((0, 2, -1, 7)):
                if p < len(real) and site.endswith("pattern"):
                    # Multiplied for these queries alone, which may sum in another order.
                    torch.testing.assert_close(part[i], full[real[p]], atol=2e-6, rtol=0)
                elif p < len(real):
                    assert torch.equal(part[i], full[real[p]])
                else:
                    assert part[i].isnan().all()


@pytest.mark.parametrize("attention_mask", ["none", "4d bool", "4d additive"])
def test_positions_read_every_kind_of_mask(tiny, attention_mask):
    model, batch = tiny(attn="eager"), batch_of(padding="left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    causal = torch.ones(9, 9, dtype=torch.bool).tril()[None, None] & mask[:, None, None, :].bool()
    additive = torch.zeros(causal.shape).masked_fill(~causal, torch.finfo(torch.float32).min)
    given = {"none": None, "4d bool": causal, "4d additive": additive}[attention_mask]
    if attention_mask == "4d bool":
        model.set_attn_implementation("sdpa")
    with al.capture(model, "layers.0.hook_resid_post") as whole:
        model(input_ids=ids, attention_mask=given)
    with al.capture(model, "layers.0.hook_resid_post", positions=0) as cut:
        model(input_ids=ids, attention_mask=given)
    first = 0 if attention_mask == "none" else 3
    rows = whole["layers.0.hook_resid_post"]
    assert torch.equal(cut["layers.0.hook_resid_post"][0, 0], rows[0, 0])
    assert torch.equal(cut["layers.0.hook_resid_post"][1, 0], rows[1, first])


def test_units_heads_and_dtype_are_cut_in_the_hook(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, [POST, "*hook_z", "*pattern"]) as whole:
        model(**batch)
    with al.capture(model, POST, units=[70, 3], dtype=torch.float16) as neurons:
        model(**batch)
    with al.capture(model, ["*hook_z", "*pattern"], heads=[3, 1]) as heads:
        model(**batch)
    for name, x in neurons.items():
        assert torch.equal(x, whole[name][..., [70, 3]].half())
        assert x.is_contiguous()
        assert x.untyped_storage().nbytes() == x.numel() * 2
    for name, x in heads.items():
        axis = 1 if name.endswith("pattern") else 2
        assert torch.equal(x, whole[name].index_select(axis, torch.tensor([3, 1])))
        assert x.untyped_storage().nbytes() == x.numel() * 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"sites": "layers.9.mlp.hook_post"}, "matches no hook point"),
        ({"sites": POST, "units": [72]}, r"units \[72\] out of range .* expected 0 to 71"),
        ({"sites": POST, "units": [-1]}, "out of range"),
        ({"sites": POST, "units": []}, "one or more whole numbers"),
        ({"sites": POST, "heads": 0}, "has none"),
        ({"sites": "*hook_k", "heads": [2]}, r"expected 0 to 1 \(kv_head\)"),
        ({"sites": "*pattern", "units": 0}, "has none"),
        ({"sites": POST, "dtype": torch.int8}, "floating dtype"),
    ],
)
def test_bad_arguments_are_errors_before_the_forward(tiny, arguments, said):
    with pytest.raises(ValueError, match=said):
        al.capture(tiny(), **arguments)


def test_sequence_logits_have_no_positions(tiny):
    with pytest.raises(ValueError, match="hook_logits has none"):
        al.capture(tiny("sequence"), "hook_logits", positions=0)


@pytest.mark.gpu
def test_gpu_to_host_copies_are_pinned_and_complete(tiny):
    model = tiny().to("cuda")
    batch = {k: v.to("cuda") for k, v in batch_of().items()}
    with al.capture(model, POST) as there, al.capture(model, POST, device="cpu") as here:
        model(**batch)
    for name in there:
        assert there[name].is_cuda
        assert here[name].is_pinned()
        assert torch.equal(here[name], there[name].cpu())


def test_positions_of_shortened_logits_are_refused(tiny):
    model, batch = tiny(), batch_of()
    said = "positions count the 9 tokens of a call"
    with pytest.raises(ValueError, match=said), al.capture(model, "hook_logits", positions=0):
        model(**batch, logits_to_keep=1)


def test_positions_under_a_cache_and_a_mask_longer_than_it(tiny):
    """The mask's columns after the cached tokens are the call's, also in a padded static cache."""
    from transformers import DynamicCache, StaticCache

    model, batch = tiny(), batch_of(padding="left")
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with al.capture(model, "layers.0.hook_resid_post") as whole:
        model(input_ids=ids, attention_mask=mask)
    rows = whole["layers.0.hook_resid_post"]
    for cache in (DynamicCache(config=model.config), StaticCache(model.config, max_cache_len=16)):
        longer = torch.nn.functional.pad(mask, (0, 7)) if isinstance(cache, StaticCache) else mask
        with al.capture(model, "layers.0.hook_resid_post", positions=[0, -1]) as cut:
            first = mask[:, :5] if isinstance(cache, DynamicCache) else longer
            model(input_ids=ids[:, :5], attention_mask=first, cache=cache)
            model(input_ids=ids[:, 5:], attention_mask=longer, cache=cache)
        early, late = cut["layers.0.hook_resid_post"]
        for got, row, position in (
            (early[0, 0], 0, 0),
            (early[1, 0], 1, 3),
            (early[1, 1], 1, 4),
            (late[0, 0], 0, 5),
            (late[1, 1], 1, 8),
        ):
            torch.testing.assert_close(got, rows[row, position], atol=1e-6, rtol=1e-5)


def test_tensors_under_two_names_are_copied_once(tiny):
    """To another device, in another dtype or cut: still one storage a tensor."""
    model, batch = tiny(), batch_of()
    sites = ["hook_embed", "*hook_resid_pre", "*hook_resid_post"]
    with al.capture(model, sites, device="meta") as moved:
        model(**batch)
    with al.capture(model, sites, dtype=torch.bfloat16, positions=[0, 1]) as cut:
        model(**batch)
    for acts in (moved, cut):
        assert acts["hook_embed"] is acts["layers.0.hook_resid_pre"]
        assert acts["layers.0.hook_resid_post"] is acts["layers.1.hook_resid_pre"]
        assert len({id(x) for x in acts.values()}) == 4
