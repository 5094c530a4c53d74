"""Attribution is the gradient of plain torch, and the identities of ReLU² hold."""

import pytest
import torch
from patch_cases import Reference, metric, pair_of

import arcee_lab as al

POST = "layers.*.mlp.hook_post"


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize(
    ("site", "over"),
    [
        (POST, "units"),
        ("layers.*.hook_resid_post", "positions"),
        ("layers.*.self_attn.hook_z", ("positions", "heads")),
    ],
)
def test_equals_the_gradient_on_the_reference(tiny, site, over, padding):
    model, (base, source) = tiny(), pair_of(padding=padding)
    found = al.patch_attribution(model, base, source, metric, site, over=over)
    reference, real = Reference(model), base["attention_mask"].bool()
    for layer in range(3):
        name = site.replace("*", str(layer))
        seen = []

        def keep(x, seen=seen):
            x.retain_grad()
            seen.append(x)
            return x

        reference(base, name, keep).sum().backward()
        x = seen[0]
        # The reference keeps heads side by side.
        product = (reference.read(source, name) - x).detach() * x.grad * real[..., None]
        if over == "units":
            expected = product.sum(1).T
        elif over == "positions":
            expected = product.sum(2)
        else:
            expected = product.unflatten(2, (4, 8)).sum(3).flatten(1)
        got = found.effects.unflatten(0, (3, -1))[layer]
        if over != "units":  # by attended token, not by column
            for pair in range(3):
                row = expected[pair].unflatten(0, (7, -1))[real[pair]].flatten()
                here = got[:, pair]
                torch.testing.assert_close(here[: len(row)], row, atol=1e-5, rtol=1e-4)
                assert here[len(row) :].isnan().all()
        else:
            torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_where_the_metric_is_linear_both_methods_agree(tiny):
    """Logits are linear in the last norm's output."""
    model, (base, source) = tiny(), pair_of()
    difference = al.patching.LogitDifference(right=[5, 6, 7], wrong=9)
    given = (model, base, source, difference, "norm.hook_normalized")
    measured = al.patch_sweep(*given, over="units")
    estimated = al.patch_attribution(*given, over="units")
    torch.testing.assert_close(estimated.effects, measured.effects, atol=1e-5, rtol=1e-4)
    assert measured.correlation(estimated) > 0.999
    assert measured.effects.abs().max() > 0.1


def test_small_steps_are_estimated_well(tiny):
    """The estimate is the slope: what is left of the difference quotient falls with the step."""
    model = tiny(dtype=torch.float64)
    (base, source), errors = pair_of(), []
    site = "layers.1.mlp.hook_post"
    with torch.no_grad(), al.capture(model, site) as far:
        model(**source)
    with torch.no_grad(), al.capture(model, site) as near:
        model(**base)
    estimate = al.patch_attribution(model, base, source, metric, site).effects[0]
    for step in (1e-2, 1e-3):
        moved = near[site] + step * (far[site] - near[site])
        with torch.no_grad():
            before = metric(model(**base).logits[:, -1])
            with al.intervene(model, al.Patch(site, moved)):
                after = metric(model(**base).logits[:, -1])
        errors.append(((after - before) / step - estimate).abs().max())
    assert errors[1] < errors[0] / 5
    assert errors[1] < 1e-2 * estimate.abs().max()


def test_gradient_times_input_counts_twice_before_the_activation(tiny):
    """u * da/du = 2a, since relu(u)² is homogeneous of degree two."""
    model, (base, _) = tiny(dtype=torch.float64), pair_of()
    sites = ["layers.*.mlp.hook_pre", POST]
    with al.capture(model, sites, grad=True) as acts:
        metric(model(**base).logits[:, -1]).sum().backward()
    for layer in range(3):
        pre, post = (f"layers.{layer}.mlp.{name}" for name in ("hook_pre", "hook_post"))
        twice = acts[pre] * acts.grad(pre)
        once = acts[post] * acts.grad(post)
        assert once.abs().max() > 1e-6
        torch.testing.assert_close(twice, 2 * once, atol=1e-12, rtol=1e-9)


def test_neurons_that_the_source_switches_on_are_missed_before_the_activation(tiny):
    model, (base, source) = tiny(), pair_of(pairs=1)
    pre, post = "layers.1.mlp.hook_pre", "layers.1.mlp.hook_post"
    with torch.no_grad(), al.capture(model, post) as off:
        model(**base)
    with torch.no_grad(), al.capture(model, post) as on:
        model(**source)
    at = slice(3, None)
    switched = ((off[post][0, at] == 0).all(0) & (on[post][0, at] > 0).any(0)).nonzero().flatten()
    assert len(switched) > 2
    given = {"over": "units", "units": switched, "positions": [3, 4, 5, 6]}
    run = (model, base, source, metric)
    missed = al.patch_attribution(*run, pre, **given)
    seen = al.patch_attribution(*run, post, **given)
    truth = al.patch_sweep(*run, post, **given)
    before = al.patch_sweep(*run, pre, **given)
    torch.testing.assert_close(before.effects, truth.effects, atol=1e-6, rtol=1e-3)
    assert (missed.effects == 0).all()
    assert truth.effects.abs().max() > 1e-5
    assert seen.correlation(truth) > 0.9


def test_parameters_may_be_frozen_and_sixteen_bits_work(tiny):
    model, (base, source), run = tiny(), pair_of(), {"over": "units"}
    wanted = al.patch_attribution(model, base, source, metric, POST, **run)
    model.requires_grad_(False)
    found = al.patch_attribution(model, base, source, metric, POST, **run)
    assert torch.equal(found.effects, wanted.effects)
    small = al.patch_attribution(model.bfloat16(), base, source, metric, POST, **run)
    assert small.correlation(wanted) > 0.95
    assert small.effects.dtype == torch.float32


def test_every_site_has_an_estimate(tiny):
    model, (base, source) = tiny(), pair_of(padding="left")
    sites = ["hook_embed", "layers.*", "norm.*", "*hook_scores", "*hook_pattern"]
    found = al.patch_attribution(model, base, source, metric, sites)
    assert found.effects.isfinite().all()
    frame = found.frame().set_index("site")
    # The stream is one tensor under two names.
    one, other = frame.loc[["layers.0.hook_resid_post", "layers.1.hook_resid_pre"], "effect"]
    assert one == other
    assert frame.loc["layers.1.self_attn.hook_pattern", "effect"] != 0


def test_checkpointed_layers_give_the_same(tiny):
    (base, source), model = pair_of(), tiny()
    wanted = al.patch_attribution(model, base, source, metric, POST, over="units")
    model.activation_checkpointing_enable()
    model.train()
    found = al.patch_attribution(model, base, source, metric, POST, over="units")
    torch.testing.assert_close(found.effects, wanted.effects, atol=1e-6, rtol=1e-5)
