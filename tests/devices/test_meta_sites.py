"""No site, cut or call reads from the device: on `meta` a read raises, and so does a CPU tensor."""

import pytest
import torch

import arcee_lab as al
from arcee_lab.hooks.selection import head_axis, position_axis
from arcee_lab.model.anatomy import HEADS, anatomy_of
from arcee_lab.sites import EMBED, FINAL, LAYER

SITES = [site.template.format(L=1) for site in (EMBED, *LAYER, *FINAL)] + ["hook_logits"]
CALLS = {
    # With a 2-D mask under SDPA transformers itself looks whether anything is padded.
    "eager, 2-D mask": ("eager", (2, 9)),
    "SDPA, 4-D mask": ("sdpa", (2, 1, 9, 9)),
    "SDPA, no mask": ("sdpa", None),
}


def inputs_of(shape):
    ids = torch.zeros(2, 9, dtype=torch.long, device="meta")
    if shape is None:
        return {"input_ids": ids}
    return {"input_ids": ids, "attention_mask": torch.ones(shape, device="meta").bool()}


@pytest.fixture(scope="module")
def models(tiny):
    return {attn: tiny(attn=attn).to("meta") for attn in ("eager", "sdpa")}


@pytest.mark.parametrize("case", CALLS)
@pytest.mark.parametrize("site", SITES)
def test_no_site_reads_from_the_device(models, site, case):
    """Whole and under every cut that the site has, as often as planned."""
    attn, mask = CALLS[case]
    model, inputs = models[attn], inputs_of(mask)
    axes = anatomy_of(model).legend.sites()[site].axes
    cuts = {"positions": [0, -1]} if position_axis(axes) is not None else {}
    if head_axis(axes) is not None:
        cuts["heads"] = [1]
    if axes[-1] not in ("k_pos", "1"):
        cuts["units"] = [3, 0]
    for kept in ({}, cuts, {"dtype": torch.bfloat16, "device": "meta", **cuts}):
        with al.capture(model, site, **kept) as acts:
            model(**inputs)
        asked = {name: kept[name] for name in kept if name != "device"}
        (planned,) = al.plan(model, site, batch=2, length=9, **asked).sites
        assert acts[site].is_meta
        assert acts[site].shape == planned.shape
        assert acts[site].dtype == planned.dtype


@pytest.mark.parametrize("head", HEADS)
def test_no_head_reads_from_the_device(tiny, head):
    model = tiny(head, attn="eager").to("meta")
    with al.capture(model, ["*", "*pattern", "*scores"], grad=True) as acts:
        output = model(**inputs_of((2, 9)))
        output[0].sum().backward()
    assert all(x.is_meta for x in acts.values())
    assert acts.grad("hook_embed").is_meta


def test_no_decoding_step_reads_from_the_device(models):
    """A step with a cache, where positions count the tokens of the step."""
    model = models["eager"]
    with al.capture(model, ["*", "*pattern", "*scores"], positions=-1) as acts:
        cache = model(**inputs_of((2, 9)), use_cache=True).cache
        step = torch.zeros(2, 1, dtype=torch.long, device="meta")
        mask = torch.ones(2, 10, dtype=torch.long, device="meta")
        model(step, attention_mask=mask, cache=cache)
    assert all(x.is_meta for steps in acts.values() for x in steps)
    assert acts["layers.0.self_attn.hook_pattern"][1].shape == (2, 4, 1, 10)
