"""Short words that say whether a model, a tokenizer or a data source is the same as before.

They are for comparing runs, not for security: a model's tensors are mixed by arithmetic that runs
where the weights are, which no change of a weight escapes by chance, but which is no cryptography.
The same content gives the same word on every device and machine.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from arcee_lab.errors import ModelError
from arcee_lab.model.wrappers.adapters import adapted_layers, adapter_tensors
from arcee_lab.model.wrappers.offloaded import brought_in
from arcee_lab.model.wrappers.unwrap import unwrap

# What a config says of its file or of the code that runs it, and not of the model.
_NOT_THE_MODEL = {"transformers_version", "architectures", "dtype", "torch_dtype"}
_AT_ONCE = 1 << 20  # words of a tensor that are mixed together; bounds the memory it takes
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# Odd numbers, as int64: multiplying by one maps no two words to the same.
_ODD = (-7046029254386353131, -4417276706812531889, 1609587929392839161)


def model_fingerprint(model: nn.Module) -> str:
    """The fingerprint of a model: of its config, every value of every named tensor, and adapters.

    A wrapper does not count; which adapters are active does, and how strongly.

    Each tensor is reduced to 128 bits on its own device, in integer arithmetic, and only these come
    back: a few milliseconds a gigabyte on a GPU. Weights that are offloaded are brought in one
    module at a time; of a tensor-parallel model every rank has to ask.

    Args:
        model: Any torch module, wrapped or not; its `config` takes part where it has one.

    Returns:
        64 hexadecimal digits.

    Raises:
        ValueError: A tensor is on the meta device and nothing knows its values.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.model.fingerprint import model_fingerprint
        >>> model, _ = al.load("demo")
        >>> len(model_fingerprint(model))
        64
    """
    model = unwrap(model)
    digest = hashlib.sha256(b"model 1")
    config = getattr(model, "config", None)
    if config is not None:
        facts = {
            key: value
            for key, value in config.to_dict().items()
            if key not in _NOT_THE_MODEL and not key.startswith("_")
        }
        _add(digest, json.dumps(facts, sort_keys=True, default=str))
    with torch.no_grad():
        mixed = {name: (str(x.dtype), tuple(x.shape), _mix(x)) for name, x in _tensors(model)}
        # The results are fetched at the end, so that a GPU need not be waited for at each tensor.
        names = sorted(mixed)
        for name, bits in zip(names, _fetched([mixed[n][2] for n in names]), strict=True):
            dtype, shape, _ = mixed[name]
            _add(digest, f"{name} {dtype} {shape} {bits}")
    for name, layer, adapters in adapted_layers(model):
        _add(digest, f"{name} {_strengths(layer, adapters)}")
    return digest.hexdigest()


def model_name(model: nn.Module) -> str:
    """What a result calls a model: its name, or its class, and the adapters that are active.

    Adapters of one name differ by a word made from their values, so that runs with and without
    them, and with two of them, have different names.

    Args:
        model: Any torch module, wrapped or not.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.model.fingerprint import model_name
        >>> model_name(al.load("demo")[0])
        'demo'
    """
    model = unwrap(model)
    name = getattr(model, "name_or_path", "") or type(model).__name__
    names: dict[str, None] = {}
    digest = hashlib.sha256(b"adapters 1")
    with torch.no_grad():
        for path, layer, adapters in adapted_layers(model):
            names |= dict.fromkeys(adapters)
            _add(digest, f"{path} {_strengths(layer, adapters)}")
            for tensor, x in adapter_tensors(layer):
                bits = [] if x.device.type == "meta" else _mix(x).tolist()
                _add(digest, f"{tensor} {x.dtype} {tuple(x.shape)} {bits}")
    return f"{name} + {', '.join(names)} ({digest.hexdigest()[:8]})" if names else name


def _strengths(layer: Any, adapters: tuple[str, ...]) -> list[tuple[str, Any]]:
    scaling = getattr(layer, "scaling", None)
    scaling = scaling if isinstance(scaling, dict) else {}
    return [(name, scaling.get(name)) for name in adapters]


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """The fingerprint of a tokenizer: of all that decides which ids a text becomes.

    The padding and truncation that a call left behind do not count. Nor does a pad token that is
    another token of the text too, such as the end: `al.load` gives one to a tokenizer that names
    none, and it decides no id, since padding is masked. A pad token of its own is part of the
    rules, where it stands for itself in texts.

    Args:
        tokenizer: A Hugging Face tokenizer.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(b"tokenizer 1")
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules.pop("padding", None)
        rules.pop("truncation", None)
    else:
        rules = [type(tokenizer).__name__, tokenizer.get_vocab(), tokenizer.init_kwargs]
    special = {name: str(word) for name, word in tokenizer.special_tokens_map.items()}
    pad = special.pop("pad_token", None)
    if pad is not None and pad not in special.values() and pad in tokenizer.get_added_vocab():
        special["pad_token"] = pad
    _add(digest, json.dumps([rules, special], sort_keys=True, default=str))
    return digest.hexdigest()


def data_fingerprint(items: Iterable[str | np.ndarray]) -> str:
    """The fingerprint of texts or arrays, in their order; nothing is held in memory.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(b"data 1")
    for item in items:
        if isinstance(item, str):
            _add(digest, item)
        else:
            _add(digest, f"{item.dtype} {item.shape}")
            digest.update(np.ascontiguousarray(item).data)
    return digest.hexdigest()


def _fetched(results: list[Tensor]) -> list[list[int]]:
    """Small tensors of one shape as numbers, by one copy per device that they are on."""
    found: dict[int, list[int]] = {}
    for device in {x.device for x in results}:
        there = [i for i, x in enumerate(results) if x.device == device]
        found |= zip(there, torch.stack([results[i] for i in there]).tolist(), strict=True)
    return [found[i] for i in range(len(results))]


def _add(digest: Any, text: str) -> None:
    """Adds a text with its length before it, so that two never read like one."""
    content = text.encode("utf-8", "surrogatepass")
    digest.update(len(content).to_bytes(8, "little"))
    digest.update(content)


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and the buffers that a checkpoint holds, tied ones under each name."""
    for prefix, module in model.named_modules():
        own = [*module.named_parameters(recurse=False, remove_duplicate=False)]
        own += [
            (name, buffer)
            for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False)
            if name not in module._non_persistent_buffers_set
        ]
        names = [name for name, _ in own]
        with brought_in(module, [x for _, x in own]):
            for name in names:
                whole = f"{prefix}.{name}" if prefix else name
                x = getattr(module, name)
                if x.device.type == "meta":
                    raise ModelError(
                        f"{whole} is on the meta device and has no values; load the model's "
                        "weights before its fingerprint is taken."
                    )
                # A part of a tensor-parallel weight is put together.
                yield whole, x.full_tensor() if hasattr(x, "full_tensor") else x


def _mix(x: Tensor) -> Tensor:
    """128 bits of a tensor, in integers that wrap around alike on every device.

    Each word is mixed with its place by steps that can be undone, and all are added up, so a change
    of one value always changes the sum.
    """
    flat = x.detach().contiguous().reshape(-1)
    if flat.dtype == torch.bool:
        flat = flat.to(torch.uint8)
    if flat.is_complex():
        flat = torch.view_as_real(flat).reshape(-1)
    words = flat.view(_WORDS[flat.element_size()])
    total = torch.zeros(2, dtype=torch.int64, device=x.device)
    for start in range(0, len(words), _AT_ONCE):
        piece = words[start : start + _AT_ONCE].to(torch.int64)
        place = torch.arange(start, start + len(piece), device=x.device)
        a = (piece * _ODD[0]) ^ (place * _ODD[1])
        a = (a ^ (a >> 29)) * _ODD[2]
        b = (a ^ (a >> 32)) * _ODD[1]
        total += torch.stack([(a ^ (a >> 31)).sum(), (b ^ (b >> 28)).sum()])
    return total
