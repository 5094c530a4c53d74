"""The idle model compiles into one graph and can be exported; hook points vanish from the graph.

All of it runs in processes without the shape checks of conftest.py, which break a full graph.
"""

from pathlib import Path

import pytest

PRELUDE = f"""
import sys, torch
sys.path.insert(0, {str(Path(__file__).parent)!r})
from reference import NAMES, assert_same, assert_same_gradients, batch, labels, loss_of, pair
inputs = batch()
"""


def test_one_full_graph_for_every_class(run_forked):
    """No break, the uncompiled numbers and gradients, and no operation beyond the reference's."""
    out = run_forked(
        PRELUDE
        + """
def compiled(model):
    graphs = []
    def keep(graph, example):
        graphs.append(sum(node.op.startswith("call") for node in graph.graph.nodes))
        return graph
    torch._dynamo.reset()
    return torch.compile(model, fullgraph=True, backend=keep), graphs

for head, attn in [(head, "sdpa") for head in NAMES] + [("causal", "eager")]:
    ours, theirs = pair(head, attn=attn)
    call = inputs | labels(head, inputs)
    ours_compiled, graphs = compiled(ours)
    outputs = [ours_compiled(**call), theirs(**call)]
    assert_same(*outputs)
    for output in outputs:
        loss_of(head, output).backward()
    assert_same_gradients(ours, theirs, head)
    assert len(graphs) == 1
    if head == "causal":
        reference, more = compiled(theirs)
        reference(**call)
        print(attn, graphs[0], more[0])
"""
    )
    lines = [line.split() for line in out.splitlines()]
    assert [line[0] for line in lines] == ["sdpa", "eager"]
    for _, mine, other in lines:
        # Two layers transpose rotated q and k to the hook point's layout and back.
        assert int(mine) <= int(other) + 2 * 4


def test_decoding_with_a_compiled_model_and_export(run_forked):
    """A static cache keeps shapes fixed; the exported program takes any batch and length."""
    run_forked(
        PRELUDE
        + """
options = dict(max_new_tokens=6, do_sample=False, eos_token_id=None, cache_implementation="static")
ours, theirs = pair()
expected = theirs.generate(**inputs, **options)
ours.forward = torch.compile(ours.forward, fullgraph=True, backend="eager")
assert torch.equal(ours.generate(**inputs, **options), expected)
graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
assert 1 < graphs <= 3, graphs  # the prompt, a step, and a step once its position is dynamic
assert not torch._dynamo.utils.counters["graph_break"]

from transformers import DynamicCache
ours, _ = pair()
compiled = torch.compile(ours, fullgraph=True, backend="eager")
for name in ("cache", "past_key_values"):
    output = compiled(**inputs, **{name: DynamicCache(config=ours.config)})
    assert output.cache.get_seq_length() == 10
"""
        + EXPORT.format(heads=["causal"])
    )


EXPORT = """
from torch.export import Dim, export
for head in {heads}:
    ours, _ = pair(head)
    ours.config.use_cache = False
    shape = dict(enumerate([Dim("batch", min=2), Dim("pos", min=2)]))
    shapes = dict(input_ids=shape, attention_mask=shape)
    with torch.no_grad():
        program = export(ours, (), kwargs=inputs, dynamic_shapes=shapes, strict=False)
        other = batch(rows=5, length=14, seed=3)
        assert_same(program.module()(**other), ours(**other))
    assert "hook" not in str(program.graph)
"""


@pytest.mark.slow
def test_every_class_can_be_exported(run_forked):
    run_forked(PRELUDE + EXPORT.format(heads=["base", "sequence", "token", "qa"]))


@pytest.mark.slow
def test_real_compilers_agree_within_rounding(run_forked):
    run_forked(
        PRELUDE
        + """
for head in NAMES:
    for backend in ("aot_eager", "inductor") if head == "causal" else ("aot_eager",):
        ours, plain = pair(head)[0], pair(head)[0]
        call = inputs | labels(head, inputs)
        torch._dynamo.reset()
        losses = [loss_of(head, torch.compile(ours, fullgraph=True, backend=backend)(**call))]
        losses.append(loss_of(head, plain(**call)))
        for loss in losses:
            loss.backward()
        torch.testing.assert_close(*losses, atol=1e-4, rtol=1e-4)
        for mine, other in zip(ours.parameters(), plain.parameters()):
            torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-3)
"""
    )
