"""A block gives back what went into it, to the bit, in every layout and at every density."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.torch import save

from arcee_lab.dump.format import sparse
from arcee_lab.dump.format.layouts import LAYOUTS, MOST_TOKENS, Builder, encode

EXACT = [layout for layout in LAYOUTS if layout != "int8"]
DTYPES = [torch.bfloat16, torch.float16, torch.float32]


def activations(tokens, width, density, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, width, generator=generator).abs() + 1e-3
    return (x * (torch.rand(tokens, width, generator=generator) < density)).to(dtype)


def bits(x):
    return sparse.to_bits(x.contiguous())


@given(
    tokens=st.integers(0, 90),
    width=st.integers(0, 70),
    density=st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.4, 0.6, 0.95, 1.0]),
    dtype=st.sampled_from(DTYPES),
    layout=st.sampled_from(EXACT),
    data=st.data(),
)
def test_round_trip_is_exact(tokens, width, density, dtype, layout, data):
    x = activations(tokens, width, density, dtype)
    block = encode(x, layout)
    assert (block.tokens, block.width, block.dtype) == (tokens, width, dtype)
    assert np.array_equal(bits(block.dense()), bits(x))
    if layout != "dense":
        assert block.nonzeros == int((x != 0).sum())

    start = data.draw(st.integers(0, tokens))
    stop = data.draw(st.integers(start, tokens))
    assert np.array_equal(bits(block.dense(start, stop)), bits(x[start:stop]))
    span = block.span(start, stop)
    assert np.array_equal(span.dense(), bits(x[start:stop]))
    assert len(span.values) == int((x[start:stop] != 0).sum())

    units = data.draw(st.lists(st.integers(0, width - 1), max_size=5)) if width else []
    assert np.array_equal(block.units(units).dense(), bits(x[:, units].t()))


@given(
    sizes=st.lists(st.integers(0, 20), min_size=1, max_size=6),
    density=st.sampled_from([0.0, 0.04, 0.3, 1.0]),
    layout=st.sampled_from(LAYOUTS),
)
def test_batches_give_the_same_bytes_as_one_tensor(sizes, density, layout):
    x = activations(sum(sizes), 17, density, torch.bfloat16)
    builder = Builder(layout, width=17, dtype=x.dtype)
    for piece in x.split(sizes):
        builder.add(piece)
    assert save(dict(builder.finish().tensors)) == save(dict(encode(x, layout).tensors))
    assert builder.tokens == builder.bytes == 0


@given(
    pieces=st.lists(st.integers(1, 9), min_size=1, max_size=6).flatmap(st.permutations),
    unused=st.integers(0, 3),
    turned=st.booleans(),
    density=st.sampled_from([0.0, 0.04, 0.3, 1.0]),
    layout=st.sampled_from(LAYOUTS),
    seed=st.integers(0, 99),
)
def test_pieces_in_any_order_give_the_same_bytes_as_one_tensor(
    pieces, unused, turned, density, layout, seed
):
    # Two forwards hold the tokens of the shard in another order, between rows of other shards.
    x = activations(sum(pieces), 17, density, torch.bfloat16)
    generator = np.random.default_rng(seed)
    starts = np.cumsum([0, *pieces[:-1]])
    spans = [np.arange(start, start + n) for start, n in zip(starts, pieces, strict=True)]
    generator.shuffle(spans)
    builder = Builder(layout, width=17, dtype=x.dtype)
    half = len(spans) // 2
    for part in (spans[:half], spans[half:]):
        if part:
            at = np.concatenate(part)
            batch = torch.cat([torch.ones(unused, 17, dtype=x.dtype), x[at]])
            batch = batch.t().contiguous().t() if turned else batch
            builder.add(batch, rows=np.arange(unused, unused + len(at)), at=at)
    assert save(dict(builder.finish().tensors)) == save(dict(encode(x, layout).tensors))


def test_missing_and_repeated_tokens_are_noticed():
    for at in (1, np.array([0, 0])):
        builder = Builder("neuron", width=3, dtype=torch.float32)
        builder.add(torch.ones(2, 3), at=at)
        with pytest.raises(AssertionError, match="missing, or were added twice"):
            builder.finish()


@pytest.mark.parametrize("entries", [1, 40, 10**6])
def test_sorting_in_pieces_changes_nothing(monkeypatch, entries):
    monkeypatch.setattr(sparse, "_SORTED", entries)
    rows = sparse.compress(bits(activations(50, 17, 0.3, torch.float16)))
    got, expected = sparse.transpose_in_pieces(rows), rows.transposed()
    for name in ("offsets", "index", "values"):
        assert np.array_equal(getattr(got, name), getattr(expected, name))
    assert got.width == expected.width == 50


@pytest.mark.parametrize("layout", EXACT)
def test_odd_values_come_back_to_the_bit(layout):
    odd = [float("nan"), float("inf"), -1.5, 6e-8, 65504.0, 2.0**-24]
    for dtype in DTYPES:
        x = torch.tensor([odd, [0.0] * 6], dtype=dtype)
        assert np.array_equal(bits(encode(x, layout).dense()), bits(x))


def test_minus_zero_is_a_zero():
    block = encode(torch.tensor([[-0.0, 1.0], [0.0, -0.0]]))
    assert block.nonzeros == 1
    assert block.dense().tolist() == [[0.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    ("density", "expected"),
    [(0.0, "index"), (0.03, "index"), (0.1, "bitmap"), (0.7, "bitmap"), (0.99, "dense")],
)
def test_the_smallest_encoding_is_taken(density, expected):
    x = activations(256, 256, density, torch.float16)
    block = encode(x)
    assert block.encoding == expected
    cells, n = x.numel(), int((x != 0).sum())
    offsets = 0 if expected == "dense" else 8 * 257
    assert block.bytes == min(4 * n, cells // 8 + 2 * n, 2 * cells) + offsets


def test_the_rule_turns_at_one_in_16_and_15_in_16():
    def encoding(nonzeros):
        return sparse.encoding_of(rows=10, width=160, nonzeros=nonzeros, itemsize=2)

    turns = [encoding(n) for n in (100, 101, 1500, 1501)]
    assert turns == ["index", "bitmap", "bitmap", "dense"]


@pytest.mark.parametrize("density", [0.001, 0.2])
def test_more_than_16_bits_of_units_take_32(density):
    x = activations(3, 70_001, density)
    block = encode(x, "both")
    if density < 1 / 16:
        assert block.tensors["by_token.index"].dtype == torch.uint32
        assert block.tensors["by_unit.index"].dtype == torch.uint16
    assert torch.equal(block.dense(), x)
    assert torch.equal(sparse.from_bits(block.span(1, 3).dense(), x.dtype), x[1:3])


def test_a_full_shard_reaches_the_last_16_bit_index():
    x = torch.zeros(MOST_TOKENS, 3)
    x[-1, 1] = x[0, 2] = 1
    block = encode(x)
    assert block.tensors["by_unit.index"].tolist() == [MOST_TOKENS - 1, 0]
    builder = Builder("neuron", width=3, dtype=x.dtype)
    builder.add(x)
    with pytest.raises(ValueError, match="expected at most 65536"):
        builder.add(x[:1])


@given(tokens=st.integers(0, 9), width=st.integers(0, 9), scale=st.floats(1e-30, 1e30))
@example(tokens=3, width=4, scale=1e-44)
def test_int8_is_off_by_half_a_scale_at_most(tokens, width, scale):
    x = activations(tokens, width, 0.7) * scale
    block = encode(x, "int8")
    assert block.encoding == "int8"
    steps = block.tensors["by_token.scales"].double()
    if width:
        assert torch.equal(steps.float(), x.abs().amax(dim=1) / 127)
    error = (block.dense().double() - x.double()).abs()
    # Below the smallest normal float32 a scale itself is a multiple of 2**-149.
    assert (error <= 0.5001 * steps[:, None] + 127 * 2.0**-149).all()


def test_bad_activations_are_refused():
    with pytest.raises(ValueError, match="NaN or infinite"):
        encode(torch.tensor([[float("inf")]]), "int8")
    with pytest.raises(ValueError, match="expected bfloat16, float16 or float32"):
        encode(torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(ValueError, match="expected width 3"):
        Builder("neuron", width=3, dtype=torch.float32).add(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="expected one of neuron, both, dense, int8"):
        Builder("unit", width=3, dtype=torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
def test_some_rows_are_compressed_as_their_copies_are(dtype):
    """Most rows in order, which are not copied; and few, out of order, twice or none."""
    x = activations(700, 1000, 0.05, dtype)
    x[::7] *= -1
    x[5] = -0.0
    matrix, random = bits(x), np.random.default_rng(2)
    rising = np.flatnonzero(random.random(700) < 0.9)
    for rows in (
        rising,
        rising[5:],
        rising[::3],
        rising[::-1].copy(),
        np.array([3, 3, 5]),
        rising[:0],
    ):
        got = sparse.compress(matrix, rows=rows)
        where, column = np.nonzero(x[rows].float().numpy())
        assert got.offsets.tolist() == np.searchsorted(where, np.arange(len(rows) + 1)).tolist()
        assert got.index.tolist() == column.tolist()
        assert got.values.tolist() == matrix[rows][where, column].tolist()
