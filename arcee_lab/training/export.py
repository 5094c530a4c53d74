"""Writes a trained demo as a checkpoint folder, and reads its heads back.

The folder is an ordinary causal LM for transformers. The tensors that the other heads add to the
backbone are in `heads/`, named as in their classes, with their labels in `heads.json`: three small
files instead of three more copies of the backbone.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo.reviews import LABELS
from arcee_lab.model import ArceeForCausalLM
from arcee_lab.runs.storage import make_folder, write_atomic, write_folder, write_json
from arcee_lab.training.batches import TOKEN_LABELS
from arcee_lab.training.joint_loss import DemoHeads

# head -> the name of its layer in its class
LAYERS = {"sequence": "score", "token": "score", "qa": "qa_outputs"}
HEADS_FILE = "heads.json"


def export(
    folder: str | Path,
    *,
    model: ArceeForCausalLM,
    heads: DemoHeads,
    tokenizer: PreTrainedTokenizerBase,
    log: Iterable[Mapping[str, Any]] = (),
) -> Path:
    """Writes the LM, its tokenizer, the heads and the training log into a folder.

    Args:
        folder: Created if it is missing; files of the same names are replaced.
        model: The LM, written in its own dtype.
        heads: The other heads.
        tokenizer: The demo's.
        log: Rows of the run's log, one JSON object per line in `training_log.jsonl`.

    Returns:
        The folder.
    """
    folder = Path(folder)

    def fill(part: Path) -> None:
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)

    write_folder(folder, fill)
    make_folder(folder / "heads")
    for head, layer in LAYERS.items():
        tensors = {
            f"{layer}.{name}": weight.detach().contiguous()
            for name, weight in getattr(heads, head).named_parameters()
        }
        target = folder / "heads" / f"{head}.safetensors"
        write_atomic(target, lambda path, tensors=tensors: save_file(tensors, path))
    write_json(
        folder / HEADS_FILE,
        {
            "sequence": {"id2label": {str(i): label for i, label in enumerate(LABELS)}},
            "token": {"id2label": {str(i): label for i, label in enumerate(TOKEN_LABELS)}},
            "qa": {},
        },
    )
    lines = "".join(json.dumps(row) + "\n" for row in log)
    write_atomic(folder / "training_log.jsonl", lines)
    return folder


def read_heads(folder: str | Path) -> DemoHeads:
    """The heads of a checkpoint folder that `export` wrote."""
    folder = Path(folder) / "heads"
    tensors = {head: load_file(folder / f"{head}.safetensors") for head in LAYERS}
    heads = DemoHeads(tensors["qa"]["qa_outputs.weight"].shape[1], seed=0)
    with torch.no_grad():
        for head, layer in LAYERS.items():
            for name, weight in getattr(heads, head).named_parameters():
                weight.copy_(tensors[head][f"{layer}.{name}"])
    return heads
