"""A process that has imported torch, transformers and arcee_lab, without the shape checks.

Each piece of code runs in a fork of it: a process of its own, as fresh as the imports, that starts
at once. What is about imports themselves runs in a new interpreter instead (`run_clean`).
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

_SERVER = """
import atexit, json, os, sys, traceback, types

import torch
import torch._dynamo
import transformers.models.arcee.modeling_arcee
from transformers import AutoTokenizer
from arcee_lab.model.loading import load
from arcee_lab.recording import capturing, compiled_capture
from arcee_lab.reducers.running import context
load("demo")  # what loading imports
{also}


def run(job):
    # A process group of its own, so that its children can be stopped with it.
    os.setpgid(0, 0)
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(job["folder"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = ["-c"]
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        exec(compile(job["code"], "<string>", "exec"), main.__dict__)
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if not child:
        run(job)
    answers.write(f"{child}\\n")
    answers.flush()
    _, status = os.waitpid(child, 0)
    answers.write(f"{os.waitstatus_to_exitcode(status)}\\n")
    answers.flush()
"""


class WarmProcess:
    """Starts at the first call; one per process of pytest."""

    def __init__(self, also: str = "") -> None:
        """Takes further statements that the process runs before it is forked."""
        self._code = _SERVER.replace("{also}", also)
        self._server: subprocess.Popen[str] | None = None

    def run(self, code: str, *, timeout: float, env: dict[str, str]) -> tuple[int, str, str]:
        """Runs Python in a fork; returns its exit code, and what it wrote to stdout and stderr."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, "-c", self._code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        server = self._server
        assert server.stdin
        assert server.stdout
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            job = {"code": code, "folder": os.getcwd(), "env": os.environ | env}
            job |= {"out": str(out), "err": str(err)}
            server.stdin.write(json.dumps(job) + "\n")
            server.stdin.flush()
            child = int(server.stdout.readline())
            exit_code = self._wait(child, timeout)
            return exit_code, out.read_text("utf-8"), err.read_text("utf-8")

    def _wait(self, child: int, timeout: float) -> int:
        assert self._server
        assert self._server.stdout
        late = threading.Timer(timeout, os.killpg, (child, signal.SIGKILL))
        late.start()
        try:
            return int(self._server.stdout.readline())
        finally:
            late.cancel()

    def close(self) -> None:
        """Ends the process."""
        if self._server is not None:
            assert self._server.stdin
            assert self._server.stdout
            self._server.stdin.close()
            self._server.wait(timeout=30)
            self._server.stdout.close()
