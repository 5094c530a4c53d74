"""What a dump is of: its sites, and what its manifest says of model, tokenizer, data and code."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from arcee_lab.dump.config import DumpConfig
from arcee_lab.dump.format.manifest import DTYPES, StoredSite, stored_as
from arcee_lab.dump.writing.batching import BatchPlan
from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.fingerprint import (
    data_fingerprint,
    model_fingerprint,
    model_name,
    tokenizer_fingerprint,
)

_PACKAGES = ("arcee_lab", "torch", "transformers", "numpy", "safetensors")


def stored_sites(anatomy: Anatomy, config: DumpConfig) -> dict[str, StoredSite]:
    """What is stored of each hook point, in forward order.

    Raises:
        ValueError: A filter that matches nothing, a site that is not a value a token, a dtype that
            is not stored, or a hook on a neuron's square, which a store of relu(u) would not see.
    """
    asked = anatomy.resolve(list(config.sites))
    for name in asked:
        if stored_as(name) != name and anatomy.hook_point(name)._forward_hooks:
            raise SettingError(
                f"something hooks {name}, but a store keeps relu(u) and squares it when it is "
                f"read, so a change there would be lost. Change {stored_as(name)} instead, or "
                "remove the hook"
            )
    sites = {}
    legend = anatomy.legend.sites()
    for name in anatomy.resolve([stored_as(name) for name in asked]):
        axes = legend[name].axes
        if axes[:2] != ("batch", "pos"):
            raise SettingError(
                f"{name} is [{', '.join(axes)}] and so not a value a token; expected sites over "
                "batch and pos. Read it with al.capture"
            )
        computed = torch.float32 if legend[name].dtype == "float32" else anatomy.model.dtype
        dtype = config.store_dtype or str(computed).removeprefix("torch.")
        if dtype not in DTYPES:
            raise SettingError(
                f"{name} is {dtype}; a store holds {', '.join(DTYPES)}. Say which with store_dtype="
            )
        neurons = name.endswith(".mlp.hook_relu")
        shape = tuple(anatomy.size(axis) for axis in axes[2:])
        sites[name] = StoredSite(name, shape, dtype, config.layout if neurons else config.others)
    return sites


class Provenance:
    """Where a dump comes from; taken once, since a big model's weights take a while to go through.

    Args:
        anatomy: Of the model.
        tokenizer: Its tokenizer.
        plan: The windows and their batches.
        config: What is dumped.
        source: Where the texts came from, as JSON values.

    Attributes:
        settings: What makes this dump this dump: the same settings give the same bytes.
    """

    def __init__(
        self,
        anatomy: Anatomy,
        tokenizer: Any,
        plan: BatchPlan,
        config: DumpConfig,
        source: Mapping[str, Any],
    ):
        model = anatomy.model
        windows = plan.windows
        arrays = [windows.ids, windows.bounds, windows.documents]
        arrays += [] if windows.repeated is None else [windows.repeated]
        arrays += [plan.tags[name].numpy() for name in sorted(plan.tags)]
        facts = json.loads(model.config.to_json_string())
        self.model = {
            "name": model_name(model),
            "fingerprint": model_fingerprint(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "class": type(model).__name__,
            "config": {k: v for k, v in facts.items() if k != "transformers_version"},
        }
        self.tokenizer = {
            "name": str(getattr(tokenizer, "name_or_path", "")) or type(tokenizer).__name__,
            "fingerprint": tokenizer_fingerprint(tokenizer),
        }
        self.data = {
            **source,
            "fingerprint": data_fingerprint(arrays),
            "n_documents": windows.n_documents,
            "n_windows": len(windows),
        }
        self.run_settings = config.settings() | {
            "device": model.device.type,
            "attention": str(model.config._attn_implementation),
        }
        self.versions = {name: version(name) for name in _PACKAGES}
        self.settings = {
            "command": "dump",
            "model": {k: v for k, v in self.model.items() if k != "config"},
            "tokenizer": self.tokenizer,
            "data": self.data,
            "versions": self.versions,
            **self.run_settings,
        }
