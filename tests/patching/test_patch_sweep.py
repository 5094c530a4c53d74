"""A sweep equals one forward a patch, with hooks on transformers' own Arcee."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from patch_cases import Reference, metric, pair_of

import arcee_lab as al

RESID, POST, Z = (
    "layers.*.hook_resid_post",
    "layers.*.mlp.hook_post",
    "layers.*.self_attn.hook_z",
)


def columns_of(mask, positions):
    """For each pair, the columns of some of its attended tokens; None: of all."""
    real = [row.nonzero().flatten().tolist() for row in mask]
    if positions is None:
        return real
    return [[r[p] for p in positions if -len(r) <= p < len(r)] for r in real]


def brute_force(model, base, source, site, *, over, positions=None, heads=None, units=None):
    """Effects [spot, pair], patch by patch."""
    reference, mask = Reference(model), base["attention_mask"]
    width, d_head = (72 if "mlp" in site else 32), 8
    ranges = {
        "positions": range(7) if positions is None else positions,
        "heads": range(4) if heads is None else heads,
        "units": range(width) if units is None else units,
    }
    fixed = {"positions": positions, "heads": heads, "units": units}
    effects = []
    with torch.no_grad():
        before = reference(base)
        for layer in range(3):
            name = site.replace("*", str(layer))
            other = reference.read(source, name)
            for chosen in product(*(ranges[what] for what in over)):
                now = fixed | {what: [i] for what, i in zip(over, chosen, strict=True)}
                features = torch.arange(width)
                if now["heads"] is not None:
                    features = features[torch.isin(features // d_head, torch.tensor(now["heads"]))]
                if now["units"] is not None:
                    features = torch.tensor(list(now["units"]))
                places = columns_of(mask, now["positions"])

                def change(x, places=places, features=features, other=other):
                    x = x.clone()
                    for pair, columns in enumerate(places):
                        for column in columns:
                            x[pair, column, features] = other[pair, column, features]
                    return x

                after = reference(base, name, change)
                lacks = torch.tensor([not columns for columns in places])
                effects.append(torch.where(lacks, torch.nan, after - before))
    return torch.stack(effects)


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize(
    ("site", "settings"),
    [
        (RESID, {"over": ("positions",)}),
        (RESID, {"over": ()}),
        (RESID, {"over": ("positions",), "positions": [-1, 0, 6]}),
        (Z, {"over": ("heads",)}),
        (Z, {"over": ("heads", "positions"), "heads": [3, 1]}),
        (Z, {"over": ("positions",), "heads": [0, 2]}),
        (POST, {"over": ("units",), "units": range(0, 72, 7)}),
        (POST, {"over": ("units",), "units": [5, 40], "positions": [3, -1]}),
    ],
    ids=str,
)
def test_equals_one_forward_a_patch_on_the_reference(tiny, site, settings, padding):
    model, (base, source) = tiny(), pair_of(padding=padding)
    found = al.patch_sweep(model, base, source, metric, site, **settings, batch_size=20)
    expected = brute_force(model, base, source, site, **settings)
    torch.testing.assert_close(found.effects, expected, atol=2e-5, rtol=1e-4, equal_nan=True)
    reference = Reference(model)
    with torch.no_grad():
        torch.testing.assert_close(found.base, reference(base), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.source, reference(source), atol=1e-5, rtol=1e-5)
    assert expected.nan_to_num().abs().max() > 1e-3  # there is something to find


@given(batch_size=st.integers(1, 40), attn=st.sampled_from(["sdpa", "eager"]))
@settings(max_examples=4)
def test_the_rows_of_a_forward_do_not_matter(tiny, batch_size, attn):
    model, (base, source) = tiny(attn=attn), pair_of(padding="left")
    sites = ["hook_embed", "layers.1.*", "layers.1.self_attn.hook_pattern"]
    whole = al.patch_sweep(model, base, source, metric, sites, batch_size=300)
    small = al.patch_sweep(model, base, source, metric, sites, batch_size=batch_size)
    torch.testing.assert_close(small.effects, whole.effects, atol=1e-5, rtol=1e-4)


def test_patching_all_that_flows_gives_the_source(tiny):
    model, (base, source) = tiny(), pair_of()
    found = al.patch_sweep(model, base, source, metric, ["hook_embed", RESID])
    torch.testing.assert_close(found.effects, (found.source - found.base).expand(4, 3), atol=2e-5,
                               rtol=1e-4)  # fmt: skip
    torch.testing.assert_close(found.recovered, torch.ones(4), atol=1e-4, rtol=1e-4)
    assert [spot.site for spot in found.top(9)] != []
    # What comes before the first other token is the same in both runs.
    early = al.patch_sweep(model, base, source, metric, RESID, positions=[0, 1, 2])
    assert early.effects.abs().max() < 1e-5


def test_kv_heads_and_patterns(tiny):
    model, (base, source) = tiny(), pair_of()
    for site, heads in (("layers.*.self_attn.hook_k", 2), ("layers.*.self_attn.hook_pattern", 4)):
        found = al.patch_sweep(model, base, source, metric, site, over=("heads", "positions"))
        assert found.grid().shape == (3, heads, 7)
        whole = al.patch_sweep(model, base, source, metric, site)
        with torch.no_grad(), al.capture(model, site) as acts:
            model(**source)
        for layer in range(3):
            name = site.replace("*", str(layer))
            with torch.no_grad(), al.intervene(model, al.Patch(name, acts)):
                after = metric(model(**base).logits[:, -1])
            torch.testing.assert_close(whole.effects[layer], after - whole.base, atol=2e-5, rtol=0)


@pytest.mark.parametrize("head", ["sequence", "token", "qa"])
def test_other_heads(tiny, head):
    model, (base, source) = tiny(head), pair_of(padding="right")

    def read(logits):  # [pair, n_labels] or, of all tokens, [pair, pos, n_labels or 2]
        return logits[..., 1] if head == "sequence" else logits[:, :4, 0].logsumexp(-1)

    at = -1 if head == "sequence" else None
    found = al.patch_sweep(model, base, source, read, RESID, over="positions", at=at)
    with torch.no_grad(), al.capture(model, [RESID, "hook_logits"]) as acts:
        model(**source)
    torch.testing.assert_close(found.source, read(acts["hook_logits"]), atol=1e-5, rtol=1e-5)
    edit = al.Patch("layers.1.hook_resid_post", acts["layers.1.hook_resid_post"], positions=3)
    with torch.no_grad(), al.intervene(model, edit), al.capture(model, "hook_logits") as after:
        model(**base)
    expected = read(after["hook_logits"]) - found.base
    torch.testing.assert_close(found.effects.view(3, 7, 3)[1, 3], expected, atol=1e-5, rtol=0)


def test_a_list_of_spots_is_part_of_the_grid(tiny):
    model, (base, source) = tiny(), pair_of()
    grid = al.patch_sweep(model, base, source, metric, POST, over="units")
    best = grid.top(9)
    assert len(best) == 9
    some = al.patch_sweep(model, base, source, metric, best[::-1])
    place = {grid.spots[i]: i for i in range(len(grid.spots))}
    for i in range(9):
        expected = grid.effects[place[some.spots[i]]]
        torch.testing.assert_close(some.effects[i], expected, atol=1e-5, rtol=1e-4)
    assert some.top(9)[0] == best[0]
    spelt = al.patching.Spot("blocks.1.mlp.hook_post", unit=7, position=-1)
    found = al.patch_sweep(model, base, source, metric, [spelt])
    assert found.spots[0] == spelt._replace(site="layers.1.mlp.hook_post")


def test_an_intervention_around_it_holds_in_all_runs(tiny):
    model, (base, source) = tiny(), pair_of()
    off = al.Ablate("layers.1.mlp.hook_post")
    with al.intervene(model, off):
        found = al.patch_sweep(model, base, source, metric, RESID)
        with torch.no_grad():
            expected = metric(model(**base).logits[:, -1])
    torch.testing.assert_close(found.base, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.recovered, torch.ones(3), atol=1e-4, rtol=1e-4)


def test_the_model_is_as_before(tiny):
    model, (base, source) = tiny(), pair_of()
    before = model(**base).logits
    al.patch_sweep(model, base, source, metric, RESID, over="positions")
    al.patch_attribution(model, base, source, metric, [RESID, "layers.0.self_attn.hook_pattern"])
    assert torch.equal(model(**base).logits, before)
    assert not any(module._forward_hooks for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.gpu
def test_a_gpu_finds_the_same(tiny):
    model, (base, source) = tiny(), pair_of(padding="left")
    there = [{name: x.cuda() for name, x in batch.items()} for batch in (base, source)]
    for method in (al.patch_sweep, al.patch_attribution):
        here = method(model.cpu(), base, source, one_logit, Z, over=("heads", "positions"))
        far = method(model.cuda(), *there, one_logit, Z, over=("heads", "positions"))
        torch.testing.assert_close(far.effects, here.effects, atol=1e-4, rtol=1e-3, equal_nan=True)


def one_logit(logits):
    return logits.log_softmax(-1)[:, 5]
