"""Writes an evaluation: its folder of `--out`, and lm-eval's own layout of names."""

import json
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lm_eval.utils import sanitize_model_name

from arcee_lab.evals.compared.saved import RESULTS, safe_name
from arcee_lab.evals.files.lm_eval_shape import as_sample
from arcee_lab.evals.files.plain_json import plain
from arcee_lab.runs import storage


def write_results(folder: Path, results: Mapping[str, Any]) -> Path:
    """Writes `results.json`."""
    return storage.write_json(folder / RESULTS, plain(results))


def write_samples(path: Path, samples: Iterable[Mapping[str, Any]]) -> Path:
    """Writes the logged documents of a task, one JSON object per line."""
    lines = "".join(json.dumps(plain(as_sample(one)), ensure_ascii=False) + "\n" for one in samples)
    # A lone half of a surrogate pair, which a tokenizer may decode to, is no UTF-8.
    text = lines.encode("utf-8", "backslashreplace")
    return storage.write_atomic(path, text)


def write_lm_eval_layout(
    folder: Path, results: Mapping[str, Any], samples: Mapping[str, Iterable[Mapping[str, Any]]]
) -> list[Path]:
    """Writes `MODEL/results_DATE.json` and `MODEL/samples_TASK_DATE.jsonl`, as `--output_path`.

    Args:
        folder: Is created if it is missing.
        results: What `as_results` gives.
        samples: By task.

    Returns:
        The files.
    """
    date = datetime.now().isoformat().replace(":", "-")
    inside = storage.make_folder(folder / sanitize_model_name(str(results["model_name"])))
    files = [storage.write_json(inside / f"results_{date}.json", plain(results))]
    for task, of in samples.items():
        files.append(write_samples(inside / f"samples_{safe_name(task)}_{date}.jsonl", of))
    return files
