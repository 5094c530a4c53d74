"""Reads the folder of a saved evaluation; everything in it is checked."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

from arcee_lab.errors import FileError, SavedDamaged, WrongType
from arcee_lab.evals.files.lm_eval_shape import as_facts
from arcee_lab.evals.scoring.unscorable import SkippedDocument

RESULTS = "results.json"
_LARGEST = 1 << 31  # bytes of one file
_SAMPLE = ("doc_id", "doc_hash", "filter", "metrics", "arguments", "target", "filtered_resps")


def read_saved(folder: str | Path, score: type) -> dict[str, Any]:
    """The fields of an `Evaluation` that `Evaluation.save` wrote.

    Args:
        folder: The folder.
        score: The dataclass of a score.

    Raises:
        FileError: No evaluation is there.
        SavedDamaged: A file is damaged, or was written by an older version.
    """
    folder = Path(folder)
    path = folder / RESULTS
    if not path.is_file():
        raise FileError(
            f"{folder} holds no {RESULTS}; expected the folder of a finished `arcee-lab eval` "
            "(its --out)."
        )
    found = _object(path, _text(path))
    try:
        scores = tuple(_score(one, score) for one in found["scores"])
        groups = {one.task for one in scores if one.members} | set(found["group_subtasks"])
        tasks = [name for name in _typed(found["results"], dict) if name not in groups]
        parts = {
            "model": _typed(found["model"], str),
            "scores": scores,
            "samples": {task: _samples(folder, task, scores) for task in tasks},
            "info": _typed(found["info"], dict),
            "settings": _typed(found["settings"], dict),
            "seconds": float(_typed(found["seconds"], (int, float))),
            "unfinished": tuple(_typed(one, str) for one in found["unfinished"]),
            "skipped": tuple(_skipped(one) for one in found["skipped"]),
            "facts": as_facts(found),
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise SavedDamaged(
            f"{path} is damaged, or of an older version ({' '.join(str(error).split())}); run the "
            "evaluation again."
        ) from error
    return parts


def safe_name(task: str) -> str:
    """A task's name as a part of a file's name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in task)


def samples_file(task: str) -> str:
    """The name of the file with a task's samples."""
    return f"samples_{safe_name(task)}.jsonl"


def _samples(folder: Path, task: str, scores: tuple[Any, ...]) -> list[dict[str, Any]]:
    path = folder / samples_file(task)
    wanted = {(one.filter, one.metric) for one in scores if one.task == task}
    counts = {one.filter: one.n for one in scores if one.task == task}
    samples = [_object(path, line) for line in _text(path).split("\n") if line]
    for number, sample in enumerate(samples, 1):
        missing = [name for name in _SAMPLE if name not in sample]
        metrics = [m for f, m in wanted if f == sample.get("filter") and m not in sample]
        if missing or metrics or type(sample["arguments"]) not in (list, dict):
            raise SavedDamaged(
                f"{path}, line {number} is damaged: "
                f"{', '.join([*missing, *metrics]) or 'arguments'} is missing or wrong; run the "
                "evaluation again."
            )
        for metric in (m for f, m in wanted if f == sample["filter"]):
            sample[metric] = _tupled(sample[metric])  # as the metrics' functions expect them
        if isinstance(sample["arguments"], dict):  # lm-eval's own form of saved samples
            sample["arguments"] = [list(one.values()) for one in sample["arguments"].values()]
    for name, n in counts.items():
        have = sum(sample["filter"] == name for sample in samples)
        if have != n:
            raise SavedDamaged(
                f"{path} has {have} samples of filter {name!r}; expected {n}, as {RESULTS} says. "
                "Run the evaluation again."
            )
    return samples


def _skipped(value: Any) -> SkippedDocument:
    row = _typed(value, dict)
    return SkippedDocument(
        _typed(row["task"], str), _typed(row["doc_id"], int), _typed(row["reason"], str)
    )


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise SavedDamaged(f"{path} is larger than {_LARGEST} bytes; run the evaluation again.")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SavedDamaged(f"{path} cannot be read ({error}); run the evaluation again.") from error


def _object(path: Path, text: str) -> dict[str, Any]:
    try:
        return _typed(json.loads(text), dict)
    except (ValueError, TypeError, RecursionError) as error:
        raise SavedDamaged(f"{path} is damaged ({error}); run the evaluation again.") from error


def _typed(value: Any, kind: type | tuple[type, ...]) -> Any:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise WrongType(f"got {str(value)[:60]!r}")
    return value


def _score(value: Any, kind: type) -> Any:
    row = dict(_typed(value, dict))
    names = {one.name for one in fields(kind)}
    if set(row) != names:
        raise WrongType(f"a score has the fields {', '.join(sorted(row))[:200]}")
    for name in ("task", "metric", "filter"):
        _typed(row[name], str)
    for name in ("value", "low", "high", "stderr"):
        row[name] = math.nan if row[name] is None else float(_typed(row[name], (int, float)))
    if row["ceiling"] is not None:
        row["ceiling"] = float(_typed(row["ceiling"], (int, float)))
    if _typed(row["n"], int) < 1:
        raise WrongType(f"a score of {row['n']} documents")
    if _typed(row["n_skipped"], int) < 0:
        raise WrongType(f"a score without {row['n_skipped']} documents")
    if row["aggregation"] is not None:
        _typed(row["aggregation"], str)
    row["members"] = tuple(_typed(one, str) for one in row["members"])
    row["weights"] = tuple(float(_typed(one, (int, float))) for one in row["weights"])
    return kind(**row)
