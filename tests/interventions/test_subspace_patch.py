"""`Patch(within=)` against plain arithmetic, and steps that a dtype cannot hold."""

import pytest
import torch
from plain import changed
from transformers import ArceeForCausalLM

import arcee_lab as al

SITES = ["layers.1.hook_resid_post", "layers.0.mlp.hook_post", "layers.2.self_attn.hook_z"]


def stock(model):
    twin = ArceeForCausalLM(model.config).eval()
    twin.load_state_dict(model.state_dict())
    twin.set_attn_implementation("eager")
    return twin.to(model.dtype)


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("rank", [1, 3])
def test_only_the_part_in_the_span_is_put_in_place(tiny, site, rank):
    model = tiny(attn="eager")
    ids = torch.randint(3, 50, (2, 2, 7))
    with torch.no_grad(), al.capture(model, site) as acts:
        model(ids[1])
    there = acts[site]
    given = torch.randn(rank, there.shape[-1])
    q = torch.linalg.qr(given.double().T).Q
    patch = al.Patch(site, acts, within=given[0] if rank == 1 else given)

    def edit(x):
        return x + ((there.double() - x.double()) @ q @ q.T).to(x.dtype)

    reference = stock(model)
    with torch.no_grad(), changed(reference, site, edit):
        expected = reference(ids[0]).logits
    with torch.no_grad(), al.intervene(model, [patch]):
        got = model(ids[0]).logits
    # Both project in fp32 or better; the layers after the site round alike.
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(got, model(ids[0]).logits, atol=1e-3)
    again = al.interventions.from_json(al.interventions.to_json(patch))[0]
    assert again == patch
    assert again.within == patch.within


def test_the_whole_space_is_a_whole_patch(tiny):
    model = tiny()
    ids = torch.randint(3, 50, (2, 2, 5))
    site = "layers.0.hook_resid_post"
    with torch.no_grad(), al.capture(model, site) as acts:
        expected = model(ids[1]).logits
    with torch.no_grad(), al.intervene(model, [al.Patch(site, acts, within=torch.eye(32))]):
        got = model(ids[0]).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


REFUSED = [
    (torch.zeros(32), "zero or linearly dependent"),
    (torch.ones(2, 32), "zero or linearly dependent"),
    (torch.ones(31), r"within must be \[32\] or \[k, 32\]"),
    (torch.full((32,), torch.nan), "NaN or infinite"),
    (1.0, "within must be"),
]


@pytest.mark.parametrize(("within", "said"), REFUSED)
def test_directions_that_do_not_fit_are_refused(tiny, within, said):
    patch = al.Patch("layers.0.hook_resid_post", torch.zeros(32), within=within)
    with pytest.raises(al.errors.SettingError, match=said):
        al.intervene(tiny(), [patch])
    with pytest.raises(al.errors.SettingError, match="leave units out"):
        al.Patch("hook_embed", torch.zeros(32), within=torch.ones(32), units=[1])


@pytest.mark.parametrize(
    ("dtype", "direction", "alpha", "fits"),
    [
        (torch.float16, torch.ones(32), 65504.0, True),
        (torch.float16, torch.ones(32), 65600.0, False),
        (torch.float16, 2.0, -40000.0, False),
        (torch.float32, torch.ones(32, dtype=torch.float16), 70000.0, False),
        (torch.float32, torch.ones(32), 70000.0, True),
        (torch.bfloat16, torch.ones(32), 1e39, False),
    ],
)
def test_steps_that_would_become_infinite_are_refused(tiny, dtype, direction, alpha, fits):
    model = tiny(dtype=dtype)
    add = al.Add("layers.0.hook_resid_post", direction, alpha)
    if fits:
        with al.intervene(model, [add]):
            model(torch.tensor([[3, 4]]))
        return
    with pytest.raises(al.errors.SettingError, match=r"give a smaller (alpha|one)\.$"):
        al.intervene(model, [add])
