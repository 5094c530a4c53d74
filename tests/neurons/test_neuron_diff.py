"""Two checkpoints compared neuron by neuron, against plain loops on transformers' Arcee."""

import copy

import pytest
import torch
from neuron_models import random_model
from tiny_calls import reference_of
from torch.nn.functional import cosine_similarity

import arcee_lab as al
from arcee_lab.data.windows import Windows
from arcee_lab.errors import ModelError, SettingError, TextError, UnknownName

LENGTHS = (9, 1, 5, 12)


def near(model, seed: int, *, by: float = 0.05):
    """A copy with every weight moved a little, as a fine-tune would."""
    tuned = copy.deepcopy(model)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in tuned.parameters():
            weight += by * torch.randn(weight.shape, generator=source).to(weight)
    return tuned


def windows(seed: int, *, bos: int | None = None) -> Windows:
    """Windows of several lengths, so that batches are padded."""
    import numpy as np

    source = np.random.default_rng(seed)
    ids = source.integers(3, 50, sum(LENGTHS))
    bounds = np.cumsum([0, *LENGTHS])
    if bos is not None:
        ids[bounds[:-1]] = bos
    return Windows(ids, bounds, np.arange(len(LENGTHS)), bos_id=bos, pad_id=0)


def activations(model, texts: Windows) -> list[torch.Tensor]:
    """relu(u)² of every counted token of each layer, one window per call of the reference."""
    reference = reference_of(model)
    found: list[list[torch.Tensor]] = [[] for _ in reference.model.layers]
    with torch.no_grad():
        for number in range(len(texts)):
            hooks = [
                layer.mlp.act_fn.register_forward_hook(
                    lambda module, args, output, place=place: found[place].append(output[0, 1:])
                )
                for place, layer in enumerate(reference.model.layers)
            ]
            reference(torch.from_numpy(texts[number].astype("int64"))[None])
            for hook in hooks:
                hook.remove()
    return [torch.cat(some) for some in found]


@pytest.mark.parametrize("seed", range(4))
def test_every_number_is_that_of_plain_arithmetic(seed):
    # fp64, so that only the formula can differ; an activation near 0 fires on both sides alike.
    base = random_model(seed, dtype=torch.float64, tied=seed % 2 == 1)
    tuned, texts = near(base, seed), windows(seed, bos=None if seed % 2 else 1)
    for model in (base, tuned):
        model.requires_grad_(False)
    found = al.neurons.diff(base, tuned, None, texts, batch_size=1 + seed, top=4)
    before, after = activations(base, texts), activations(tuned, texts)
    assert found.n_tokens == sum(LENGTHS) - len(LENGTHS)
    changes = {}
    for layer, (a, b) in enumerate(zip(before, after, strict=True)):
        one, two = (m.model.layers[layer].mlp for m in (base, tuned))
        assert torch.equal(found.fired_base[layer], (a > 0).sum(0))
        assert torch.equal(found.fired_tuned[layer], (b > 0).sum(0))
        assert torch.equal(found.fired_both[layer], ((a > 0) & (b > 0)).sum(0))
        assert torch.allclose(found.rates[1][layer], (b > 0).double().mean(0))
        for unit in range(a.shape[1]):
            w, v = one.down_proj.weight[:, unit], two.down_proj.weight[:, unit]
            step = b[:, unit, None] * v - a[:, unit, None] * w
            changes[layer, unit] = step.square().sum(1).mean().sqrt().item()
            values = {
                "written": changes[layer, unit],
                "reads": cosine_similarity(one.up_proj.weight[unit], two.up_proj.weight[unit], 0),
                "reads_norm": two.up_proj.weight[unit].norm() / one.up_proj.weight[unit].norm(),
                "writes": cosine_similarity(w, v, 0),
                "writes_norm": v.norm() / w.norm(),
                "effects": cosine_similarity(effect(base, w), effect(tuned, v), 0),
            }
            for name, value in values.items():
                # Kept in fp32: 2^-24 of the value.
                got = getattr(found, name)[layer, unit].item()
                assert got == pytest.approx(float(value), rel=3e-7, abs=3e-7), name
    ranked = sorted(changes, key=changes.__getitem__, reverse=True)
    assert found.top(4) == tuple(ranked[:4])
    for place, (layer, unit) in enumerate(ranked[:4]):
        step = effect(tuned, tuned.model.layers[layer].mlp.down_proj.weight[:, unit]) - effect(
            base, base.model.layers[layer].mlp.down_proj.weight[:, unit]
        )
        order = step.argsort(descending=True).tolist()
        assert found.gained[place].tolist() == order[:5]
        assert found.lost[place].tolist() == order[::-1][:5]


@torch.no_grad()
def effect(model, written):
    """Centred logits of a direction, by the reference's own norm weight and head."""
    reference = reference_of(model)
    logits = reference.lm_head(reference.model.norm.weight * written)
    return logits - logits.mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_do_not_change_what_is_counted(dtype):
    base = random_model(7, dtype=dtype)
    tuned, texts = near(base, 7), windows(7)
    alone, together = (al.neurons.diff(base, tuned, None, texts, batch_size=n) for n in (1, 4))
    assert alone.n_tokens == together.n_tokens
    # Padding changes the shape of a product, which may round an activation at 0 to the other side.
    wrong = (alone.fired_base != together.fired_base).float().mean()
    assert wrong < 0.05
    # bf16 products differ by a few units of 2^-8 of the largest term; fp32 by 2^-24.
    bound = 0.05 if dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(alone.written, together.written, rtol=bound, atol=bound)


def test_a_copy_has_not_changed():
    base = random_model(3)
    found = al.neurons.diff(base, copy.deepcopy(base), None, windows(3))
    assert not found.written.any()
    for name in ("reads", "writes", "effects", "reads_norm", "writes_norm"):
        assert (getattr(found, name) == 1).all(), name
    assert (found.fired_base == found.fired_both).all()
    assert "no change" in found.headline


def test_one_neuron_is_found_by_each_ranking():
    base = random_model(5)
    tuned = copy.deepcopy(base)
    last = base.config.num_hidden_layers - 1  # no later layer sees it
    with torch.no_grad():
        tuned.model.layers[last].mlp.down_proj.weight[:, 4] *= -2
        tuned.model.layers[last].mlp.up_proj.weight[4] *= -1
    found = al.neurons.diff(base, tuned, None, windows(5))
    assert found.reads[last, 4] == pytest.approx(-1)
    assert found.writes[last, 4] == pytest.approx(-1)
    assert found.writes_norm[last, 4] == pytest.approx(2)
    assert found.reads_norm[last, 4] == pytest.approx(1)
    for by in ("written", "rate", "reads", "writes", "effects"):
        assert found.top(1, by=by) == ((last, 4),), by
    assert found.fired_both[last, 4] == 0  # it fires where it did not
    assert int((found.written > 0).sum()) == 1
    row = found.row(last, 4)
    assert row["only_base"] == found.fired_base[last, 4]
    table = found.frame(most=3, by="writes")
    assert list(table.loc[0, ["layer", "unit"]]) == [last, 4]
    assert len(table) == 3
    assert len(found.frame(most=None)) == found.written.numel()
    assert "10 neurons hold 100%" in found.headline
    assert found.figure()._repr_png_().startswith(b"\x89PNG")
    assert "<table" in found._repr_html_()


def test_neurons_survive_in_models_without_an_unembedding():
    base = random_model(2)
    heads = [al.ArceeForTokenClassification(copy.deepcopy(base.config)).eval() for _ in range(2)]
    for head in heads:
        head.model.load_state_dict(base.model.state_dict())
    with torch.no_grad():
        heads[1].model.layers[0].mlp.down_proj.weight[:, 1] *= 3
    found = al.neurons.diff(*heads, None, windows(2))
    assert found.effects.isnan().all()
    assert found.writes_norm[0, 1] == pytest.approx(3)
    assert found.gained.shape[1] == 0
    with pytest.raises(SettingError, match="no values: one of the models has no unembedding"):
        found.top(1, by="effects")


def test_bad_calls_say_what_is_wrong():
    base = random_model(1)
    tuned, texts = near(base, 1), windows(1)
    layers, width = base.config.num_hidden_layers, base.config.intermediate_size
    most = layers * width
    unrelated = copy.deepcopy(base)
    with torch.no_grad():
        source = torch.Generator().manual_seed(99)
        for weight in unrelated.parameters():
            weight.copy_(torch.randn(weight.shape, generator=source))
    broken = copy.deepcopy(base)
    with torch.no_grad():
        broken.model.layers[0].mlp.down_proj.weight[0, 0] = torch.nan
    other = copy.deepcopy(base.config)
    other.vocab_size += 3
    wider = copy.deepcopy(base.config)
    wider.intermediate_size += 1
    call = al.neurons.diff
    found = call(base, tuned, None, texts)
    for message, kind, run in (
        ("base and tuned are one model", SettingError, lambda: call(base, base, None, texts)),
        (
            "has vocab_size .* one shape and vocabulary",
            ModelError,
            lambda: call(base, al.ArceeForCausalLM(other), None, texts),
        ),
        (
            "has intermediate_size",
            ModelError,
            lambda: call(base, al.ArceeForCausalLM(wider), None, texts),
        ),
        (
            "base is in torch.float32 and tuned in torch.bfloat16",
            ModelError,
            lambda: call(base, copy.deepcopy(tuned).bfloat16(), None, texts),
        ),
        ("do not correspond", ModelError, lambda: call(base, unrelated, None, texts)),
        (
            "Expected a model of arcee_lab",
            ModelError,
            lambda: call(base, torch.nn.Linear(2, 2), None, texts),
        ),
        (
            "top is 0; expected at least 1",
            SettingError,
            lambda: call(base, tuned, None, texts, top=0),
        ),
        ("batch size is 0", SettingError, lambda: call(base, tuned, None, texts, batch_size=0)),
        (
            "context=4 came with windows",
            SettingError,
            lambda: call(base, tuned, None, texts, context=4),
        ),
        ("by='size'; expected one of", SettingError, lambda: found.top(1, by="size")),
        (f"k is {most + 1}; expected 1", SettingError, lambda: found.top(most + 1)),
        (f"L{layers}/N0 is not in the models", UnknownName, lambda: found.row(layers, 0)),
    ):
        with pytest.raises(kind, match=message) as error:
            run()
        assert str(error.value).endswith(".")
    with pytest.raises(ModelError, match="hold NaN"):
        call(broken, tuned, None, texts)


def test_texts_of_first_positions_alone_are_refused():
    import numpy as np

    base = random_model(1)
    short = Windows(np.array([5, 6]), np.array([0, 1, 2]), np.arange(2), bos_id=None, pad_id=0)
    with pytest.raises(TextError, match="nothing but first positions"):
        al.neurons.diff(base, near(base, 1), None, short)


def test_nothing_is_left_on_the_models(capsys):
    base = random_model(4)
    tuned, texts = near(base, 4), windows(4)
    before = {name: x.clone() for name, x in base.state_dict().items()}
    al.neurons.diff(base, tuned, None, texts)
    assert capsys.readouterr() == ("", "")
    al.neurons.diff(base, tuned, None, texts, progress=True)
    assert "batch" in capsys.readouterr().err
    for model in (base, tuned):
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert all(torch.equal(x, before[name]) for name, x in base.state_dict().items())
