"""Effects on the logits and direct attribution, against transformers' Arcee and plain loops."""

import pytest
import scipy.stats
import torch
from neuron_models import random_model
from tiny_calls import batch_of, reference_of

import arcee_lab as al
from arcee_lab.errors import ModelError, SettingError, UnknownName
from arcee_lab.neurons.weights import _effects
from arcee_lab.neurons.weights.classes import Moments, classes_of, moments


@pytest.mark.parametrize("seed", range(4))
def test_effects_are_the_change_of_the_logits(seed):
    """In fp64 transformers' own head turns a neuron's direction into centred logits."""
    model = random_model(seed, dtype=torch.float64, tied=seed % 2 == 1)
    reference = reference_of(model)
    found = al.neurons.effects(model, top=5)
    layers, width = model.config.num_hidden_layers, model.config.intermediate_size
    assert len(found.units) == layers * width
    for row in range(0, layers * width, 7):
        layer, unit = int(found.layers[row]), int(found.units[row])
        mlp = reference.model.layers[layer].mlp
        written = mlp.down_proj.weight[:, unit]
        # The norm with its scale set to 1: the reference's own weight and head.
        logits = reference.lm_head(reference.model.norm.weight * written)
        logits = logits - logits.mean()
        order = logits.argsort(descending=True)
        assert found.promoted[row].tolist() == order[:5].tolist()
        assert found.suppressed[row].tolist() == order.flip(0)[:5].tolist()
        torch.testing.assert_close(found.promoted_by[row], logits[order[:5]])
        head = reference.lm_head.weight * reference.model.norm.weight
        head = head - head.mean(0)
        cosines = torch.cosine_similarity(head, written[None], dim=1).detach().numpy()
        assert float(found.variance[row]) == pytest.approx(cosines.var())
        assert float(found.skew[row]) == pytest.approx(scipy.stats.skew(cosines))
        kurtosis = scipy.stats.kurtosis(cosines, fisher=False)
        assert float(found.kurtosis[row]) == pytest.approx(kurtosis)
        gain = reference.model.layers[layer].post_attention_layernorm.weight
        reads = mlp.up_proj.weight[unit] * gain
        near = torch.cosine_similarity(reference.model.embed_tokens.weight, reads[None], dim=1)
        assert found.read[row].tolist() == near.argsort(descending=True)[:5].tolist()
        norm = reads.square().sum() + written.square().sum()
        assert float(found.norm[row]) == pytest.approx(norm.item())


def test_pieces_do_not_change_anything(monkeypatch):
    model = random_model(1)
    whole = al.neurons.effects(model, top=3)
    monkeypatch.setattr(_effects, "_AT_ONCE", 3 * model.config.vocab_size)
    pieces = al.neurons.effects(model, top=3)
    assert torch.equal(whole.promoted, pieces.promoted)
    # Products of other shapes may add up in another order: a few units of the last place.
    torch.testing.assert_close(whole.kurtosis, pieces.kurtosis, rtol=1e-4, atol=1e-5)


def test_some_neurons_are_the_rows_of_all():
    model = random_model(2)
    whole = al.neurons.effects(model, top=2)
    some = al.neurons.effects(model, layers=[-1], units=[4, 0], top=2)
    last = model.config.num_hidden_layers - 1
    for place, unit in enumerate([4, 0]):
        row = whole.row(last, unit)
        assert some.row(last, unit) == place
        assert torch.equal(some.promoted[place], whole.promoted[row])
    assert set(some.classes) <= {"", "prediction", "suppression"}
    with pytest.raises(UnknownName):
        some.row(last, 1)


def test_an_adapter_is_part_of_the_effect():
    peft = pytest.importorskip("peft")
    model = random_model(3)
    targets = ["down_proj", "up_proj"]
    wrapped = peft.get_peft_model(
        model, peft.LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    ).eval()
    found = al.neurons.effects(wrapped, top=4)
    merged = al.neurons.effects(wrapped.merge_and_unload(), top=4)
    torch.testing.assert_close(found.promoted_by, merged.promoted_by, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.read_by, merged.read_by, rtol=1e-4, atol=1e-5)


def test_classes_follow_their_definitions():
    # 100 neurons: two sharp ones, and for the rest variances and norms in known order.
    kurtosis, skew = torch.full((100,), 3.0), torch.zeros(100)
    kurtosis[0], skew[0] = 30.0, 2.0
    kurtosis[1], skew[1] = 30.0, -2.0
    variance = torch.arange(100.0)
    norm = torch.arange(100.0).flip(0)
    settings = {"kurtosis": 10.0, "partition": 0.95, "entropy": (0.9, 0.1)}
    spread = Moments(variance, skew, kurtosis)
    found = classes_of(spread, norm, whole=True, **settings)
    assert found[0] == "prediction"
    assert found[1] == "suppression"
    assert set(found[2:10]) == {"entropy"}  # the ten smallest variances have the largest norms
    assert set(found[95:]) == {"partition"}
    assert set(found[10:95]) == {""}
    found = classes_of(spread, norm, whole=False, **settings)
    assert set(found[2:]) == {""}


def test_moments_of_equal_values_are_zero():
    spread = moments(torch.full((1, 8), 3.0))
    assert [float(x) for x in spread] == [0.0, 0.0, 0.0]


def test_a_planted_neuron_is_a_prediction_neuron():
    model, tokenizer = al.load("demo")
    row = model.lm_head.weight[tokenizer.convert_tokens_to_ids("Ġdogs")]
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[:, 7] = row / model.model.norm.weight
    found = al.neurons.effects(model, tokenizer, layers=3, units=7, top=3)
    assert found.frame().loc[0, "promoted"].split()[0] == "dogs"
    assert "1 neuron" in found.headline


def test_the_trained_demo_has_classes_and_its_frame_shows_tokens():
    model, tokenizer = al.load("demo")
    found = al.neurons.effects(model, tokenizer)
    assert len(found.frame()) == model.config.num_hidden_layers * model.config.intermediate_size
    assert len(found.frame(classes="partition", most=3)) == 3
    assert found.classes.count("partition") > 0


BAD = {
    "layer": ({"layers": 9}, SettingError),
    "unit": ({"units": [0, 5000]}, SettingError),
    "the same unit": ({"units": [3, 3]}, SettingError),
    "no unit": ({"units": []}, SettingError),
    "top": ({"top": 0}, SettingError),
    "quantile": ({"partition": 1.5}, SettingError),
    "kurtosis": ({"kurtosis": -1.0}, SettingError),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_settings_of_effects(what):
    settings, error = BAD[what]
    with pytest.raises(error) as caught:
        al.neurons.effects(random_model(0), **settings)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_model_without_an_unembedding():
    model, _ = al.load("demo", head="token")
    with pytest.raises(ModelError, match="head='causal'"):
        al.neurons.effects(model)
    with pytest.raises(ModelError, match="head='causal'"):
        al.neurons.logit_attribution(model, batch_of())


# ---------------------------------------------------------------- direct logit attribution


@pytest.mark.parametrize("padding", [None, "left", "right"])
@pytest.mark.parametrize("attn", ["eager", "sdpa"])
def test_neurons_add_up_to_what_each_mlp_adds_to_the_logit(padding, attn):
    model = random_model(5, dtype=torch.float64, attn=attn)
    batch = batch_of(padding=padding)
    found = al.neurons.logit_attribution(model, batch)
    reference = reference_of(model, attn)
    outputs, posts, last = [], [], []
    for layer in reference.model.layers:
        layer.mlp.register_forward_hook(lambda m, a, out: outputs.append(out))
        layer.mlp.act_fn.register_forward_hook(lambda m, a, out: posts.append(out))
    reference.model.norm.register_forward_hook(lambda m, args, out: last.append(args[0]))
    with torch.no_grad():
        reference(**batch)
    # transformers' norm takes its mean square in fp32, also of an fp64 model.
    scale = torch.rsqrt(last[0].float().pow(2).mean(-1, keepdim=True) + model.config.rms_norm_eps)
    weight = reference.lm_head.weight
    real = batch["attention_mask"].bool()
    ids = batch["input_ids"]
    targets = torch.cat([ids[:, 1:], ids[:, -1:]], 1)
    assert torch.equal(found.targets, targets)
    for place, (output, post) in enumerate(zip(outputs, posts, strict=True)):
        logits = (reference.model.norm.weight * output * scale) @ weight.T
        logits = logits - logits.mean(-1, keepdim=True)
        wanted = logits.gather(-1, targets[..., None])[..., 0].detach()
        torch.testing.assert_close(found.values[place].sum(-1)[real], wanted[real])
        assert torch.equal(found.values[place][real] != 0, (post != 0)[real]), "active ones only"


def test_targets_of_ones_own():
    model = random_model(6)
    batch = batch_of()
    one = al.neurons.logit_attribution(model, batch, targets=7, layers=0)
    each = al.neurons.logit_attribution(
        model, batch, targets=torch.full_like(batch["input_ids"], 7), layers=0
    )
    assert torch.equal(one.values, each.values)
    assert "per token" in one.headline
    frame = one.frame(most=5)
    assert frame["adds"].abs().is_monotonic_decreasing
    top = frame.iloc[0]
    unit = int(top["neuron"].split("N")[1])
    assert float(one.values[0, top["sequence"], top["position"], unit]) == top["adds"]


@pytest.mark.parametrize(
    "targets", [99, -1, torch.zeros(1, 2, dtype=torch.long), torch.full((2, 9), 0.5)]
)
def test_bad_targets(targets):
    with pytest.raises(SettingError):
        al.neurons.logit_attribution(random_model(0), batch_of(), targets=targets)
