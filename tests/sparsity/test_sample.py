"""Which tokens an expensive analysis reads."""

import numpy as np
import pytest
import torch

from arcee_lab.data.windows import cut
from arcee_lab.sparsity.sampled.sample import draw

TEXTS = [f"The {noun} near the barn sleep . " * (1 + n % 3) for n, noun in enumerate("abcdefgh")]


def taken(demo, **kwargs):
    model, tokenizer = demo
    arguments = {"texts": TEXTS, "sample_tokens": 40, "context": 16, "seed": 0} | kwargs
    return draw(model, tokenizer, arguments.pop("texts"), **arguments)


@pytest.mark.parametrize("form", ["list", "windows"])
def test_takes_as_many_as_asked_in_a_seeded_order(demo, form):
    texts = TEXTS if form == "list" else cut(demo[1], TEXTS, context=16)
    how = {"texts": texts, "context": 16 if form == "list" else None}
    one, same, other = (taken(demo, seed=seed, **how) for seed in (0, 0, 1))
    assert one.windows.n_tokens == other.windows.n_tokens == 40
    assert np.array_equal(one.windows.ids, same.windows.ids)
    assert not np.array_equal(one.windows.ids, other.windows.ids)
    assert all(len(one.windows[i]) <= 16 for i in range(len(one.windows)))


def test_a_context_for_windows_is_refused(demo):
    with pytest.raises(ValueError, match="context=8 came with windows that are cut already"):
        taken(demo, texts=cut(demo[1], TEXTS, context=16), context=8)


def test_what_can_be_read_once_is_read_from_its_start(demo):
    expected = cut(demo[1], TEXTS, context=16, max_tokens=40)
    assert np.array_equal(taken(demo, texts=iter(TEXTS)).windows.ids, expected.ids)


def test_groups_are_documents_or_windows_of_the_only_one(demo):
    sample = taken(demo, sample_tokens=None)
    assert sample.unit == "documents"
    assert sample.n_groups == len(TEXTS)
    alone = taken(demo, texts=[" ".join(TEXTS)])
    assert alone.unit == "windows"
    assert list(alone.groups) == list(range(len(alone.windows)))


def test_batches_leave_out_padding_and_first_positions(demo):
    sample = taken(demo, sample_tokens=None)
    batches = list(sample.batches(3, torch.device("cpu")))
    counted = sum(int(batch.counted.sum()) for batch in batches)
    assert counted == sample.windows.n_tokens - len(sample.windows)
    assert not any(batch.counted[:, 0].any() for batch in batches)
    assert all((batch.attention_mask.bool() | ~batch.counted).all() for batch in batches)
    seen = torch.cat([batch.groups for batch in batches])
    assert sorted(seen.tolist()) == sorted(sample.groups.tolist())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"sample_tokens": 10**6}, r"texts hold \d+ tokens; sample_tokens asks for 1,000,000"),
        ({"sample_tokens": 1}, "sample_tokens is 1; expected at least 2"),
        ({"texts": []}, "hold no token"),
        ({"texts": ["<bos>", "<bos>"], "sample_tokens": None}, "one token long"),
    ],
)
def test_refuses_too_little(demo, kwargs, message):
    with pytest.raises(ValueError, match=message):
        taken(demo, **kwargs)
