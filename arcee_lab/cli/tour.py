"""`arcee-lab tour`: all of the workbench in a few minutes, on the demo model, step by step."""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from arcee_lab.cli import flags, info
from arcee_lab.errors import SettingError
from arcee_lab.runs import storage

HELP = "Look at the demo model: self-check, sparsity, evaluation, the first notebook."
EXAMPLE = "arcee-lab tour --out out"

REPOSITORY = Path(__file__).parents[2]
NOTEBOOK = "01_first_look"
WORLD_TOKENS = 20_000
LIMIT = 100  # documents per task: seconds, not the whole table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `tour`."""
    flags.add_out(parser, default="out")


def run(args: argparse.Namespace) -> int:
    """Runs each step into a new folder `tour-N` under `--out` and prints the next steps."""
    builder = REPOSITORY / "notebooks" / "build.py"
    if not builder.is_file():
        raise SettingError(
            f"the tour needs the repository, and {builder} does not exist; clone it and "
            "run `python3 run.py` there."
        )
    folder = storage.fresh_folder(args.out, "tour")
    world, news = folder / "world", folder / "news"
    tokens = ["--max-tokens", str(WORLD_TOKENS)]
    steps: list[tuple[str, Callable[[], str]]] = [
        ("what is installed", _versions),
        ("self-check of the demo model", _self_check),
        (
            "exact zeros over generated text it has not seen",
            lambda: _sparsity(world, ["--world", "all", *tokens]),
        ),
        (
            "the same over its news alone, which is one kind of text in seven",
            lambda: _sparsity(news, ["--world", "news", *tokens]),
        ),
        ("every head next to the best possible score", lambda: _evaluation(folder / "eval")),
        (f"notebook {NOTEBOOK}", lambda: _notebook(builder, folder)),
    ]
    print("The demo is a toy model: its numbers show the tool, not AFM-4.5B.\n")
    began = time.perf_counter()
    for number, (name, step) in enumerate(steps, start=1):
        started = time.perf_counter()
        print(f"[{number}/{len(steps)}] {name}", flush=True)
        print(_indented(step()))
        print(f"      {time.perf_counter() - started:.1f} s\n", flush=True)
    program = Path(sys.executable).with_name("arcee-lab")
    print(
        f"Done in {time.perf_counter() - began:.0f} s. Everything is in {folder}\n"
        f"  look      open {world / 'report.html'} in a browser\n"
        "  explore   python3 run.py lab\n"
        f"  AFM-4.5B  {program} sparsity arcee-ai/AFM-4.5B --text FILE --out out/afm "
        "--device cuda --dtype bfloat16\n"
        "            ARCEE_LAB_MODEL=arcee-ai/AFM-4.5B python3 run.py lab"
    )
    return 0


def _versions() -> str:
    facts = info.versions()
    return ", ".join(f"{name} {version}" for name, version in facts.items()) + "\n" + info.devices()


def _self_check() -> str:
    from arcee_lab import load
    from arcee_lab.model.checks.selfcheck import self_check

    model, _ = load("demo")
    found = self_check(model)
    assert found is not None  # the demo's weights are plain tensors
    if not found.passed:
        raise SettingError(
            f"the demo does not compute what its weights say: {found}; reinstall it."
        )
    return (
        "Relative difference from arithmetic written from the weights, four tokens: logits "
        f"{found.output:.1e},\nsum of the residual stream {found.residual:.1e}, MLP outputs "
        f"{found.mlp:.1e}; rounding explains up to {found.tolerance:.0e}"
    )


def _sparsity(folder: Path, text: list[str]) -> str:
    return _command(["sparsity", "demo", *text, "--out", str(folder)])


def _evaluation(folder: Path) -> str:
    words = ["eval", "demo", "--tasks", "arcee_all", "--limit", str(LIMIT), "--out", str(folder)]
    return _command(words)


def _command(words: list[str]) -> str:
    # A process of its own: what is shown is the very command that the reader can type.
    said = _child([sys.executable, "-P", "-m", "arcee_lab", *words])
    return f"$ arcee-lab {shlex.join(words)}\n{said}"


def _notebook(builder: Path, folder: Path) -> str:
    # The kernel warns on stderr about its transport, which says nothing to a reader of this.
    command = [sys.executable, str(builder), NOTEBOOK, "--out", str(folder)]
    return _child(command, quiet=True)


def _child(command: list[str], *, quiet: bool = False) -> str:
    """What a child process prints; its stderr goes to the terminal, if `quiet` only on failure."""
    errors = subprocess.PIPE if quiet else None
    child = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8", check=False
    )
    if child.returncode:
        print(child.stderr or "", file=sys.stderr, end="")
        raise SettingError(f"this step failed with exit code {child.returncode}; see above.")
    return child.stdout


def _indented(text: str) -> str:
    return "\n".join(f"      {line}".rstrip() for line in text.strip().splitlines())
