"""Prove on a GPU what the tests prove on a CPU; see docs/how-to/gpu_proof.md.

Exits 0 if every core row passed, 1 if one failed or did not run, 2 for wrong arguments, 3 without
CUDA. It uses the Python that runs it, installs nothing, and makes no request but for --model.
"""

import argparse
import importlib.util
import os
import sys
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # in place of this folder, whose names are too plain
    others = [os.environ["PYTHONPATH"]] if os.environ.get("PYTHONPATH") else []
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *others])
CORE = ("torch", "transformers", "numpy", "safetensors", "jaxtyping")
_SECONDS = 8 * 60  # after which no row begins
_MOST = 8 * 60 + 40  # after which none goes on


def main(words: list[str]) -> int:
    """Runs the proof and returns its exit code."""
    parser = argparse.ArgumentParser(prog="run.py gpu", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, metavar="DIR", help="a new or empty folder")
    parser.add_argument("--model", metavar="DIR_OR_ID", help="a checkpoint to prove too")
    parser.add_argument("--dry-run", action="store_true", help="on the CPU, at tiny shapes")
    asked = parser.parse_args(words)
    missing = [name for name in CORE if importlib.util.find_spec(name) is None]
    if missing:
        return _say(f"{sys.executable} lacks {', '.join(missing)}; install them there.", code=1)
    if tuple(map(int, version("torch").split(".")[:2])) < (2, 9):
        return _say(f"torch is {version('torch')}; expected 2.9 or newer.", code=1)
    if asked.model is None:
        os.environ["HF_HUB_OFFLINE"] = "1"  # before anything reads it
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

    import torch

    if not asked.dry_run and not torch.cuda.is_available():
        return _say(
            f"torch {torch.__version__} sees no CUDA device; --dry-run tries the script on the "
            "CPU.",
            code=3,
        )
    folder = asked.out or ROOT / "out" / f"gpu-{time.strftime('%Y%m%d-%H%M%S')}"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        return _say(f"--out {folder} is not an empty folder; choose a new one.", code=2)
    folder.mkdir(parents=True, exist_ok=True)
    return _prove(folder, model=asked.model, dry=asked.dry_run)


def _say(text: str, *, code: int) -> int:
    print(f"run.py gpu: {text}", file=sys.stderr)
    return code


def _prove(folder: Path, *, model: str | None, dry: bool) -> int:
    from benchmarks.gpu import older

    older.fill_in()
    from benchmarks.gpu import (
        answering,
        checkpoint,
        cost,
        longer,
        marked,
        neuron_rows,
        parity,
        report,
    )
    from benchmarks.gpu.place import Place
    from benchmarks.gpu.rows import Row, run

    began = time.monotonic()
    place = Place.find(dry=dry)
    large = cost.Large(place)
    outcomes = []

    def show(rows: Iterable[Row]) -> None:
        for row in rows:
            outcome = run(row, place, ends=began + _SECONDS, hard_end=began + _MOST)
            outcomes.append(outcome)
            reason = " ".join(outcome.reason.split())[:160]
            print(f"{outcome.state:8}{outcome.seconds:7.1f} s  {row.name}  {reason}", flush=True)
            report.write(folder, place, outcomes)

    show([*parity.rows(), *cost.rows(large)])
    _trace(large, folder / "trace.json")
    show([*neuron_rows.rows(large), *answering.rows(large), *longer.rows(large)])
    large.forget()
    if model is not None:
        named = checkpoint.Named(model, place)
        show(checkpoint.rows(named))
        named.forget()
    show([*longer.smaller_rows(), *marked.rows()])
    print(f"table, JSON and trace: {folder}")
    unshown = [one.name for one in outcomes if one.core and one.state in ("failed", "skipped")]
    if unshown:
        return _say(f"not shown: {', '.join(unshown)}.", code=1)
    return 0


def _trace(large: object, path: Path) -> None:
    from benchmarks.gpu import cost

    try:
        cost.trace(large, path)  # type: ignore[arg-type]
    except Exception as error:  # a profiler that the machine forbids takes no row with it
        print(f"no trace: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
