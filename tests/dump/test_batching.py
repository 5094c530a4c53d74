"""The batch plan is a pure function, and every token has one place."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from jobs import Numbers, numbers

from arcee_lab.data.windows import cut
from arcee_lab.dump.writing.batching import BatchPlan, plan_shards


def planned(windows, *, batch_size=3, shard_tokens=64, packed=False, context=16):
    shards = plan_shards(
        windows, batch_size=batch_size, shard_tokens=shard_tokens, packed=packed, context=context
    )
    return BatchPlan(windows, shards, packed)


@given(
    n=st.integers(1, 25),
    context=st.integers(2, 20),
    overlap=st.integers(0, 18),
    batch_size=st.integers(1, 5),
    shard_tokens=st.integers(20, 200),
    packed=st.booleans(),
)
def test_every_stored_token_has_one_place(n, context, overlap, batch_size, shard_tokens, packed):
    windows = cut(Numbers(), numbers(n, seed=n), context=context, overlap=min(overlap, context - 2))
    plan = planned(
        windows, batch_size=batch_size, shard_tokens=shard_tokens, packed=packed, context=context
    )
    behind = 0
    for shard in plan.shards:
        assert (shard.start, len(shard) <= shard_tokens) == (behind, True)
        behind = shard.stop
        known = plan.tokens(shard)
        ids = torch.full((len(shard),), -1, dtype=torch.int64)
        positions = ids.clone()
        seen = []
        for rows in shard.batches:
            assert len(rows) <= batch_size
            seen += [window for row in rows for window in row]
            inputs = plan.inputs(rows)
            places = torch.arange(inputs.input_ids.shape[1]).expand_as(inputs.input_ids)
            places = inputs.position_ids if packed else places
            for piece in plan.pieces(shard, rows):
                source = slice(piece.source, piece.source + piece.length)
                target = slice(piece.at, piece.at + piece.length)
                assert (ids[target] == -1).all(), "a token came twice"
                ids[target] = inputs.input_ids.flatten()[source]
                positions[target] = places.flatten()[source]
                if not packed:
                    assert inputs.attention_mask.flatten()[source].all()
        assert sorted(seen) == list(shard.windows)
        assert torch.equal(ids, known.ids.long())
        assert torch.equal(positions, known.positions.long())
        assert known.attended.all()
    assert behind == plan.n_tokens == sum(int(windows.new(w).sum()) for w in range(len(windows)))
    again = planned(
        windows, batch_size=batch_size, shard_tokens=shard_tokens, packed=packed, context=context
    )
    assert again.shards == plan.shards


def test_packed_rows_are_full_and_padded_ones_alike():
    windows = cut(Numbers(), numbers(40, seed=1), context=16)
    packed = planned(windows, packed=True, shard_tokens=400)
    padded = planned(windows, shard_tokens=400)

    def cells(plan):
        return sum(
            plan.inputs(rows).input_ids.numel() for shard in plan.shards for rows in shard.batches
        )

    assert windows.n_tokens <= cells(packed) < 1.25 * windows.n_tokens
    assert cells(padded) < 1.15 * windows.n_tokens
    inputs = packed.inputs(packed.shards[0].batches[0])
    assert inputs.attention_mask is None
    first = packed.windows[0]
    assert inputs.input_ids[0, : len(first)].tolist() == first.tolist()
    assert max(inputs.input_ids.shape[1] for _ in "x") <= 16


def test_documents_and_windows_are_in_the_order_of_the_text():
    windows = cut(Numbers(), numbers(12, seed=2), context=9, overlap=3)
    plan = planned(windows, context=9, shard_tokens=30)
    parts = [plan.tokens(shard) for shard in plan.shards]
    documents = np.concatenate([part.documents.numpy() for part in parts])
    numbered = np.concatenate([part.windows.numpy() for part in parts])
    assert (np.diff(documents) >= 0).all()
    assert (np.diff(numbered) >= 0).all()
    assert documents.tolist() == windows.documents[numbered].tolist()
    first = np.concatenate([part.first.numpy() for part in parts])
    assert first.sum() == len(windows)


def test_a_window_has_to_fit_a_shard():
    windows = cut(Numbers(), numbers(3, seed=0), context=16)
    with pytest.raises(ValueError, match="shard_tokens is 5, but a window has 16 tokens"):
        planned(windows, shard_tokens=5)
