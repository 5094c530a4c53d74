"""States add up: over batches, blocks, files and processes, in any grouping."""

from copy import copy

import pytest
import torch
from hypothesis import given, settings
from reducer_cases import POST, RESID, Calls, calls, models

import arcee_lab as al
from arcee_lab.reducers import (
    ActiveCount,
    CoActivation,
    FiringRate,
    Grouped,
    Histogram,
    MeanCovariance,
    Moments,
    Quantile,
    Statistics,
    TopK,
)
from arcee_lab.runs.ranks import Ranks

ASKED = {
    POST: [
        FiringRate(first="exclude"),
        ActiveCount(keep=7),
        Histogram(),
        Quantile(by="unit", error=0.1),
        TopK(4),
        CoActivation([3, 0, 40]),
        Grouped(TopK(2, first="include"), 3, first="exclude"),
        Grouped(Moments(), 2),
        Moments(),
    ],
    RESID: MeanCovariance(),
}


def reduced(case: Calls, chosen=slice(None)) -> Statistics:
    """The statistics of some of a case's batches in a block of their own."""
    part = copy(case)
    object.__setattr__(part, "batches", case.batches[chosen])
    object.__setattr__(part, "labels", case.labels[chosen])
    with torch.no_grad(), al.capture(models(case.dtype)[0], ASKED) as stats:
        part.run(models(case.dtype)[0], stats)
    return stats.merge()


def same(a: Statistics, b: Statistics) -> None:
    """Integers and maxima are equal; sums of floats agree within rounding."""
    assert list(a) == list(b)
    for site in a:
        for mine, theirs in zip(a.states[site], b.states[site], strict=True):
            assert mine.keys() == theirs.keys()
            for name, tensor in mine.items():
                if name in ("mean", "squares", "products"):
                    torch.testing.assert_close(tensor, theirs[name], rtol=1e-11, atol=1e-13)
                else:
                    assert torch.equal(tensor, theirs[name]), (site, name)


@settings(max_examples=12)
@given(case=calls(most=4))
def test_blocks_merge_to_the_block_of_all_batches(case):
    whole = reduced(case)
    parts = [reduced(case, slice(i, i + 1)) for i in range(len(case.batches))]
    before = [part.merge() for part in parts]
    same(parts[0].merge(*parts[1:]), whole)
    last = parts[-1]  # grouped from the right
    for part in parts[-2::-1]:
        last = part.merge(last)
    same(last, whole)
    for part, copied in zip(parts, before, strict=True):  # and none was changed
        for site in part:
            for mine, theirs in zip(part.states[site], copied.states[site], strict=True):
                assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_the_kept_counts_and_rows_go_on(tiny):
    """What has an order keeps it: the tokens of the first, then those of the second."""
    model, ids = tiny(), torch.arange(3, 21).view(2, 9)
    asked = {"layers.0.mlp.hook_post": [ActiveCount(keep=25), TopK(1)]}
    blocks = []
    for rows in (ids[:1], ids[1:], ids):
        with torch.no_grad(), al.capture(model, asked) as stats:
            model(rows)
        blocks.append(stats)
    first, second, both = blocks
    total = first.merge(second, both)
    kept, best = total["layers.0.mlp.hook_post"]
    expected = both["layers.0.mlp.hook_post"][0].kept
    assert torch.equal(kept.kept, torch.cat([expected, expected])[:25])
    assert best.rows_read == 4
    # Equal values: those read first stay.
    assert torch.equal(best.rows, both["layers.0.mlp.hook_post"][1].rows)


def test_an_empty_side_changes_nothing(tiny):
    model, ids = tiny(), torch.arange(3, 12)[None]
    asked = {"layers.*.mlp.hook_post": Moments()}
    empty = al.capture(model, asked)
    with al.capture(model, asked) as stats:
        model(ids)
    for merged in (empty.merge(stats), stats.merge(empty)):
        assert torch.equal(merged["layers.1.mlp.hook_post"].mean,
                           stats["layers.1.mlp.hook_post"].mean)  # fmt: skip
    assert not empty.merge(empty).states


def test_gathering_adds_the_ranks_in_their_order(tiny):
    """With the exchange of two ranks played by a list."""
    model = tiny()
    asked = {"layers.0.mlp.hook_post": [FiringRate(), TopK(2)]}
    blocks = []
    for seed in (0, 1):
        with torch.no_grad(), al.capture(model, asked) as stats:
            model(torch.randint(3, 50, (2, 5), generator=torch.Generator().manual_seed(seed)))
        blocks.append(stats)
    sent: list[dict] = []

    class Played(Ranks):
        def gather(self, tensors):
            sent.append({name: x.clone() for name, x in tensors.items()})
            return sent

    ranks = [Played(i, 2, i, torch.device("cpu")) for i in range(2)]
    blocks[0].gather(ranks[0])
    total, expected = blocks[1].gather(ranks[1]), blocks[0].merge(blocks[1])
    for mine, theirs in zip(total["layers.0.mlp.hook_post"], expected["layers.0.mlp.hook_post"],
                            strict=True):  # fmt: skip
        for name, value in vars(mine).items():
            equal = torch.equal if isinstance(value, torch.Tensor) else lambda a, b: a == b
            assert equal(value, getattr(theirs, name)), name

    with al.capture(model, {"layers.0.mlp.hook_post": FiringRate()}) as other:
        model(torch.ones(1, 3, dtype=torch.long))
    with pytest.raises(ValueError, match="Rank 0 has statistics of another model, or of other"):
        other.gather(ranks[1])


def test_what_does_not_fit_is_not_merged(tiny):
    model, ids = tiny(), torch.arange(3, 12)[None]
    asked = {"layers.0.mlp.hook_post": FiringRate()}
    with torch.no_grad(), al.capture(model, asked) as stats:
        model(ids)

    def of(model, asked):
        return al.capture(model, asked)

    with pytest.raises(ValueError, match=r"other sites: 'layers\.1\.mlp\.hook_post' is in one"):
        stats.merge(of(model, {"layers.0:2.mlp.hook_post": FiringRate()}))
    with pytest.raises(ValueError, match=r"reduced by FiringRate\(first='only'\); expected"):
        stats.merge(of(model, {"layers.0.mlp.hook_post": FiringRate(first="only")}))
    for other in (tiny(initializer_range=0.2), tiny(num_hidden_layers=2), tiny("base"),
                  tiny(dtype=torch.bfloat16)):  # fmt: skip
        with pytest.raises(ValueError, match="Statistics of another model"):
            stats.merge(of(other, asked))
