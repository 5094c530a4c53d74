"""The Jacobian lens against derivatives of transformers' own model, one window at a time."""

import numpy as np
import pytest
import torch
from lens_cases import SHAPES, model_of
from tiny_calls import reference_of

import arcee_lab as al
from arcee_lab.data.windows import Windows

LENGTHS = (5, 9, 7, 2, 8)  # tokens of windows, one document each
SKIP = 2


def windows():
    """Windows of random tokens, each a document of its own."""
    bounds = np.concatenate([[0], np.cumsum(LENGTHS)])
    ids = np.random.default_rng(0).integers(3, 50, bounds[-1]).astype(np.int32)
    return Windows(ids, bounds, np.arange(len(LENGTHS)), None, 0)


def last_stream(reference, ids, site):
    """The stream at a site, and the function from it to the last residual stream."""
    layers = reference.model.layers
    module = (
        reference.model.embed_tokens if site == "hook_embed" else layers[int(site.split(".")[1])]
    )
    kept = {}

    def of(module):
        return lambda m, args, out: kept.__setitem__(module, out)

    handle = module.register_forward_hook(of("start"))
    with torch.no_grad():
        reference.model(ids, use_cache=False)
    handle.remove()

    def later(x):
        handles = [
            module.register_forward_hook(lambda m, args, out: x),
            reference.model.norm.register_forward_pre_hook(
                lambda m, args: kept.__setitem__("end", args[0])
            ),
        ]
        try:
            reference.model(ids, use_cache=False)
        finally:
            for each in handles:
                each.remove()
        return kept["end"]

    return kept["start"], later


def mean_derivative(reference, ids, site):
    """`[d, d]` from the whole matrix of derivatives; None where no token is left to read."""
    x, later = last_stream(reference, ids, site)
    whole = torch.autograd.functional.jacobian(later, x)[0, :, :, 0]  # [t', d, t, d]
    chosen = range(SKIP, ids.shape[1] - 1)
    if not chosen:
        return None
    sums = [sum(whole[late, :, early] for late in chosen if late >= early) for early in chosen]
    return sum(sums) / len(sums)


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("case", SHAPES[:3])
def test_maps_are_mean_derivatives(tiny, case, attn):
    model, texts = model_of(tiny, case, attn=attn, dtype=torch.float64), windows()
    before = {name: x.clone() for name, x in model.named_parameters()}
    sites = ["hook_embed", "layers.0.hook_resid_post"]
    lens = al.lens.fit_jacobian(
        model, None, texts, sites=sites, skip=SKIP, held_out=0.2, batch_size=2, seed=3
    )
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(3)).tolist()
    reference = reference_of(model, attn).double()
    assert lens.kind == "Jacobian lens"
    for number, site in enumerate(sites):
        found = [
            mean_derivative(reference, torch.from_numpy(texts[row][None].astype(np.int64)), site)
            for row in order[1:]  # the first is held out
        ]
        found = [one for one in found if one is not None]
        expected = sum(found) / len(found)
        ours = lens.maps[number] + torch.eye(len(expected))
        # Both are computed in double precision; the lens keeps single.
        torch.testing.assert_close(ours.double(), expected, rtol=2**-20, atol=2**-20)
        assert not lens.shifts[number].any()
    assert lens.settings["fitted_windows"] == len(found)
    assert all(torch.equal(x, before[name]) for name, x in model.named_parameters())
    assert all(x.grad is None for x in model.parameters())


def test_a_layer_that_adds_nothing_leaves_the_plain_lens(tiny):
    """The derivative is 1 then."""
    model = model_of(tiny, SHAPES[0])
    last = model.model.layers[-1]
    with torch.no_grad():
        last.self_attn.o_proj.weight.zero_()
        last.mlp.down_proj.weight.zero_()
    site = f"layers.{len(model.model.layers) - 2}.hook_resid_post"
    lens = al.lens.fit_jacobian(model, None, windows(), sites=site, skip=0, held_out=0.2)
    # Exact but for the division by the number of tokens and of windows.
    torch.testing.assert_close(lens.maps[0], torch.zeros_like(lens.maps[0]), rtol=0, atol=2**-20)
    assert [*lens.plain_kl, *lens.tuned_kl] == pytest.approx([0, 0], abs=1e-6)


def test_it_is_saved_read_and_used_like_a_tuned_lens(tiny, tmp_path):
    model = model_of(tiny, SHAPES[0])
    site = "layers.1.hook_resid_post"
    lens = al.lens.fit_jacobian(model, None, windows(), sites=site, skip=1, held_out=0.2)
    lens.save(tmp_path / "lens")
    again = al.lens.TunedLens.load(tmp_path / "lens", model)
    assert again.kind == "Jacobian lens"
    assert torch.equal(again.maps[0], lens.maps[0])
    ids = torch.tensor([[5, 9, 11, 20]])
    seen = al.lens.logit_lens(model, None, {"input_ids": ids}, sites=site, lens=again, top=0)
    assert seen.lens == "Jacobian lens"
    with torch.no_grad(), al.capture(model, site) as acts:
        model(ids)
    x = acts[site]
    with torch.no_grad():
        said = model.lm_head(model.model.norm(x + x @ lens.maps[0].T))
    real = seen.answers[0, :, 0] >= 0
    own = said[0].gather(1, seen.answers[0].clamp_min(0))
    torch.testing.assert_close(seen.logits[0, 0][real], own[real])
    assert "The Jacobian lens is" in lens.figure().axes[0].get_title("left")
    assert lens.headline.startswith("Jacobian lens of ")
    with pytest.raises(al.errors.OtherRun, match=r"Jacobian lens .* al\.lens\.fit_jacobian"):
        lens.require(model_of(tiny, SHAPES[1]))


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"skip": -1}, "expected at least 0 tokens"),
        ({"held_out": 1.0}, "a share between 0 and 1"),
        ({"sites": "layers.2.hook_resid_post"}, "is what the head reads anyway"),
        ({"sites": "layers.0.mlp.hook_post"}, "is no residual stream"),
        ({"skip": 16}, "No window has 18 tokens"),
    ],
)
def test_what_cannot_be_fitted_is_refused(tiny, settings, match):
    model = model_of(tiny, SHAPES[0])
    with pytest.raises(ValueError, match=match):
        al.lens.fit_jacobian(model, None, windows(), **settings)


def test_no_gradients_are_left_after_an_error(tiny):
    model = model_of(tiny, SHAPES[0])
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    with pytest.raises(ValueError, match="No window"):
        al.lens.fit_jacobian(model, None, windows(), skip=30)
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
