"""The shape of a model: defaults that hold together, the real shape, and clear errors."""

import json

import pytest
import torch
from huggingface_hub.errors import (
    StrictDataclassClassValidationError,
)
from hypothesis import given
from reference import NAMES, ROPES, fields, pair, reference_config, shapes
from transformers.models.arcee.configuration_arcee import ArceeConfig as ReferenceConfig

from arcee_lab.errors import CheckpointError
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.model.anatomy import HEADS

# What each side writes about itself, not about the model.
OWN = {"transformers_version"}


def settings_of(config):
    return {key: value for key, value in config.to_dict().items() if key not in OWN}


def test_the_default_holds_together():
    config = ArceeConfig()
    tokens = (config.bos_token_id, config.eos_token_id, config.pad_token_id)
    assert all(token is None or 0 <= token < config.vocab_size for token in tokens)
    assert config.hidden_size % config.num_attention_heads == 0
    assert config.head_dim == config.hidden_size // config.num_attention_heads
    assert config.num_key_value_heads == config.num_attention_heads
    assert config.rope_parameters == {"rope_type": "default", "rope_theta": 10000.0}


def test_the_real_shape_has_its_4619_million_parameters():
    config = ArceeConfig.afm_4_5b()
    with torch.device("meta"):
        model = ArceeForCausalLM(config)
    width, neurons, vocabulary = 2560, 18432, 128005
    attention = 2 * width * 20 * 128 + 2 * width * 4 * 128  # q and o, k and v
    layer = attention + 2 * width * neurons + 2 * width
    expected = 36 * layer + 2 * vocabulary * width + width
    assert expected == 4_619_189_760
    assert sum(p.numel() for p in model.parameters()) == expected
    assert model.num_parameters() == expected
    rope = model.model.rotary_emb
    assert rope.rope_type == "yarn"
    assert config.rope_parameters["factor"] == 20
    assert config.rope_parameters["original_max_position_embeddings"] == 4096
    assert {config.bos_token_id, config.eos_token_id} < set(range(config.vocab_size))


def test_a_slice_of_the_real_shape():
    config = ArceeConfig.afm_4_5b(num_hidden_layers=2, hidden_size=640, num_attention_heads=4)
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (2, 640, 128)
    with pytest.raises(ValueError, match="num_attention_heads=7"):
        ArceeConfig.afm_4_5b(hidden_size=768, num_attention_heads=7)


@given(shape=shapes())
def test_both_ways_with_the_reference(shape):
    """Both read what the other writes, and say the same."""
    ours = ArceeConfig(**fields(**shape))
    theirs = reference_config(**shape)
    assert settings_of(ours) == settings_of(theirs)
    assert settings_of(ReferenceConfig.from_dict(ours.to_dict())) == settings_of(theirs)
    assert settings_of(ArceeConfig.from_dict(theirs.to_dict())) == settings_of(ours)


@pytest.mark.parametrize("rope", ROPES)
def test_both_ways_through_a_file(rope, tmp_path):
    ours = ArceeConfig(**fields(rope_parameters=ROPES[rope], id2label={0: "a", 1: "b", 2: "c"}))
    ours.save_pretrained(tmp_path)
    theirs = ReferenceConfig.from_pretrained(tmp_path)
    again = ArceeConfig.from_pretrained(tmp_path)
    assert settings_of(again) == settings_of(ours) == settings_of(theirs)
    assert again.to_json_string() == ours.to_json_string()
    theirs.save_pretrained(tmp_path)
    assert settings_of(ArceeConfig.from_pretrained(tmp_path)) == settings_of(ours)


def test_a_file_of_the_older_layout(tmp_path):
    """Older checkpoints keep theta next to `rope_scaling`, and the kind under `type`."""
    older = {
        "model_type": "arcee",
        "rope_theta": 5000.0,
        "rope_scaling": {"type": "linear", "factor": 4.0},
        "torch_dtype": "bfloat16",
        "num_attention_heads": 4,
        "hidden_size": 32,
    }
    (tmp_path / "config.json").write_text(json.dumps(older))
    ours, theirs = ArceeConfig.from_pretrained(tmp_path), ReferenceConfig.from_pretrained(tmp_path)
    assert ours.rope_parameters == theirs.rope_parameters
    assert ours.rope_parameters["rope_type"] == "linear"
    assert ours.rope_parameters["rope_theta"] == 5000.0
    assert ours.dtype == theirs.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"hidden_size": 30}, "hidden_size=30 is not a multiple of num_attention_heads=4"),
        ({"num_key_value_heads": 3}, "num_attention_heads=4 is not a multiple of num_key_value"),
        ({"num_key_value_heads": 0}, "num_key_value_heads=0"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
    ],
)
def test_heads_that_do_not_divide_are_an_error(wrong, said):
    with pytest.raises(ValueError, match=said):
        ArceeConfig(**fields(**wrong))


def test_a_config_made_wrong_later_is_not_written(tmp_path):
    config = ArceeConfig(**fields())
    config.num_key_value_heads = 3
    with pytest.raises(StrictDataclassClassValidationError, match="num_key_value_heads=3"):
        config.save_pretrained(tmp_path)


@pytest.mark.parametrize("wrong", [{"num_hidden_layers": "two"}, {"rms_norm_eps": "small"}])
def test_a_field_of_another_type_is_an_error(wrong):
    with pytest.raises(CheckpointError, match=rf"^ArceeConfig: .*{next(iter(wrong))}.*\.$"):
        ArceeConfig(**fields(**wrong))


@pytest.mark.parametrize("act", ["silu", "gelu", "relu"])
@pytest.mark.parametrize("head", NAMES)
def test_another_activation_is_refused(head, act):
    with pytest.raises(ValueError, match=f"hidden_act='{act}'.*expects hidden_act='relu2'"):
        HEADS[head](ArceeConfig(**fields(hidden_act=act)))


@pytest.mark.parametrize("head", NAMES)
def test_plans_are_the_references(head):
    """Tensor and pipeline parallelism, FSDP, device maps: which modules, and how."""
    ours, theirs = pair(head)
    rename = {"model": "transformer"} if head == "qa" else {}
    for name in ("_tp_plan", "_pp_plan", "_fsdp_plan"):
        mine, other = getattr(ours, name), getattr(theirs, name)
        renamed = {".".join(rename.get(p, p) for p in k.split(".")): v for k, v in mine.items()}
        assert renamed == other, name
    for name in ("base_model_tp_plan", "base_model_pp_plan", "base_model_fsdp_plan"):
        assert getattr(ArceeConfig, name, None) == getattr(ReferenceConfig, name, None)
    assert set(ours._no_split_modules) == set(theirs._no_split_modules) == {"ArceeDecoderLayer"}
    for flag in (
        "_supports_flash_attn",
        "_supports_sdpa",
        "_supports_flex_attn",
        "_supports_attention_backend",
        "_can_compile_fullgraph",
        "supports_gradient_checkpointing",
    ):
        assert getattr(ours, flag) == getattr(theirs, flag), flag
    named = {name for name, _ in ours.named_modules()}
    for path in ours._tp_plan:
        assert path.replace("*", "0") in named, path
