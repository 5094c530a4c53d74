"""FSDP2 with 4-bit weights of bitsandbytes, which computes wrong numbers, is refused.

FSDP2 keeps plain numbers in place of packed pairs of 4 bits: the state that says how to read them
is lost, and patterns of bits that happen to be NaN are replaced. Layers then give wrong outputs and
no error, also in a single process (bitsandbytes issue 1945).
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from arcee_lab.errors import ModelError

_REFUSED = (
    "4-bit weights of bitsandbytes under FSDP2 compute wrong numbers without an error "
    "(bitsandbytes issue 1945); got both. Load the model without load_in_4bit, or with device_map= "
    "in place of FSDP2."
)


def refuse_request_in_4_bit(config: Any, options: Mapping[str, Any]) -> None:
    """Refuses to load a checkpoint so.

    Args:
        config: Of the checkpoint, which may be quantised.
        options: For transformers' `from_pretrained`.

    Raises:
        ValueError: If both are asked for.
    """
    wanted = options.get("quantization_config") or getattr(config, "quantization_config", None)
    plain = isinstance(wanted, Mapping)
    four = wanted.get("load_in_4bit") if plain else getattr(wanted, "load_in_4bit", False)
    split = options.get("distributed_config")
    sizes = [getattr(split, name, None) or 1 for name in ("fsdp_size", "dp_replicate_size")]
    if four and max(sizes) > 1:
        raise ModelError(_REFUSED)


def refuse_model_in_4_bit(model: nn.Module) -> None:
    """Refuses a model that was split so.

    Raises:
        ValueError: For such a model.
    """
    from torch.distributed.fsdp import FSDPModule  # takes long, and only ranks get here

    split = any(isinstance(module, FSDPModule) for module in model.modules())
    if split and any(map(_is_4_bit, model.modules())):
        raise ModelError(_REFUSED)


def _is_4_bit(module: nn.Module) -> bool:
    # By name: bitsandbytes need not be there, and fully_shard makes a class of its own of it.
    return any(cls.__name__ == "Linear4bit" for cls in type(module).__mro__)
