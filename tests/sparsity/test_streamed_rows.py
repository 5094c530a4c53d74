"""Each row of docs/explanation/sparsity.md equals plain loops over activations of the stock Arcee.

Two models: planted rates (each neuron a bias of its own, double precision) and the trained demo.
"""

import copy

import numpy as np
import pytest
import torch
from dense import Letters, pair, plant, read, windows_of
from hypothesis import given, settings
from hypothesis import strategies as st


class Case:
    """A report, and the dense arrays of its windows without first positions."""

    def __init__(self, model, reference, tokenizer, texts, context, **settings):
        from arcee_lab.sparsity import measure

        self.report = measure(
            model, tokenizer, texts, sample_every=1, context=context, batch_size=3,
            analyses=["all", "low_rank"], **settings,
        )  # fmt: skip
        self.reference = reference
        ids = tokenizer(texts, verbose=False)["input_ids"]
        self.ids = windows_of(ids, context)
        self.windows = [
            {
                name: array[:, 1:] if name != "losses" else np.append(array[1:], np.nan)
                for name, array in read(reference, window).items()
            }
            for window in self.ids
        ]
        self.masks = [window["post"] != 0 for window in self.windows]  # layer token neuron
        self.layers, _, self.d_mlp = self.masks[0].shape
        self.mlps = [block.mlp for block in reference.model.layers]
        self.norms = np.stack(
            [mlp.down_proj.weight.detach().double().norm(dim=0).numpy() for mlp in self.mlps]
        )
        self.rates = np.concatenate(self.masks, 1).mean(1)

    def ratio(self, of_window):
        """Mean over windows as a ratio of sums, and its half interval; `of_window` gives (s, n).

        Third what rounding each window's s² and s·n by up to 2^-33 may change in the half.
        """
        s, n = (
            np.array(part, dtype=float) for part in zip(*map(of_window, self.windows), strict=True)
        )
        there = n > 0
        mean = s.sum() / n.sum()
        w = there.sum()
        spread = ((s - mean * n) ** 2).sum() / n.sum() ** 2
        half = 1.96 * np.sqrt(spread * w / (w - 1)) if w > 1 else np.nan
        moved = w * (1 + 2 * abs(mean)) * UNIT / 2 / n.sum() ** 2
        return mean, half, 1.96 * np.sqrt(2 * moved)


UNIT = 2.0**-32  # of the fixed point that sums are kept in; rounding moves a term by half of it

TEXTS = [
    "abcdefghabcabcdefgabbbaacc",
    "hgf",
    "aabbccddeeffgg",
    "cabbage",
    "fade",
    "headcabbagefeed",
]


@pytest.fixture(scope="module")
def planted():
    return Case(*plant(*pair(d_mlp=72, bias=True)), Letters(), TEXTS, 20)


@pytest.fixture(scope="module")
def trained(demo):
    from transformers import ArceeConfig, ArceeForCausalLM

    from arcee_lab.demo.world import documents

    model, tokenizer = copy.deepcopy(demo[0]).double(), demo[1]
    reference = ArceeForCausalLM(ArceeConfig(**model.config.to_dict())).double().eval()
    reference.load_state_dict(model.state_dict(), strict=False)
    reference.tie_weights()
    texts = [document.text for document in documents(n=5, seed=3, split="test")]
    return Case(model, reference, tokenizer, texts, 48)


@pytest.fixture(params=["planted", "trained"])
def case(request):
    return request.getfixturevalue(request.param)


def close(found, expected):
    """Equal but for rounding: both models compute in double precision."""
    return np.allclose(found, expected, rtol=1e-5, atol=1e-7, equal_nan=True)


def test_planted_neurons_differ_in_rate(planted):
    assert planted.rates.min() < 0.05
    assert planted.rates.max() > 0.9


def test_row_1_to_3_rates_and_active_neurons(case):
    layers = case.report.frames["layers"]
    assert close(case.report.rates, case.rates)
    assert close(layers["zeros"], 1 - case.rates.mean(1))
    tokens = case.report.frames["tokens"]
    assert len(tokens) == case.report.n_tokens == sum(mask.shape[1] for mask in case.masks)
    for layer in range(case.layers):
        active = np.concatenate([mask[layer].sum(1) for mask in case.masks])
        assert np.array_equal(tokens[f"layer_{layer}"], active)
    assert (layers["dead_below"] == 3 / case.report.n_tokens).all()
    assert tokens["id"].tolist() == [i for window in case.ids for i in window[1:]]
    assert tokens["position"].tolist() == [p for w in case.ids for p in range(1, len(w))]


def test_row_4_coverage(case):
    frame = case.report.frames["coverage"]
    for layer, rates in enumerate(case.report.rates.numpy()):
        rates = np.sort(rates)[::-1]
        held = 0.0
        number = 0
        while held < 0.8 * rates.sum() - 1e-12:
            held += rates[number]
            number += 1
        assert frame["n80"][layer] == number
        gini = np.abs(rates[:, None] - rates[None]).sum() / (2 * len(rates) ** 2 * rates.mean())
        assert frame["gini"][layer] == pytest.approx(gini)
        fired = rates[rates > 0]
        x, y = np.log(np.arange(1, len(fired) + 1)), np.log(fired)
        slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
        assert frame["slope"][layer] == pytest.approx(slope)


def test_row_5_and_6_unions(case):
    usage = case.report.results["unions"]
    frame = usage.frame()
    for layer in range(case.layers):
        for size in usage.lengths:
            unions = [m[layer, :size].any(0).mean() for m in case.masks if m.shape[1] >= size]
            row = frame.query("kind == 'within' and layer == @layer and tokens == @size").iloc[0]
            assert row["n"] == len(unions)
            assert close(row["union"], np.mean(unions))
            own = 1 - np.mean((1 - case.report.rates[layer].numpy()) ** size)
            assert row["if_own_rates"] == pytest.approx(own)
            assert row["if_alike"] == pytest.approx(1 - float(case.report.zeros[layer]) ** size)
        whole = frame.query("kind == 'sequence' and layer == @layer")["union"].item()
        assert close(whole, np.mean([m[layer].any(0).mean() for m in case.masks]))
        middle = np.stack([m[layer, m.shape[1] // 2] for m in case.masks])
        for size in usage.sizes:
            groups = [
                middle[at : at + size].any(0).mean()
                for at in range(0, len(middle) - size + 1, size)
            ]
            row = frame.query("kind == 'across' and layer == @layer and tokens == @size").iloc[0]
            assert close(row["union"], np.mean(groups))
            assert row["n"] == len(groups)


def test_row_7_overlap(case):
    frame = case.report.frames["overlap"]
    for layer in range(case.layers):
        for lag in (1, 2, 5, 17):

            def shares(window, what, layer=layer, lag=lag):
                mask = window["post"][layer] != 0
                found = []
                for t in range(lag, len(mask)):
                    below = (mask[t] | mask[t - lag]).sum() if what == "jaccard" else mask[t].sum()
                    if below:
                        found.append((mask[t] & mask[t - lag]).sum() / below)
                return sum(found), len(found)

            row = frame.query("layer == @layer and lag == @lag").iloc[0]
            for what in ("jaccard", "reuse"):
                mean, half, moved = case.ratio(lambda window, what=what: shares(window, what))
                assert close(row[what], mean)
                if row["n_windows"] > 1:
                    assert np.isclose(row[f"{what}_half"], half, rtol=1e-5, atol=moved)
                else:
                    assert np.isnan(row[f"{what}_half"])
            p = case.report.rates[layer].numpy()
            assert row["jaccard_chance"] == pytest.approx((p**2).sum() / (2 * p - p**2).sum())
            assert row["reuse_chance"] == pytest.approx((p**2).sum() / p.sum())


def test_row_1_thresholds_and_sizes(case):
    """In double precision a number is cut to 8 bits: right to 2^-7, and sums of many far better."""
    result = case.report.results["thresholds"]
    thresholds, layers = result.frame(), case.report.frames["layers"]
    assert set(thresholds["n_tokens"]) == {case.report.n_tokens}
    for layer in range(case.layers):
        post = np.concatenate([window["post"][layer] for window in case.windows])
        for exponent in (-39, -12, -3, 0, 2):
            threshold = 2.0**exponent
            row = thresholds.query("layer == @layer and threshold == @threshold")
            assert close(row["below"].item(), (post < threshold).mean())
        about = (post - post.mean()) / post.std()
        assert layers["kurtosis"][layer] == pytest.approx((about**4).mean(), rel=0.02)
        for share in (0.2, 0.9, 0.999):
            exact = np.quantile(post, share, method="inverted_cdf")
            found = result.quantile(share)[layer]
            assert found <= exact <= found * (1 + 2.0**-7)
        assert layers["p999"][layer] == result.quantile(0.999)[layer]
    with pytest.raises(ValueError, match="exponent=40: expected -39 to 39"):
        result.below(40)


def test_row_1_is_exact_in_bfloat16():
    """a is its own bin there."""
    from arcee_lab.sparsity import measure

    ours, reference = plant(*pair(d_mlp=72, bias=True, dtype=torch.bfloat16))
    report = measure(ours, Letters(), TEXTS, sample_every=1, context=20, batch_size=1)
    result, layers = report.results["thresholds"], report.frames["layers"]
    ids = windows_of(Letters()(TEXTS)["input_ids"], 20)
    for layer in range(len(reference.model.layers)):
        post = np.concatenate([read(reference, window)["post"][layer, 1:] for window in ids])
        about = (post - post.mean()) / post.std()
        assert layers["kurtosis"][layer] == pytest.approx((about**4).mean(), rel=1e-6)
        values = np.repeat(sizes_values(), result.counts[layer])
        assert np.array_equal(values, np.sort(post[post > 0]))
        for share in (0.5, 0.8, 0.999):
            exact = np.quantile(post, share, method="inverted_cdf")
            assert result.quantile(share)[layer] == exact


def sizes_values():
    from arcee_lab.sparsity.core import magnitudes

    return magnitudes.values()


def held_by(contributions):
    """N_eff, k90, k99 and Hoyer of one token by plain loops; None where it writes nothing."""
    ordered = sorted(contributions.tolist(), reverse=True)
    total = sum(ordered)
    if total == 0:
        return None
    n_eff = total**2 / sum(c * c for c in ordered)
    numbers = []
    for share in (0.9, 0.99):
        so_far, number = 0.0, 0
        while so_far < share * total * (1 - 1e-12):
            so_far += ordered[number]
            number += 1
        numbers.append(number)
    root = len(ordered) ** 0.5
    return [n_eff, *numbers, (root - n_eff**0.5) / (root - 1) if root > 1 else np.nan]


def test_row_11_concentration_of_every_token(case):
    """Computed for a token, then averaged: never pooled over tokens."""
    result = case.report.results["concentration"]
    frame = result.frame()
    names = ["n_eff", "k90", "k99", "hoyer"]
    for layer in range(case.layers):

        def of(window, layer=layer):
            found = [held_by(token * case.norms[layer]) for token in window["post"][layer]]
            return np.array([row for row in found if row]).reshape(-1, 4)

        every = np.concatenate([of(window) for window in case.windows])
        assert frame["n_tokens"][layer] == len(every) > 0
        for place, name in enumerate(names):
            mean, half, moved = case.ratio(
                lambda window, place=place: (of(window)[:, place].sum(), len(of(window)))
            )
            assert close(frame[name][layer], mean), name
            assert np.isclose(frame[f"{name}_half"][layer], half, rtol=1e-5, atol=moved), name
            for share in (0.05, 0.5, 0.95):
                exact = np.quantile(every[:, place], share, method="inverted_cdf")
                found = result.quantile(name, share)[layer]
                assert frame[f"{name}_p{round(100 * share):02d}"][layer] == found
                if name in ("k90", "k99"):
                    assert found == exact
                elif name == "n_eff":
                    assert found * (1 - 1e-6) <= exact <= found * (1 + 2.0**-7) * (1 + 1e-6)
                else:  # what its N_eff may be wrong by
                    root = case.d_mlp**0.5
                    wrong = root / (root - 1) * 2.0**-7
                    assert exact - 1e-6 <= found <= exact + wrong
        for row in every:
            # What the words mean: whole neurons, one at least, no fewer for a larger share.
            assert row[1] == int(row[1]) >= 1
            assert 1 - 1e-9 <= row[0] <= (case.masks[0].shape[2] + 1e-9)
            assert row[2] >= row[1]
    with pytest.raises(ValueError, match="no quantile of 'k50'; expected one of"):
        result.quantile("k50", 0.5)
    with pytest.raises(ValueError, match="share=2: expected 0 to 1"):
        result.quantile("k90", 2)


@settings(max_examples=40)
@given(
    seed=st.integers(0, 999),
    tokens=st.integers(0, 9),
    d_mlp=st.integers(1, 40),
    density=st.sampled_from([0.0, 0.1, 0.6, 1.0]),
    alike=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
)
def test_k90_is_a_whole_number_of_neurons_at_every_token_that_fires(
    seed, tokens, d_mlp, density, alike, dtype
):
    from arcee_lab.sparsity.streamed import concentration
    from arcee_lab.sparsity.streamed.analysis import LayerBatch

    rng = np.random.default_rng(seed)
    fires = rng.random((tokens, d_mlp)) < density
    values = np.where(fires, 2.0 if alike else rng.uniform(0.01, 9, fires.shape), 0.0)
    post = torch.from_numpy(values).to(dtype)
    norms = torch.from_numpy((np.ones if alike else rng.random)(d_mlp).astype(np.float32))
    seen = LayerBatch.__new__(LayerBatch)  # what counts here is read off these three
    for name, x in (("post", post), ("active", (post != 0).sum(1)), ("norms", norms)):
        object.__setattr__(seen, name, x)
    found = [
        concentration.held_from_firings(seen.firings),
        concentration.held_from_dense(post, norms),
    ]
    for one, two in zip(*found, strict=True):
        assert torch.allclose(one, two, rtol=1e-12)
    for token, row in enumerate(fires):
        total, squares, k90, k99 = (float(part[token]) for part in found[0])
        if not row.any():
            assert (total, squares, k90, k99) == (0, 0, 0, 0)
            continue
        n_eff, few, most, hoyer = held_by(post[token].double().numpy() * norms.double().numpy())
        assert 1 <= k90 <= k99 <= row.sum()
        assert (k90, k99) == (few, most)
        assert total**2 / squares == pytest.approx(n_eff, rel=1e-5)
        if alike:
            assert n_eff == pytest.approx(row.sum())
            assert k90 == int(np.ceil(0.9 * row.sum() - 1e-9))
        by_formula = concentration.hoyer(np.array([n_eff]), d_mlp)
        assert by_formula == pytest.approx([hoyer], nan_ok=True)


def test_row_12_spikes(case):
    frame = case.report.frames["spikes"]
    for layer, mlp in enumerate(case.mlps):
        post = np.concatenate([window["post"][layer] for window in case.windows])
        assert frame["largest"][layer] == pytest.approx(post.max(), rel=1e-4)
        bias = 0 if mlp.down_proj.bias is None else mlp.down_proj.bias.detach().double().numpy()

        def share(window, layer=layer, bias=bias):
            top = (window["post"][layer] * case.norms[layer]).max(1)
            norm = np.linalg.norm(window["y"][layer] - bias, axis=1)
            return (top[norm > 0] / norm[norm > 0]).sum(), (norm > 0).sum()

        mean, half, moved = case.ratio(share)
        assert close(frame["top_share"][layer], mean)
        assert np.isclose(frame["half"][layer], half, rtol=1e-5, atol=moved)


def test_the_bound_of_the_losses_is_far_below_what_a_coarser_fixed_point_would_do(planted):
    losses = np.concatenate([window["losses"] for window in planted.windows])
    there = ~np.isnan(losses)
    k = np.concatenate([mask[0].sum(1) for mask in planted.masks])
    _, bound = correlated(k[there], losses[there])
    assert bound < 1e-6  # next to correlations of about a tenth


def test_row_13_and_14_positions_ids_and_losses(case):
    positions, ids = case.report.frames["positions"], case.report.frames["ids"]
    active = {}
    for window, masks in zip(case.ids, case.masks, strict=True):
        for place in range(1, len(window)):
            active.setdefault(window[place], []).append(masks[:, place - 1].sum(1))
    assert ids["id"].tolist() == sorted(active)
    for row in ids.to_dict(orient="records"):
        assert row["n_tokens"] == len(active[row["id"]])
        means = np.mean(active[row["id"]], 0)
        assert np.allclose([row[f"layer_{n}"] for n in range(case.layers)], means, atol=1e-9)
    starts = sorted(set(positions["position"]))
    for start, stop in zip(starts, [*starts[1:], 10**9], strict=True):
        found = [
            m[0, p - 1].sum() for m in case.masks for p in range(start, min(stop, m.shape[1] + 1))
        ]
        row = positions.query("layer == 0 and position == @start").iloc[0]
        assert row["n_tokens"] == len(found)
        assert close(row["active"], np.mean(found))
    losses = np.concatenate([window["losses"] for window in case.windows])
    there = ~np.isnan(losses)
    result = case.report.results["losses"]
    assert result.tokens.sum() == there.sum()
    for layer in range(case.layers):
        k = np.concatenate([mask[layer].sum(1) for mask in case.masks])
        expected, bound = correlated(k[there], losses[there])
        assert result.correlation[layer] == pytest.approx(expected, abs=bound, nan_ok=True)
        bins = np.minimum((losses[there] / 0.5).astype(int), 39)
        for place in np.unique(bins):
            assert result.active[place, layer] == pytest.approx(k[there][bins == place].mean())


def correlated(k, loss):
    """Pearson's correlation, and how far the fixed point may be from it.

    Each of loss, loss² and k·loss is rounded by up to half a unit; the rest follows to first order
    from r = C / √(V_k V), doubled for what is beyond first order and for double precision.
    """
    if k.std() == 0:
        return np.nan, 0.0
    r, half = np.corrcoef(k, loss)[0, 1], UNIT / 2
    covariance = (1 + k.mean()) * half / (k.std() * loss.std())
    return r, 2 * (covariance + abs(r) * (1 + 2 * loss.mean()) * half / (2 * loss.var()))


def best_scored(score, mask, size):
    """Of the `size` best scores, how many fire; those of equal score by the part that fits."""
    found, left = 0.0, size
    for value in np.unique(score)[::-1]:
        equal = score == value
        part = min(left, equal.sum()) / equal.sum()
        found += part * mask[equal].sum()
        left -= part * equal.sum()
    return found


def test_row_17_predictors(case):
    frame = case.report.frames["predictors"]
    tried = sum(mask.shape[1] - 1 for mask in case.masks)
    assert set(frame["n_tokens"].dropna()) == {tried}
    for layer, mlp in enumerate(case.mlps):
        weight = mlp.up_proj.weight.detach().double().numpy()
        bias = 0 if mlp.up_proj.bias is None else mlp.up_proj.bias.detach().double().numpy()

        def rounded(most, weight=weight):
            scale = np.abs(weight).max(1, keepdims=True) / most
            return np.rint(weight / scale) * scale

        def scores(window, name, layer=layer, weight=weight, bias=bias):
            x = window["x"][layer]
            if name == "lookahead":
                return window["x"][layer - 1] @ weight.T + bias
            if name == "sign":
                return np.sign(x) @ np.sign(weight).T
            return x @ rounded(127 if name == "int8" else 7).T + bias

        for name in ("previous", "sign", "int8", "int4", "lookahead"):
            if name == "lookahead" and layer == 0:
                assert np.isnan(frame.query("predictor == @name and layer == 0")["recall"].item())
                continue
            found = {key: [] for key in ("recall", "precision", "sparsity", "weighted")}
            at_budget = []
            for window in case.windows:
                mask = window["post"][layer] != 0
                held = window["post"][layer] * case.norms[layer]
                for t in range(1, len(mask)):
                    score = None if name == "previous" else scores(window, name)[t]
                    said = mask[t - 1] if score is None else score > 0
                    both = (said & mask[t]).sum()
                    found["sparsity"].append(1 - said.mean())
                    if mask[t].any():
                        found["recall"].append(both / mask[t].sum())
                        found["weighted"].append(held[t][said].sum() / held[t].sum())
                        if score is not None:
                            size = min(int(np.ceil(1.5 * mask[t].sum())), len(score))
                            at_budget.append(best_scored(score, mask[t], size) / mask[t].sum())
                    if said.any():
                        found["precision"].append(both / said.sum())
            row = frame.query("predictor == @name and layer == @layer").iloc[0]
            for key, values in found.items():
                assert close(row[key], np.mean(values)), (name, key)
            if at_budget:
                assert close(row["recall_at_1.5"], np.mean(at_budget))
        rates = np.sort(case.report.rates[layer].numpy())[::-1]
        size = int(np.ceil(1.5 * rates.sum()))
        hot = frame.query("predictor == 'hot' and layer == @layer")["recall_at_1.5"].item()
        assert hot == pytest.approx(rates[:size].sum() / rates.sum())


def test_row_17_at_low_rank(planted):
    frame = planted.report.frames["low_rank"]
    for layer, mlp in enumerate(planted.mlps):
        weight = mlp.up_proj.weight.detach().double().numpy()
        left, values, right = np.linalg.svd(weight, full_matrices=False)
        low = (left[:, :4] * values[:4]) @ right[:4]
        recall = []
        for window in planted.windows:
            mask = window["post"][layer] != 0
            said = window["x"][layer] @ low.T + mlp.up_proj.bias.detach().numpy() > 0
            recall += [
                (said[t] & mask[t]).sum() / mask[t].sum()
                for t in range(1, len(mask))
                if mask[t].any()
            ]
        row = frame.query("predictor == 'rank d/4' and layer == @layer").iloc[0]
        assert row["recall"] == pytest.approx(np.mean(recall), abs=1e-3)


def test_row_19_layers(case):
    frame = case.report.frames["neighbours"]
    k = np.stack([np.concatenate([m[n].sum(1) for m in case.masks]) for n in range(case.layers)])
    expected = np.corrcoef(k)
    for row in frame.to_dict(orient="records"):
        one, two = row["layer"], row["other"]
        assert row["correlation"] == pytest.approx(expected[one, two], abs=1e-6, nan_ok=True)
        if two == one + 1:
            cosines = [
                (w["x"][one] * w["x"][two]).sum(1)
                / np.linalg.norm(w["x"][one], axis=1)
                / np.linalg.norm(w["x"][two], axis=1)
                for w in case.windows
            ]
            assert row["cosine"] == pytest.approx(np.concatenate(cosines).mean(), abs=1e-5)
        else:
            assert np.isnan(row["cosine"])


def test_row_19_virtual_weights(demo):
    from arcee_lab.sparsity import virtual_weights

    model, _ = demo
    frame = virtual_weights(model, 0, [3, 17], 2, top=4)
    blocks = model.model.layers
    gain = blocks[2].post_attention_layernorm.weight
    with torch.no_grad():
        for unit in (3, 17):
            written = gain * blocks[0].mlp.down_proj.weight[:, unit]
            weights = torch.stack([row @ written for row in blocks[2].mlp.up_proj.weight])
            mine = frame[frame["unit"] == unit]
            strongest = weights.abs().topk(4).indices.tolist()
            assert mine["to_unit"].tolist() == strongest
            assert np.allclose(mine["weight"], weights[strongest], rtol=1e-4)
    with pytest.raises(ValueError, match="expected layer < to_layer"):
        virtual_weights(model, 2, [0], 2)
    with pytest.raises(ValueError, match="unit 9999 is out of range"):
        virtual_weights(model, 0, [9999], 2)


def test_row_20_blocks(case):
    frame = case.report.frames["blocks"]
    for layer in range(case.layers):
        post = np.concatenate([window["post"][layer] for window in case.windows])
        fours = post[:, : case.d_mlp // 4 * 4].reshape(len(post), -1, 4)
        fits = ((fours != 0).sum(2) <= 2).mean()
        assert close(frame["two_four"][layer], fits)
        n = (post * case.norms[layer])[:, : case.d_mlp // 4 * 4].reshape(fours.shape) ** 2
        dropped, whole = np.sort(n, axis=2)[:, :, :2].sum((1, 2)), n.sum((1, 2))
        share = (dropped[whole > 0] / whole[whole > 0]).mean()
        assert frame["lost"][layer] == pytest.approx(share, rel=1e-3, abs=1e-6)
        for size in (16, 32, 64, 128):
            blocks = case.d_mlp // size
            expected = np.nan
            if blocks:
                expected = (
                    (post[:, : blocks * size].reshape(len(post), blocks, size) == 0).all(2).mean()
                )
            assert close(frame[f"zero_{size}"][layer], expected)
        tiles = case.d_mlp // 128
        if tiles:
            counts = (post[:, : tiles * 128] != 0).reshape(len(post), tiles, 128).sum(2)
            assert frame["tile"][layer] == pytest.approx(counts.max(1).mean(), abs=1e-5)
            assert frame["fullest_tile"][layer] == counts.max()


def test_row_21_saving(case):
    frame = case.report.frames["saving"]
    used = case.report.rates.mean().item()
    model = case.reference
    size = next(model.parameters()).element_size()
    read = sum(x.numel() for x in model.parameters())
    if model.lm_head.weight is not model.model.embed_tokens.weight:
        table = model.model.embed_tokens.weight
        read += table.shape[1] - table.numel()
    down = sum(x.numel() for mlp in case.mlps for x in mlp.down_proj.parameters())
    up = sum(x.numel() for mlp in case.mlps for x in mlp.up_proj.parameters())
    row = frame.iloc[0]
    assert row["bytes_dense"] == read * size
    assert row["bytes_skip_down"] == pytest.approx((read - down * (1 - used)) * size)
    expected = read / (read - (down + up) * (1 - used))
    assert row["speedup_skip_both"] == pytest.approx(expected)
    across = case.report.results["unions"].across.value.mean(1)
    assert np.allclose(frame["used"][1:], across[1:])
