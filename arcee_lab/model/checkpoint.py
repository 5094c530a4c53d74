"""What a checkpoint must hold before its numbers are trusted."""

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedConfig

from arcee_lab.errors import CheckpointError
from arcee_lab.runs.json_text import read_object, reason

# What a folder is read for; nothing else in it is opened.
READ = {".jinja", ".json", ".model", ".safetensors", ".txt"}
HEAD_KEYS = re.compile(r"^(lm_head|score|qa_outputs)\.")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object of a checkpoint folder.

    Raises:
        ValueError: If the file is absent or no JSON object.
    """
    if not path.is_file():
        raise CheckpointError(
            f"{path.parent} has no {path.name}; expected a checkpoint folder with one."
        )
    return read_object(path, error=CheckpointError, nan=True)  # a field that is NaN is named


def check_paths(folder: Path) -> None:
    """Checks that the files of a checkpoint folder are in it, and are not links to others.

    The Hub's cache keeps its files as links into `blobs`, next to the folder's `snapshots`; those
    are its own.

    Raises:
        ValueError: Naming the first link that leads elsewhere.
    """
    for path in [*folder.iterdir(), *(folder / "heads").glob("*")]:
        if path.suffix in READ or (path.name == "heads" and path.is_dir()):
            inside(folder, path)


def inside(folder: Path, path: Path) -> Path:
    """A path of a checkpoint folder, checked to be in it.

    Raises:
        ValueError: If it leads out of it.
    """
    root, target = folder.resolve(), path.resolve()
    if target.is_relative_to(root):
        return path
    caches = [parent.parent for parent in root.parents if parent.name == "snapshots"]
    if any(target.parent == cache / "blobs" for cache in caches):
        return path
    raise CheckpointError(
        f"{path} leads out of the checkpoint, to {target}; expected every file inside {folder}. "
        "Copy the file there if it belongs to it."
    )


def check_folder(folder: Path) -> None:
    """Checks that a folder holds a whole Arcee checkpoint in safetensors.

    Args:
        folder: A folder with config.json and weights.

    Raises:
        ValueError: If it is of another architecture, a pickle, incomplete or truncated, or if its
            index names a file elsewhere.
    """
    if (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds an adapter next to its model, which transformers would load only "
            "where peft is installed; load the model from a folder without adapter_config.json, "
            "then peft.PeftModel.from_pretrained(model, adapter_folder)."
        )
    kind = read_json(folder / "config.json").get("model_type")
    if kind != "arcee":
        raise CheckpointError(
            f"{folder} is a checkpoint of model_type {kind!r}; arcee_lab reads 'arcee' models "
            "(arcee-ai/AFM-4.5B and related models). Use transformers for others."
        )
    for file in _weight_files(folder):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(
                f"{file} is damaged or truncated ({reason(error)}); expected a complete "
                "safetensors file. Download or copy it again."
            ) from None


def _weight_files(folder: Path) -> list[Path]:
    # The order in which transformers looks.
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return [single]
    if index.is_file():
        names = _shard_names(folder, index)
        missing = [name for name in names if not (folder / name).is_file()]
        if missing or not names:
            raise CheckpointError(
                f"{folder} lacks {len(missing)} of {len(names)} shards that its index names, e.g. "
                f"{missing[:2]}; download or copy them again."
            )
        return [folder / name for name in names]
    pickles = sorted(
        p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt"}
    )
    if pickles:
        raise CheckpointError(
            f"{folder} holds its weights as a pickle ({pickles[0]}), which can run code; arcee_lab "
            "reads safetensors only. Save it with model.save_pretrained(folder) where you trust it."
        )
    raise CheckpointError(
        f"{folder} holds no weights; expected model.safetensors or its shards and index."
    )


def _shard_names(folder: Path, index: Path) -> list[str]:
    whole = read_json(index)
    shards = whole.get("weight_map") or {}
    if not isinstance(shards, dict) or not all(isinstance(one, str) for one in shards.values()):
        raise CheckpointError(
            f"{index} has a weight_map that does not name a file per weight; get the file again."
        )
    if shards and not isinstance(
        whole.get("metadata"), dict
    ):  # transformers reads the total size from it
        raise CheckpointError(f"{index} has no metadata; get the file again.")
    names = sorted(set(shards.values()))
    for name in names:
        # As on every system, whatever this one takes for a separator.
        if re.search(r"[/\\\\:\0]", name) or not name.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names the shard {name!r}; expected the names of safetensors files in "
                f"{folder}, without a folder."
            )
        inside(folder, folder / name)
    return names


def shapes_in(folder: Path) -> dict[str, list[int]]:
    """The shape of every tensor, from the headers of the weights; no weight is read."""
    shapes = {}
    for file in _weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                shapes[name] = list(tensors.get_slice(name).get_shape())
    return shapes


def require_floating(folder: Path) -> None:
    """Checks that every weight is stored as a floating-point number.

    Others would be cast without a word, and a bias of 0.3 that was stored as an integer is 0.

    Raises:
        ValueError: Naming the first weight that is not.
    """
    for file in _weight_files(folder):
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                dtype = tensors.get_slice(name).get_dtype()
                if not dtype.startswith(("F", "BF")):
                    raise CheckpointError(
                        f"{file} stores {name} as {dtype}; expected floating-point weights, since "
                        "config.json names no quantisation. Get the checkpoint again, or save it "
                        "in bfloat16 or float32."
                    )


def missing_head(info: dict) -> list[str]:
    """Names of the head's parameters that the checkpoint did not hold."""
    return sorted(key for key in info["missing_keys"] if HEAD_KEYS.match(key))


def drop_foreign_head(model: nn.Module, config: PreTrainedConfig) -> list[str]:
    """Re-initialises a head that the file wrote for another class under the same names.

    Sequence and token heads are both called `score` and may have one shape: the weights would load
    and mean nothing.

    Returns:
        Names of the parameters that start random now.
    """
    written = (config.architectures or [type(model).__name__])[0]
    if written == type(model).__name__ or not written.endswith("Classification"):
        return []
    foreign = sorted(key for key, _ in model.named_parameters() if key.startswith("score."))
    for key in foreign:
        weight = model.get_parameter(key)
        nn.init.normal_(weight, std=config.initializer_range if weight.ndim == 2 else 0.0)
    return foreign


def require_backbone(cls: type, info: dict) -> None:
    """Raises if a parameter below the head would stay at its random start.

    Args:
        cls: The class that was loaded, for the message.
        info: transformers' loading info.

    Raises:
        ValueError: Naming the first missing parameters and what the file holds instead.
    """
    missing = sorted(key for key in info["missing_keys"] if not HEAD_KEYS.match(key))
    if not missing:
        return
    unexpected = sorted(info["unexpected_keys"])
    held = f" It holds {len(unexpected)} unknown ones, e.g. {unexpected[:3]}." if unexpected else ""
    raise CheckpointError(
        f"{cls.__name__}: the checkpoint lacks {len(missing)} backbone parameters, e.g. "
        f"{missing[:3]}; they would stay random.{held} Expected every parameter of the backbone: "
        "check that all shards are there and that this is an Arcee checkpoint."
    )


def require_every_weight_used(folder: Path, info: dict) -> None:
    """Raises if the file holds backbone weights that the config has no place for.

    Heads of other classes may be unused in a file; a bias or a gate may not: without it the model
    computes something else.

    Raises:
        ValueError: Naming the first such weights.
    """
    unused = sorted(
        key
        for key in info["unexpected_keys"]
        if not HEAD_KEYS.match(key) and not key.endswith("rotary_emb.inv_freq")
    )
    if unused:
        raise CheckpointError(
            f"{folder} holds {len(unused)} weights that its config.json has no place for, e.g. "
            f"{unused[:3]}; expected none, since the model would compute without them. Check "
            "attention_bias, mlp_bias, num_hidden_layers, and that it is an Arcee checkpoint."
        )


def require_finite(model: nn.Module) -> None:
    """Raises if a weight is NaN or infinite.

    Raises:
        ValueError: Naming the first such parameter.
    """
    for name, weight in model.named_parameters():
        if weight.is_floating_point() and not weight.is_meta and not weight.isfinite().all():
            count = int((~weight.isfinite()).sum())
            raise CheckpointError(
                f"{name} holds {count} values that are NaN or infinite; expected none. The "
                "checkpoint is damaged, or was saved from a run that diverged."
            )


def load_head(model: nn.Module, file: Path) -> None:
    """Copies the parameters of a head file (`heads/NAME.safetensors`) into a model.

    Raises:
        ValueError: If the file is damaged or does not fit the model's head.
    """
    try:
        with safe_open(file, framework="pt") as tensors:
            found = {key: tensors.get_tensor(key) for key in tensors.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} is damaged or truncated ({reason(error)}); get it again."
        ) from None
    own = {key: p for key, p in model.named_parameters() if HEAD_KEYS.match(key)}
    shapes = {key: tuple(p.shape) for key, p in own.items()}
    if {key: tuple(t.shape) for key, t in found.items()} != shapes:
        got = {key: tuple(t.shape) for key, t in found.items()}
        raise CheckpointError(f"{file} does not fit the head: got {got}, expected {shapes}.")
    with torch.no_grad():
        for key, tensor in found.items():
            own[key].copy_(tensor)
