"""Runs every call on the CPU and on the computing device: values, host reads, mixed devices.

It writes one JSON line per call: what it counted on the device, and by how much its values differ
from the CPU's. `--write` puts the counts into device_reads.json, which the test holds every call
to; `constructors` and `proof` are processes for one test each; other words are the calls to run.
"""

import copy
import json
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import computing
import head_calls  # noqa: F401  adds its calls to CALLS
import torch
from device_calls import CALLS, load_two_heads
from device_lab import Lab, Read, difference, leaves, loaded

import arcee_lab as al
from arcee_lab.model.checks import selfcheck

TABLE = Path(__file__).with_name("device_reads.json")


def load_after_constructors() -> dict[str, Any]:
    """What happens to frequencies of RoPE where torch.tensor was wrapped before any load.

    transformers asks `torch.tensor([]).device` whether it is to build on meta. torch remembers at
    the first use of a device context which functions make tensors; a wrapper is then one of them
    and the function in it is none, and what should be filled in later is never filled in.
    """
    from transformers.models.arcee.modeling_arcee import ArceeForCausalLM

    from arcee_lab.model.loading import DEMO

    torch.use_deterministic_algorithms(True)  # new memory is NaN and not what lay there before
    computing.wrap_constructors()
    stock = ArceeForCausalLM.from_pretrained(DEMO)
    said = []
    for device in ("cpu", computing.NAME):
        try:
            al.load("demo", device=device)
            said.append("loaded")
        except ValueError as error:
            said.append(str(error))
    return {"stock": bool(stock.model.rotary_emb.inv_freq.isnan().all()), "ours": said}


def proof() -> list[dict[str, Any]]:
    """The rows of the GPU proof that need no compiler, at tiny shapes.

    torch's device contexts do not know a device in Python, so models are made on the CPU and moved.
    """
    from benchmarks.gpu import cost, longer, parity, shapes
    from benchmarks.gpu.place import Place
    from benchmarks.gpu.rows import run

    here, there = (
        Place(torch.device(name), True, name, 1.0, 1.0) for name in ("cpu", computing.NAME)
    )
    made, reference, pairs = shapes._made, shapes.reference, []

    def moves(place: Place, config: Any, **kind: Any) -> Any:
        plain = made(here, config, **kind)
        pairs.append((plain, copy.deepcopy(plain).to(computing.NAME)))
        return pairs[-1][1]

    def refers(ours: Any) -> Any:
        (plain,) = [plain for plain, other in pairs if other is ours]
        return reference(plain).to(computing.NAME)

    shapes._made, shapes.reference = moves, refers
    prepare()
    large, outcomes = cost.Large(there), []
    for row in [*parity.rows(), *cost.rows(large), *longer.rows(large)]:
        computing.forget()
        outcome = run(row, there, ends=float("inf"), hard_end=time.monotonic() + 300)
        mixed = dict(+computing.MIXED)
        outcomes.append(
            {"name": row.name, "state": outcome.state, "reason": outcome.reason, "mixed": mixed}
        )
    return outcomes


def compared(work: Callable[[Lab], Read]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        found = []
        for device in ("cpu", computing.NAME):
            lab = Lab(device, Path(folder) / device)
            lab.folder.mkdir()
            computing.forget()
            read = work(lab)
            counts = dict(+computing.READS), dict(+computing.MIXED)
            found.append(leaves(read()))
    differs = difference(found[1], found[0])
    return {"reads": counts[0], "mixed": counts[1], "differs": differs}


def say(row: dict[str, Any]) -> None:
    sys.stdout.write("\n" + json.dumps(row) + "\n")


def main(names: list[str]) -> None:
    selfcheck._is_plain = lambda parts: True  # its weights are plain, but their class is not
    if names == ["constructors"]:
        say(load_after_constructors())
        return
    if names == ["proof"]:
        for row in proof():
            say(row)
        return
    rows = {}
    for name, work in {"load two heads": load_two_heads, **CALLS}.items():
        if names and names != ["--write"] and name not in names:
            continue
        if work is not load_two_heads:
            prepare()
        try:
            row = compared(work)
        except Exception:
            row = {"error": traceback.format_exc()}
        say({"call": name} | row)
        rows[name] = {what: row.get(what) for what in ("reads", "mixed")}
    if names == ["--write"]:
        TABLE.write_text(json.dumps(rows, indent=1, sort_keys=True) + "\n", encoding="utf-8")


@cache
def prepare() -> None:
    """Loads every model, and only then wraps what makes tensors."""
    for head in ("causal", "sequence", "token", "qa", "base"):
        loaded(head, "eager")
    loaded("causal", "sdpa")
    computing.wrap_constructors()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1:])
