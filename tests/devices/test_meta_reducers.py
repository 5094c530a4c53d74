"""No reducer reads from the device: on `meta` a read raises, and so does a stray CPU tensor."""

import pytest
import torch
from transformers import StaticCache

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
    TopK,
)

ALL = [
    FiringRate(), ActiveCount(keep=4), Moments(), Histogram(), Quantile(), TopK(3),
    Quantile(by="unit", error=0.1), CoActivation([0, 7]), MeanCovariance(),
    Grouped(FiringRate(), 2), Grouped(TopK(2), 2), Grouped(Moments(), 2),
]  # fmt: skip
SITE = "layers.1.mlp.hook_post"


def asked_of(first):
    from dataclasses import replace

    return {SITE: [replace(reducer, first=first) for reducer in ALL]}


def ids_of(length):
    return torch.zeros(2, length, dtype=torch.long, device="meta")


@pytest.fixture(scope="module")
def model(tiny):
    return tiny(attn="eager").to("meta")


@pytest.mark.parametrize("first", ["include", "exclude", "only"])
@pytest.mark.parametrize("mask", [(2, 9), (2, 1, 9, 9), None])
def test_no_reducer_reads_from_the_device(model, first, mask):
    call = {} if mask is None else {"attention_mask": torch.ones(mask, device="meta").bool()}
    if mask is None:  # transformers would look for packed documents where no mask is given
        call["position_ids"] = torch.zeros(1, 9, dtype=torch.long, device="meta")
        call["attention_mask"] = torch.ones(2, 1, 9, 9, device="meta").bool()
    with al.capture(model, asked_of(first)) as stats:
        stats.set_labels(ids_of(9))
        for _ in range(2):
            model(ids_of(9), **call)
    for reducer, state in zip(stats.reducers(SITE), stats.states[SITE], strict=True):
        assert all(tensor.is_meta for tensor in state.values()), reducer
        assert state.keys() == reducer.init((72,), torch.device("cpu")).keys()
        merged = reducer.merge(state, state)
        assert all(tensor.is_meta for tensor in merged.values()), reducer
        assert [x.shape for x in merged.values()] == [merged[name].shape for name in state]


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_no_decoding_step_reads_from_the_device(model, cache):
    """A static cache counts its tokens on the device."""
    made = None
    if cache == "static":
        made = StaticCache(config=model.config, max_cache_len=10)
    with al.capture(model, asked_of("exclude")) as stats:
        stats.set_labels(ids_of(10))
        made = model(ids_of(9), attention_mask=torch.ones(2, 9, device="meta").long(),
                     cache=made, use_cache=True).cache  # fmt: skip
        model(ids_of(1), attention_mask=torch.ones(2, 10, device="meta").long(), cache=made)
    assert all(x.is_meta for state in stats.states[SITE] for x in state.values())


@pytest.mark.gpu
def test_the_numbers_of_a_gpu(tiny):
    """Integers are those of the CPU, on the activations that the GPU computed."""
    model = tiny().to("cuda")
    ids = torch.randint(3, 50, (2, 9), device="cuda")
    block = al.capture(model, asked_of("include"))
    with torch.no_grad(), block as stats, al.capture(model, SITE) as acts:
        stats.set_labels(torch.zeros_like(ids))
        torch.cuda.set_sync_debug_mode("error")
        try:
            model(ids)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    x, mask = acts[SITE].cpu(), torch.ones(2, 9, dtype=torch.bool)
    given = {"positions": mask.cumsum(1) - 1, "seen": 0, "labels": torch.zeros(2, 9).long()}
    for reducer, state in zip(stats.reducers(SITE), stats.states[SITE], strict=True):
        expected = reducer.init((72,), torch.device("cpu"))
        reducer.update(expected, x, mask, **{what: given[what] for what in reducer.asks})
        for name, tensor in state.items():
            torch.testing.assert_close(tensor.cpu(), expected[name], rtol=1e-10, atol=1e-12)
