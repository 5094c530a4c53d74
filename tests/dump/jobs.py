"""Little dumps of a tiny model, and what they must be equal to."""

import hashlib
import os
import signal
import time
import traceback
from pathlib import Path

import numpy as np

NEURONS = "layers.*.mlp.hook_post"


class Numbers:
    """A tokenizer of words that are numbers from 3 on; BOS is 1, padding 0."""

    bos_token_id, pad_token_id = 1, 0
    name_or_path = "numbers"
    special_tokens_map = {"bos_token": "1"}  # noqa: RUF012
    init_kwargs = {}  # noqa: RUF012

    def __call__(self, texts, verbose=True):
        return {"input_ids": [[1, *map(int, text.split())] for text in texts]}

    def get_vocab(self):
        return {str(number): number for number in range(50)}

    def decode(self, ids):
        return " ".join(map(str, ids))


def numbers(n, *, seed=0, longest=40):
    """Documents of 1 to `longest` words."""
    random = np.random.default_rng(seed)
    return [
        " ".join(map(str, random.integers(3, 50, size=random.integers(1, longest + 1))))
        for _ in range(n)
    ]


def digest(folder):
    """Path -> checksum of every file of a folder."""
    folder = Path(folder)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def forked(work):
    """Runs `work` in a forked child with a process group of its own; its process id.

    Forked from a warm parent, it starts at once: nothing has to be imported.
    """
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(child, *, within=300.0):
    """Waits for a child; its exit code, or minus the signal that ended it."""
    until = time.monotonic() + within
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"the child ran for more than {within} s")


def killed(child, after):
    """Kills the child's whole process group after some seconds, if it still runs."""
    time.sleep(after)
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has not made its group yet, or is gone
        os.kill(child, signal.SIGKILL)
    return ended(child)
