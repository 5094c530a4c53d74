"""What a measurement has finished, on disk: saved whole, and checked before a run resumes from it.

The header of a saved file says of which run it is and holds a checksum of all the rest, so that a
changed byte is found. Every field is compared with the plan as well: a run that starts again costs
time, a wrong N costs the result.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from arcee_lab.errors import OtherRun, SavedDamaged
from arcee_lab.model.fingerprint import data_fingerprint, model_fingerprint, model_name
from arcee_lab.results import Result
from arcee_lab.runs import storage
from arcee_lab.runs.json_text import parse_json
from arcee_lab.runs.ranks import Ranks
from arcee_lab.sparsity.core import checking, every_token
from arcee_lab.sparsity.core.checking import VERSION, written_by_another
from arcee_lab.sparsity.core.state import State
from arcee_lab.sparsity.sampled import result_files
from arcee_lab.sparsity.streamed.schedule import PassPart, PassPlan


def identity(model: Any, plan: PassPlan, analyses: list[str], ranks: Ranks) -> dict[str, Any]:
    """What makes a pass this pass, as JSON values: a state of another one is refused.

    Args:
        model: The model, outside of any compile wrapper.
        plan: The forwards.
        analyses: Names of the streamed analyses.
        ranks: This process among those of the job.
    """
    windows = plan.windows
    chosen = [] if windows.chosen is None else [windows.chosen]
    forwards = [np.array(rows) for rows, _ in plan.batches]
    return {
        "model": model_name(model),
        "dtype": str(model.dtype),
        "tokens": windows.n_tokens,
        "sample_every": plan.sample_every,
        "stride": plan.stride,
        "analyses": analyses,
        "rank": ranks.rank,
        "processes": ranks.size,
        "text": data_fingerprint([windows.ids, windows.bounds, *chosen]),
        "forwards": f"{len(forwards)}, {data_fingerprint(forwards)}",
        "weights": model_fingerprint(model),
    }


def write(
    path: Path, run: Mapping[str, Any], about: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Path:
    """Saves a state, whole or not at all.

    Args:
        path: Where to.
        run: What `identity` gave.
        about: What else the state has to say, as JSON values.
        tensors: By name, on any device.
    """
    plain = {name: x.detach().cpu().contiguous() for name, x in tensors.items()}
    text = json.dumps({"version": VERSION, "run": run, **about})
    header = {"about": text, "sha256": _checksum(text, plain)}
    return storage.write_atomic(path, safetensors.torch.save(plain, header))


def read(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Tensor]] | None:
    """Reads what `write` saved; None where there is no file.

    Raises:
        ValueError: A damaged file, or one that another run saved.
    """
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = parse_json(header["about"], "its header")
        version, theirs = about.pop("version", None), about.pop("run")
        whole = header.get("sha256") == _checksum(header["about"], tensors)
    except (
        *(OSError, ValueError, KeyError, TypeError, AttributeError),
        safetensors.SafetensorError,
    ) as error:
        raise damaged(path, "it cannot be read") from error
    if not whole:
        raise damaged(path, "its checksum is another")
    if release := written_by_another(version):
        raise OtherRun(
            f"{path} {release}, and this release cannot resume from it; remove it and measure "
            "again."
        )
    other = [name for name, value in run.items() if theirs.get(name) != value]
    if other:
        name = other[0]
        raise OtherRun(
            f"{path} was saved by another run: its {name} is {theirs.get(name)!r}, not "
            f"{run[name]!r}. Start it as before, or remove the file and start anew."
        )
    return about, tensors


def damaged(path: Path, why: str) -> SavedDamaged:
    """The error for a state that no run can resume from."""
    return SavedDamaged(f"{path} is damaged; remove it and the run starts again ({why}).")


def check_done(path: Path, done: Any, most: int) -> int:
    """How many batches a state says to hold, if there are so many."""
    if type(done) is not int or not 0 <= done <= most:
        raise damaged(path, f"it says to hold {done!r} batches, expected 0 to {most}")
    return done


def check_states(
    path: Path, flat: Mapping[str, Tensor], like: Mapping[str, State], part: PassPart
) -> None:
    """Compares the tensors of a pass with those that it makes, and with the batches that are done.

    Args:
        path: Where they were read, for errors.
        flat: What was read, as "analysis/name".
        like: The states of this pass, of any device; their values are not looked at.
        part: What the batches that are done hold.

    Raises:
        ValueError: A tensor is missing, too many or of another shape or dtype, or numbers that
            cannot be.
    """
    wanted = {f"{name}/{key}": x for name, state in like.items() for key, x in state.items()}
    if why := checking.wrong_tensors(dict(flat), wanted):
        raise damaged(path, why)
    counts = {key: flat[f"core/{key}"] for key in like["core"]}
    counted = int(counts["tokens"][0]), int(counts["first"][0])
    if counted != (part.tokens, part.first):
        raise damaged(
            path,
            f"it counts {counted[0]:,} tokens and {counted[1]:,} first positions, its batches hold "
            f"{part.tokens:,} and {part.first:,}",
        )
    why = every_token.contradiction(counts) or checking.wrong_means(dict(flat), part.windows)
    if why:
        raise damaged(path, why)


def check_costs(path: Path, costs: Any, names: set[str]) -> dict[str, float]:
    """Seconds by name, if they are that."""
    if why := checking.wrong_costs(costs, names):
        raise damaged(path, why)
    return costs


def write_further(
    path: Path, run: Mapping[str, Any], results: Mapping[str, Result], costs: Mapping[str, float]
) -> Path:
    """Saves what the analyses after a pass have found so far, next to the state of the pass.

    Args:
        path: That of the pass.
        run: What `identity` gave.
        results: By name.
        costs: The seconds that each took.
    """
    said, tensors = result_files.packed(results)
    about = {"results": said, "costs": dict(costs)}
    return write(further_path(path), run, about, tensors)


def read_further(path: Path, run: Mapping[str, Any]) -> tuple[dict[str, Result], dict[str, float]]:
    """Reads what `write_further` saved; nothing where there is no file.

    Raises:
        ValueError: A damaged file, or one that another run saved.
    """
    path = further_path(path)
    saved = read(path, run)
    if saved is None:
        return {}, {}
    about, tensors = saved
    try:
        results = result_files.unpacked(about.get("results"), tensors)
    except ValueError as error:
        raise damaged(path, str(error)) from error
    return results, check_costs(path, about.get("costs"), set(results))


def remove(path: Path) -> None:
    """Removes what a pass and the analyses after it saved; for when the report is saved."""
    for file in (path, further_path(path)):
        file.unlink(missing_ok=True)


def further_path(path: Path) -> Path:
    """The file next to that of a pass for what comes after it."""
    return path.with_name(f"{path.stem}-further{path.suffix}")


def _checksum(about: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(about.encode())
    for name in sorted(tensors):
        x = tensors[name]
        digest.update(f"\n{name} {x.dtype} {list(x.shape)} ".encode())
        digest.update(x.reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
