"""Reducers inside a compiled model: one full graph, the states of an eager block.

Compiled code runs in processes without the shape checks of conftest.py, which break a full graph.
"""

from pathlib import Path

import pytest
from tiny_calls import batch_of, hooks_of

import arcee_lab as al
from arcee_lab.reducers import FiringRate, Grouped

TESTS = Path(__file__).parent.parent

PRELUDE = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from tiny_calls import batch_of, hooks_of
import arcee_lab as al
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.reducers import *

torch.set_num_threads(1)
torch.manual_seed(0)
model = ArceeForCausalLM(ArceeConfig(
    vocab_size=50, hidden_size=32, intermediate_size=72, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2)).eval()
asked = {{
    "layers.*.mlp.hook_post": [FiringRate(), FiringRate(first="only"), Moments(first="exclude"),
        ActiveCount(keep=3), Histogram(), Quantile(), TopK(3), CoActivation([3, 17, 4]),
        Grouped(FiringRate(), 2, first="exclude")],
    "layers.0.hook_resid_post": MeanCovariance(),
    "layers.1.self_attn.hook_q": [FiringRate(), TopK(2)],
}}
labels = torch.tensor([[0], [1]]).expand(2, 9)

def compare(backend, tolerance):
    record = al.capture_compiled(model, asked, batch=2, length=9, backend=backend)
    before = hooks_of(model)
    record.set_labels(labels)
    with torch.no_grad(), al.capture(model, asked) as stats:
        stats.set_labels(labels)
        for seed, padding in ((0, "left"), (1, "right"), (2, "left")):
            model(**batch_of(seed=seed, padding=padding))
    with torch.no_grad():
        for seed, padding in ((0, "left"), (1, "right"), (2, "left")):
            output = record(**batch_of(seed=seed, padding=padding))
    assert hooks_of(model) == before
    assert list(record) == list(stats)
    for site in stats:
        for reducer, mine, theirs in zip(
            stats.reducers(site), record.states[site], stats.states[site], strict=True
        ):
            for name in theirs:
                torch.testing.assert_close(mine[name], theirs[name], **tolerance(name))
    return record, stats
"""


def test_one_full_graph_adds_up_as_an_eager_block_does(run_forked):
    run_forked(
        PRELUDE
        + """
graphs = []
def keep(graph, example):
    graphs.append(graph)
    return graph

loose = dict(rtol=1e-12, atol=1e-14)
record, stats = compare(keep, lambda name: loose)
assert len(graphs) == 1 and not torch._dynamo.utils.counters["graph_break"]
rates, *_ = record["layers.0.mlp.hook_post"]
assert rates.tokens == 3 * (2 * 9 - 3)
both = record.merge(stats)["layers.0.mlp.hook_post"][0]
assert both.tokens == 2 * rates.tokens and torch.equal(both.fired, 2 * rates.fired)
"""
    )


@pytest.mark.slow
def test_a_real_compiler_agrees_within_rounding(run_forked):
    """Where kernels round otherwise a value may cross 0 or an edge; counts differ by few."""
    run_forked(
        PRELUDE
        + """
def tolerance(name):
    whole = name in ("rows", "positions", "both", "counts", "fired", "kept")
    return dict(rtol=1e-3, atol=3) if whole else dict(rtol=1e-4, atol=1e-5)
record, _ = compare("inductor", tolerance)
assert record["layers.0.mlp.hook_post"][0].tokens == 45
"""
    )


def test_what_does_not_fit_is_an_error(tiny):
    """The stance of a capture makes the recorder run eagerly; no compiler is needed for that."""
    import torch._dynamo

    model, site = tiny(), "layers.0.mlp.hook_post"
    record = al.capture_compiled(model, {site: Grouped(FiringRate(), 2)}, batch=2, length=9)
    with pytest.raises(ValueError, match="Nothing has been counted yet"):
        record[site]
    with pytest.raises(ValueError, match="Grouped needs labels"):
        record(**batch_of())
    with pytest.raises(ValueError, match=r"labels are \[2, 8\]; expected \[2, 9\]"):
        record.set_labels(torch.zeros(2, 8, dtype=torch.long))
    record.set_labels(torch.tensor([[1]]).expand(1, 9))
    with pytest.raises(ValueError, match=r"for 2 x 9 tokens; got 2 x 8\. Pad"):
        record(**batch_of(length=8))
    with al.capture(model, {site: FiringRate()}) as stats:
        record(**batch_of(padding="left"))
    assert torch.equal(record[site][1].fired, stats[site].fired)
    assert record[site].counts == (0, 15, 0)
    assert "N = 15 tokens" in repr(record)
    with pytest.raises(ValueError, match="leave dtype=, positions=, heads= and units= out"):
        al.capture_compiled(model, {site: FiringRate()}, batch=2, length=9, units=[1])  # type: ignore
    assert not any(hooks for hooks, _, _ in hooks_of(model).values())

    def fails(*args):
        raise MemoryError("no memory")

    model.model.layers[1].register_forward_pre_hook(fails)
    with al.capture(model, "hook_embed"), pytest.raises(MemoryError):
        record(**batch_of())
    with pytest.raises(ValueError, match="A forward failed after some sites"):
        record[site]
