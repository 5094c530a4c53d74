"""Our numbers are the reference's bit for bit: outputs, losses, gradients, cached decoding."""

from contextlib import nullcontext

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import (
    DTYPES,
    NAMES,
    ROPES,
    assert_same,
    assert_same_gradients,
    batch,
    labels,
    loss_of,
    pair,
    shapes,
    tensors,
)

import arcee_lab as al


def recording(model, captured):
    """A capture of every hook point, or none: the numbers are the same."""
    return al.capture(model, "*") if captured else nullcontext()


CHECKPOINTING = [None, {"use_reentrant": True}, {"use_reentrant": False}]


@pytest.mark.parametrize("head", NAMES)
@settings(max_examples=30)
@given(
    shape=shapes(),
    dtype=st.sampled_from(DTYPES),
    attn=st.sampled_from(["sdpa", "eager"]),
    padding=st.sampled_from([None, "left", "right"]),
    length=st.integers(3, 24),
    captured=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_outputs_and_losses(head, shape, dtype, attn, padding, length, captured, seed):
    ours, theirs = pair(head, attn=attn, dtype=dtype, seed=seed, **shape)
    inputs = batch(padding=padding, length=length, seed=seed)
    inputs |= labels(head, inputs, seed)
    with torch.no_grad(), recording(ours, captured):
        mine, other = (m(**inputs, output_hidden_states=True) for m in (ours, theirs))
    assert_same(mine, other)
    assert not any(value.isnan().any() for value in tensors(mine).values())


@pytest.mark.parametrize("head", NAMES)
@settings(max_examples=30)
@given(
    shape=shapes(),
    dtype=st.sampled_from(DTYPES),
    attn=st.sampled_from(["sdpa", "eager"]),
    padding=st.sampled_from([None, "left", "right"]),
    checkpointing=st.sampled_from(CHECKPOINTING),
    dropout=st.sampled_from([0.0, 0.2]),
    captured=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_gradients_in_training(
    head, shape, dtype, attn, padding, checkpointing, dropout, captured, seed
):
    """With attention dropout and the token head's dropout drawn from the same seed."""
    ours, theirs = pair(head, attn=attn, dtype=dtype, seed=seed, attention_dropout=dropout, **shape)
    inputs = batch(padding=padding, seed=seed)
    inputs |= labels(head, inputs, seed)
    losses = []
    for model in (ours, theirs):
        model.train()
        if checkpointing is not None:
            model.activation_checkpointing_enable(activation_checkpointing_kwargs=checkpointing)
        torch.manual_seed(seed)
        with recording(model, captured and model is ours):
            loss = loss_of(head, model(**inputs))
            loss.backward()
        losses.append(loss.detach())
    assert torch.equal(*losses)
    assert_same_gradients(ours, theirs, head)
    assert all(parameter.grad is not None for parameter in ours.parameters())


@pytest.mark.parametrize("head", ["base", "causal", "sequence"])
@settings(max_examples=15)
@given(
    shape=shapes(),
    dtype=st.sampled_from(DTYPES),
    attn=st.sampled_from(["sdpa", "eager"]),
    padding=st.sampled_from([None, "left"]),
    cuts=st.lists(st.integers(1, 5), min_size=2, max_size=4),
    captured=st.booleans(),
    seed=st.integers(0, 2**16),
)
def test_decoding_in_pieces_with_a_cache(head, shape, dtype, attn, padding, cuts, captured, seed):
    """The same calls give the same numbers, and the same as one call within rounding."""
    ours, theirs = pair(head, attn=attn, dtype=dtype, seed=seed, **shape)
    inputs = batch(padding=padding, length=sum(cuts) + 5, seed=seed)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    caches, start = [None, None], 0
    with torch.no_grad(), recording(ours, captured):
        for length in (5, *cuts):
            end = start + length
            outputs = [
                model(
                    input_ids=ids[:, start:end],
                    attention_mask=mask[:, :end],
                    cache=cache,
                    use_cache=True,
                )
                for model, cache in zip((ours, theirs), caches, strict=True)
            ]
            assert_same(*outputs)
            caches, start = [o.cache for o in outputs], end
    for mine, other in zip(caches[0].layers, caches[1].layers, strict=True):
        assert torch.equal(mine.keys, other.keys)
        assert torch.equal(mine.values, other.values)
    assert caches[0].get_seq_length() == ids.shape[1]


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("rope", [r for r in ROPES if r not in ("dynamic", "longrope")])
def test_pieces_equal_one_call(rope, padding):
    """Positions come from the caller: under left padding a cache must not shift them."""
    ours, _ = pair(rope_parameters=ROPES[rope])
    inputs = batch(padding=padding, length=12)
    positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        whole = ours(**inputs, position_ids=positions).logits
        first = ours(
            input_ids=inputs["input_ids"][:, :7],
            attention_mask=inputs["attention_mask"][:, :7],
            position_ids=positions[:, :7],
            use_cache=True,
        )
        rest = ours(
            input_ids=inputs["input_ids"][:, 7:],
            attention_mask=inputs["attention_mask"],
            position_ids=positions[:, 7:],
            cache=first.cache,
        )
    real = inputs["attention_mask"].bool()
    pieces = torch.cat([first.logits, rest.logits], dim=1)
    torch.testing.assert_close(pieces[real], whole[real], atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", ["off", "write"])
@pytest.mark.parametrize("attn", ["sdpa", "eager"])
def test_padding_does_not_change_a_sequence(attn, mode, dtype):
    """A row reads the same alone, padded on the left and padded on the right.

    In fp64 transformers' eager kernel gives NaN on the left: its softmax is in fp32, where the
    least fp64 number, its mask, is -inf, so the rows of padding are NaN and spread by the values.
    """
    ours, _ = pair(attn=attn, dtype=dtype)
    for layer in ours.model.layers:
        layer.self_attn.pattern_mode = mode
    ids = batch(padding=None, rows=1, length=9)["input_ids"]
    pads = torch.zeros(1, 4, dtype=torch.long)
    with torch.no_grad():
        alone = ours(ids).logits
        for left in (True, False):
            parts = (pads, ids) if left else (ids, pads)
            mask = (torch.cat(parts, 1) != 0).long()
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            padded = ours(torch.cat(parts, 1), attention_mask=mask, position_ids=positions).logits
            torch.testing.assert_close(padded[mask.bool()], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("padding", [None, "right"])
def test_the_eager_kernel_in_fp64(padding):
    """Where every query reads some key, the bits are the reference's, those of padding too."""
    inputs = batch(padding=padding)
    with torch.no_grad():
        assert_same(*(model(**inputs) for model in pair(attn="eager", dtype=torch.float64)))


def test_fp64_rows_of_padding_are_read_as_such():
    """Where scores and pattern flow, readers still learn which rows may read no key."""
    ours, _ = pair(attn="eager", dtype=torch.float64)
    inputs, found = batch(padding="left"), []
    attention = ours.model.layers[1].self_attn
    attention.pattern_mode = "write"
    attention.readers.append(lambda matrices: found.append((matrices.keys(), matrices.pattern())))
    with torch.no_grad():
        ours(**inputs)
    ((keys, pattern),) = found
    real = inputs["attention_mask"].bool()
    causal = torch.ones(10, 10, dtype=torch.bool).tril()
    assert torch.equal(keys.allowed[:, 0], causal & real[:, None] & real[:, :, None])
    assert pattern.isfinite().all()


def test_the_mlp_is_relu_squared_and_exactly_sparse():
    ours, _ = pair("base")
    mlp = ours.layers[0].mlp
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        pre = x @ mlp.up_proj.weight.T
        seen = []
        handle = mlp.hook_post.register_forward_hook(lambda m, a, out: seen.append(out))
        out = mlp(x)
        handle.remove()
    assert torch.equal(seen[0], torch.where(pre > 0, pre, 0) ** 2)
    assert torch.equal(seen[0] == 0, pre <= 0)
    torch.testing.assert_close(out, seen[0] @ mlp.down_proj.weight.T)
