"""Children that tests fork, wait for, and kill."""

import os
import signal
import socket
import time
import traceback


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


def free_port():
    """A port for ranks that find each other on this machine."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def as_rank(rank, size, port):
    """Makes this process one rank of a job, as a launcher would."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
