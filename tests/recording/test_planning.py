"""The plan announces what a capture holds, to the byte."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import arcee_lab as al
from arcee_lab.sites import Legend

ALL = ["*", "*scores", "*pattern"]


def held(acts) -> int:
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in acts.values()}
    return sum(storages.values())


@given(
    head=st.sampled_from(["base", "causal", "sequence", "token", "qa"]),
    attn=st.sampled_from(["eager", "sdpa"]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    stored=st.sampled_from([None, torch.float16, torch.float32]),
    batch=st.integers(1, 3),
    length=st.integers(1, 11),
    chosen=st.sets(st.sampled_from(Legend(3, "base").resolve(ALL)), min_size=1),
)
def test_bytes_of_distinct_storages(tiny, head, attn, dtype, stored, batch, length, chosen):
    model = tiny(head, attn=attn, dtype=dtype)
    plan = al.plan(model, list(chosen), batch=batch, length=length, dtype=stored)
    with al.capture(model, list(chosen), dtype=stored) as acts:
        model(input_ids=torch.randint(3, 50, (batch, length)))
    assert plan.bytes == held(acts)
    for row in plan.sites:
        assert row.shape == tuple(acts[row.site].shape)
        assert row.dtype == acts[row.site].dtype


@pytest.mark.parametrize("head", ["base", "causal", "sequence", "token", "qa"])
def test_every_site_at_once(tiny, head):
    model = tiny(head)
    with al.capture(model, ALL) as acts:
        model(input_ids=torch.randint(3, 50, (2, 9)))
    assert al.plan(model, ALL, batch=2, length=9).bytes == held(acts)


def test_cuts_are_announced_too(tiny):
    model, sites = tiny(), ["*hook_z", "*hook_q"]
    cut = {"heads": [0, 3], "units": [1, 2, 5], "positions": [0, -1]}
    with al.capture(model, sites, **cut) as acts:
        model(input_ids=torch.randint(3, 50, (2, 9)))
    plan = al.plan(model, sites, batch=2, length=9, **cut)
    assert plan.bytes == held(acts) == 6 * 2 * 2 * 2 * 3 * 4


def test_afm_on_the_meta_device():
    from arcee_lab.model import ArceeConfig, ArceeForCausalLM

    with torch.device("meta"):
        model = ArceeForCausalLM(ArceeConfig.afm_4_5b()).to(torch.bfloat16)
    plan = al.plan(model, "layers.*.mlp.hook_post", batch=8, length=2048)
    assert plan.bytes == 36 * 8 * 2048 * 18432 * 2
    assert "20.2 GiB" in str(plan) == repr(plan)
    assert len(plan.frame()) == 36
    assert "hook_post" in plan._repr_html_()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"batch": 0, "length": 4}, "at least 1"),
        ({"batch": 1, "length": 4, "units": [99]}, "out of range"),
    ],
)
def test_bad_plans(tiny, arguments, said):
    with pytest.raises(ValueError, match=said):
        al.plan(tiny(), "layers.*.mlp.hook_post", **arguments)
