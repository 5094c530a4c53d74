"""Tests fork children and kill them; whatever these hold, the parent goes on."""

import os
import signal

import pytest
import tqdm.auto

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")


def test_a_child_that_is_killed_inside_a_bar_holds_nobody_up():
    lock = tqdm.auto.tqdm.get_lock()
    child = os.fork()
    if not child:
        tqdm.auto.tqdm.get_lock().acquire()
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert all(part.acquire(timeout=5) for part in lock.locks)
    for part in lock.locks:
        part.release()
