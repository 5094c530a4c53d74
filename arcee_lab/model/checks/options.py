"""What `al.load` passes on to transformers' `from_pretrained`, and under which names."""

from typing import Any

import torch

from arcee_lab.errors import ModelError

OPTIONS = (
    "allow_all_kernels",
    "device_map",
    "device_mesh",
    "distributed_config",
    "generation_config",
    "key_mapping",
    "kernel_config",
    "local_files_only",
    "max_memory",
    "offload_buffers",
    "offload_folder",
    "quantization_config",
    "tp_plan",
    "tp_size",
    "use_kernels",
)
_INSTEAD = {
    "attn_implementation": "give attn=",
    "config": "give a folder whose config.json says it",
    "ignore_mismatched_sizes": "weights of other shapes would start random; leave it out",
    "output_loading_info": "al.load checks it; leave it out",
    "state_dict": "save the weights into a folder",
    "trust_remote_code": "arcee_lab runs no code of a checkpoint; leave it out",
}


def check_options(options: dict[str, Any]) -> None:
    """Checks the names of further options.

    Raises:
        ValueError: Naming the first one that is not passed on, and those that are.
    """
    for name in options:
        if name in _INSTEAD:
            raise ModelError(f"al.load does not take {name}=: {_INSTEAD[name]}.")
        if name not in OPTIONS:
            raise ModelError(
                f"al.load has no option {name!r}; expected head, dtype, device, attn, num_labels, "
                f"revision, check, or one of transformers' {', '.join(OPTIONS)}."
            )


def one_dtype(dtype: torch.dtype | str | None, options: dict[str, Any]) -> torch.dtype | str | None:
    """The dtype under either of transformers' names; takes `torch_dtype` out of the options.

    Raises:
        ValueError: If they say different things.
    """
    other = options.pop("torch_dtype", None)
    if dtype is not None and other is not None and as_dtype(dtype) != as_dtype(other):
        raise ModelError(
            f"dtype={dtype!r} and torch_dtype={other!r} are two names of one option; give one."
        )
    return other if dtype is None else dtype


def as_dtype(dtype: torch.dtype | str) -> torch.dtype | str:
    """A floating dtype by its name, or "auto".

    Raises:
        ValueError: If there is none of that name.
    """
    if dtype == "auto":
        return dtype
    found = dtype
    if isinstance(dtype, str):
        found = getattr(torch, dtype.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelError(f"dtype={dtype!r}; expected e.g. 'float32', 'bfloat16' or 'float16'.")
    return found
