"""Captures around every kind of call: forwards, caches, generate, backward, compiled code."""

from pathlib import Path

import pytest
import torch
from tiny_calls import POST, batch_of

import arcee_lab as al

NNSIGHT = str(Path(__file__).with_name("nnsight_around.py"))


def test_calls_of_any_style_and_several_forwards(tiny):
    model, batch = tiny(), batch_of(padding="right")
    embeds = model.get_input_embeddings()(batch["input_ids"])
    with al.capture(model, "layers.0.hook_resid_post") as acts:
        model(batch["input_ids"], batch["attention_mask"])
        model(inputs_embeds=embeds, attention_mask=batch["attention_mask"])
        model.model(**batch)
    first, second, third = acts["layers.0.hook_resid_post"]
    assert torch.equal(first, second)
    assert torch.equal(first, third)


def test_a_capture_knows_which_columns_are_real(tiny):
    """Where its columns are those of one whole call with a mask; else it says nothing."""
    model = tiny()
    ids = torch.randint(3, 50, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    allowed = (torch.ones(9, 9).tril().bool() & mask[:, None].bool())[:, None]

    def attended(*calls, **cuts):
        with torch.no_grad(), al.capture(model, "layers.1.mlp.hook_post", **cuts) as acts:
            for call in calls:
                model(**call)
        return acts.attended

    padded = {"input_ids": ids, "attention_mask": mask}
    assert torch.equal(attended(padded, units=[3]), mask.bool())
    assert torch.equal(attended({"input_ids": ids, "attention_mask": allowed}), mask.bool())
    for calls, cuts in (
        ([{"input_ids": ids}], {}),
        ([padded, padded], {}),
        ([padded], {"positions": [0, 1]}),
    ):
        assert attended(*calls, **cuts) is None
    cache = model(**padded, use_cache=True).past_key_values
    step = {"input_ids": ids[:, :1], "attention_mask": torch.ones(2, 10), "cache": cache}
    assert attended(step) is None


def test_take_hands_over_and_forgets(tiny):
    model = tiny()
    with al.capture(model, POST) as acts:
        model(**batch_of(seed=1))
        first = acts.take()
        model(**batch_of(seed=2))
        second = acts.take()
        with pytest.raises(ValueError, match="has not fired yet"):
            acts["layers.0.mlp.hook_post"]
    assert [len(r) for r in first.values()] == [1, 1, 1]
    assert not torch.equal(first["layers.0.mlp.hook_post"][0], second["layers.0.mlp.hook_post"][0])


def test_cached_decode_equals_full_forward_equals_generate(tiny):
    """The same numbers whether tokens come at once, one by one, or from generate."""
    model, batch = tiny(attn="eager"), batch_of(padding="left")
    sites = ["layers.*", "norm.*", "hook_logits"]
    with al.capture(model, sites) as steps:
        ids = model.generate(
            **batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0
        )
    mask = torch.cat([batch["attention_mask"], torch.ones(2, 4, dtype=torch.long)], dim=1)
    where = (mask.cumsum(-1) - 1).clamp_min(0)
    with al.capture(model, sites) as full:
        model(input_ids=ids, attention_mask=mask, position_ids=where)
    real = mask[:, :-1].bool()
    for site in steps:
        if site == "hook_logits":  # generate asks for the last position's logits only
            joined, expected = torch.cat(steps[site], dim=1), full[site][:, 8:12]
            torch.testing.assert_close(joined, expected, atol=2e-5, rtol=2e-5)
            continue
        joined = torch.cat(steps[site], dim=1)
        torch.testing.assert_close(joined[real], full[site][:, :-1][real], atol=2e-5, rtol=2e-5)


def test_beams_and_assisted_decoding_are_recorded_as_they_run(tiny):
    model, batch = tiny(), batch_of(batch=1)
    with al.capture(model, "layers.0.mlp.hook_post") as acts:
        model.generate(**batch, num_beams=3, max_new_tokens=3, do_sample=False)
    assert [tuple(x.shape[:2]) for x in acts["layers.0.mlp.hook_post"][1:]] == [(3, 1)] * 2
    with al.capture(model, "layers.0.mlp.hook_post") as acts:
        model.generate(**batch, assistant_model=tiny(), max_new_tokens=4, do_sample=False)
    assert len(acts["layers.0.mlp.hook_post"]) >= 1


def test_stop_at_ends_the_forward_and_the_block_goes_on(tiny):
    model, batch = tiny(), batch_of()
    ran: list[int] = []
    for i, layer in enumerate(model.model.layers):
        layer.register_forward_pre_hook(lambda m, a, i=i: ran.append(i))
    with al.capture(model, POST) as whole:
        model(**batch)
    for stop, layers in [
        (True, [0, 1]),
        (1, [0, 1]),
        ("blocks.1.hook_resid_post", [0, 1]),
        (2, [0, 1, 2]),
    ]:
        ran.clear()
        with al.capture(model, "layers.0:2.mlp.hook_post", stop_at=stop) as acts:
            assert model(**batch) is None
            assert model.model(**batch) is None
            after = "the block goes on"
        assert after
        assert ran == layers * 2
        for name, values in acts.items():
            assert torch.equal(values[0], whole[name])
            assert torch.equal(values[1], whole[name])
    assert model(**batch).logits.shape == (2, 9, 50)
    with pytest.raises(ValueError, match=r"before 'layers\.2\.mlp\.hook_post'"):
        al.capture(model, POST, stop_at=1)
    with al.capture(model, "hook_embed", stop_at=True) as acts:
        model(**batch)
        with pytest.raises(ValueError, match="generate cannot run"):
            model.generate(**batch)


@pytest.mark.parametrize("checkpointing", [None, {"use_reentrant": False}])
def test_gradients_and_recomputation(tiny, checkpointing):
    """grad=True gives autograd's own gradient; a checkpointed layer is recorded once."""
    model, batch = tiny().train(), batch_of(padding="left")
    weights = [p.clone() for p in model.parameters()]
    batch["labels"] = batch["input_ids"]
    expected = {}

    def perturb(m, args, out):
        expected["x"] = out.detach().requires_grad_()
        return expected["x"]

    handle = model.model.layers[1].mlp.hook_post.register_forward_hook(perturb)
    model(**batch).loss.backward()
    handle.remove()
    model.zero_grad()
    if checkpointing:
        model.activation_checkpointing_enable(checkpointing)
    with al.capture(model, POST, grad=True, units=[5, 6]) as acts:
        model(**batch, use_cache=False).loss.backward()
    site = "layers.1.mlp.hook_post"
    assert acts[site].shape == (2, 9, 2)
    torch.testing.assert_close(acts.grad(site), expected["x"].grad[..., [5, 6]])
    assert all(torch.equal(p, w) for p, w in zip(model.parameters(), weights, strict=True))


def test_gradient_errors(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, "hook_embed") as acts:
        model(**batch)
    with pytest.raises(ValueError, match="grad=True"):
        acts.grad("hook_embed")
    with torch.no_grad(), al.capture(model, "hook_embed", grad=True) as acts:
        model(**batch)
    with pytest.raises(ValueError, match="has no gradient"):
        acts.grad("hook_embed")


def test_detached_by_default(tiny):
    model, batch = tiny(), batch_of()
    with al.capture(model, POST) as acts:
        model(**batch)
    assert not any(x.requires_grad for x in acts.values())


def test_compiled_models_and_outer_functions_are_never_empty(run_forked):
    """Compiled before the capture, in three ways: the sites fire all the same."""
    run_forked("""
        import torch, arcee_lab as al
        from arcee_lab.model import ArceeConfig, ArceeForCausalLM
        config = ArceeConfig(vocab_size=50, hidden_size=32, intermediate_size=72,
                             num_hidden_layers=2, num_attention_heads=4)
        model = ArceeForCausalLM(config).eval()
        ids = torch.arange(3, 9)[None]
        expected = model(input_ids=ids).logits

        wrapped = torch.compile(model, backend="eager")
        outer = torch.compile(lambda ids: model(input_ids=ids).logits, backend="eager")
        wrapped(input_ids=ids), outer(ids)
        calls = ((lambda: wrapped(input_ids=ids), wrapped), (lambda: outer(ids), model))
        for call, target in calls:
            with al.capture(target, ["layers.*.mlp.hook_post", "*pattern"]) as acts:
                call()
            assert all(acts[name].numel() for name in acts) and len(acts) == 4
            call()
        model.compile(backend="eager")
        model(input_ids=ids)
        with al.capture(model, "layers.*.mlp.hook_post") as acts:
            model(input_ids=ids)
        assert len(acts) == 2
        assert torch.equal(model(input_ids=ids).logits, expected)
    """)


def test_reentrant_checkpointing_records_once(tiny):
    model, batch = tiny().train(), batch_of()
    model.activation_checkpointing_enable({"use_reentrant": True})
    with al.capture(model, POST) as acts:
        model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
    assert all(isinstance(x, torch.Tensor) for x in acts.values())


def test_static_cache_generate_and_inference_mode(tiny):
    model, batch = tiny(), batch_of(padding="left")
    with torch.inference_mode(), al.capture(model, [POST, "*pattern"]) as dynamic:
        expected = model.generate(**batch, max_new_tokens=3, do_sample=False)
    with al.capture(model, [POST, "*pattern"]) as static:
        ids = model.generate(
            **batch, max_new_tokens=3, do_sample=False, cache_implementation="static"
        )
    assert torch.equal(ids, expected)
    for site in dynamic:
        for mine, theirs in zip(static[site], dynamic[site], strict=True):
            # A static cache has further keys, which nobody may read.
            torch.testing.assert_close(mine[..., : theirs.shape[-1]], theirs, atol=1e-6, rtol=1e-5)
            assert mine[..., theirs.shape[-1] :].abs().sum() == 0


def test_disk_offload(tiny, tmp_path):
    from accelerate import disk_offload

    model, batch = tiny(), batch_of()
    with al.capture(model, POST) as here:
        model(**batch)
    disk_offload(model, tmp_path, execution_device="cpu")
    with al.capture(model, POST) as there:
        model(**batch)
    assert all(torch.equal(there[site], here[site]) for site in here)


def test_inside_out_with_nnsight(run_forked):
    """A capture around a trace: same tensors as nnsight reads, and its edits are seen.

    In a process of its own, because nnsight replaces Tensor.backward for good.
    """
    # nnsight reads the source of a trace, which `python -c` does not have: hence a file.
    run_forked(f"import runpy; runpy.run_path({NNSIGHT!r})")
