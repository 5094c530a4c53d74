"""What a config may say before anything is made from it: kinds, bounds, and the weights' shapes."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arcee_lab.errors import CheckpointError, ModelError
from arcee_lab.model.config import ArceeConfig

# Well above any model there is, and small enough that nothing hangs or fills the memory.
MOST_LABELS = 2**20
_WHOLE = {
    "vocab_size": 2**24,
    "hidden_size": 2**18,
    "intermediate_size": 2**22,
    "num_hidden_layers": 2**12,
    "num_attention_heads": 2**14,
    "num_key_value_heads": 2**14,
    "head_dim": 2**14,
    "max_position_embeddings": 2**40,
    "num_labels": MOST_LABELS,
}
_LEAST = dict.fromkeys(_WHOLE, 1) | {"num_hidden_layers": 0}
_FLAGS = (
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
    "use_cache",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "is_encoder_decoder",
)
_DTYPES = ("float64", "float32", "bfloat16", "float16", "auto")
_PROBLEMS = ("regression", "single_label_classification", "multi_label_classification")
_POSITIVE = ("rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor")
_ROPE_VALUES = {  # of RoPE settings; other keys may be kinds of layers, with settings of their own
    *_POSITIVE,
    *("rope_type", "type", "truncate", "beta_fast", "beta_slow", "mscale", "mscale_all_dim"),
    *("attention_factor", "low_freq_factor", "high_freq_factor", "short_factor", "long_factor"),
}
_MOST_NUMBER = 1e15
_LONGEST_LIST = 2**14
_KERNELS = ("eager", "sdpa", "flex_attention")
_KERNEL_FIELDS = ("attn_implementation", "_attn_implementation", "_attn_implementation_internal")


def check_numbers(fields: Mapping[str, Any], where: object) -> None:
    """Checks the numbers of a config.json before anything is made from them.

    Args:
        fields: What the file holds.
        where: The file, for the error.

    Raises:
        ValueError: Naming the field.
    """
    for name, most in _WHOLE.items():
        value, least = fields.get(name), _LEAST[name]
        if value is None:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise _wrong(where, name, value, f"a whole number from {least} to {most:,}")
    _check_labels(fields, where)
    _check_kinds(fields, where)
    pad, vocabulary = fields.get("pad_token_id"), fields.get("vocab_size")
    if isinstance(pad, int) and isinstance(vocabulary, int) and not -1 <= pad < vocabulary:
        raise _wrong(where, "pad_token_id", pad, f"a token of the {vocabulary:,}")
    eps = fields.get("rms_norm_eps")
    if eps is not None and not (_is_number(eps) and 0 <= eps <= 1):
        raise _wrong(where, "rms_norm_eps", eps, "a number from 0 to 1")
    for name, value in _rope_numbers(fields):
        last = name.rsplit(".", 1)[-1]
        if isinstance(value, list) and last in ("short_factor", "long_factor"):
            if len(value) > _LONGEST_LIST or not all(map(_is_number, value)):
                raise _wrong(where, name, value, f"at most {_LONGEST_LIST:,} finite numbers")
        elif isinstance(value, list) or not _is_number(value) or (last in _POSITIVE and value <= 0):
            raise _wrong(where, name, value, "a finite number, above 0 where it divides")
        elif last == "partial_rotary_factor" and value > 1:
            raise _wrong(where, name, value, "a share of the head's width, at most 1")


def check_kernel(fields: Mapping[str, Any], attn: str | None, where: object) -> None:
    """Checks that a config.json asks for no attention kernel that would be fetched and run.

    Args:
        fields: What the file holds.
        attn: The kernel that the user asked for, if any; the file's is not used then.
        where: The file, for the error.

    Raises:
        ValueError: Naming the kernel.
    """
    for name in _KERNEL_FIELDS:
        kernel = fields.get(name)
        if kernel is not None and kernel not in _KERNELS and attn is None:
            raise ModelError(
                f"{where} asks for the attention kernel {_short(kernel)}, whose code would be "
                f"fetched or run; give attn={_short(kernel)} if you trust it, or attn='sdpa'."
            )


def check_sizes(
    config: ArceeConfig, shapes: Mapping[str, Sequence[int]], folder: object, *, quantised: bool
) -> None:
    """Checks a config against the shapes that the headers of the weights state.

    Args:
        config: The config.
        shapes: Name of each tensor -> its shape.
        folder: The checkpoint, for the error.
        quantised: Whether weights are packed, so that their shapes say little.

    Raises:
        ValueError: Naming the field and the tensor that differ.
    """
    heads, kv_heads, width = (
        config.num_attention_heads,
        config.num_key_value_heads,
        config.head_dim,
    )
    assert kv_heads is not None  # the config fills both
    assert width is not None
    hidden, neurons = config.hidden_size, config.intermediate_size
    expected = {
        "embed_tokens": ("vocab_size", config.vocab_size, hidden),
        "up_proj": ("intermediate_size", neurons, hidden),
        "q_proj": ("num_attention_heads and head_dim", heads * width, hidden),
        "k_proj": ("num_key_value_heads and head_dim", kv_heads * width, hidden),
    }
    layers = {int(found[1]) for name in shapes if (found := _LAYER.search(name))}
    if layers and config.num_hidden_layers > max(layers) + 1:
        raise ModelError(
            f"config.json of {folder} says num_hidden_layers={config.num_hidden_layers:,}, and its "
            f"weights hold the layers 0 to {max(layers):,}; get both of one checkpoint."
        )
    for name, shape in shapes.items():
        found = _MATRIX.search(name)
        if found is None or quantised:
            continue
        what, rows, columns = expected[found[1]]
        if list(shape) != [rows, columns]:
            fields = what if list(shape)[1:] == [columns] else f"hidden_size or {what}"
            raise ModelError(
                f"The weights of {folder} have other shapes than its config.json says: {name} is "
                f"{list(shape)}, expected [{rows}, {columns}]. Check {fields}, or get the "
                "checkpoint again."
            )
    # Whatever the names are: what is missing would be made at random, in full size.
    layer = hidden * (2 * neurons + 2 * width * (heads + kv_heads))
    wanted = config.vocab_size * hidden + config.num_hidden_layers * layer
    held = sum(math.prod(shape) for shape in shapes.values()) * (16 if quantised else 2)
    if wanted > held + 10**7:
        raise ModelError(
            f"{folder} lacks backbone parameters: its config.json describes {wanted:,} and its "
            f"weights hold {sum(math.prod(s) for s in shapes.values()):,}, e.g. "
            f"{sorted(shapes)[:2]}; get all shards of one checkpoint."
        )


_LAYER = re.compile(r"(?:^|\.)layers\.(\d{1,9})\.")
_MATRIX = re.compile(
    r"^(?:model\.|transformer\.)?(?:layers\.\d+\.(?:mlp|self_attn)\.)?"
    r"(embed_tokens|up_proj|q_proj|k_proj)\.weight$"
)


def _rope_numbers(fields: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Numbers and lists of the RoPE settings, by path; they may be nested by kind of layer."""
    for name in ("rope_theta", "partial_rotary_factor"):
        if fields.get(name) is not None:
            yield name, fields[name]
    settings = [(name, fields.get(name), 0) for name in ("rope_parameters", "rope_scaling")]
    while settings:
        path, value, depth = settings.pop()
        named = path.rsplit(".", 1)[-1] in _ROPE_VALUES
        if isinstance(value, dict) and depth < 3 and not named:
            settings += [(f"{path}.{key}", inner, depth + 1) for key, inner in value.items()]
        elif isinstance(value, dict):
            yield path, "an object"
        elif depth and path.rsplit(".", 1)[-1] not in ("rope_type", "type", "mrope_section"):
            if value is not None and not isinstance(value, bool):
                yield path, value
        elif not depth and value is not None:
            yield path, value


def _is_number(value: object) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return -_MOST_NUMBER <= value <= _MOST_NUMBER  # false for NaN


def _check_labels(fields: Mapping[str, Any], where: object) -> None:
    named, ids = fields.get("id2label"), fields.get("label2id")
    if named is not None:
        right = isinstance(named, dict) and len(named) <= MOST_LABELS
        if not right or not all(isinstance(label, str) for label in named.values()):
            raise _wrong(where, "id2label", named, f"a name per label, {MOST_LABELS:,} at most")
        if not all(re.fullmatch(r"[0-9]{1,7}", str(key)) for key in named):
            raise _wrong(where, "id2label", named, "whole numbers from 0, each with a name")
    if ids is not None:
        right = isinstance(ids, dict) and len(ids) <= MOST_LABELS
        if not right or not all(type(number) is int and number >= 0 for number in ids.values()):
            raise _wrong(where, "label2id", ids, "a whole number from 0 per name of a label")


def _check_kinds(fields: Mapping[str, Any], where: object) -> None:
    """Checks what is neither a size nor part of the RoPE settings."""
    for name in _FLAGS:
        if not isinstance(value := fields.get(name), bool | None):
            raise _wrong(where, name, value, "true or false")
    for name in ("dtype", "torch_dtype"):
        value = fields.get(name)
        if value is not None and (
            not isinstance(value, str) or value.removeprefix("torch.") not in _DTYPES
        ):
            raise _wrong(where, name, value, f"one of {', '.join(_DTYPES)}")
    for name in ("architectures", "layer_types"):
        value = fields.get(name)
        right = isinstance(value, list) and all(isinstance(one, str) for one in value)
        if value is not None and not right:
            raise _wrong(where, name, value, "a list of names")
    for name in ("quantization_config", "auto_map"):
        if not isinstance(value := fields.get(name), dict | None):
            raise _wrong(where, name, value, "an object")
    if (value := fields.get("problem_type")) not in (None, *_PROBLEMS):
        raise _wrong(where, "problem_type", value, f"one of {', '.join(_PROBLEMS)}")
    value = fields.get("chunk_size_feed_forward")
    if value is not None and type(value) is not int:
        raise _wrong(where, "chunk_size_feed_forward", value, "a whole number")
    for name in ("attention_dropout", "initializer_range"):
        value = fields.get(name)
        if value is not None and not (_is_number(value) and 0 <= value <= 1):
            raise _wrong(where, name, value, "a number from 0 to 1")


def _wrong(where: object, name: str, value: object, expected: str) -> CheckpointError:
    return CheckpointError(
        f"{where} does not describe a model: {name} is {_short(value)}; expected {expected}."
    )


def _short(value: object) -> str:
    text = f"{value:.6g}" if isinstance(value, int) and abs(value) > 10**15 else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
