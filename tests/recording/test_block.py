"""The block itself: the final value is seen, everything is put back, and errors are clear."""

import pytest
import torch
from tiny_calls import EVERYTHING, POST, batch_of, hooks_of, modes_of, reference_of

import arcee_lab as al


def test_spellings_iteration_and_repr(tiny):
    model = tiny()
    with al.capture(model, ["blocks.1.mlp.hook_post", "model.hook_embed"]) as acts:
        model(**batch_of())
    assert list(acts) == ["hook_embed", "layers.1.mlp.hook_post"]
    assert torch.equal(acts["blocks.1.mlp.hook_post"], acts["model.layers.1.mlp.hook_post"])
    assert "blocks.1.mlp.hook_post" in acts
    assert "blocks.0.mlp.hook_post" not in acts
    assert "nonsense" not in acts
    assert "layers.1.mlp.hook_post: 1 x [2, 9, 72]" in repr(acts)
    with pytest.raises(KeyError, match="was not captured"):
        acts["layers.0.mlp.hook_post"]


def test_sees_what_flows_on_after_other_hooks(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, POST) as acts:
        handle = model.model.layers[1].mlp.hook_post.register_forward_hook(lambda m, a, x: x * 0)
        model(**batch)
        handle.remove()
    assert acts["layers.1.mlp.hook_post"].abs().max() == 0
    assert acts["layers.0.mlp.hook_post"].abs().max() > 0


def test_nested_captures_and_everything_is_put_back(tiny):
    model, batch = tiny(), batch_of()
    handle = model.model.layers[0].register_forward_hook(lambda m, a, out: None)
    before, logits = hooks_of(model), model(**batch).logits
    with al.capture(model, [POST, "*pattern"]) as outer:
        with al.capture(
            model, ["layers.0.mlp.hook_post", "*pattern"], stop_at="layers.2.hook_attn_out"
        ) as inner:
            model(**batch)
        model(**batch)
    assert torch.equal(inner["layers.0.mlp.hook_post"], outer["layers.0.mlp.hook_post"][0])
    assert isinstance(outer["layers.2.mlp.hook_post"], torch.Tensor)
    assert hooks_of(model) == before
    assert set(modes_of(model)) == {"off"}
    assert torch.equal(model(**batch).logits, logits)
    handle.remove()


def test_everything_is_put_back_after_an_exception(tiny):
    model, batch = tiny(), batch_of()
    before, logits = hooks_of(model), model(**batch).logits

    def fail():
        with al.capture(model, EVERYTHING, stop_at="hook_logits"):
            model(**batch)
            raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fail()
    with pytest.raises(IndexError), al.capture(model, EVERYTHING):
        model(input_ids=torch.tensor([[1000]]))
    assert hooks_of(model) == before
    assert set(modes_of(model)) == {"off"}
    assert torch.equal(model(**batch).logits, logits)


def test_a_block_that_cannot_be_opened_leaves_nothing(tiny, monkeypatch):
    import torch._dynamo

    model, batch = tiny(), batch_of()
    before, logits = hooks_of(model), model(**batch).logits
    acts = al.capture(model, "*pattern", stop_at="layers.2.hook_attn_out")
    with monkeypatch.context() as broken:
        broken.setattr(acts, "_catch_stop", lambda undo: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            acts.__enter__()
    assert hooks_of(model) == before
    assert {m.current_mode() for m in model.modules() if hasattr(m, "current_mode")} == {"off"}
    assert torch._dynamo.eval_frame._stance.stance == "default"
    assert torch.equal(model(**batch).logits, logits)
    with acts:
        model(**batch)
    assert len(acts) == 3


def test_a_site_that_never_fired_is_an_error(tiny):
    model = tiny()
    with pytest.raises(ValueError, match="3 of 3 sites never fired"), al.capture(model, POST):
        tiny()(**batch_of())


def test_a_capture_runs_once(tiny):
    model = tiny()
    acts = al.capture(model, POST)
    with acts:
        model(**batch_of())
    with pytest.raises(ValueError, match="has run already"), acts:
        pass


def test_a_foreign_model_is_an_error(tiny):
    with pytest.raises(ValueError, match=r"modeling_arcee.*al\.load"):
        al.capture(reference_of(tiny()), POST)


def test_an_edit_that_would_be_lost_is_an_error(tiny):
    """In read mode the data does not flow through the pattern, so that a change must not pass."""
    model = tiny()
    attention = model.model.layers[0].self_attn
    for edit in (lambda x: x * 0, lambda x: x.zero_()):
        attention.hook_pattern.forward = edit
        with pytest.raises(ValueError, match="only read"), al.capture(model, "*pattern"):
            model(**batch_of())
        del attention.hook_pattern.forward


def test_a_hook_added_inside_the_block_is_obeyed(tiny):
    model, batch = tiny(), batch_of()
    plain = model(**batch).logits
    with al.capture(model, "*pattern") as acts:
        point = model.model.layers[0].self_attn.hook_pattern
        handle = point.register_forward_hook(lambda m, a, x: x * 0)
        edited = model(**batch).logits
        handle.remove()
        assert torch.equal(model(**batch).logits, plain)
    assert not torch.equal(edited, plain)
    assert acts["layers.0.self_attn.hook_pattern"][0].abs().sum() == 0


def test_a_hook_on_the_pattern_is_obeyed_and_captured(tiny):
    """A plain torch hook on the pattern makes its layer eager; a capture records the edited one."""
    model, batch = tiny(), batch_of()
    point = model.model.layers[1].self_attn.hook_pattern
    handle = point.register_forward_hook(lambda m, a, x: torch.zeros_like(x))
    with al.capture(model, ["*pattern", "*hook_z"]) as acts:
        model(**batch)
    handle.remove()
    assert acts["layers.1.self_attn.hook_pattern"].abs().max() == 0
    assert acts["layers.1.self_attn.hook_z"].abs().max() == 0
    assert acts["layers.0.self_attn.hook_pattern"].abs().max() > 0


def test_no_growth_over_many_captures(tiny):
    import gc

    model, batch = tiny(), batch_of(batch=1, length=4)

    def tensors() -> int:
        gc.collect()
        return sum(isinstance(o, torch.Tensor) for o in gc.get_objects())

    for _ in range(3):
        with al.capture(model, EVERYTHING, positions=0):
            model(**batch)
    before = tensors()
    for _ in range(30):
        with al.capture(model, EVERYTHING, positions=0):
            model(**batch)
    assert tensors() <= before


def test_blocks_may_end_in_any_order(tiny):
    import torch._dynamo

    model, batch = tiny(), batch_of()
    before, logits = hooks_of(model), model(**batch).logits
    first = al.capture(model, "*pattern", stop_at="layers.2.hook_attn_out")
    second = al.capture(model, "*pattern")
    first.__enter__()
    second.__enter__()
    model(**batch)
    first.__exit__(None, None, None)
    model(**batch)
    second.__exit__(ValueError, None, None)
    assert {m.current_mode() for m in model.modules() if hasattr(m, "current_mode")} == {"off"}
    assert hooks_of(model) == before
    assert torch.equal(model(**batch).logits, logits)
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_an_activation_changed_after_it_was_recorded_is_an_error(tiny):
    """resid_post of a layer and resid_pre of the next are one tensor; an edit reaches both."""
    model, batch = tiny(), batch_of()
    point = model.model.layers[1].hook_resid_pre
    handle = point.register_forward_hook(lambda m, a, x: x.zero_())
    with al.capture(model, "layers.0.hook_resid_post") as acts:
        model(**batch)
    with pytest.raises(ValueError, match="changed in place"):
        acts["layers.0.hook_resid_post"]
    with al.capture(model, "layers.0.hook_resid_post", dtype=torch.float64) as acts:
        model(**batch)
    assert acts["layers.0.hook_resid_post"].abs().sum() > 0
    handle.remove()


def test_copies_of_a_model(tiny):
    import copy
    import pickle

    model, batch = tiny(), batch_of()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        with al.capture(twin, POST) as acts:
            assert torch.equal(twin(**batch).logits, model(**batch).logits)
        assert len(acts) == 3
    with al.capture(model, POST):
        model(**batch)
        with pytest.raises(ValueError, match="cannot be copied inside"):
            copy.deepcopy(model)
