"""Every reducer equals plain NumPy on the dense activations of transformers' own model."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reducer_cases import POST, RESID, UNITS, Calls, Read, calls, models, top

import arcee_lab as al
from arcee_lab.reducers import (
    ActiveCount,
    ActiveCounts,
    CoActivation,
    FiringRate,
    Grouped,
    Histogram,
    MeanCovariance,
    Moments,
    Quantile,
    TopK,
)

FIRST = st.sampled_from(["include", "exclude", "only"])


def reduce(case: Calls, asked):
    """The statistics of a case at one site."""
    site, reducers = asked
    model, _ = models(case.dtype)
    with torch.no_grad(), al.capture(model, {site: reducers}) as stats:
        case.run(model, stats)
    return stats[site]


def firing(result, x: np.ndarray) -> None:
    assert result.tokens == len(x)
    assert np.array_equal(result.fired, (x > 0).sum(0))


@given(case=calls(), first=FIRST)
def test_firing_rates(case, first):
    result, x = reduce(case, (POST, FiringRate(first=first))), case.read(first).post
    firing(result, x)
    if len(x):
        assert np.array_equal(result.rates, (x > 0).mean(0))
        assert result.dead == ((x > 0).sum(0) == 0).sum()
        frame = result.frame()
        assert list(frame["fired"]) == list((x > 0).sum(0))
        assert list(frame["unit"]) == list(range(UNITS))
    else:
        assert result.rates.isnan().all()


@given(
    runs=st.lists(st.tuples(st.integers(0, 150), st.booleans()), max_size=6),
    width=st.integers(1, 40),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    seed=st.integers(0, 2**31),
)
def test_firing_counts_over_many_pieces_and_runs_of_padding(runs, width, dtype, seed):
    mask = torch.tensor([real for length, real in runs for _ in range(length)], dtype=torch.bool)
    x = torch.randn(1, len(mask), width, generator=torch.Generator().manual_seed(seed)).to(dtype)
    x = torch.where(x.abs() < 0.3, -0.0, x)
    x[:, ~mask] = torch.nan
    x[:, :, 0] = torch.nan
    state = FiringRate().init((width,), x.device)
    for _ in range(2):
        FiringRate().update(state, x, mask[None])
    assert torch.equal(state["fired"], 2 * (x[0, mask] > 0).sum(0))
    assert state["tokens"] == 2 * mask.sum()


@given(case=calls(), first=FIRST, keep=st.integers(0, 40))
def test_active_counts(case, first, keep):
    result, x = reduce(case, (POST, ActiveCount(keep, first=first))), case.read(first).post
    active = (x > 0).sum(1)
    assert result.tokens == len(x)
    assert np.array_equal(result.counts, np.bincount(active, minlength=UNITS + 1))
    assert list(result.kept) == list(active[:keep])
    if len(x):
        assert result.mean == pytest.approx(active.mean(), rel=1e-12)
        for share in (0.0, 0.3, 0.5, 1.0):
            assert result.quantile(share) == np.quantile(active, share, method="inverted_cdf")
        assert dict(result.frame().to_numpy()) == dict(
            zip(*np.unique(active, return_counts=True), strict=True)
        )


def test_the_token_that_decides_a_quantile_of_many():
    """2^26 tokens, of which half have no active unit: fp32 could not tell half from one more."""
    half = 2**25
    counts = torch.tensor([half, 0, half])
    result = ActiveCounts(2 * half, counts, torch.zeros(0, dtype=torch.int32))
    assert result.quantile(0.5) == 0
    assert result.quantile((half + 1) / (2 * half)) == 2
    # 0.07 · 100 is above 7 in floats.
    assert ActiveCounts(100, torch.tensor([7, 93]), result.kept).quantile(0.07) == 0


@given(case=calls(), first=FIRST)
def test_moments(case, first):
    result, x = reduce(case, (RESID, Moments(first=first))), case.read(first).resid
    assert result.tokens == len(x)
    if not len(x):
        assert result.mean.isnan().all()
        assert result.variance.isnan().all()
        return
    np.testing.assert_allclose(result.mean, x.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(result.variance, x.var(0), rtol=1e-11, atol=1e-14)
    np.testing.assert_allclose(result.std, x.std(0), rtol=1e-11, atol=1e-7)
    assert np.array_equal(result.max, x.max(0))


@given(case=calls(), first=FIRST)
def test_mean_and_covariance(case, first):
    result, x = reduce(case, (RESID, MeanCovariance(first=first))), case.read(first).resid
    assert result.tokens == len(x)
    if not len(x):
        assert result.covariance.isnan().all()
        return
    expected = np.cov(x.T, ddof=0)
    np.testing.assert_allclose(result.mean, x.mean(0), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(result.covariance, expected, rtol=1e-10, atol=1e-13)
    if len(x) > 1:
        variances, directions = result.principal(3)
        np.testing.assert_allclose(
            variances, np.linalg.eigvalsh(expected)[::-1][:3], rtol=1e-8, atol=1e-12
        )
        np.testing.assert_allclose(
            directions.numpy() @ expected,
            (variances[:, None] * directions).numpy(),
            rtol=1e-6,
            atol=1e-10,
        )
        spread = np.linalg.eigvalsh(expected)
        assert result.dimensions == pytest.approx(spread.sum() ** 2 / (spread**2).sum(), rel=1e-8)


@given(case=calls(), first=FIRST, low=st.integers(-12, -2), high=st.integers(-1, 4))
def test_a_histogram_answers_any_threshold(case, first, low, high):
    result, x = reduce(case, (POST, Histogram(low, high, first=first))), case.read(first).post
    assert result.tokens == len(x)
    assert result.counts.sum() == x.size
    if not len(x):
        return
    assert np.array_equal(result.positive, (x > 0).mean(0))
    for octave in range(low, high + 1):
        share = result.at_least(2.0**octave)
        assert np.array_equal(share.least, (x >= 2.0**octave).mean(0))
        assert np.array_equal(share.most, share.least)
    for threshold in (1e-30, 0.003, 0.07, 0.3, 0.9, 5.0, 1e30):
        share, exact = result.at_least(threshold), (x >= threshold).mean(0)
        assert (share.least.numpy() <= exact).all()
        assert (exact <= share.most.numpy()).all()
    frame = result.frame()
    for row in frame.itertuples():
        edges = (row[1], row.below)
        expected = (x >= edges[0]) & (x < edges[1])
        if edges[1] == 0:
            expected = x <= 0
        elif edges[0] == 0:
            expected = (x > 0) & (x < edges[1])
        assert row.count == expected.sum(), edges


@given(case=calls(), first=FIRST, error=st.sampled_from([0.003, 0.01, 0.1]), unit=st.booleans())
def test_quantiles_stay_within_their_error(case, first, error, unit):
    """Of the residual stream, which has both signs."""
    by = "unit" if unit else "site"
    result = reduce(case, (RESID, Quantile(error, by, first=first)))
    x = case.read(first).resid
    assert result.tokens == len(x)
    assert result.counts.sum() == x.size
    for share in (0.0, 0.07, 0.25, 0.5, 0.9, 1.0):
        got = result.quantile(share).numpy()
        if not len(x):
            assert np.isnan(got).all()
            continue
        axis = 0 if unit else None
        exact = np.quantile(x, share, axis=axis, method="inverted_cdf")
        assert (np.abs(got - exact) <= error * np.abs(exact)).all()


def test_quantiles_at_the_ends_of_their_range():
    reducer = Quantile(0.01, low=-4, high=3)
    state = reducer.init((6,), torch.device("cpu"))
    x = torch.tensor([0.0, 2.0**-5, -1e-9, 8.0, torch.inf, torch.nan]).view(1, 1, 6)
    reducer.update(state, x, torch.ones(1, 1, dtype=torch.bool))
    result = reducer.finalize(state)
    assert result.nan == 1
    assert result.quantile(0.5) == 0  # three of five are below 2^-4
    assert result.quantile(1.0) == 8  # beyond 2^3 sizes are not told apart
    assert "1 values are NaN" in repr(result)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        result.quantile(1.5)


@given(case=calls(), first=FIRST, k=st.integers(1, 7))
def test_the_largest_values_and_where_they_stand(case, first, k):
    result, read = reduce(case, (POST, TopK(k, first=first))), case.read(first)
    values, rows, positions = top(read, k)
    found = values.shape[1]
    assert np.array_equal(result.values[:, :found], values)
    assert np.array_equal(result.rows[:, :found], rows)
    assert np.array_equal(result.positions[:, :found], positions)
    assert (result.values[:, found:] == -torch.inf).all()
    assert (result.rows[:, found:] == -1).all()
    assert (result.positions[:, found:] == -1).all()
    assert result.rows_read == sum(len(batch["input_ids"]) for batch in case.batches)
    frame = result.frame()
    assert len(frame) == values.size
    assert list(frame["value"]) == list(values.ravel())


@given(case=calls(), first=FIRST, units=st.permutations(range(UNITS)))
def test_coactivation(case, first, units):
    units = units[:9]
    result, x = reduce(case, (POST, CoActivation(units, first=first))), case.read(first).post
    on = (x[:, units] > 0).astype(np.int64)
    assert result.tokens == len(x)
    assert np.array_equal(result.both, on.T @ on)
    frame = result.frame().set_index(["unit_a", "unit_b"])
    for i, j in ((0, 1), (2, 8)):
        a, b = on[:, i].astype(bool), on[:, j].astype(bool)
        row = frame.loc[(units[i], units[j])]
        assert (row["both"], row["fired_a"], row["fired_b"]) == ((a & b).sum(), a.sum(), b.sum())
        if (a | b).any():
            assert row["jaccard"] == (a & b).sum() / (a | b).sum()
        if a.any() and b.any():
            assert row["lift"] == pytest.approx((a & b).mean() / (a.mean() * b.mean()))
            assert float(result.given[i, j]) == (a & b).sum() / b.sum()


@given(case=calls(), first=FIRST, k=st.integers(1, 3))
def test_groups(case, first, k):
    asked = [
        Grouped(FiringRate(), 3, names=("a", "b", "c"), first=first),
        Grouped(TopK(k), 3, first=first),
        Grouped(Histogram(-8, 2), 3, first=first),
        Grouped(Quantile(), 3, first=first),
    ]
    rates, largest, histograms, quantiles = reduce(case, (POST, asked))
    read = case.read(first)
    assert list(rates) == ["a", "b", "c"]
    assert list(largest) == [0, 1, 2]
    assert rates.counts[-1] == (~np.isin(read.labels, [0, 1, 2])).sum()
    for group, name in enumerate("abc"):
        of_group = read.labels == group
        mine = Read(**{what: x[of_group] for what, x in vars(read).items()})
        firing(rates[name], mine.post)
        assert rates.counts[group] == of_group.sum()
        values, rows, positions = top(mine, k)
        assert np.array_equal(largest[group].values[:, : values.shape[1]], values)
        assert np.array_equal(largest[group].rows[:, : values.shape[1]], rows)
        assert np.array_equal(largest[group].positions[:, : values.shape[1]], positions)
        assert histograms[group].counts.sum() == mine.post.size
        assert quantiles[group].counts.sum() == mine.post.size
        if of_group.any():
            assert np.array_equal(histograms[group].positive, (mine.post > 0).mean(0))
    frame = rates.frame()
    assert list(frame["group"].unique()) == ["a", "b", "c"]
    assert frame["fired"].sum() == sum(int(rates[name].fired.sum()) for name in "abc")


def test_sites_with_heads_number_both(tiny):
    """d_head under head, in results and in frames."""
    model, ids = tiny(), torch.randint(3, 50, (2, 5))
    asked = {"layers.0.self_attn.hook_q": [FiringRate(), TopK(1), Histogram(), Moments()]}
    with al.capture(model, asked) as stats, al.capture(model, list(asked)) as acts:
        model(ids)
    rates, best, histogram, moments = stats["layers.0.self_attn.hook_q"]
    q = acts["layers.0.self_attn.hook_q"].flatten(0, 1)
    assert torch.equal(rates.fired, (q > 0).sum(0))
    assert torch.equal(best.values[..., 0], q.amax(0))
    assert torch.equal(histogram.positive, (q > 0).double().mean(0))
    torch.testing.assert_close(moments.mean, q.double().mean(0))
    frame = rates.frame()
    assert list(frame.columns[:2]) == ["head", "unit"]
    row = frame[(frame["head"] == 3) & (frame["unit"] == 5)]
    assert row["fired"].item() == (q[:, 3, 5] > 0).sum()


def test_what_stands_at_padding_never_counts():
    """NaN, infinity and huge values there leave every state as it is."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 6, generator=generator)
    mask = torch.rand(3, 5, generator=generator) > 0.4
    asked = {"positions": mask.cumsum(1) - 1, "seen": 0, "labels": torch.zeros(3, 5).long()}
    for reducer in (
        FiringRate(), ActiveCount(4), Moments(), MeanCovariance(), Histogram(), Quantile(),
        Quantile(by="unit"), TopK(3), CoActivation((0, 5)), Grouped(Moments(), 2),
        Grouped(FiringRate(), 2),
    ):  # fmt: skip
        states = []
        for padding in (0.0, torch.nan, torch.inf, -torch.inf, 1e30):
            state = reducer.init((6,), torch.device("cpu"))
            filled = torch.where(mask[..., None], x, padding)
            reducer.update(state, filled, mask, **{what: asked[what] for what in reducer.asks})
            states.append(state)
        for state in states[1:]:
            for name, tensor in state.items():
                assert torch.equal(tensor, states[0][name]), (reducer, name)


def test_many_tokens_go_through_in_pieces(monkeypatch):
    """Cut into pieces of two tokens, the states are those of one piece."""
    from arcee_lab.reducers.running import chunks

    generator = torch.Generator().manual_seed(0)
    x, mask = torch.randn(2, 7, 6, generator=generator), torch.ones(2, 7, dtype=torch.bool)
    asked = {"positions": mask.cumsum(1) - 1, "seen": 0, "labels": torch.zeros(2, 7).long()}
    for reducer in (FiringRate(), ActiveCount(5), TopK(3), Histogram(), Quantile(), Moments(),
                    MeanCovariance(), CoActivation((1, 2)), Grouped(TopK(2), 1)):  # fmt: skip
        states = []
        for elements in (2**18, 12):
            monkeypatch.setattr(chunks, "_CPU", elements)
            state = reducer.init((6,), torch.device("cpu"))
            reducer.update(state, x, mask, **{what: asked[what] for what in reducer.asks})
            states.append(state)
        for name in states[0]:
            torch.testing.assert_close(states[0][name], states[1][name], rtol=1e-12, atol=1e-12)


def test_a_large_mean_does_not_cancel():
    """Values near 10,000 that differ by 1e-2: sums of squares in fp32 would hold no digit."""
    x = 10_000 + 0.01 * torch.randn(4, 500, 3, generator=torch.Generator().manual_seed(0)).double()
    for reducer, name in ((Moments(), "variance"), (MeanCovariance(), "covariance")):
        state = reducer.init((3,), torch.device("cpu"))
        for rows in x.split(1):
            reducer.update(state, rows, torch.ones(1, 500, dtype=torch.bool))
        found = getattr(reducer.finalize(state), name)
        expected = np.cov(x.flatten(0, 1).numpy().T, ddof=0)
        np.testing.assert_allclose(
            found, np.diag(expected) if name == "variance" else expected, rtol=1e-8, atol=1e-14
        )
