"""Bad checkpoints: what config.json, the index, the tokenizer and the head files may hold."""

import json
from collections.abc import Callable
from typing import Any

from cases import Case, command

DELETE = object()
FIELDS: list[tuple[str, Any]] = [
    ("hidden_size", -128),
    ("hidden_size", 0),
    ("hidden_size", 1.5),
    ("hidden_size", "128"),
    ("hidden_size", None),
    ("hidden_size", 10**12),
    ("hidden_size", 7),
    ("hidden_size", [16]),
    ("hidden_size", {}),
    ("hidden_size", True),
    ("intermediate_size", -1),
    ("intermediate_size", None),
    ("intermediate_size", 10**9),
    ("num_hidden_layers", -2),
    ("num_hidden_layers", "two"),
    ("num_hidden_layers", 10**6),
    ("num_hidden_layers", None),
    ("num_attention_heads", 0),
    ("num_attention_heads", 3),
    ("num_attention_heads", -4),
    ("num_attention_heads", None),
    ("num_key_value_heads", 0),
    ("num_key_value_heads", 3),
    ("num_key_value_heads", "2"),
    ("head_dim", 0),
    ("head_dim", -8),
    ("head_dim", 3),
    ("head_dim", "four"),
    ("vocab_size", 0),
    ("vocab_size", 12),
    ("vocab_size", None),
    ("vocab_size", "many"),
    ("vocab_size", 10**15),
    ("max_position_embeddings", 0),
    ("max_position_embeddings", -1),
    ("max_position_embeddings", "64"),
    ("max_position_embeddings", None),
    ("hidden_act", "silu"),
    ("hidden_act", 5),
    ("hidden_act", None),
    ("rms_norm_eps", "tiny"),
    ("rms_norm_eps", -1),
    ("rms_norm_eps", 10),
    ("rope_theta", "1e4"),
    ("rope_theta", -1),
    ("rope_parameters", {"rope_type": "default", "rope_theta": "1e4"}),
    ("rope_parameters", {"rope_type": "default", "rope_theta": 0}),
    ("rope_parameters", {"rope_type": "spiral", "rope_theta": 1e4}),
    ("rope_parameters", {"rope_type": 5, "rope_theta": 1e4}),
    ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
    ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4, "factor": "x"}),
    ("rope_parameters", {"rope_type": "linear", "rope_theta": 1e4, "factor": []}),
    ("rope_parameters", [1, 2]),
    ("rope_parameters", "default"),
    ("dtype", 5),
    ("dtype", "float99"),
    ("dtype", "int8"),
    ("dtype", ["float32"]),
    ("torch_dtype", {"a": 1}),
    ("architectures", [5]),
    ("architectures", 5),
    ("architectures", {}),
    ("architectures", "ArceeForCausalLM"),
    ("id2label", ["a", "b"]),
    ("id2label", {"x": "a"}),
    ("id2label", {"0": 5}),
    ("id2label", 5),
    ("label2id", [1]),
    ("label2id", {"a": "b"}),
    ("num_labels", -1),
    ("num_labels", 10**9),
    ("num_labels", "two"),
    ("pad_token_id", 99999),
    ("pad_token_id", -7),
    ("pad_token_id", "pad"),
    ("pad_token_id", 1.5),
    ("bos_token_id", "<s>"),
    ("eos_token_id", [1, "x"]),
    ("eos_token_id", {"a": 1}),
    ("attention_bias", "yes"),
    ("attention_bias", 5),
    ("attention_bias", True),
    ("mlp_bias", "no"),
    ("mlp_bias", True),
    ("attention_dropout", "x"),
    ("attention_dropout", 7),
    ("attention_dropout", -1),
    ("initializer_range", "x"),
    ("initializer_range", -1),
    ("tie_word_embeddings", "x"),
    ("tie_word_embeddings", None),
    ("use_cache", "x"),
    ("return_dict", "x"),
    ("output_hidden_states", 5),
    ("problem_type", "guessing"),
    ("problem_type", 5),
    ("model_type", "llama"),
    ("model_type", None),
    ("model_type", ["arcee"]),
    ("model_type", DELETE),
    ("quantization_config", 5),
    ("quantization_config", {}),
    ("quantization_config", {"quant_method": "none such"}),
    ("quantization_config", {"quant_method": 5}),
    ("quantization_config", []),
    ("attn_implementation", "somebody/kernel"),
    ("attn_implementation", 5),
    ("_attn_implementation", "flash_attention_9"),
    ("chunk_size_feed_forward", "x"),
    ("is_encoder_decoder", "x"),
    ("layer_types", 5),
    ("auto_map", 5),
]
# What is wrong only together with weights, or is a setting that weights do not show.
NOT_IN_INFO = {
    ("attention_bias", "True"),
    ("mlp_bias", "True"),
    ("hidden_size", "None"),
    ("head_dim", "3"),
    ("vocab_size", "12"),
}
# What transformers ignores or what is right: reading it is no error.
HARMLESS = {("quantization_config", "{}"), ("tie_word_embeddings", "None")}

WHOLE = {
    "empty": "",
    "no JSON": "{",
    "a list": "[]",
    "a number": "5",
    "null": "null",
    "deep": "[" * 10_000 + "]" * 10_000,
    "deep objects": '{"a":' * 10_000 + "1" + "}" * 10_000,
    "binary": b"\xff\xfe\x00\x01",
    "NaN": '{"model_type": "arcee", "hidden_size": NaN}',
    "twice": '{"model_type": "arcee", "model_type": "llama"}',
    "long number": '{"model_type": "arcee", "hidden_size": ' + "9" * 10_000 + "}",
    "surrogate": '{"model_type": "\\ud800"}',
    "gone": None,
}


def cases() -> list[Case]:
    """All of them; each config is shown to `info` and to `load`."""
    found = []
    for field, value in FIELDS:
        for reader in ("info", "load"):
            key = (field, "absent" if value is DELETE else repr(value))
            if key in HARMLESS or (reader == "info" and key in NOT_IN_INFO):
                continue
            found.append(
                Case(f"{reader} config.{field}={key[1]}", _reads(reader, _field(field, value)))
            )
    for name, content in WHOLE.items():
        for reader in ("info", "load"):
            found.append(
                Case(
                    f"{reader} config.json {name}",
                    _reads(reader, lambda g, c=content: g.changed(g.checkpoint, "config.json", c)),
                )
            )
    return found + _weights() + _tokenizers() + _heads()


def _field(field: str, value: Any) -> Callable[[Any], Any]:
    def make(ground: Any) -> Any:
        config = dict(ground.config)
        config[field] = value
        if value is DELETE:
            del config[field]
        return ground.changed(ground.checkpoint, "config.json", json.dumps(config))

    return make


def _reads(reader: str, make: Callable[[Any], Any], **options: Any) -> Callable[[Any], object]:
    def run(ground: Any) -> object:
        folder = make(ground)
        if reader == "info":
            return command("info", folder)(ground)
        import arcee_lab as al

        return al.load(folder, **options)

    return run


def _weights() -> list[Case]:
    index = {
        "no map": {},
        "a list": {"weight_map": []},
        "integers": {"weight_map": {"lm_head.weight": 5}},
        "no metadata": None,
        "metadata of integers": {"metadata": 5},
        "null": {"weight_map": None},
        "elsewhere": {"weight_map": {"lm_head.weight": "../model.safetensors"}},
        "missing": {"weight_map": {"lm_head.weight": "absent.safetensors"}},
        "one name": {"weight_map": {"lm_head.weight": "model-00001-of-00003.safetensors"}},
        "nested": {"weight_map": {"lm_head.weight": {"a": 1}}},
    }

    def changed(how: Any) -> Callable[[Any], Any]:
        def make(ground: Any) -> Any:
            name = "model.safetensors.index.json"
            whole = json.loads((ground.sharded / name).read_text())
            if how is None:
                del whole["metadata"]
                whole["weight_map"]["model.norm.weight"] = "absent.safetensors"
            else:
                whole |= how
                if "weight_map" not in how and how:
                    whole["weight_map"]["model.norm.weight"] = 5
            return ground.changed(ground.sharded, name, json.dumps(whole if how != {} else {}))

        return make

    found = [
        Case(f"load index {name}", _reads("load", changed(how))) for name, how in index.items()
    ]
    for name, content in WHOLE.items():
        if name in ("gone", "twice", "NaN", "long number", "surrogate"):
            continue
        found.append(
            Case(
                f"load index {name} (whole)",
                _reads(
                    "load",
                    lambda g, c=content: g.changed(g.sharded, "model.safetensors.index.json", c),
                ),
            )
        )
    for name, content in {
        "empty": b"",
        "short": b"\x10\0\0\0\0\0\0\0{",
        "long header": b"\xff" * 16,
        "no header": b"\2\0\0\0\0\0\0\0{}",
        "text": b"hello, weights",
        "gone": None,
    }.items():
        found.append(
            Case(
                f"load weights {name}",
                _reads(
                    "load", lambda g, c=content: g.changed(g.checkpoint, "model.safetensors", c)
                ),
            )
        )
    for dtype in ("bool", "int8", "int32", "int64", "uint8"):
        found.append(Case(f"load weights of {dtype}", _reads("load", _cast(dtype))))
    found.append(Case("load weights with NaN", _reads("load", _cast("nan"))))
    return found


def _cast(kind: str) -> Callable[[Any], Any]:
    def make(ground: Any) -> Any:
        import torch
        from safetensors.torch import load_file, save

        tensors = load_file(ground.checkpoint / "model.safetensors")
        name = "model.layers.0.mlp.up_proj.weight"
        if kind == "nan":
            tensors[name][0, 0] = torch.nan
        else:
            tensors[name] = tensors[name].to(getattr(torch, kind))
        return ground.changed(
            ground.checkpoint, "model.safetensors", save(tensors, {"format": "pt"})
        )

    return make


def _tokenizers() -> list[Case]:
    config = {
        "a list": "[]",
        "a number": "5",
        "empty": "",
        "no JSON": "{,}",
        "deep": "[" * 10_000,
        "class": '{"tokenizer_class": 5}',
        "added tokens": '{"added_tokens_decoder": [1]}',
        "added token": '{"added_tokens_decoder": {"x": {"content": 5}}}',
        "bos": '{"tokenizer_class": "TokenizersBackend", "bos_token": 5}',
        "length": '{"tokenizer_class": "TokenizersBackend", "model_max_length": "x"}',
    }
    whole = {
        "empty": "",
        "a list": "[]",
        "no model": "{}",
        "no JSON": "{,}",
        "deep": "[" * 10_000,
        "binary": b"\xff\x00",
        "null model": '{"version": "1.0", "model": null}',
        "words": '{"version": "1.0", "model": {"type": "WordLevel", "vocab": 5}}',
    }
    found = []
    for reader in ("info", "load"):
        for file, contents in (("tokenizer_config.json", config), ("tokenizer.json", whole)):
            for name, content in contents.items():
                found.append(
                    Case(
                        f"{reader} {file} {name}",
                        _reads(
                            reader,
                            lambda g, f=file, c=content: g.changed(g.checkpoint, f, c),
                        ),
                    )
                )
        found.append(Case(f"{reader} token id 999999", _reads(reader, _large_id)))
        found.append(
            Case(
                f"{reader} without tokenizer",
                _reads(reader, lambda g: g.changed(_bare(g), "tokenizer.json", None)),
            )
        )
    return found


def _bare(ground: Any) -> Any:
    return ground.changed(ground.checkpoint, "tokenizer_config.json", None)


def _large_id(ground: Any) -> Any:
    tokenizer = json.loads((ground.checkpoint / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab[next(reversed(vocab))] = 999_999
    return ground.changed(ground.checkpoint, "tokenizer.json", json.dumps(tokenizer))


def _heads() -> list[Case]:
    contents = {
        "lists": '{"sequence": []}',
        "a list": "[]",
        "labels": '{"sequence": {"id2label": ["a", "b"]}}',
        "words": '{"sequence": {"id2label": {"x": "a"}}}',
        "numbers": '{"sequence": {"id2label": {"0": 1, "1": 2}}}',
        "gaps": '{"sequence": {"id2label": {"0": "a", "7": "b"}}}',
        "none": '{"sequence": {"id2label": {}}}',
        "text": '{"sequence": "yes"}',
        "no JSON": "{",
        "gone": None,
    }
    found = []
    for name, content in contents.items():
        found.append(
            Case(
                f"load heads.json {name}",
                _reads(
                    "load", lambda g, c=content: _with_head(g, "heads.json", c), head="sequence"
                ),
            )
        )
    for name, content in {"empty": b"", "text": b"no tensors here"}.items():
        found.append(
            Case(
                f"load head file {name}",
                _reads(
                    "load",
                    lambda g, c=content: _with_head(g, "heads/sequence.safetensors", c),
                    head="sequence",
                ),
            )
        )
    return found


def _with_head(ground: Any, name: str, content: bytes | str | None) -> Any:
    return ground.changed(ground.with_head, name, content)
