"""Tasks run in order, errors come back, and what waits has a bound."""

import threading
import time

import pytest

from arcee_lab.dump.writing.writer_threads import WriterThreads


def test_lanes_keep_their_order_and_all_is_done():
    done = {0: [], 1: [], 2: []}
    with WriterThreads(threads=2, limit=10) as writers:
        for number in range(30):
            lane = number % 3
            writers.put(lane, 4, lambda lane=lane, n=number: done[lane].append(n))
    assert done == {lane: list(range(lane, 30, 3)) for lane in done}
    assert writers.seconds > 0
    assert not any(thread.is_alive() for thread in writers._threads)


def test_the_caller_waits_when_too_much_waits():
    gate = threading.Event()
    with WriterThreads(threads=1, limit=100) as writers:
        writers.put(0, 60, gate.wait)
        writers.put(0, 40, lambda: None)
        taken = []
        caller = threading.Thread(target=lambda: (writers.put(0, 1, lambda: None), taken.append(1)))
        caller.start()
        caller.join(0.05)
        assert not taken
        gate.set()
        caller.join(10)
        assert taken


def test_one_task_may_be_larger_than_the_bound():
    done = []
    with WriterThreads(threads=1, limit=1) as writers:
        for number in range(3):
            writers.put(0, 50, lambda number=number: done.append(number))
    assert done == [0, 1, 2]


def run(*tasks, pause=0.0):
    """Puts tasks on a conveyor of its own and returns it."""
    with WriterThreads(threads=1, limit=8) as writers:
        for task in tasks:
            writers.put(0, 8, task)
            time.sleep(pause)
    return writers


def fail():
    raise ValueError("no room")


def test_the_first_error_comes_back_and_the_rest_is_dropped():
    done = []
    with pytest.raises(ValueError, match="no room"):
        run(fail, *[lambda: done.append(1)] * 1000, pause=0.001)
    assert not done
    with pytest.raises(ValueError, match="no room"):
        run(fail)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dump-")]


def test_an_error_of_the_caller_ends_the_threads():
    def interrupted():
        with WriterThreads(threads=2, limit=8) as writers:
            writers.put(0, 1, lambda: None)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("dump-")]
