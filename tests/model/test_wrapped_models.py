"""Every public call takes a wrapped model, and adapters act in all of them.

What is inside PeftModel, torch.compile and DistributedDataParallel is found by one function. The
truth for LoRA is the same model with the adapter's product added to its weights, without peft.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import nn

import arcee_lab as al
from arcee_lab.heads.qa import find_spans
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.heads.token import label_words
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.model.wrappers.unwrap import unwrap

TEXTS = ["The dogs near the gate bark .", "Nipu likes olives .", "The lamp finds the red king ."]
LORA = {"r": 4, "target_modules": ["q_proj", "up_proj", "down_proj"], "lora_dropout": 0.2}
# Merged or not, a layer's output differs by rounding: sqrt(896) * 2**-24 of it, squared by the
# activation and added up over 4 layers, which is 2e-5. A count changes where a value crosses 0.
ROUNDING, COUNTS = 1e-4, 2e-2


def with_lora(model: nn.Module, **settings) -> nn.Module:
    """A model under an adapter that does something."""
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(model, LoraConfig(**(LORA | settings)))
    made = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in wrapped.named_parameters():
            if "lora_B" in name:
                weight.copy_(torch.randn(weight.shape, generator=made) * 0.03)
    return wrapped.eval()


def merged(wrapped: nn.Module) -> nn.Module:
    """A plain model that computes the same, from the adapter's matrices by plain arithmetic."""
    source = unwrap(wrapped)
    plain = type(source)(copy.deepcopy(source.config)).eval()
    tensors = source.state_dict()
    state = {}
    for name, tensor in tensors.items():
        if ".lora_" in name:
            continue
        layer = name.rsplit(".base_layer", 1)[0]
        if f"{layer}.lora_A.default.weight" in tensors and name.endswith("base_layer.weight"):
            a, b = (tensors[f"{layer}.lora_{x}.default.weight"] for x in "AB")
            tensor = tensor + source.get_submodule(layer).scaling["default"] * (b @ a)
        state[name.replace(".base_layer", "")] = tensor
    plain.load_state_dict(state)
    plain.name_or_path = source.name_or_path
    return plain


@pytest.fixture(scope="module")
def adapted():
    """A fresh demo's (base, PeftModel, the same merged, tokenizer), causal."""
    base, tokenizer = al.load("demo")
    wrapped = with_lora(copy.deepcopy(base))
    return base, wrapped, merged(wrapped), tokenizer


@pytest.fixture(scope="module")
def in_a_group(tmp_path_factory):
    """This process as the only one of a gloo group."""
    if not dist.is_gloo_available():
        pytest.skip("this torch has no gloo")
    store = dist.FileStore(str(tmp_path_factory.mktemp("store") / "file"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def flat(*values) -> torch.Tensor:
    return torch.cat([torch.as_tensor(value).double().flatten() for value in values])


def batch(tokenizer):
    return tokenizer(TEXTS[:2], return_tensors="pt", padding=True)


def captured(model, tokenizer):
    with al.capture(model, ["layers.*.mlp.hook_post", "hook_logits"]) as acts:
        model(**batch(tokenizer))
    return flat(*acts.values())


def reduced(model, tokenizer):
    with al.capture(model, {"layers.*.mlp.hook_post": al.reducers.Moments()}) as stats:
        model(**batch(tokenizer))
    assert stats.fingerprint == model_fingerprint(model)
    return flat(*(one.mean for one in stats.values()))


def intervened(model, tokenizer):
    with al.intervene(model, [al.Cett("layers.1.mlp.hook_post", 0.3)]):
        return flat(model(**batch(tokenizer)).logits)


def planned(model, tokenizer):
    return flat(al.plan(model, "layers.*.mlp.*", batch=2, length=8).bytes)


def traced(model, tokenizer):
    lm = al.to_nnsight(model, tokenizer)
    with lm.trace(TEXTS[0]):
        acts = al.trace.read(lm, ["layers.1.mlp.hook_post", "hook_logits"])
    return flat(*acts.values())


def pairs(tokenizer):
    clean = tokenizer(["The dogs near the door"], return_tensors="pt")
    corrupt = tokenizer(["The dog near the door"], return_tensors="pt")
    sleep, sleeps = tokenizer.convert_tokens_to_ids(["Ġsleep", "Ġsleeps"])
    return corrupt, clean, al.patching.LogitDifference(sleep, sleeps), "*.hook_resid_post"


def swept(model, tokenizer):
    return flat(al.patch_sweep(model, *pairs(tokenizer), over="positions").effects)


def attributed(model, tokenizer):
    return flat(al.patch_attribution(model, *pairs(tokenizer), over="positions").effects)


def headed(model, tokenizer):
    with al.attention.heads(model, [al.attention.Entropy()]) as stats:
        model(**batch(tokenizer))
    return flat(stats["entropy"].mean)


def measured(model, tokenizer):
    report = al.sparsity.measure(model, tokenizer, TEXTS)
    assert "losses" in report.states
    assert report.model == report.label == model_name(model)
    return flat(report.fired)


def norms(model, tokenizer):
    return flat(al.sparsity.measure(model, tokenizer, TEXTS, analyses=["core"]).norms)


def error_curves(model, tokenizer):
    return flat(al.sparsity.cett(model, tokenizer, TEXTS).eps_at(0.2))


def truncated(model, tokenizer):
    curves = al.sparsity.truncation(
        model, tokenizer, TEXTS, rules=["top_k"], levels={"top_k": [0.5, 0.01]}
    )
    return flat(curves.nll)


def perplexity(model, tokenizer):
    found = al.sparsity.cett_ppl(model, tokenizer, TEXTS[:1], increases=[0.5])
    return flat(found.curves.norms)


def coactive(model, tokenizer):
    return flat(al.sparsity.coactivation(model, tokenizer, TEXTS, 1).fired)


def probed(model, tokenizer):
    probe = al.sparsity.probe(model, tokenizer, TEXTS, 1, rank=4, steps=1)
    return flat(probe.a @ probe.b)


def passage(model, tokenizer):
    report = al.sparsity.measure(model, tokenizer, TEXTS, analyses=["core"])
    return flat(al.sparsity.read_passage(model, tokenizer, TEXTS[0], report).active)


def virtual(model, tokenizer):
    found = al.sparsity.virtual_weights(model, 0, [3, 17], 2, top=5)
    return flat(found["weight"].to_numpy())


def dumped(model, tokenizer):
    from tempfile import TemporaryDirectory

    config = al.dump.DumpConfig(sites=("hook_embed", "layers.0.hook_resid_post"))
    with TemporaryDirectory() as folder:
        store = al.dump.write(model, tokenizer, TEXTS, f"{folder}/store", config)
        facts = store.manifest.model
        assert facts["name"] == model_name(model)
        assert facts["fingerprint"] == model_fingerprint(model)
        return flat(store.tokens(slice(None), "layers.0.hook_resid_post"))


def estimated(model, tokenizer):
    return flat(al.dump.plan(model, tokenizer, TEXTS).dense_bytes)


def evaluated(model, tokenizer):
    result = al.evals.run(model, tokenizer, tasks="arcee_demo_agreement_0", limit=2, progress=False)
    assert result.model == model_name(model)
    found = [sample["resps"] for sample in result.samples["arcee_demo_agreement_0"]]
    return flat([float(answer[0][0]) for doc in found for answer in doc])


CALLS: dict[Callable, float] = {
    captured: ROUNDING,
    reduced: ROUNDING,
    intervened: 1e-3,  # Cett decides by a threshold, as counts do
    planned: 0,
    traced: ROUNDING,
    swept: 1e-3,  # differences of logits
    attributed: 1e-3,
    headed: ROUNDING,
    measured: COUNTS,
    norms: ROUNDING,
    error_curves: COUNTS,
    truncated: 1e-3,
    perplexity: ROUNDING,
    coactive: COUNTS,
    probed: 1e-3,
    passage: 5e-3,  # one count of one layer at one token
    virtual: ROUNDING,
    dumped: ROUNDING,
    estimated: 0,
    evaluated: ROUNDING,
}
SAME_SHAPES = {planned, estimated}  # the adapter changes nothing in what these give


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_lora_acts_in_every_call(adapted, call):
    base, wrapped, plain, tokenizer = adapted
    expected = call(plain, tokenizer)
    bound = CALLS[call] * expected.norm()
    assert (call(wrapped, tokenizer) - expected).norm() <= bound
    if call not in SAME_SHAPES and call is not evaluated:
        unchanged = call(base, tokenizer)
        if unchanged.shape == expected.shape:
            assert (unchanged - expected).norm() > max(3 * bound, 1e-6)


COMPILED = [call for call in CALLS if call is not evaluated]  # it unwraps as the other calls do


@pytest.mark.parametrize("call", COMPILED, ids=lambda call: call.__name__)
def test_every_call_takes_a_compiled_model(adapted, call):
    base, _, _, tokenizer = adapted
    compiled = torch.compile(base, backend="eager")
    assert torch.equal(call(compiled, tokenizer), call(base, tokenizer))


@pytest.mark.parametrize("call", [captured, intervened, swept, measured, dumped])
def test_calls_take_a_distributed_model(adapted, in_a_group, call):
    base, _, _, tokenizer = adapted
    model = nn.parallel.DistributedDataParallel(copy.deepcopy(base))
    expected = call(base, tokenizer)
    # Copied weights may start at another place of a cache line, where kernels sum in another order.
    assert (call(model, tokenizer) - expected).norm() <= ROUNDING * expected.norm()


def test_calls_take_what_accelerate_prepares(tiny, in_a_group):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    ids = torch.arange(3, 12)[None]
    model = tiny()
    with al.capture(model, "*.hook_post") as expected:
        model(input_ids=ids)
    AcceleratorState._reset_state(True)  # a Trainer of another test may have made one
    try:
        prepared = Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
        with al.capture(prepared, "*.hook_post") as acts:
            prepared(input_ids=ids)
    finally:
        AcceleratorState._reset_state(True)
    for name in acts:  # under autocast: 8 bits of mantissa through 3 layers
        assert torch.allclose(acts[name].float(), expected[name], rtol=0.1, atol=0.05)


def test_wrappers_nest(adapted):
    _, wrapped, _, tokenizer = adapted
    both = nn.DataParallel(torch.compile(wrapped, backend="eager"))
    assert unwrap(both) is unwrap(wrapped) is wrapped.base_model.model
    assert torch.equal(measured(both, tokenizer), measured(wrapped, tokenizer))


def test_layers_may_be_compiled_one_by_one(adapted):
    base, _, _, tokenizer = adapted
    model = copy.deepcopy(base)
    for number, layer in enumerate(model.model.layers):
        model.model.layers[number] = torch.compile(layer, backend="eager")
    for call in (captured, intervened, headed, measured, passage):
        assert torch.equal(call(model, tokenizer), call(base, tokenizer))


def test_the_inner_model_gives_the_numbers_of_the_wrapper(adapted):
    _, wrapped, _, tokenizer = adapted
    with torch.no_grad():
        outer = wrapped(**batch(tokenizer)).logits
        assert torch.equal(unwrap(wrapped)(**batch(tokenizer)).logits, outer)


def test_weights_are_those_that_act(adapted):
    _, wrapped, plain, _ = adapted
    for layer, other in zip(unwrap(wrapped).model.layers, plain.model.layers, strict=True):
        for name in ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj", "self_attn.k_proj"):
            weight = effective_weight(layer.get_submodule(name))
            expected = other.get_submodule(name).weight
            assert torch.allclose(weight, expected, rtol=0, atol=1e-6)


def test_an_adapter_that_is_no_sum_is_asked_by_unit_vectors(tiny):
    """DoRA divides by norms: what the layer does to unit vectors is its weight."""
    wrapped = with_lora(tiny(), use_dora=True).train()
    down = unwrap(wrapped).model.layers[0].mlp.down_proj
    weight = effective_weight(down)
    assert down.training
    assert all(part.training for part in down.lora_dropout.modules())
    wrapped.eval()
    x = torch.randn(5, 72)
    assert torch.allclose(down(x), x @ weight.T, atol=1e-5)
    assert not torch.allclose(weight, down.base_layer.weight, atol=1e-3)


def test_names_and_fingerprints_tell_adapters_apart(tiny):
    plain = tiny()
    plain.name_or_path = "tiny"
    word = model_fingerprint(plain)
    assert model_name(plain) == "tiny"
    assert model_fingerprint(torch.compile(plain, backend="eager")) == word
    wrapped = with_lora(plain)
    seen = {word, model_fingerprint(wrapped)}
    first = model_name(wrapped)
    assert first.startswith("tiny + default (")
    with wrapped.disable_adapter():
        assert model_name(wrapped) == "tiny"
        seen.add(model_fingerprint(wrapped))
    unwrap(wrapped).model.layers[0].mlp.up_proj.scaling["default"] *= 2
    seen.add(model_fingerprint(wrapped))
    assert len(seen) == 4
    assert model_name(wrapped) != first
    other = tiny()
    other.name_or_path = "tiny"
    assert model_name(with_lora(other, r=2)) not in (first, model_name(wrapped))


@pytest.mark.parametrize("head", ["sequence", "token", "qa"])
def test_heads_answer_with_their_adapters(head):
    asked: dict[str, Callable] = {
        "sequence": lambda m, t: score_sequence(m, t, TEXTS),
        "token": lambda m, t: label_words(m, t, [text.split() for text in TEXTS]),
        "qa": lambda m, t: (
            al.answer(m, t, " Where ?", " The cat is in the barn .", top_k=2),
            find_spans(m, t, [" Where ?"], [" The cat is in the barn ."]),
        ),
    }
    model, tokenizer = al.load("demo", head=head)
    wrapped = with_lora(model)
    found, expected = (asked[head](one, tokenizer) for one in (wrapped, merged(wrapped)))
    if head == "sequence":
        assert torch.allclose(found, expected, atol=1e-3)
    elif head == "token":
        assert found == expected
    else:
        assert found[1] == expected[1]
        for one, other in zip(found[0], expected[0], strict=True):
            assert (one.start, one.end) == (other.start, other.end)
            assert one.score == pytest.approx(other.score, rel=1e-3)


def test_sparse_decoding_under_adapters_elsewhere(adapted):
    _, wrapped, _, tokenizer = adapted
    prompt = tokenizer("The horses behind the old boat", return_tensors="pt")
    with pytest.raises(ValueError, match="Merge adapters"):
        al.sparse_decode(wrapped)
    attention = with_lora(al.load("demo")[0], target_modules=["q_proj"])
    dense = attention.generate(**prompt, max_new_tokens=4, do_sample=False)
    with al.sparse_decode(attention) as block:
        assert torch.equal(attention.generate(**prompt, max_new_tokens=4, do_sample=False), dense)
    assert block.frame()["sparse_calls"].sum() > 0


@pytest.mark.slow
def test_a_compiled_recorder_records_adapters(run_forked):
    said = run_forked(
        """
        import torch, arcee_lab as al
        from peft import LoraConfig, get_peft_model
        torch.manual_seed(0)
        model, tokenizer = al.load("demo")
        model = get_peft_model(model, LoraConfig(r=4, target_modules=["up_proj"])).eval()
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.03)
        batch = tokenizer(["The dogs near the gate bark ."], return_tensors="pt")
        length = batch.input_ids.shape[1]
        record = al.capture_compiled(model, "*.hook_post", batch=1, length=length,
                                     backend="aot_eager")
        record(**batch)
        with al.capture(model, "*.hook_post") as acts:
            model(**batch)
        print(max(float((record[s] - acts[s]).abs().max() / acts[s].abs().max()) for s in acts))
        """
    )
    assert float(said) <= ROUNDING


def test_what_cannot_be_unwrapped_is_refused(tiny):
    from peft import PrefixTuningConfig, TaskType, get_peft_model

    task = TaskType.CAUSAL_LM
    prefix = get_peft_model(tiny(), PrefixTuningConfig(task_type=task, num_virtual_tokens=2))
    with pytest.raises(ValueError, match="prompt learning"):
        al.capture(prefix, "hook_embed")
    shadow = type("FullyShardedDataParallel", (nn.Module,), {})()
    with pytest.raises(ValueError, match="fully_shard"):
        al.plan(shadow, "hook_embed", batch=1, length=1)


def test_a_foreign_model_in_a_wrapper_is_named(tiny):
    foreign = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"container\.Sequential inside a OptimizedModule.*wrap"):
        al.capture(torch.compile(foreign, backend="eager"), "hook_embed")


def test_a_head_is_not_fitted_onto_adapters(adapted):
    from arcee_lab.training.heads import HeadRecipe, read_labelled, train_head

    base, wrapped, _, tokenizer = adapted
    reviews = read_labelled("demo:train", head="sequence", limit=16)
    recipe = HeadRecipe(epochs=1)
    with pytest.raises(ValueError, match=r"adapters default.*merge_and_unload"):
        train_head(wrapped, tokenizer, reviews, recipe=recipe, progress=False)
    compiled = torch.compile(base, backend="eager")
    fitted = train_head(compiled, tokenizer, reviews, recipe=recipe, progress=False)
    assert fitted.settings["model"] == "demo"
