"""What a block found outlives the block, the model does not have to."""

import gc
import weakref

import pytest
import torch

import arcee_lab as al

IDS = torch.arange(3, 12)[None]
POST = "layers.*.mlp.hook_post"


def captured(model):
    with al.capture(model, [POST, "layers.0.self_attn.hook_pattern"], positions=[0, -1]) as block:
        model(input_ids=IDS)
    return block, lambda: block["blocks.0.mlp.hook_post"].sum()


def with_gradients(model):
    with al.capture(model, POST, grad=True) as block:
        model(input_ids=IDS).logits.sum().backward()
    return block, lambda: block.grad("layers.0.mlp.hook_post").sum()


def stopped(model):
    with al.capture(model, POST, stop_at=True) as block:
        model(input_ids=IDS)
    return block, lambda: block["layers.0.mlp.hook_post"].sum()


def reduced(model):
    with al.capture(model, {POST: al.reducers.Moments()}) as block:
        model(input_ids=IDS)
    return block, lambda: block["layers.0.mlp.hook_post"].mean.sum()


def heads(model):
    with al.attention.heads(model, [al.attention.Entropy()]) as block:
        model(input_ids=IDS)
    return block, lambda: block["entropy"].mean.sum()


def intervened(model):
    cut = [al.Cett(POST, 0.3), al.Scale(POST, 0.5), al.Replace("hook_embed", torch.clone)]
    with al.intervene(model, cut) as block:
        model(input_ids=IDS)
    return block, lambda: torch.tensor(len(block.interventions))


def decoded(model):
    with al.sparse_decode(model) as block:
        model(input_ids=IDS)
    return block, lambda: torch.tensor(block.frame()["dense_calls"].sum() + block.copy_bytes)


def traced(model):
    lm = al.to_nnsight(model, None)
    with lm.trace(IDS), torch.no_grad():
        acts = al.trace.read(lm, POST)
    return acts, lambda: acts["layers.0.mlp.hook_post"].sum()


def measured(model):
    acts = al.plan(model, POST, batch=1, length=9)
    return acts, lambda: torch.tensor(acts.bytes)


CALLS = [captured, with_gradients, stopped, reduced, heads, intervened, decoded, traced, measured]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_what_is_kept_holds_no_model(tiny, call):
    model = tiny()
    kept, read = call(model)
    before = read().detach().clone()
    there = weakref.ref(model)
    backbone = weakref.ref(model.model)
    del model
    gc.collect()
    assert there() is None
    assert backbone() is None
    assert torch.equal(read(), before)
    assert repr(kept)


def _throw(error):
    raise error


@pytest.mark.parametrize("kind", ["error", "interrupt"])
def test_a_block_that_an_error_ended_holds_no_model(tiny, kind):
    model = tiny()
    block = al.capture(model, POST)
    error = {"error": RuntimeError, "interrupt": KeyboardInterrupt}[kind]
    model.model.layers[2].register_forward_hook(lambda *_: _throw(error))
    with pytest.raises(error), block:
        model(input_ids=IDS)
    there = weakref.ref(model)
    del model
    gc.collect()
    assert there() is None


@pytest.mark.slow
def test_a_dropped_recorder_frees_its_model(run_forked):
    """It runs the model, so it holds it; nothing else may, such as the compiler's caches."""
    said = run_forked(
        """
        import gc, weakref
        import torch, arcee_lab as al
        model, _ = al.load("demo")
        ids = torch.arange(3, 12)[None]
        for sites in ("*.hook_post", {"*.hook_post": al.reducers.FiringRate()}):
            record = al.capture_compiled(model, sites, batch=1, length=9, backend="eager")
            record(input_ids=ids)
        there = weakref.ref(model)
        del model, record
        gc.collect()
        print(there() is None)
        """
    )
    assert said.split()[-1] == "True"


def test_statistics_of_a_deleted_model(tiny, tmp_path):
    model = tiny()
    again = tiny()
    again.load_state_dict(model.state_dict())
    block, _ = reduced(model)
    block.save(tmp_path / "with")
    del model
    gc.collect()
    with pytest.raises(ValueError, match=r"was deleted.*identify"):
        block.save(tmp_path / "without")
    with pytest.raises(ValueError, match="head 'causal'; got 3 and 'qa'"):
        block.identify(tiny("qa"))
    block.identify(again)
    block.save(tmp_path / "without")
    words = [al.reducers.load(tmp_path / name).fingerprint for name in ("with", "without")]
    assert words[0] == words[1]
