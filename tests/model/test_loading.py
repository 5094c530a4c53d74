"""al.load: every head from any checkpoint, and one clear line for every bad one."""

import json
import shutil
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.utils import is_flash_attn_2_available

import arcee_lab as al
from arcee_lab.model.checks.selfcheck import self_check

HEADS = ["base", "causal", "sequence", "token", "qa"]


@pytest.fixture(scope="session")
def tokenizer():
    """47 characters and the three special tokens: as many as the tiny model has rows."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRST "
    vocab = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", *letters])}
    core = Tokenizer(models.WordLevel(vocab, unk_token=" "))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token=" "
    )


@pytest.fixture
def folder(tiny, tokenizer, tmp_path):
    """A causal checkpoint with its tokenizer."""
    path = tmp_path / "checkpoint"
    tiny().save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("source", HEADS)
def test_any_head_from_any_checkpoint(tiny, tokenizer, tmp_path, source, head):
    """The backbone is always the checkpoint's; a head it lacks is one warning, else none."""
    saved = tiny(source)
    saved.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model, loaded = al.load(tmp_path, head=head)
    mine = [str(w.message) for w in said if "start random" in str(w.message)]
    needed = 0 if head in (source, "base") else 1
    assert len(mine) == needed
    assert all(f"no {head} head" in text for text in mine)
    assert not model.training
    assert len(loaded) == 50
    if needed and hasattr(model, "score") and hasattr(saved, "score"):
        assert not torch.equal(model.score.weight, saved.score.weight)  # another head's weights
    backbone = getattr(model, "model", model).state_dict()
    for name, weight in getattr(saved, "model", saved).state_dict().items():
        assert torch.equal(backbone[name], weight), name


@pytest.mark.parametrize("dtype", ["float32", torch.bfloat16, "float16"])
def test_dtype_attention_and_logging(folder, dtype, caplog):
    with caplog.at_level("INFO", logger="arcee_lab"):
        model, _ = al.load(folder, dtype=dtype, attn="eager")
    expected = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    assert model.dtype == expected
    assert model.config._attn_implementation == "eager"
    assert str(expected) in caplog.text


def test_the_checkpoints_own_dtype_by_default(tiny, tokenizer, tmp_path):
    tiny(dtype=torch.bfloat16).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert al.load(tmp_path)[0].dtype == torch.bfloat16


def test_number_of_labels_and_head_files(tiny, tokenizer, folder):
    with pytest.warns(UserWarning, match="no sequence head"):
        model, _ = al.load(folder, head="sequence", num_labels=5)
    assert model.score.weight.shape == (5, 32)
    weight = torch.randn(2, 32)
    (folder / "heads").mkdir()
    save_file({"score.weight": weight}, folder / "heads" / "sequence.safetensors")
    labels = {"sequence": {"id2label": {"0": "bad", "1": "good"}}}
    (folder / "heads.json").write_text(json.dumps(labels))
    model, _ = al.load(folder, head="sequence")
    assert torch.equal(model.score.weight, weight)
    assert model.config.id2label == {0: "bad", 1: "good"}
    assert model.config.label2id == {"bad": 0, "good": 1}
    with pytest.raises(ValueError, match="num_labels=7"):
        al.load(folder, head="sequence", num_labels=7)
    save_file({"score.weight": torch.randn(3, 32)}, folder / "heads" / "sequence.safetensors")
    with pytest.raises(ValueError, match="does not fit the head"):
        al.load(folder, head="sequence")


def truncate(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def drop_backbone(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def plant_nan(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 4] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(**fields):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | fields))

    return damage


def plant_gate(folder):
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.gate_proj.weight"] = torch.zeros(72, 32)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def break_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": null}')


def to_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def lose_shard(folder):
    model, _ = al.load(folder, check=False)
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    next(iter(sorted(folder.glob("model-*-of-*.safetensors")))).unlink()


def grow_tokenizer(folder):
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["extra"] = 50
    file.write_text(json.dumps(content))


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, text):
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (truncate, "damaged or truncated"),
        (drop_backbone, r"lacks 1 backbone parameters.*model\.layers\.1\.mlp\.up_proj"),
        (plant_nan, r"layers\.1\.mlp\.up_proj\.weight holds 1 values that are NaN"),
        (edit_config(model_type="llama"), "model_type 'llama'"),
        (edit_config(intermediate_size=80), "other shapes than its config"),
        (edit_config(hidden_size="abc"), "does not describe a model"),
        (edit_config(rope_parameters={"rope_type": "nonsense"}), "expected one of default"),
        (edit_config(num_hidden_layers=2), "weights that its config.json has no place for"),
        (plant_gate, r"gate_proj"),
        (break_index, "holds no weights|lacks 0 of 0"),
        (edit_config(hidden_act="silu"), "hidden_act='silu'"),
        (to_pickle, "pickle"),
        (lose_shard, "lacks 1 of"),
        (grow_tokenizer, "tokenizer of .* has 51 tokens"),
        (remove("model.safetensors"), "holds no weights"),
        (remove("config.json"), "no config.json"),
        (remove("tokenizer.json"), "no usable tokenizer"),
        (write("config.json", "{"), "is not JSON"),
    ],
)
def test_a_bad_checkpoint_is_one_clear_error(folder, damage, said):
    damage(folder)
    with pytest.raises(ValueError, match=said):
        al.load(folder)


@pytest.mark.parametrize(
    ("name", "arguments", "said"),
    [
        ("./absent", {}, "neither a folder"),
        ("a/b/c", {}, "neither a folder"),
        ("someone/absent-model", {}, "Hub did not give"),
        ("demo", {"head": "regression"}, "expected one of base, causal"),
        ("demo", {"dtype": "int8"}, "expected e.g. 'float32'"),
        ("demo", {"device": "nonsense"}, "cannot be used"),
        ("demo", {"device": "cpu", "device_map": {"": "cpu"}}, "not both"),
        ("demo", {"num_labels": 3}, "means nothing for head='causal'"),
    ],
)
def test_bad_names_and_arguments(name, arguments, said):
    with pytest.raises(ValueError, match=said):
        al.load(name, **arguments)


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_an_absent_package_is_named():
    with pytest.raises(ValueError, match=r"FlashAttention2.*load without the option"):
        al.load("demo", attn="flash_attention_2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_an_absent_gpu_is_named(folder):
    with pytest.raises(ValueError, match="device='cuda' cannot be used"):
        al.load(folder, device="cuda")


@pytest.mark.parametrize(
    "rope",
    [
        None,
        {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0},
        {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
        {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_self_check_is_small_on_right_models(tiny, rope, dtype):
    for head in ("causal", "qa"):
        biases = {"attention_bias": True, "mlp_bias": True}
        result = self_check(tiny(head, dtype=dtype, rope_parameters=rope, **biases))
        bound = {torch.float32: 2e-6, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
        assert max(result.output, result.residual, result.mlp) < bound
        assert result.passed


@pytest.mark.parametrize("wrong", ["activation", "rotation", "mask", "norm", "residual"])
def test_self_check_finds_a_wrong_model(tiny, wrong, monkeypatch):
    """Break one piece of the arithmetic at a time; the check must not pass."""
    from arcee_lab.model import attention

    model = tiny()
    first = model.model.layers[0]
    if wrong == "activation":
        first.mlp.hook_post.register_forward_hook(lambda m, a, x: x.sqrt())
    elif wrong == "rotation":
        monkeypatch.setattr(attention, "rotate_half", lambda x: x.roll(x.shape[-1] // 2, -1))
    elif wrong == "mask":
        for layer in model.model.layers:
            layer.self_attn.is_causal = False
    elif wrong == "norm":
        first.input_layernorm.variance_epsilon = 0.5
        first.input_layernorm.hook_scale.register_forward_hook(lambda m, a, x: x * 1.5)
    else:
        first.hook_resid_post.register_forward_hook(lambda m, a, x: x * 1.01)
    assert not self_check(model).passed


def test_a_failed_self_check_is_an_error_and_can_be_switched_off(folder, monkeypatch):
    from arcee_lab.model import attention

    monkeypatch.setattr(attention, "rotate_half", lambda x: x.roll(x.shape[-1] // 2, -1))
    with pytest.raises(ValueError, match="does not compute what its weights say"):
        al.load(folder)
    assert al.load(folder, check=False)[0] is not None


def test_self_check_steps_aside_where_weights_are_no_plain_tensors(tiny):
    assert self_check(tiny().to("meta")) is None


def test_the_hub_path_takes_a_revision(folder, monkeypatch):
    import huggingface_hub

    asked = {}

    def download(name, *, revision, allow_patterns):
        asked.update(name=name, revision=revision, patterns=allow_patterns)
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    al.load("arcee-ai/AFM-4.5B", revision="abc")
    assert asked["name"] == "arcee-ai/AFM-4.5B"
    assert asked["revision"] == "abc"
    assert not any("bin" in p for p in asked["patterns"])


def test_biases_that_the_config_denies_are_an_error(tiny, tokenizer, tmp_path):
    tiny(attention_bias=True, mlp_bias=True).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    edit_config(attention_bias=False, mlp_bias=False)(tmp_path)
    with pytest.raises(ValueError, match=r"no place for.*attention_bias"):
        al.load(tmp_path)


def test_shards_and_quantised_weights_load(tiny, folder, caplog):
    from transformers import QuantoConfig

    model, _ = al.load(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*-of-*.safetensors"))) > 1
    sharded, _ = al.load(folder)
    assert all(map(torch.equal, sharded.parameters(), model.parameters()))
    quantised, _ = al.load(folder, quantization_config=QuantoConfig(weights="int8"))
    assert "self-check not run" in caplog.text
    ids = torch.arange(3, 12)[None]
    with al.capture(quantised, "layers.*.mlp.hook_post") as acts:
        logits = quantised(input_ids=ids).logits
    assert len(acts) == 3
    error = (logits - model(input_ids=ids).logits).norm() / model(input_ids=ids).logits.norm()
    assert 0 < error < 0.05


def test_self_check_under_autocast_and_another_default_dtype(tiny):
    model = tiny()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert self_check(model).output < 2e-6
    torch.set_default_dtype(torch.float64)
    try:
        assert self_check(model).output < 2e-6
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_copy_of_the_demo_loads_from_a_folder(demo, tmp_path):
    from arcee_lab.model.loading import DEMO

    shutil.copytree(DEMO, tmp_path / "copy")
    model, _ = al.load(tmp_path / "copy", dtype=torch.float32)
    weights = demo[0].state_dict()
    assert all(torch.equal(w, weights[name]) for name, w in model.state_dict().items())
