"""The counts of exact zeros equal brute force on transformers' own Arcee; no hook stays behind."""

import numpy as np
import pytest
import torch
from dense import Letters, brute_force, pair
from hypothesis import given
from hypothesis import strategies as st


@given(
    texts=st.lists(st.text("abcdefgh", min_size=1, max_size=25), min_size=1, max_size=6),
    layers=st.integers(1, 3),
    d_mlp=st.integers(3, 40),
    kv_heads=st.sampled_from([1, 2]),
    bias=st.booleans(),
    bos=st.booleans(),
    context=st.integers(2, 16),
    batch_size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_equals_brute_force_on_the_reference(
    texts, layers, d_mlp, kv_heads, bias, bos, context, batch_size, seed
):
    from arcee_lab.sparsity import measure

    texts.append("abc")  # at least one token that is no first token
    ours, reference = pair(layers=layers, d_mlp=d_mlp, kv_heads=kv_heads, bias=bias, seed=seed)
    tokenizer = Letters(bos)
    report = measure(
        ours, tokenizer, texts, analyses=["core"], batch_size=batch_size, context=context
    )
    fired, first, active, n_tokens, n_first = brute_force(
        reference, tokenizer(texts)["input_ids"], context=context
    )
    assert (report.n_tokens, report.n_first) == (n_tokens, n_first)
    assert report.fired.dtype == report.active.dtype == torch.int64
    assert np.array_equal(report.fired, fired)
    assert np.array_equal(report.fired_first, first)
    assert np.array_equal(report.active, active)
    assert torch.allclose(report.zeros, torch.tensor(1 - fired.mean(1) / n_tokens))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_equals_the_reference_in_the_dtype_it_runs_in(dtype):
    """One window per batch, so both models multiply matrices of one shape and round alike."""
    from arcee_lab.sparsity import measure

    ours, reference = pair(layers=2, d_mlp=96, dtype=dtype)
    texts = ["abcdefghgfedcba" * 3, "hgf", "aabbccdd"]
    report = measure(ours, Letters(), texts, batch_size=1, context=20)
    fired, first, active, _, _ = brute_force(reference, Letters()(texts)["input_ids"], context=20)
    assert np.array_equal(report.fired, fired)
    assert np.array_equal(report.fired_first, first)
    assert np.array_equal(report.active, active)
    assert report.dtype == str(dtype).removeprefix("torch.")


@given(
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32, torch.float64]),
    tokens=st.sampled_from([0, 1, 7, 254, 255, 256, 700]),
    d_mlp=st.integers(1, 9),
    density=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    signed=st.booleans(),
)
def test_counts_are_exact_in_every_dtype_and_on_both_paths(
    seed, dtype, tokens, d_mlp, density, signed
):
    """The path of bits on a CPU and that of other devices; -0.0, of a plain ReLU, is a zero."""
    from arcee_lab.sparsity.core import layer_counts, magnitudes

    rng = np.random.default_rng(seed)
    fires = rng.random((tokens, d_mlp)) < density
    values = np.where(fires, rng.uniform(1e-4, 9, fires.shape), -0.0 if signed else 0.0)
    post = torch.from_numpy(values).to(dtype)
    kind = rng.integers(0, 3, tokens)  # of a row: counted, first, padding
    places, first = (torch.from_numpy(np.flatnonzero(kind == which)) for which in (0, 1))
    sized = bins_by_hand(post[places].abs().double().numpy())
    for found in (
        how(post, places, first) for how in (layer_counts.count, layer_counts.count_dense)
    ):
        assert found.sized.dtype == torch.int64
        assert found.sized.shape == (magnitudes.BINS,)
        assert np.array_equal(found.sized, sized)
        assert found.active.dtype == found.fired.dtype == found.fired_first.dtype == torch.int64
        assert np.array_equal(found.active, fires[kind == 0].sum(1))
        assert np.array_equal(found.fired, fires[kind == 0].sum(0))
        assert np.array_equal(found.fired_first, fires[kind == 1].sum(0))
        counted = post[places].float()
        assert found.top == (counted.max() if len(counted) else 0)
        assert (found.overflow, found.nan) == (0, 0)
    assert np.array_equal(layer_counts.bit_patterns(post) != 0, fires)


def bins_by_hand(x):
    """How many of the numbers above 0 are in each bin, by logarithms and divisions."""
    x = x[x > 0]
    octave = np.floor(np.log2(x))
    octave = (
        octave + (x >= 2.0 ** (octave + 1)) - 1.0 * (x < 2.0**octave)
    )  # where a log was rounded
    part = np.floor((x / 2.0**octave - 1) * 128)
    found = np.zeros(80 * 128, np.int64)
    np.add.at(found, np.clip((octave + 40) * 128 + part, 0, len(found) - 1).astype(int), 1)
    return found


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_sizes_begin_at_powers_of_two_and_end_in_bins_that_take_all(dtype):
    from arcee_lab.sparsity.core import magnitudes

    begins = torch.from_numpy(magnitudes.values()).to(dtype)
    if dtype == torch.float16:  # it has neither the first bins nor the last
        begins = begins[(begins >= 2**-14) & begins.isfinite()]
        lost = int((torch.from_numpy(magnitudes.values()) < 2**-14).sum())
    else:
        lost = 0
    expected = np.zeros(magnitudes.BINS, np.int64)
    expected[lost : lost + len(begins)] = 1
    # Every bin begins at its own number, and the number just below is in the one before.
    below = torch.nextafter(
        begins.to(torch.promote_types(dtype, torch.float32)),
        torch.zeros(()).to(torch.promote_types(dtype, torch.float32)),
    )
    for how in (of_list, magnitudes.bins_from_dense):
        assert np.array_equal(how(begins[:, None]), expected)
        if dtype in (torch.float32, torch.float64):
            shifted = np.append(expected[1:], 0)
            shifted[0] += 1  # below the first bin: in it all the same
            assert np.array_equal(how(below[:, None]), shifted)
    if dtype != torch.float16:
        far = torch.tensor([[1e-38], [2.0**-60], [2.0**45], [torch.inf]], dtype=dtype)
        for how in (of_list, magnitudes.bins_from_dense):
            found = how(far)
            assert (found[0], found[-1], found.sum()) == (2, 2, 4)


def of_list(post):
    from arcee_lab.sparsity.core import magnitudes

    return magnitudes.bins_from_firings(post.flatten())


@given(seed=st.integers(0, 999), rows=st.integers(0, 9), columns=st.integers(1, 40))
def test_picked_is_what_a_mask_picks(seed, rows, columns):
    from arcee_lab.sparsity.core import packed_masks

    rng = np.random.default_rng(seed)
    table = rng.integers(1, 99, (rows, columns)).astype(rng.choice([np.int16, np.int32, np.int64]))
    mask = rng.random((rows, columns)) < rng.random()
    table[~mask] = 0
    companion = rng.random((rows, columns)).astype(rng.choice([np.float32, np.float64]))
    counts, picked, (others,) = packed_masks.pick(table, mask, companion)
    assert np.array_equal(counts, mask.sum(1))
    assert np.array_equal(picked, table[mask])
    assert np.array_equal(others, companion[mask])
    into = np.empty(mask.sum() + 3, table.dtype)
    counts, picked, others = packed_masks.pick(table, mask, into=into)
    assert np.array_equal(picked, into[: mask.sum()])
    assert np.array_equal(picked, table[mask])
    assert others == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_extremes_see_overflow_and_nan_where_it_counts(dtype):
    from arcee_lab.sparsity.core.layer_counts import count, count_dense

    def told(how, counted):
        rows = torch.tensor(counted, dtype=torch.int64)
        found = how(post, rows, torch.tensor([3]))
        return found.top.item(), found.overflow.item(), found.nan.item()

    post = torch.tensor([[0.0, 3.0], [2.0, 70000.0], [1.0, 0.0], [9e4, 0.0]], dtype=dtype)
    largest = post[:3].max().float().item()
    for how in (count, count_dense):
        assert told(how, [0, 1, 2]) == (largest, 1, 0)
        assert told(how, [0, 2]) == (3.0, 0, 0)
        assert told(how, []) == (0, 0, 0)
    for nan in (torch.nan, -torch.nan):
        post[2, 0] = nan
        for how in (count, count_dense):
            assert told(how, [0, 1, 2])[1:] == (1, 1)
            assert told(how, [0, 1]) == (largest, 1, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_no_update_reads_back_to_the_host(dtype):
    """On the meta device a host read raises, and a stray CPU tensor fails."""
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import registry
    from arcee_lab.sparsity.core import every_token, kept_tokens
    from arcee_lab.sparsity.core.state import Shape
    from arcee_lab.sparsity.sampled.mlps import mlps
    from arcee_lab.sparsity.streamed import schedule
    from arcee_lab.sparsity.streamed.analysis import LayerBatch

    ours, _ = pair(dtype=dtype)
    mlp = mlps(ours.to("meta"))[1]
    windows = cut(Letters(), ["abcdefgh" * 4, "hgf", "aabb"], context=20)
    shape = Shape(2, 16, 24, 40, 20, windows.n_tokens)
    meta = torch.device("meta")
    plan = schedule.plan(windows, batch_size=8, sample_every=1)
    (job,) = plan.forwards([0])
    n = len(job.tokens)

    def blank(*size, kind=dtype):
        return torch.zeros(size, dtype=kind, device=meta)

    counts = every_token.new_state(shape, meta)
    places = job.tokens.places.to(meta), job.first.to(meta)
    post, norms = blank(job.input_ids.numel(), 24), blank(24, kind=torch.float32)
    active = every_token.add_layer(counts, 1, post, *places)
    every_token.add_batch(counts, job.tokens, len(job.first), torch.stack([active, active], 1))
    here, slots = plan.drawn(99).rows_and_slots(job.tokens)
    assert len(slots) == n
    slots = torch.from_numpy(slots).to(meta)
    kept_tokens.add_layer(counts, 1, post, places[0], slots)
    kept_tokens.add_batch(counts, job.tokens, here, slots)
    seen = LayerBatch(
        1, mlp, blank(n, 24), active, blank(n, 16), blank(n, 16), blank(n, 16),
        norms, job.tokens,
    )  # fmt: skip
    for name in registry.STREAMED:
        analysis = registry.streamed(name)
        state = analysis.init(shape, meta)
        analysis.layer(state, seen)
        together = torch.stack([active, active], 1)
        analysis.batch(state, job.tokens, together, blank(n, kind=torch.float32))
        assert {x.device.type for x in state.values()} == {"meta"}


def test_halves_merge_to_the_whole():
    from arcee_lab.sparsity import measure

    ours, _ = pair()
    texts = ["abcdef", "bca", "hhgfabc", "ab", "cc"]
    whole = measure(ours, Letters(), texts)
    parts = texts[:2], texts[2:4], texts[4:]
    one, two, three = (measure(ours, Letters(), part) for part in parts)
    for merged in (one.merge(two).merge(three), one.merge(two.merge(three))):
        assert torch.equal(merged.fired, whole.fired)
        assert torch.equal(merged.fired_first, whole.fired_first)
        assert torch.equal(merged.active, whole.active)
        assert (merged.n_tokens, merged.n_first) == (whole.n_tokens, whole.n_first)
        assert merged.n_documents == whole.n_documents == 5
    with pytest.raises(ValueError, match="expected one model"):
        one.merge(measure(pair(layers=1)[0], Letters(), texts))
    with pytest.raises(ValueError, match="with the same analyses= and sample_every="):
        one.merge(measure(ours, Letters(), texts, analyses=["core"]))


def test_frames_and_quantiles_agree_with_the_counts():
    from arcee_lab.sparsity import measure

    ours, _ = pair(d_mlp=30)
    report = measure(ours, Letters(), ["abcdefgh" * 6, "hgfedcba" * 3])
    layers, neurons = report.frame(), report.frames["neurons"]
    assert len(neurons) == 2 * 30
    assert (neurons["n_tokens"] == report.n_tokens).all()
    by_layer = neurons.groupby("layer")
    assert np.allclose(layers["zeros"], 1 - by_layer["rate"].mean())
    assert np.allclose(layers["active_mean"], by_layer["fired"].sum() / report.n_tokens)
    for layer, counts in enumerate(report.active.numpy()):
        sizes = np.repeat(np.arange(31), counts)
        assert len(sizes) == report.n_tokens
        for share in (0.05, 0.5, 0.95):
            expected = np.quantile(sizes, share, method="inverted_cdf")
            assert report.quantiles(share)[layer] == expected
    with pytest.raises(ValueError, match="The report has no table 'token'; expected one of"):
        report.frames["token"]
    few = measure(ours, Letters(), ["abcdefgh"], analyses=["core"])
    with pytest.raises(KeyError, match="was not measured; ask for it"):
        few.frames["overlap"]
    assert (few.frames["thresholds"]["n_tokens"] == few.n_tokens).all()


def test_dead_neurons_are_those_planted():
    from arcee_lab.sparsity import measure

    ours, _ = pair(bias=True)
    with torch.no_grad():
        for block in ours.model.layers:
            block.mlp.up_proj.bias.fill_(5.0)
            block.mlp.up_proj.weight.mul_(0.01)
        ours.model.layers[1].mlp.up_proj.bias[[3, 7]] = -5.0
    report = measure(ours, Letters(), ["abcdef", "gh"])
    assert report.dead.tolist() == [0, 2]
    assert (report.fired[1] == 0).nonzero().flatten().tolist() == [3, 7]
    assert report.summary()["neurons_that_never_fired"] == 2
    assert report.summary()["dead_rate_upper_95"] == pytest.approx(3 / report.n_tokens)
    assert "2 of 48 neurons never fired" in repr(report)


def test_other_heads_and_left_padding_tokenizers_give_the_same_counts():
    from arcee_lab.model import ArceeForSequenceClassification
    from arcee_lab.sparsity import measure

    causal, _ = pair()
    sequence, _ = pair(cls=ArceeForSequenceClassification)
    tokenizer = Letters()
    tokenizer.padding_side = "left"
    texts = ["abcdefgh", "bc", "gfedcba"]
    one = measure(causal, Letters(), texts)
    two = measure(sequence, tokenizer, texts)
    assert torch.equal(one.fired, two.fired)


def test_leaves_no_hook_and_no_gradient():
    from arcee_lab.sparsity import measure

    ours, _ = pair()
    ids = torch.tensor([[1, 3, 4, 5]])
    before = ours(ids).logits
    report = measure(ours, Letters(), ["abcdef"])
    assert not any(module._forward_hooks for module in ours.modules())
    assert not report.fired.requires_grad
    assert torch.equal(ours(ids).logits, before)

    def fail(*_):
        raise KeyboardInterrupt

    handle = ours.model.norm.register_forward_hook(fail)
    with pytest.raises(KeyboardInterrupt):
        measure(ours, Letters(), ["abcdef"])
    handle.remove()
    assert not any(module._forward_hooks for module in ours.modules())


@pytest.mark.parametrize(
    ("texts", "limits", "match"),
    [
        ([], {}, "hold no token"),
        (["", ""], {}, "hold no token"),
        (["abc"], {"batch_size": 0}, "batch size is 0"),
        (["abc"], {"context": 1}, "context is 1"),
        (["abc"], {"max_tokens": 1}, "one token long"),
        (["abc", "d"], {"max_tokens": 7}, "hold 6 tokens; max_tokens asks for 7. Give more text"),
    ],
)
def test_bad_input(texts, limits, match):
    from arcee_lab.sparsity import measure

    with pytest.raises(ValueError, match=match):
        measure(pair()[0], Letters(), texts, **limits)


def test_as_many_tokens_as_the_texts_hold_are_no_error():
    from arcee_lab.sparsity import measure

    report = measure(pair()[0], Letters(), ["abc", "d"], max_tokens=6)
    assert (report.n_tokens, report.n_first) == (4, 2)


def test_limits_beside_windows_are_an_error():
    from arcee_lab.data.windows import cut
    from arcee_lab.sparsity import measure

    windows = cut(Letters(), ["abcdef"], context=4)
    for limits in ({"max_tokens": 3}, {"context": 8}):
        with pytest.raises(ValueError, match="windows that are cut already; give limits to cut"):
            measure(pair()[0], Letters(), windows, **limits)


def test_nan_activations_are_an_error():
    from arcee_lab.sparsity import measure

    ours, _ = pair()
    with torch.no_grad():
        ours.model.layers[1].mlp.up_proj.weight[4, 0] = torch.nan
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp hold NaN"):
        measure(ours, Letters(), ["abcdef"])


def test_bad_texts_names_and_shares():
    from arcee_lab.sparsity import measure

    class Pads(Letters):
        def __call__(self, texts, verbose=True):
            return {"input_ids": [[1, 0, 0, 0] for _ in texts]}

    ours, _ = pair()
    with pytest.raises(ValueError, match="nothing but padding"):
        measure(ours, Pads(), ["x"])
    with pytest.raises(ValueError, match="no analysis is called 'overlaps'; expected some of"):
        measure(ours, Letters(), ["abc"], analyses=["overlaps"])
    with pytest.raises(ValueError, match=r"analyses of measure is .overlap. \(str\)"):
        measure(ours, Letters(), ["abc"], analyses="overlap")
    with pytest.raises(ValueError, match="sample_every is 0"):
        measure(ours, Letters(), ["abc"], sample_every=0)


def test_progress_goes_to_stderr_only_when_asked(capsys):
    from arcee_lab.sparsity import measure

    measure(pair()[0], Letters(), ["abcdef"])
    assert capsys.readouterr() == ("", "")
    measure(pair()[0], Letters(), ["abcdef"], progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "tok/s" in err
