"""A block belongs to the thread that opened it; a backward may compute layers again anywhere."""

import copy
import threading

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import arcee_lab as al
from arcee_lab.attention import Entropy
from arcee_lab.errors import ModelError

IDS = torch.arange(3, 12)[None]
SITE = "layers.*.mlp.hook_post"
OPEN = {
    "capture": lambda model: al.capture(model, SITE),
    "reducers": lambda model: al.capture(model, {SITE: al.reducers.FiringRate()}),
    "stop": lambda model: al.capture(model, "layers.0.mlp.hook_post", stop_at=True),
    "pattern": lambda model: al.capture(model, "*.hook_pattern", positions=[0]),
    "heads": lambda model: al.attention.heads(model, [Entropy()]),
    "intervene": lambda model: al.intervene(model, al.Scale(SITE, 0.5)),
}


def in_thread(work):
    """What `work` gives or raises in another thread."""
    found = []

    def run():
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found[0]


@pytest.mark.parametrize("kind", OPEN)
def test_a_forward_of_another_thread_is_refused_and_changes_nothing(tiny, kind):
    model = tiny()
    plain = model(input_ids=IDS).logits
    with OPEN[kind](model) as alone:
        first = model(input_ids=IDS)
    with OPEN[kind](model) as block:
        before = in_thread(lambda: model(input_ids=IDS))
        mine = model(input_ids=IDS)
        after = in_thread(lambda: model(input_ids=IDS))
        inner = in_thread(lambda: model.model(input_ids=IDS))
    for error in (before, after, inner):
        assert isinstance(error, ValueError)
        assert "in another thread" in str(error)
    if kind != "stop":
        assert torch.equal(mine.logits, first.logits)
    if kind in ("capture", "stop", "pattern"):
        assert all(torch.equal(block[name], alone[name]) for name in block)
    elif kind == "reducers":
        assert all(torch.equal(block[name].fired, alone[name].fired) for name in block)
    elif kind == "heads":
        assert torch.equal(block["entropy"].mean, alone["entropy"].mean)
    assert torch.equal(model(input_ids=IDS).logits, plain)
    assert torch.equal(in_thread(lambda: model(input_ids=IDS)).logits, plain)


def test_threads_that_run_at_once_never_mix(tiny):
    """In the middle of the owner's forward another thread runs the model, or one of its layers."""
    model = tiny()
    with al.capture(model, SITE) as alone:
        model(input_ids=IDS)
    intruders = []
    other = IDS.flip(1)
    hidden = torch.randn(1, 9, 32)

    def intrude(module, args, output):
        if threading.current_thread() is threading.main_thread():
            intruders.append(in_thread(lambda: model(input_ids=other)))
            intruders.append(in_thread(lambda: model.model.layers[1].mlp(hidden)))

    handle = model.model.layers[0].register_forward_hook(intrude)
    with al.capture(model, SITE) as acts:
        model(input_ids=IDS)
    handle.remove()
    assert [type(one) for one in intruders] == [ModelError, ModelError]
    assert all(torch.equal(acts[name], alone[name]) for name in acts)


def test_each_thread_may_have_a_model_of_its_own(tiny):
    models = [tiny() for _ in range(2)]
    for model in models:
        model.load_state_dict(models[0].state_dict())

    def work(model):
        with al.capture(model, SITE) as acts:
            for _ in range(5):
                model(input_ids=IDS)
        return acts.take()

    expected = work(models[0])
    with al.capture(models[0], SITE) as acts:
        found = in_thread(lambda: work(models[1]))
        for _ in range(5):
            models[0](input_ids=IDS)
    for taken in (found, acts.take()):
        assert all(
            torch.equal(x, y)
            for name in expected
            for x, y in zip(taken[name], expected[name], strict=True)
        )


def gradients(model, loss, *, backward):
    model.zero_grad()
    backward(loss)
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def plainly(loss):
    loss.backward()


def elsewhere(loss):
    """As on a GPU, where autograd computes layers again in a thread of its own."""
    assert in_thread(loss.backward) is None


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["capture", "intervene"])
def test_recomputation_in_a_backward_counts_as_the_owners(tiny, kind, reentrant):
    model = tiny().train()

    def run(*, checkpointing, backward):
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        else:
            model.gradient_checkpointing_disable()
        with OPEN[kind](model) as block:
            embeds = model.model.embed_tokens(IDS)
            loss = model(inputs_embeds=embeds, use_cache=False).logits.square().mean()
            found = gradients(model, loss, backward=backward)
        if kind == "capture":
            assert all(isinstance(x, torch.Tensor) for x in block.values())  # once each
        return found

    expected = run(checkpointing=False, backward=plainly)
    for backward in (plainly, elsewhere):
        found = run(checkpointing=True, backward=backward)
        for x, y in zip(found, expected, strict=True):
            assert torch.allclose(x, y, rtol=1e-4, atol=1e-7)


def test_a_forward_made_before_the_block_is_computed_again_without_it(tiny):
    """Else its gradient would be that of another function, silently."""
    model = tiny().train()
    loss = model(input_ids=IDS).logits.square().mean()
    expected = gradients(model, loss, backward=plainly)
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for backward in (plainly, elsewhere):
        loss = model(input_ids=IDS, use_cache=False).logits.square().mean()
        with al.intervene(model, al.Scale(SITE, 0.5)):
            model(input_ids=IDS, use_cache=False)
            found = gradients(model, loss, backward=backward)
        for x, y in zip(found, expected, strict=True):
            assert torch.allclose(x, y, rtol=1e-4, atol=1e-7)


def test_a_whole_model_may_be_computed_again(tiny):
    model = tiny().train()
    embeds = torch.randn(1, 9, 32, requires_grad=True)

    def run(x):
        return model(inputs_embeds=x, use_cache=False).logits.square().mean()

    with al.intervene(model, [al.Scale(SITE, 0.5), al.Scale("hook_logits", 2.0)]):
        (expected,) = torch.autograd.grad(run(embeds), embeds)
        loss = checkpoint(run, embeds, use_reentrant=False)
        assert in_thread(loss.backward) is None
        again = model.model.layers[0].mlp(torch.ones(1, 2, 32))  # a part alone, by the owner
        assert again.shape == (1, 2, 32)
    assert torch.allclose(embeds.grad, expected, rtol=1e-4, atol=1e-7)


def test_measurements_refuse_a_forward_of_another_thread(tiny, demo):
    """They hook into linears, not into hook points."""
    model, tokenizer = copy.deepcopy(demo[0]), demo[1]
    ids = torch.arange(3, 12)[None]
    intruders = []

    def intrude(module, args, output):
        if threading.current_thread() is threading.main_thread():
            intruders.append(in_thread(lambda: model(input_ids=ids)))

    texts = ["The dogs near the gate bark .", "Nipu likes olives ."]
    calls = {
        "measure": lambda: al.sparsity.measure(model, tokenizer, texts, sample_every=1).fired,
        "cett": lambda: al.sparsity.cett(model, tokenizer, texts).norms,
        "probe": lambda: al.sparsity.probe(model, tokenizer, texts, 1, rank=2, steps=1).a,
    }
    for name, call in calls.items():
        expected = call()
        handle = model.model.layers[0].register_forward_hook(intrude)
        found = call()
        handle.remove()
        assert torch.equal(found, expected), name
        assert intruders, name
        assert all("in another thread" in str(one) for one in intruders), name
        intruders.clear()


def test_a_compiled_recorder_is_of_one_thread(run_forked):
    said = run_forked(
        """
        import threading
        import torch, arcee_lab as al
        model, _ = al.load("demo")
        ids = torch.arange(3, 12)[None]
        errors = []
        def other():
            for call in (lambda: model(input_ids=ids), lambda: record(input_ids=ids)):
                try:
                    call()
                except ValueError as error:
                    errors.append("thread" in str(error))
        def backend(graph, inputs):
            def run(*args):
                thread = threading.Thread(target=other)
                thread.start(), thread.join()
                return graph(*args)
            return run
        record = al.capture_compiled(model, "*.hook_post", batch=1, length=9, backend=backend)
        record(input_ids=ids)
        with al.capture(model, "*.hook_post") as acts:
            model(input_ids=ids)
        print(errors, all(torch.allclose(record[s], acts[s], rtol=1e-4) for s in acts))
        """
    )
    assert said.split() == ["[True,", "True]", "True"]
