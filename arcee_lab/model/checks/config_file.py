"""The one place where a config.json, or the heads.json next to it, becomes a configuration."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from arcee_lab.errors import CheckpointError
from arcee_lab.model import checkpoint
from arcee_lab.model.checks import limits
from arcee_lab.model.config import ArceeConfig
from arcee_lab.runs.json_text import reason


def checked_config(
    source: Path | str, *, attn: str | None = None
) -> tuple[Mapping[str, Any], ArceeConfig]:
    """The configuration in a folder, or of a Hub id, with everything in it checked.

    Args:
        source: A folder, or a Hub id.
        attn: The attention kernel that the user asked for, if any.

    Returns:
        What the file holds, and the configuration.

    Raises:
        ValueError: If it is no Arcee model's, or does not describe a model.
    """
    if isinstance(source, Path):
        where: Any = source / "config.json"
        fields = checkpoint.read_json(where)
    else:
        where, fields = source, _downloaded(source)
    kind = fields.get("model_type")
    if kind != "arcee":
        raise CheckpointError(
            f"{source} is a checkpoint of model_type {kind!r}; arcee_lab reads 'arcee' models "
            "(arcee-ai/AFM-4.5B and related models). Use transformers for others."
        )
    limits.check_numbers(fields, where)
    limits.check_kernel(fields, attn, where)
    _check_quantisation(fields, where)
    try:
        return fields, ArceeConfig.from_pretrained(source, trust_remote_code=False)
    # transformers reads the fields with code that expects what it wrote itself.
    except Exception as error:
        raise CheckpointError(
            f"The config.json of {source} does not describe a model: {reason(error)}; get the file "
            "again."
        ) from error


def head_labels(path: Path, head: str) -> dict[int, str] | None:
    """The names of a head's labels, as a heads.json has them; None if it has none.

    Raises:
        ValueError: If the file is absent or has anything else in their place.
    """
    of_head = checkpoint.read_json(path).get(head, {})
    if isinstance(of_head, dict) and of_head.get("id2label") is None:
        return None
    named = of_head.get("id2label") if isinstance(of_head, dict) else None
    if not isinstance(named, dict) or not _are_labels(named):
        raise CheckpointError(
            f"{path} has no labels of the {head} head as id2label; expected an object with the "
            "numbers from 0 and a name for each. Get the file again."
        )
    return {number: named[str(number)] for number in range(len(named))}


def _are_labels(named: Mapping[Any, Any]) -> bool:
    if not 0 < len(named) <= limits.MOST_LABELS:
        return False
    numbers = {str(number) for number in range(len(named))}
    return set(named) == numbers and all(isinstance(label, str) for label in named.values())


def _downloaded(name: str) -> dict[str, Any]:
    try:
        return ArceeConfig.get_config_dict(name, trust_remote_code=False)[0]
    except Exception as error:
        raise CheckpointError(
            f"The Hub did not give the config of {name!r}: {reason(error)}. Check the name, the "
            "network, and `hf auth login` for a gated model; 'demo' works offline."
        ) from error


def _check_quantisation(fields: Mapping[str, Any], where: object) -> None:
    given = fields.get("quantization_config")
    if not given:
        return
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as known

    method = given.get("quant_method")
    in_bits = given.get("load_in_8bit") or given.get("load_in_4bit")  # as bitsandbytes once wrote
    if (method is None and in_bits) or (isinstance(method, str) and method in known):
        return
    raise CheckpointError(
        f"{where} does not describe a model: quantization_config.quant_method is "
        f"{str(method)[:40]!r}; expected one that transformers knows, such as bitsandbytes or fp8."
    )
