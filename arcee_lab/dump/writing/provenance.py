"""The sites of a dump, and its manifest's facts about model, tokenizer, data and code."""

import json
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from arcee_lab.dump.config import DumpConfig
from arcee_lab.dump.format.stored_site import DTYPES, StoredSite, stored_as
from arcee_lab.dump.writing.batching import BatchPlan
from arcee_lab.errors import SettingError, SiteError
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.model.fingerprint import (
    data_fingerprint,
    model_fingerprint,
    model_name,
    tokenizer_fingerprint,
)

_PACKAGES = ("arcee_lab", "torch", "transformers", "numpy", "safetensors")


def stored_sites(anatomy: Anatomy, config: DumpConfig) -> dict[str, StoredSite]:
    """The stored sites by name, in forward order.

    Raises:
        SiteError: A filter matches nothing, a site does not have one value per token, or a hook
            changes a neuron's square, which a store of relu(u) would not contain.
        SettingError: A dtype that a store cannot hold.
    """
    requested = anatomy.resolve(list(config.sites))
    for name in requested:
        if stored_as(name) != name and anatomy.hook_point(name)._forward_hooks:
            raise SiteError(
                f"something hooks {name}, but a store keeps relu(u) and squares it when it is "
                f"read, so a change there would be lost. Change {stored_as(name)} instead, or "
                "remove the hook."
            )
    sites = {}
    legend = anatomy.legend.sites()
    for name in anatomy.resolve([stored_as(name) for name in requested]):
        axes = legend[name].axes
        if axes[:2] != ("batch", "pos"):
            raise SiteError(
                f"{name} is [{', '.join(axes)}], so it has no value per token; expected sites over "
                "batch and pos. Read it with al.capture."
            )
        computed = torch.float32 if legend[name].dtype == "float32" else anatomy.model.dtype
        dtype = config.store_dtype or str(computed).removeprefix("torch.")
        if dtype not in DTYPES:
            raise SettingError(
                f"{name} is {dtype}; a store holds {', '.join(DTYPES)}. Choose one of these with "
                "store_dtype=."
            )
        neurons = name.endswith(".mlp.hook_relu")
        shape = tuple(anatomy.size(axis) for axis in axes[2:])
        sites[name] = StoredSite(name, shape, dtype, config.layout if neurons else config.others)
    return sites


class Provenance:
    """The origin of a dump; computed once, because hashing a large model's weights takes time.

    Args:
        anatomy: Of the model.
        tokenizer: Its tokenizer.
        plan: The windows and their batches.
        config: What is dumped.
        source: Source of the texts, as JSON values.

    Attributes:
        settings: What identifies the dump: the same settings give the same bytes.
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
        try:
            json.dumps(dict(source), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise SettingError(
                f"source holds what JSON cannot: {error}; expected texts, numbers, lists, mappings."
            ) from error
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
