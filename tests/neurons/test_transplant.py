"""Neurons of one checkpoint in another: exact, put back, and estimated by a gradient."""

import copy

import pytest
import torch
from neuron_models import random_model
from test_neuron_diff import near
from tiny_calls import batch_of, reference_of

import arcee_lab as al
from arcee_lab.errors import ModelError, SettingError
from arcee_lab.neurons.compared import curve as curve_module

METRIC = al.patching.LogitDifference(5, 7)


def moved_mlps(base, seed, *, by=0.05):
    """A copy of which only the MLPs are moved."""
    tuned, other = copy.deepcopy(base), near(base, seed, by=by)
    for name, weight in other.named_parameters():
        if ".mlp." in name:
            tuned.get_parameter(name).data.copy_(weight)
    return tuned


def with_bias(seed):
    """A model whose MLPs have biases."""
    config = copy.deepcopy(random_model(seed).config)
    config.mlp_bias = True
    torch.manual_seed(seed)
    return al.ArceeForCausalLM(config).eval()


def metric_of(model, batch):
    """The metric at the last attended token of each row, from a plain forward."""
    logits = model(**batch).logits
    last = [int(row.nonzero().max()) for row in batch["attention_mask"]]
    return METRIC(logits[torch.arange(len(last)), last])


def everyone(model):
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    return [(layer, unit) for layer in range(layers) for unit in range(width)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_those_of_the_reference_with_rows_replaced(seed, dtype):
    base = (with_bias(seed) if seed == 3 else random_model(seed)).to(dtype)
    tuned = moved_mlps(base, seed)
    batch = batch_of(padding=("left", "right")[seed % 2], seed=seed)
    source = torch.Generator().manual_seed(seed)
    chosen = [n for n in everyone(base) if torch.rand((), generator=source) < 0.3] or [(0, 0)]
    reference, donor = reference_of(base), reference_of(tuned)
    with torch.no_grad():
        for layer, unit in chosen:
            mlp, new = reference.model.layers[layer].mlp, donor.model.layers[layer].mlp
            mlp.up_proj.weight[unit] = new.up_proj.weight[unit]
            mlp.down_proj.weight[:, unit] = new.down_proj.weight[:, unit]
            if mlp.up_proj.bias is not None:
                mlp.up_proj.bias[unit] = new.up_proj.bias[unit]
        kept = {name: x.clone() for name, x in base.state_dict().items()}
        with al.neurons.transplant(base, tuned, chosen) as model:
            assert model is base
            assert torch.equal(base(**batch).logits, reference(**batch).logits)
    assert all(torch.equal(x, kept[name]) for name, x in base.state_dict().items())


def test_all_neurons_are_the_tuned_model():
    base = random_model(6)
    tuned, batch = moved_mlps(base, 6), batch_of()
    with torch.no_grad(), al.neurons.transplant(base, tuned, everyone(base)):
        assert torch.equal(base(**batch).logits, tuned(**batch).logits)


def test_weights_come_back_after_an_exception_and_from_nested_blocks():
    base = random_model(2)
    one, two = near(base, 1), near(base, 2)
    weight = base.model.layers[0].mlp.up_proj.weight
    before, identity = weight.clone(), weight.data_ptr()

    def use_and_fail():
        with al.neurons.transplant(base, one, [(0, 3), (0, 1)]):
            with al.neurons.transplant(base, two, ["L0/N3"]):
                assert torch.equal(weight[3], two.model.layers[0].mlp.up_proj.weight[3])
            assert torch.equal(weight[3], one.model.layers[0].mlp.up_proj.weight[3])
            assert torch.equal(weight[1], one.model.layers[0].mlp.up_proj.weight[1])
            assert torch.equal(weight[0], before[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use_and_fail()
    assert torch.equal(weight, before)
    assert weight.data_ptr() == identity


@pytest.mark.parametrize("padding", ["left", "right", None])
def test_activations_are_put_where_the_same_tokens_are(padding):
    base = random_model(8)
    tuned, batch = near(base, 8), batch_of(padding=padding)
    last = base.config.num_hidden_layers - 1
    chosen = sorted({(0, 2), (0, 5), (last, 1)})
    reference, donor = reference_of(base), reference_of(tuned)
    held = {}

    def keep(module, args, output, layer):
        held[layer] = output

    def put(module, args, output, layer):
        new, units = output.clone(), [unit for at, unit in chosen if at == layer]
        new[..., units] = held[layer][..., units]
        return new

    with torch.no_grad():
        for model, hook in ((donor, keep), (reference, put)):
            for layer in {layer for layer, _ in chosen}:
                model.model.layers[layer].mlp.act_fn.register_forward_hook(
                    lambda m, a, o, hook=hook, layer=layer: hook(m, a, o, layer)
                )
        donor(**batch)
        want = reference(**batch).logits
        patches = al.neurons.transplant_activations(tuned, batch, chosen)
        with al.intervene(base, patches):
            got = base(**batch).logits
    real = batch["attention_mask"].bool()
    assert torch.equal(got[real], want[real])


@pytest.mark.parametrize("seed", range(3))
def test_estimates_are_the_gradient_times_the_change_of_what_is_written(seed):
    base = random_model(seed, dtype=torch.float64)
    tuned, batch = near(base, seed), batch_of(padding="right", seed=seed, batch=3)
    found = al.neurons.transplant_attribution(base, tuned, batch, METRIC)
    reference = reference_of(base)
    held = {}
    for layer, block in enumerate(reference.model.layers):
        block.mlp.register_forward_hook(
            lambda m, args, output, layer=layer: held.__setitem__(layer, (args[0], output))
        )
    value = metric_of(reference, batch)
    written = [held[layer][1] for layer in range(len(held))]
    gradients = torch.autograd.grad(value.sum(), written)
    real = batch["attention_mask"].bool()
    assert found.metric_base == pytest.approx(value.mean().item())
    assert found.metric_tuned == pytest.approx(metric_of(tuned, batch).mean().item())
    for layer, gradient in enumerate(gradients):
        x = held[layer][0][real].detach()
        for unit in range(base.config.intermediate_size):
            parts = []
            for model in (base, tuned):
                mlp = model.model.layers[layer].mlp
                a = (x @ mlp.up_proj.weight[unit]).relu() ** 2
                parts.append(a[:, None] * mlp.down_proj.weight[:, unit])
            want = (gradient[real] * (parts[1] - parts[0])).sum().item() / 3
            assert found.effects[layer, unit].item() == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_small_changes_add_up_to_what_is_measured():
    base = random_model(4, dtype=torch.float64)
    batch = batch_of(batch=4)
    errors = []
    for size in (1e-3, 1e-4):
        tuned = moved_mlps(base, 4, by=size)
        found = al.neurons.transplant_attribution(base, tuned, batch, METRIC)
        with torch.no_grad():
            true = (metric_of(tuned, batch) - metric_of(base, batch)).mean().item()
        errors.append(abs(found.effects.sum().item() - true))
    # The error is of second order: a tenth of the change has a hundredth of it.
    assert errors[1] < errors[0] / 30


def test_a_ranking_goes_towards_the_tuned_model():
    base = random_model(4)
    tuned, batch = moved_mlps(base, 5), batch_of(batch=4)
    there = al.neurons.transplant_attribution(base, tuned, batch, METRIC)
    back = al.neurons.transplant_attribution(tuned, base, batch, METRIC)
    for found in (there, back):
        best = found.effects[found.top(1)[0]].item()
        assert best * (found.metric_tuned - found.metric_base) > 0
        table = found.frame(most=5)
        assert list(table.columns) == ["layer", "unit", "effect", "n_prompts"]
        assert tuple(table.loc[0, ["layer", "unit"]]) == found.top(1)[0]
    assert "N = 4 prompts" in there.headline


def test_nothing_is_left_and_parameters_get_no_gradient():
    base = random_model(4).requires_grad_(True)
    tuned, batch = near(base, 4), batch_of()
    al.neurons.transplant_attribution(base, tuned, batch, METRIC)
    al.neurons.transplant_curve(base, tuned, batch, METRIC, [(0, 1)])
    assert all(weight.grad is None for weight in base.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.modules())


@pytest.mark.parametrize("what", ["weights", "activations"])
def test_a_curve_is_the_metric_of_each_size(what):
    base = random_model(9)
    tuned, batch = moved_mlps(base, 9), batch_of(padding="right", batch=4)
    ranking = al.neurons.transplant_attribution(base, tuned, batch, METRIC).top(8)
    curve = al.neurons.transplant_curve(
        base, tuned, batch, METRIC, ranking, sizes=(1, 3, 8), what=what
    )
    assert curve.sizes == (1, 3, 8)
    with torch.no_grad():
        before, after = metric_of(base, batch), metric_of(tuned, batch)
        for k, values in zip(curve.sizes, curve.values, strict=True):
            if what == "weights":
                with al.neurons.transplant(base, tuned, ranking[:k]):
                    want = metric_of(base, batch)
            else:
                patches = al.neurons.transplant_activations(tuned, batch, ranking[:k])
                with al.intervene(base, patches):
                    want = metric_of(base, batch)
            # Fewer logits are computed at once, which may round otherwise: a few 2^-24 of them.
            torch.testing.assert_close(values, want, rtol=1e-5, atol=1e-5)
            share = (want - before).mean() / (after - before).mean()
            place = curve.sizes.index(k)
            assert curve.restored[place] == pytest.approx(share.item(), rel=1e-3, abs=1e-3)
    low, high = curve.intervals
    assert ((low <= curve.restored) & (curve.restored <= high)).all()
    table = curve.frame()
    assert list(table["k"]) == [1, 3, 8]
    assert (table["n_prompts"] == 4).all()
    assert curve.figure()._repr_png_().startswith(b"\x89PNG")


def test_all_neurons_restore_all_of_a_change_of_mlps():
    base = random_model(1)
    tuned, batch = moved_mlps(base, 1), batch_of(batch=4)
    curve = al.neurons.transplant_curve(base, tuned, batch, METRIC, everyone(base))
    most = len(everyone(base))
    assert curve.sizes == tuple(sorted({*(k for k in curve_module.SIZES if k < most), most}))
    assert curve.restored[-1] == 1.0  # bit for bit the tuned model
    needed = curve.needed()
    assert needed is not None
    assert curve.restored[curve.sizes.index(needed)] >= 0.9
    assert all(
        share < 0.9 for k, share in zip(curve.sizes, curve.restored, strict=True) if k < needed
    )
    assert curve.needed(2.0) is None
    assert "restore" in curve.headline


def test_a_donor_may_have_adapters():
    peft = pytest.importorskip("peft")
    base = random_model(0)
    adapted = peft.get_peft_model(
        copy.deepcopy(base), peft.LoraConfig(r=2, target_modules=["up_proj", "down_proj"])
    )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(generator=torch.Generator().manual_seed(1)).mul_(0.1)
    batch = batch_of()
    with torch.no_grad():
        want = adapted(**batch).logits
        with al.neurons.transplant(base, adapted, everyone(base)):
            got = base(**batch).logits
    # W + BA is added once in place of two products: rounding of fp32 sums of up to 30 terms.
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    with (
        pytest.raises(ModelError, match="merge adapters"),
        al.neurons.transplant(adapted, base, [(0, 0)]),
    ):
        pass


def test_bad_calls_say_what_is_wrong():
    base = random_model(1)
    tuned, batch = near(base, 1), batch_of()
    layers, width = base.config.num_hidden_layers, base.config.intermediate_size
    spread = f"expected layers 0 to {layers - 1} and neurons 0 to {width - 1}"
    classes = al.ArceeForTokenClassification(copy.deepcopy(base.config))
    estimate = al.neurons.transplant_attribution
    curve = al.neurons.transplant_curve
    ids = batch["input_ids"]

    def enter(model, donor, neurons):
        with al.neurons.transplant(model, donor, neurons):
            pass

    for message, kind, run in (
        ("one model", SettingError, lambda: enter(base, base, [(0, 0)])),
        ("neurons is empty", SettingError, lambda: enter(base, tuned, [])),
        ("3 is no neuron", SettingError, lambda: enter(base, tuned, [3])),
        ("neurons is .L0/N1.; expected a list", SettingError, lambda: enter(base, tuned, "L0/N1")),
        (spread, SettingError, lambda: enter(base, tuned, [(layers, 0)])),
        (spread, SettingError, lambda: enter(base, tuned, [(0, -1)])),
        ("is no neuron", SettingError, lambda: enter(base, tuned, [(0, 1.0)])),
        ("is no neuron", SettingError, lambda: enter(base, tuned, [(0, True)])),
        ("names L0/N1 twice", SettingError, lambda: enter(base, tuned, [(0, 1), (0, 1)])),
        ("meta device", ModelError, lambda: enter(copy.deepcopy(base).to("meta"), tuned, [(0, 0)])),
        ("k is 0", SettingError, lambda: estimate(base, tuned, batch, METRIC).top(0)),
        ("has none; load it with", ModelError, lambda: estimate(classes, tuned, batch, METRIC)),
        ("metric must be a function", SettingError, lambda: estimate(base, tuned, batch, 3)),
        (
            r"one number per prompt, a tensor \[2\]; got shape \[\]",
            SettingError,
            lambda: estimate(base, tuned, batch, lambda logits: logits.sum()),
        ),
        (
            "metric has no gradient",
            SettingError,
            lambda: estimate(base, tuned, batch, lambda logits: logits.argmax(-1).float()),
        ),
        (
            "batch must hold input_ids",
            SettingError,
            lambda: estimate(base, tuned, batch | {"labels": ids}, METRIC),
        ),
        (
            "batch must hold tensors",
            SettingError,
            lambda: estimate(base, tuned, {"input_ids": [[1]]}, METRIC),
        ),
        (
            r"batch must be \[prompt, pos\]",
            SettingError,
            lambda: estimate(base, tuned, {"input_ids": ids[0]}, METRIC),
        ),
        (
            "row without an attended token",
            SettingError,
            lambda: estimate(base, tuned, {"input_ids": ids, "attention_mask": ids * 0}, METRIC),
        ),
        (
            "what='both'",
            SettingError,
            lambda: curve(base, tuned, batch, METRIC, [(0, 0)], what="both"),
        ),
        ("sizes=", SettingError, lambda: curve(base, tuned, batch, METRIC, [(0, 0)], sizes=[2])),
        ("sizes=", SettingError, lambda: curve(base, tuned, batch, METRIC, [(0, 0)], sizes=[])),
        (
            "equal in base and tuned",
            SettingError,
            lambda: curve(base, copy.deepcopy(base), batch, METRIC, [(0, 0)]),
        ),
        (
            spread,
            SettingError,
            lambda: al.neurons.transplant_activations(tuned, batch, [(0, width)]),
        ),
    ):
        with pytest.raises(kind, match=message) as error:
            run()
        assert str(error.value).endswith(".")
