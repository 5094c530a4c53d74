"""A CPU's bits and lists give what the dense path of other devices gives; which tokens count."""

import zlib

import numpy as np
import pytest
import torch
from dense import Letters, is_real, pair, plant
from hypothesis import given, settings
from hypothesis import strategies as st

TEXTS = ["abcdefghabcdefgabbbaacc", "hgf", "aabbccddeeffgg", "cabbage", "fade", "headcabbagefeed"]


@pytest.mark.parametrize(("d_mlp", "dtype"), [(72, "float64"), (270, "float64"), (270, "bfloat16")])
def test_every_analysis_gives_the_same_on_both_paths(monkeypatch, d_mlp, dtype):
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.core import window_means
    from arcee_lab.sparsity.streamed.analysis import LayerBatch

    model = plant(*pair(d_mlp=d_mlp, bias=True))[0].to(getattr(torch, dtype))

    def measured():
        names = ["all", "low_rank"]
        return measure(
            model, Letters(), TEXTS, analyses=names, context=20, batch_size=3, sample_every=1
        )

    report = measured()
    fast, tokens = report.states, report.n_tokens
    monkeypatch.setattr(LayerBatch, "on_cpu", property(lambda seen: False))
    dense = measured().states
    for name, state in fast.items():
        for key, tensor in state.items():
            other = dense[name][key]
            assert tensor.dtype == other.dtype
            if not is_real(key) or name in ("unions", "overlap"):
                assert torch.equal(tensor, other), (name, key)
            else:  # real terms are rounded to 2^-32; in bf16 norms, and what is written, differ
                one, two = window_means.real(tensor), window_means.real(other)
                limit = np.abs(one).max() * (1e-9 if dtype == "float64" else 0.02)
                assert np.abs(one - two).max() <= limit + tokens / window_means.FRACTION, (
                    name,
                    key,
                )
    assert fast["blocks"]["max_tile"].max() > 0 or d_mlp < 128


@pytest.mark.parametrize(
    ("share", "few_tokens", "few", "stride"),
    [(None, 99, 64, 32), (None, 4096, 64, 1), (1, 99, 9, 1), (2, 4096, 2, 64), (2, 4096, 64, 32)],
)
def test_predictors_are_tried_on_the_tokens_that_the_docs_name(
    monkeypatch, share, few_tokens, few, stride
):
    """Of a long text in every fourth window of a share, else in all, as `batches` says."""
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import measure
    from arcee_lab.sparsity.streamed import schedule
    from arcee_lab.sparsity.streamed.schedule import plan

    monkeypatch.setattr(schedule, "FEW_TOKENS", few_tokens)
    monkeypatch.setattr(schedule, "FEW", few)

    model = plant(*pair(d_mlp=40, bias=True))[0]
    windows = cut(
        Letters(), TEXTS * 3 + ["abcdefgh" * number for number in range(1, 9)], context=20
    )
    made = plan(windows, batch_size=4, sample_every=share)
    assert made.stride == stride
    expected, found = set(), []
    for row in range(len(windows)):
        key = zlib.crc32(windows[row].tobytes())
        if key % made.sample_every == 0:
            spread = 4 if made.sample_every > 1 and len(windows) >= 4 * schedule.FEW else 1
            if key // made.sample_every % spread == 0:
                places = np.arange(2, len(windows[row]))  # the first counted has none before it
                every = stride // spread
                assert every in ((16,) if spread == 4 else (1, 32))
                expected |= {(row, p) for p in places.tolist() if (p + key) % every == 0}
    for (rows, _), job in zip(made.batches, made.forwards(range(len(made.batches))), strict=True):
        if job.in_sample:
            owner = np.repeat(rows, [stop - start for start, stop in job.tokens.spans])
            at = job.tokens.tried
            found += zip(owner[at].tolist(), job.tokens.positions[at].tolist(), strict=True)
    assert len(found) == len(expected) > 0
    assert set(found) == expected
    report = measure(model, Letters(), windows, sample_every=share)
    assert set(report.frames["predictors"]["n_tokens"].dropna()) == {len(expected)}
    costs = report.frames["costs"].set_index("analysis")["n_tokens"]
    assert costs["predictors"] == len(expected)
    assert f"N = {len(expected):,} tokens" in report.results["predictors"].headline
    if (share, stride) == (None, 32):
        with pytest.raises(ValueError, match="predictors at 1 token in 32"):
            report.merge(measure(model, Letters(), windows, sample_every=1))


@settings(max_examples=15)
@given(sizes=st.lists(st.integers(0, 5), min_size=1, max_size=5), wide=st.booleans())
def test_sums_by_window_where_some_windows_are_empty(sizes, wide):
    from arcee_lab.sparsity.core import window_means

    stops = np.cumsum(sizes).tolist()
    spans = tuple(zip([0, *stops[:-1]], stops, strict=True))
    x = torch.from_numpy(np.random.default_rng(sum(sizes)).normal(size=(stops[-1], 3)))
    x = x if wide else x[:, 0]
    expected = torch.stack([x[start:stop].sum(0) for start, stop in spans])
    found = window_means.by_window(x, spans)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)


@settings(max_examples=15)
@given(seed=st.integers(0, 99), size=st.sampled_from([1.0, 1e3, 2.0**27]))
def test_sums_of_real_numbers_are_exact_in_any_grouping_and_do_not_overflow(seed, size):
    """2^27 is the largest sum of `spikes` over a window of 131,072 tokens; its square is 2^54."""
    from fractions import Fraction

    from arcee_lab.sparsity.core import window_means

    rng = np.random.default_rng(seed)
    windows, unit = 400, Fraction(1, window_means.FRACTION)
    s, n = rng.uniform(-size, size, (windows, 2)), rng.integers(0, 2**17, (windows, 2))
    state, parts = (window_means.new("x", (3, 2), torch.device("cpu")) for _ in range(2))
    window_means.add(state, "x", 1, torch.from_numpy(s), torch.from_numpy(n))
    for rows in np.array_split(rng.permutation(windows), 7):
        window_means.add(parts, "x", 1, torch.from_numpy(s[rows]), torch.from_numpy(n[rows]))
    assert all(torch.equal(tensor, parts[name]) for name, tensor in state.items())
    for name, terms in (("s", s), ("ss", s * s), ("sn", s * n)):
        for column in range(2):
            expected = sum(map(Fraction, terms[:, column].tolist()))
            whole, rest = state[f"x_{name}"][1, column].tolist()
            assert abs(whole + rest * unit - expected) <= windows * unit / 2
    mean = window_means.mean(state, "x")
    ratio, w = s.sum(0) / n.sum(0), (n > 0).sum(0)
    assert np.allclose(mean.value[1], ratio, rtol=1e-9)
    spread = ((s - ratio * n) ** 2).sum(0) / n.sum(0) ** 2.0 * w / (w - 1)
    assert np.allclose(mean.ci_half_width[1], 1.96 * np.sqrt(spread), rtol=1e-6)
    assert np.isnan(mean.value[0]).all()


@settings(max_examples=15)
@given(seed=st.integers(0, 99), tokens=st.integers(1, 9), d_mlp=st.integers(1, 300))
def test_bits_and_the_list_say_what_the_activations_say(seed, tokens, d_mlp):
    from arcee_lab.sparsity.core import packed_masks
    from arcee_lab.sparsity.streamed.analysis import LayerBatch

    rng = np.random.default_rng(seed)
    dense = np.where(rng.random((tokens, d_mlp)) < rng.random(), rng.random((tokens, d_mlp)), 0)
    norms = rng.random(d_mlp).astype(np.float32)
    post, active = torch.from_numpy(dense), torch.from_numpy((dense != 0).sum(1))
    seen = LayerBatch.__new__(LayerBatch)  # what counts here is read off these three
    for name, value in (("post", post), ("active", active), ("norms", torch.from_numpy(norms))):
        object.__setattr__(seen, name, value)
    assert seen.packed.shape[1] % 16 == 0
    assert np.array_equal(packed_masks.unpack(seen.packed, d_mlp), dense != 0)
    assert np.array_equal(packed_masks.count(seen.packed), active)
    found = seen.firings
    assert np.array_equal(np.diff(found.starts), active)
    assert np.array_equal(found.places, np.flatnonzero(dense))
    written = dense * norms
    assert np.array_equal(found.written, written[dense != 0])
    assert np.allclose(found.sums(found.written), written.sum(1))
    assert np.array_equal(found.largest(found.written), written.max(1))
