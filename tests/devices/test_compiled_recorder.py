"""Recording inside a compiled model: one full graph, the numbers of an eager capture.

Compiled code runs in processes without the shape checks of conftest.py, which break a full graph.
"""

from pathlib import Path

import pytest
from tiny_calls import batch_of, hooks_of

import arcee_lab as al
from arcee_lab.errors import UnknownName

TESTS = Path(__file__).parent.parent

PRELUDE = f"""
import sys
sys.path.append({str(TESTS)!r})
import torch
from tiny_calls import EVERYTHING, batch_of, hooks_of, modes_of
import arcee_lab as al
from arcee_lab.model import ArceeConfig
from arcee_lab.model.anatomy import HEADS

torch.set_num_threads(1)
torch.manual_seed(0)
SHAPE = dict(vocab_size=50, hidden_size=32, intermediate_size=72, num_hidden_layers=2,
             num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
             initializer_range=0.1, pad_token_id=0, bos_token_id=1, eos_token_id=2)
graphs = []
def keep(graph, example):
    graphs.append(graph)
    return graph
def tiny(head="causal", layers=2):
    return HEADS[head](ArceeConfig(**SHAPE | dict(num_hidden_layers=layers))).eval()
"""


def test_one_full_graph_records_what_an_eager_capture_does(run_forked):
    run_forked(
        PRELUDE
        + """
model = tiny()
plain = torch.compile(model, backend=keep)
cuts = [(EVERYTHING, {}), (["*hook_pre", "*hook_scale"], dict(positions=[0, -1])),
        ("*hook_z", dict(heads=[1], units=[2, 0], dtype=torch.float64))]
for sites, cut in cuts:
    graphs.clear()
    # The compiled model is made first: recorder and model must not run each other's graph.
    model_of = plain if cut else model
    record = al.capture_compiled(model_of, sites, batch=2, length=9, backend=keep, **cut)
    before = hooks_of(model)
    for seed, padding in ((0, "left"), (1, "right"), (2, None)):
        batch = batch_of(seed=seed, padding=padding)
        with torch.no_grad():
            output = record(**batch)
            unhooked = plain(**batch)
            with al.capture(model, sites, **cut) as acts:
                expected = model(**batch)
        assert torch.equal(output.logits, expected.logits)
        assert torch.equal(unhooked.logits, expected.logits)
        assert list(record) == list(acts)
        for site in acts:
            assert record[site].dtype == acts[site].dtype
            assert torch.equal(record[site].nan_to_num(9), acts[site].nan_to_num(9)), site
    assert len(graphs) <= 2  # the recorder's, and at the first turn the model's
    assert hooks_of(model) == before and set(modes_of(model)) == {"off"}
assert not torch._dynamo.utils.counters["graph_break"]
"""
    )


def test_hooks_captures_and_gradients_are_obeyed(run_forked):
    """What a compiled model alone would ignore."""
    run_forked(
        PRELUDE
        + """
model = tiny(layers=1)
post = "layers.0.mlp.hook_post"
record = al.capture_compiled(model, ["*hook_post", "*pattern"], batch=2, length=9, backend=keep)
other = al.capture_compiled(model, "hook_logits", batch=2, length=9, backend=keep)
batch = batch_of(padding="left")

def same():
    with torch.no_grad():
        output, expected = record(**batch), model(**batch)
        other(**batch)
    assert torch.equal(output.logits, expected.logits)
    assert torch.equal(other["hook_logits"], expected.logits)
    return record[post].clone()

plain = same()
handle = model.model.layers[0].mlp.hook_post.register_forward_hook(lambda m, a, x: x * 2)
assert torch.equal(same(), 2 * plain)  # added after it was compiled
assert len(graphs) == 4
handle.remove()
assert torch.equal(same(), plain)
assert len(graphs) == 4  # the first graphs again

with torch.no_grad(), al.capture(model, "*hook_post") as acts:  # eagerly, and both record
    record(**batch)
assert torch.equal(acts[post], plain) and torch.equal(record[post], plain)
assert len(graphs) == 4

real = torch.compile(model, backend="aot_eager", fullgraph=True)
train = al.capture_compiled(model, "*hook_post", batch=2, length=9, backend="aot_eager")
grads = []
for run in (train, real):
    model.zero_grad()
    run(**batch, labels=batch["input_ids"]).loss.backward()
    grads.append(model.model.embed_tokens.weight.grad.clone())
assert torch.equal(*grads)
torch.testing.assert_close(train[post], plain)

for head in ("base", "sequence"):
    model = tiny(head, layers=1)
    record = al.capture_compiled(model, "*", batch=2, length=9, backend=keep)
    with torch.no_grad(), al.capture(model, "*") as acts:
        model(batch["input_ids"], batch["attention_mask"])
    with torch.no_grad():
        record(batch["input_ids"], batch["attention_mask"])
    assert all(torch.equal(record[site], acts[site]) for site in acts)
"""
    )


@pytest.mark.slow
def test_a_real_compiler_agrees_within_rounding(run_forked):
    run_forked(
        PRELUDE
        + """
model = tiny()
record = al.capture_compiled(model, EVERYTHING, batch=2, length=9)
for seed in (0, 1):
    batch = batch_of(seed=seed, padding="left")
    with torch.no_grad():
        record(**batch)
        with al.capture(model, EVERYTHING) as acts:
            model(**batch)
    for site in acts:
        torch.testing.assert_close(record[site], acts[site], atol=1e-5, rtol=1e-4)
"""
    )


def test_what_does_not_fit_the_buffers_is_an_error(tiny):
    model = tiny()
    record = al.capture_compiled(model, "*hook_post", batch=2, length=9)
    assert "3 sites, batch 2 x 9 tokens" in repr(record)
    with pytest.raises(ValueError, match="holds nothing yet"):
        record["layers.0.mlp.hook_post"]
    with pytest.raises(
        UnknownName, match=r"hook_embed was not recorded; of the 3 .*layers\.0\.mlp\.hook_post"
    ):
        record["hook_embed"]
    assert "blocks.1.mlp.hook_post" in record  # in any spelling, also before the first call
    assert "hook_embed" not in record
    assert record._ipython_key_completions_() == list(record)
    with pytest.raises(ValueError, match=r"for 2 x 9 tokens; got 2 x 8\. Pad"):
        record(**batch_of(length=8))
    with pytest.raises(ValueError, match="whole forwards; got logits_to_keep"):
        record(**batch_of(), logits_to_keep=1)
    assert not any(hooks for hooks, _, _ in hooks_of(model).values())
    model.train().model.gradient_checkpointing = True
    with pytest.raises(ValueError, match="Under gradient checkpointing"):
        record(**batch_of())
    with pytest.raises(ValueError, match="matches no hook point"):
        al.capture_compiled(model, "nothing", batch=2, length=9)
    model.hf_device_map = {"model": 0, "lm_head": 1}
    with pytest.raises(ValueError, match="spread over several devices"):
        al.capture_compiled(model, "*hook_post", batch=2, length=9)


def test_eager_calls_inside_a_capture_are_recorded_too(tiny):
    """The stance of a capture makes the recorder run eagerly; no compiler is needed for that."""
    import torch._dynamo

    model, batch = tiny(), batch_of()
    record = al.capture_compiled(model, "*hook_post", batch=2, length=9)
    with al.capture(model, "*hook_post") as acts:
        record(**batch)
    assert all(torch.equal(record[site], acts[site]) for site in acts)
