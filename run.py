#!/usr/bin/env python3
"""Set arcee_lab up in a .venv next to this file, once, and run a task of it.

usage: python3 run.py [TASK] [ARGUMENTS...]      further arguments go to the task

  tour       look at the demo model: sparsity, a report and a notebook, in out/ (the default)
  setup      make the environment and say what is in it
  test       pytest without the slow tests, two processes; --all runs every test
  lab        JupyterLab in notebooks/
  check      ruff check, ruff format --check, pyright and the language of all texts
  docs       build the site into out/site, without a network
  notebooks  execute notebooks/NN_name.py into notebooks/NN_name.ipynb
  bench      benchmarks/NAME.py or all, in an environment of its own (.venv-bench)
  gpu        prove it on a GPU, with the Python that runs this file; installs nothing
  lock       constraints.txt from pyproject.toml; --upgrade takes newer versions
"""

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

ROOT, LINT = Path(__file__).resolve().parent, "docs/lint.py"
TASKS = {
    "tour": [["-P", "-m", "arcee_lab", "tour", "--out", str(ROOT / "out")]],
    "setup": [["-c", "import torch; print('ready: torch', torch.__version__)"]],
    "test": [["-m", "pytest", "-n", "2", "--dist", "loadfile"]],
    "lab": [["-P", "-m", "arcee_lab", "lab", "--folder", str(ROOT / "notebooks")]],
    "check": [["-mruff", "check"], ["-mruff", "format", "--check"], ["-mpyright"], [LINT]],
    "docs": [["docs/build.py"]],
    "notebooks": [[str(ROOT / "notebooks" / "build.py")]],
    "bench": [[str(ROOT / "benchmarks")]],
    "gpu": [[str(ROOT / "benchmarks" / "gpu")]],
    "lock": [["-m", "uv", "pip", "compile", "pyproject.toml", "-o", "constraints.txt", "--quiet"]],
}


def fail(message, code=1):
    """Leave with one line on stderr."""
    print(f"run.py: {message}", file=sys.stderr)
    sys.exit(code)


def environment(name, extras):
    """Return the Python of ROOT/name, made and filled first where its stamp is not today's."""
    folder = ROOT / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    inputs = (ROOT / "pyproject.toml").read_bytes() + (ROOT / "constraints.txt").read_bytes()
    face = (ROOT / "arcee_lab" / "__init__.py").read_bytes().splitlines()
    inputs += b"".join(line for line in face if line.startswith(b"__version__"))
    stamp, digest = folder / "arcee_lab.stamp", hashlib.sha256(inputs).hexdigest()
    if python.exists() and stamp.exists() and stamp.read_text() == digest:
        return python
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            fail(f"this Python has no `{module}` module (on Debian: apt install python3-venv)")
    print(f"run.py: setting up {folder} (a few minutes, once)", flush=True)
    stamp.unlink(missing_ok=True)
    venv = [sys.executable, "-m", "venv", str(folder)]
    if subprocess.call(venv + ["--clear"] * (folder.exists() and not python.exists())):
        fail(f"could not make {folder}; the lines above say why")
    pip = [python, "-mpip", "install", "--use-pep517", "-cconstraints.txt", "-e", f".[{extras}]"]
    reason = "see its lines above"
    with subprocess.Popen(pip, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        for line in process.stderr or ():
            sys.stderr.write(line)
            if "connection broken by" in line or "(from versions: none)" in line:
                reason = "no package index answers: no network, or a proxy to set?"
    if process.returncode:
        fail(f"pip failed ({reason}); no stamp is written, `python3 run.py setup` tries again")
    stamp.write_text(digest)
    return python


def main(argv):
    """Run one task and return its exit code."""
    if sys.version_info < (3, 11):  # noqa: UP036  pip has had no chance to say so yet
        fail(f"arcee_lab needs Python 3.11 or newer; this is {sys.version.split()[0]}")
    task, rest = (argv[0], argv[1:]) if argv else ("tour", [])
    if task in ("-h", "--help"):
        print(__doc__)
        return 0
    if task not in TASKS:
        fail(f"there is no task {task!r}; choose one of: {', '.join(TASKS)}", code=2)
    kind = (".venv-bench", "dev,bench") if task == "bench" else (".venv", "dev")
    python = sys.executable if task == "gpu" else environment(*kind)
    if task == "test":
        rest = ["-m", "not slow"] * ("--all" not in rest) + [w for w in rest if w != "--all"]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads would eat the cores
    signal.signal(signal.SIGINT, lambda *_: None)  # the child answers Ctrl-C
    cwd = None if task in ("tour", "lab", "gpu") else ROOT  # these read the user's paths
    codes = [subprocess.call([python, *command, *rest], cwd=cwd) for command in TASKS[task]]
    return next((code if code > 0 else 128 - code for code in codes if code), 0)  # as shells do


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
