"""Every kind of intervention against plain torch in hooks on transformers' own model."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from plain import changed, meant
from tiny_calls import batch_of, reference_of

import arcee_lab as al

POST, RELU, PRE = (f"layers.1.mlp.hook_{name}" for name in ("post", "relu", "pre"))
RESID, Z = "layers.0.hook_resid_post", "layers.1.self_attn.hook_z"
D_MODEL, D_MLP, HEADS, D_HEAD = 32, 72, 4, 8
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def randn(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def agree(model, batch, interventions, site, change, *, exact=True):
    """Logits inside the block are those of the reference with the plain change, bit for bit."""
    reference = reference_of(model, model.config._attn_implementation)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        clean = model(**batch).logits
        with changed(reference, site, change):
            expected = reference(**batch).logits
        with al.intervene(model, interventions):
            got = model(**batch).logits
        assert torch.equal(model(**batch).logits, clean)
    assert not torch.equal(got, clean), "the change changed nothing"
    if exact:
        assert torch.equal(got[real], expected[real])
    else:
        torch.testing.assert_close(got[real], expected[real], atol=2e-5, rtol=2e-5)


def zero_units(x):
    y = x.clone()
    y[..., [3, 70]] = 0
    return y


def half_of_heads(x):
    y = x.clone()
    y[..., [0, 2], :] *= 0.5
    return y


def one_unit_of_one_head(x):
    y = x.clone()
    y[..., 3, 5] = 0.25
    return y


def top_nine(x):
    y = torch.zeros_like(x)
    for row in range(x.shape[0]):
        for pos in range(x.shape[1]):
            order = sorted(range(x.shape[2]), key=lambda i: (-x[row, pos, i].item(), i))
            y[row, pos, order[:9]] = x[row, pos, order[:9]]
    return y


DIRECTION, FACTORS, MEAN = randn(D_MODEL), randn(D_MLP, seed=2).abs(), randn(D_MLP, seed=3).abs()
CASES = {
    "zero": (lambda: al.Ablate(POST, units=[3, 70]), POST, zero_units),
    "zero of pre": (lambda: al.Ablate(PRE, units=[3, 70]), PRE, zero_units),
    "whole site": (
        lambda: al.Ablate("layers.2.hook_mlp_out"),
        "layers.2.hook_mlp_out",
        lambda x: x * 0,
    ),
    "mean number": (lambda: al.Ablate(POST, "mean", 0.5), POST, lambda x: torch.full_like(x, 0.5)),
    "mean vector": (
        lambda: al.Ablate(POST, "mean", MEAN),
        POST,
        lambda x: MEAN.to(x.dtype).expand_as(x),
    ),
    "scale": (lambda: al.Scale(Z, 0.5, heads=[0, 2]), Z, half_of_heads),
    "scale kv": (
        lambda: al.Scale("layers.1.self_attn.hook_k", 1.5),
        "layers.1.self_attn.hook_k",
        lambda x: x * 1.5,
    ),
    "scale vector": (lambda: al.Scale(POST, FACTORS), POST, lambda x: x * FACTORS.to(x.dtype)),
    "scale q": (
        lambda: al.Scale("layers.0.self_attn.hook_q", -2.0),
        "layers.0.self_attn.hook_q",
        lambda x: x * -2.0,
    ),
    "scale v": (
        lambda: al.Scale("layers.0.self_attn.hook_v", 3),
        "layers.0.self_attn.hook_v",
        lambda x: x * 3.0,
    ),
    "clamp": (lambda: al.Clamp(RELU, 0.1, 0.2), RELU, lambda x: x.clamp(0.1, 0.2)),
    "clamp below": (lambda: al.Clamp(PRE, low=0.1), PRE, lambda x: x.clamp(min=0.1)),
    "clamp vector": (
        lambda: al.Clamp(POST, high=FACTORS * 0.1),
        POST,
        lambda x: torch.minimum(x, (FACTORS * 0.1).to(x.dtype)),
    ),
    "add": (
        lambda: al.Add(RESID, DIRECTION, 0.5),
        RESID,
        lambda x: x + (0.5 * DIRECTION).to(x.dtype),
    ),
    "add number": (lambda: al.Add("hook_embed", 0.25), "hook_embed", lambda x: x + 0.25),
    "one unit": (lambda: al.Ablate(Z, "mean", 0.25, heads=3, units=5), Z, one_unit_of_one_head),
    "threshold": (lambda: al.Threshold(POST, 0.02), POST, lambda x: torch.where(x > 0.02, x, 0)),
    "threshold of pre": (lambda: al.Threshold(PRE, 0.1), PRE, lambda x: torch.where(x > 0.1, x, 0)),
    "threshold vector": (
        lambda: al.Threshold(POST, FACTORS * 0.01),
        POST,
        lambda x: torch.where(x > (FACTORS * 0.01).to(x.dtype), x, 0),
    ),
    "top k": (lambda: al.TopK(POST, 9), POST, top_nine),
    "replace": (
        lambda: al.Replace("layers.2.hook_attn_out", torch.tanh),
        "layers.2.hook_attn_out",
        torch.tanh,
    ),
    "norm": (
        lambda: al.Scale("norm.hook_normalized", 0.5),
        "norm.hook_normalized",
        lambda x: x * 0.5,
    ),
    "resid pre": (
        lambda: al.Scale("layers.1.hook_resid_pre", 0.5),
        "layers.1.hook_resid_pre",
        lambda x: x * 0.5,
    ),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES)
def test_equals_hooks_on_the_reference(tiny, case, dtype):
    make, site, change = CASES[case]
    agree(tiny(dtype=dtype), batch_of(), [make()], site, change)


@pytest.mark.parametrize("attn", ["eager", "sdpa"])
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("case", ["zero", "add", "scale", "top k"])
def test_equals_hooks_on_the_reference_with_padding(tiny, case, padding, attn):
    make, site, change = CASES[case]
    agree(tiny(attn=attn), batch_of(padding=padding), [make()], site, change)


def test_project_out(tiny):
    model, directions = tiny(), randn(3, D_MODEL)
    basis = torch.linalg.svd(directions.double(), full_matrices=False).Vh.float()

    def project(x):
        return x - (x @ basis.T) @ basis

    edit = al.ProjectOut(RESID, directions)
    agree(model, batch_of(), [edit], RESID, project, exact=False)
    with al.capture(model, RESID) as acts, al.intervene(model, [edit]):
        model(**batch_of())
    assert (acts[RESID] @ directions.T).abs().max() < 1e-5
    head = al.ProjectOut(Z, randn(D_HEAD), heads=[1])
    with al.capture(model, Z) as acts, al.intervene(model, head):
        model(**batch_of())
    along = acts[Z] @ randn(D_HEAD)
    assert along[..., 1].abs().max() < 1e-6
    assert along[..., 0].abs().max() > 1e-3


@pytest.mark.parametrize("site", [RELU, POST, PRE])
def test_cett_drops_the_neurons_that_add_less_than_eps(tiny, site):
    model = tiny()
    weight = model.model.layers[1].mlp.down_proj.weight.detach()
    with al.capture(model, RELU) as clean:
        model(**batch_of())
    relu = clean[RELU]
    added = relu.square()[..., None] * weight.T  # [batch, pos, d_mlp, d_model]
    eps = added.norm(dim=-1).median().item()
    kept = added.norm(dim=-1) >= eps
    with al.capture(model, "layers.1.mlp.hook_post") as acts:
        with al.intervene(model, al.Cett(site, eps)):
            model(**batch_of())
        with al.intervene(model, al.Cett(site, {site: eps}, units=range(10, 30))):
            model(**batch_of())
    post = torch.square(relu)
    sharp = (added.norm(dim=-1) - eps).abs() > 1e-6 * eps  # apart from rounding at the threshold
    assert sharp.float().mean() > 0.99
    assert torch.equal(acts[POST][0][sharp], torch.where(kept, post, 0)[sharp])
    kept[..., :10] = kept[..., 30:] = True
    assert torch.equal(acts[POST][1][sharp], torch.where(kept, post, 0)[sharp])


def test_ties_go_to_the_lower_index(tiny):
    model = tiny()
    coarse = al.Replace(POST, lambda x: (x * 50).round())
    with al.capture(model, POST) as acts, torch.no_grad():
        with al.intervene(model, [coarse]):
            model(**batch_of())
        with al.intervene(model, [coarse, al.TopK(POST, 7)]):
            model(**batch_of())
    before, after = acts[POST]
    assert (before.topk(8, dim=-1).values.diff(dim=-1) == 0)[..., -1].any(), "no tie to break"
    for x, y in zip(before.flatten(0, 1), after.flatten(0, 1), strict=True):
        order = sorted(range(D_MLP), key=lambda i: (-x[i].item(), i))[:7]
        expected = torch.zeros_like(x)
        expected[order] = x[order]
        assert torch.equal(y, expected)


def test_nan_of_the_model_is_not_hidden(tiny):
    model = tiny()
    poison = al.Ablate(POST, "mean", 1.0, units=4)
    nan = al.Replace(POST, lambda x: x * torch.nan, units=4)
    assert poison != nan
    for edit in (al.TopK(POST, 3), al.Threshold(POST, 0.1), al.Cett(POST, 0.1)):
        with al.capture(model, POST) as acts, al.intervene(model, [nan, edit]):
            model(**batch_of())
        assert acts[POST][..., 4].isnan().all(), edit


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("site", [RESID, POST, Z])
def test_patch_takes_another_run_at_units_heads_and_positions(tiny, site, padding):
    model = tiny()
    one, two = batch_of(padding=padding, seed=1), batch_of(padding=padding, seed=2)
    with al.capture(model, [site]) as acts:
        model(**one)
    source = acts[site]
    hit = meant(two, positions=[2, -1])

    def change(x):
        y = x.clone()
        if site == Z:
            y[..., 1, 2:5] = torch.where(hit[..., None], source[..., 1, 2:5], y[..., 1, 2:5])
        else:
            y[..., 2:5] = torch.where(hit[..., None], source[..., 2:5], y[..., 2:5])
        return y

    where = {"positions": [2, -1], "units": [2, 3, 4], "heads": [1] if site == Z else None}
    for form in (acts, source, dict(acts), source.clone()):
        agree(model, two, [al.Patch(site, form, **where)], site, change)
    cut = source[..., 1:2, 2:5] if site == Z else source[..., 2:5]
    agree(model, two, [al.Patch(site, cut, **where)], site, change)


def test_patching_everything_gives_the_other_run(tiny):
    model, one, two = tiny(), batch_of(seed=1), batch_of(seed=2)
    with al.capture(model, "layers.*.hook_resid_post") as acts:
        expected = model(**one).logits
    for sites in ("layers.1.hook_resid_post", "blocks.*.hook_resid_post"):
        with al.intervene(model, [al.Patch(sites, acts)]):
            assert torch.equal(model(**two).logits, expected)
    with al.intervene(model, [al.Patch("layers.2.hook_resid_post", acts, positions=[0])]):
        got = model(**two).logits
    assert torch.equal(got[:, 0], expected[:, 0])
    assert not torch.equal(got[:, 1], expected[:, 1])


def test_patch_of_one_row_or_one_vector_serves_all(tiny):
    model, batch = tiny(), batch_of(seed=2)
    vector = randn(D_MODEL)
    for source in (vector, vector[None, None], vector.expand(1, 9, D_MODEL).clone()):
        agree(model, batch, [al.Patch(RESID, source)], RESID, lambda x: vector.expand_as(x))


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("site", [RESID, Z, POST])
def test_resampling_takes_another_sequence(tiny, site, padding):
    model, batch = tiny(), batch_of(batch=4, padding=padding)
    real = batch["attention_mask"].bool()
    clean, changed_to = [], []
    for edits, into in ((), clean), ([al.Ablate(site, "resample", seed=3)], changed_to):
        with al.capture(model, site) as acts, al.intervene(model, edits):
            model(**batch)
        into.append(acts[site])
    x, y = clean[0], changed_to[0]
    taken = []
    for row in range(4):
        ours = [c for c in range(9) if real[row, c]]
        for other in range(4):
            theirs = [c for c in range(9) if real[other, c]]
            wanted = [theirs[min(rank, len(theirs) - 1)] for rank in range(len(ours))]
            if torch.equal(y[row, ours], x[other, wanted]):
                taken.append((row, other))
    assert sorted(row for row, _ in taken) == sorted(other for _, other in taken) == [0, 1, 2, 3]
    assert all(row != other for row, other in taken)


def test_resampling_from_given_rows_and_seeds(tiny):
    model, rows = tiny(), randn(11, D_MLP)
    got = []
    for seed in (0, 0, 1):
        edit = al.Ablate(["layers.*.mlp.hook_post"], "resample", rows, seed=seed)
        with al.capture(model, "layers.*.mlp.hook_post") as acts, al.intervene(model, edit):
            model(**batch_of())
            model(**batch_of())
        got.append(acts)
    first, again, other = (a[POST][0] for a in got)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert not torch.equal(first, got[0][POST][1]), "each forward draws anew"
    assert torch.equal(first, got[0]["layers.2.mlp.hook_post"][0]), "all sites take the same rows"
    drawn = (first[..., None, :] == rows).all(-1)
    assert (drawn.sum(-1) == 1).all()
    assert drawn.any(0).any(0).sum() > 4


def test_means_come_from_numbers_tensors_results_and_mappings(tiny):
    class Moments:
        mean = MEAN

    model = tiny()
    by_site = {POST: Moments(), "blocks.0.mlp.hook_post": 0.5}
    for value in (MEAN, Moments(), by_site):
        edit = al.Ablate(POST, "mean", value)
        with al.capture(model, POST) as acts, al.intervene(model, edit):
            model(**batch_of())
        assert torch.equal(acts[POST], MEAN.expand(2, 9, D_MLP))
    both = al.Ablate("layers.0:2.mlp.hook_post", "mean", by_site)
    with al.capture(model, "layers.0.mlp.hook_post") as acts, al.intervene(model, both):
        model(**batch_of())
    assert (acts["layers.0.mlp.hook_post"] == 0.5).all()


def test_moments_of_texts_are_a_mean_to_ablate_with(tiny):
    model, sites = tiny(), [POST, Z]
    batch = batch_of(padding="left")
    with al.capture(model, dict.fromkeys(sites, al.reducers.Moments())) as stats, torch.no_grad():
        model(**batch)
    with al.capture(model, sites) as acts, torch.no_grad():
        model(**batch)
    for site in sites:
        plain = acts[site][batch["attention_mask"].bool()].double().mean(0)
        edit = al.Ablate(site, "mean", stats[site])
        with al.capture(model, site) as after, al.intervene(model, edit), torch.no_grad():
            model(**batch)
        expected = plain.float().expand_as(after[site])
        torch.testing.assert_close(after[site], expected, atol=1e-6, rtol=1e-6)
    # All statistics at once are a mapping site -> result.
    both = al.Ablate(sites, "mean", stats)
    with al.capture(model, sites) as after, al.intervene(model, both), torch.no_grad():
        model(**batch)
    for site in sites:
        assert torch.equal(after[site], stats[site].mean.float().expand_as(after[site]))


@given(
    units=st.lists(st.integers(0, D_HEAD - 1), min_size=1, max_size=4, unique=True),
    heads=st.lists(st.integers(0, HEADS - 1), min_size=1, max_size=4, unique=True),
    length=st.integers(1, 12),
    batch=st.integers(1, 3),
    dtype=st.sampled_from(DTYPES),
    alpha=st.floats(-4, 4, allow_nan=False),
)
def test_parts_over_random_shapes(tiny, units, heads, length, batch, dtype, alpha):
    """Only the chosen units of the chosen heads move, whatever the order they are named in."""
    model, direction = tiny(dtype=dtype), randn(HEADS, D_HEAD)
    inputs = batch_of(batch=batch, length=length, padding=None)
    edit = al.Add(Z, direction, alpha, units=units, heads=heads)
    with torch.no_grad(), al.capture(model, Z) as acts:
        model(**inputs)
        with al.intervene(model, [edit]):
            model(**inputs)
    before, after = acts[Z]
    expected = before.clone()
    step = (alpha * direction).to(dtype)
    for head in heads:
        for unit in units:
            expected[..., head, unit] = before[..., head, unit] + step[head, unit]
    assert torch.equal(after, expected)
