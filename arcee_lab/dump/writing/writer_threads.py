"""Threads that run tasks in order, with a bound on the memory of waiting tasks."""

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType

Task = Callable[[], None]


class WriterThreads:
    """Runs tasks on its own threads while the caller continues.

    Each task belongs to a lane; the tasks of one lane run in order. The caller waits while the
    tensors of waiting tasks take more than `limit` bytes, so memory is bounded. The first error of
    a task is raised in the caller, at its next call.

    Args:
        threads: Number of threads; lane n belongs to thread n % threads.
        limit: Most bytes that may wait. A single task may be larger; then no other waits.

    Attributes:
        seconds: CPU time that the threads have spent on tasks.

    Example:
        >>> from arcee_lab.dump.writing.writer_threads import WriterThreads
        >>> done = []
        >>> with WriterThreads(threads=2, limit=100) as writers:
        ...     writers.put(0, 60, lambda: done.append("first"))
        ...     writers.put(0, 60, lambda: done.append("second"))
        >>> done
        ['first', 'second']
    """

    def __init__(self, *, threads: int, limit: int):
        self.seconds = 0.0
        self._limit = limit
        self._lanes: list[deque[tuple[int, Task]]] = [deque() for _ in range(threads)]
        self._changed = threading.Condition()
        self._waiting = 0  # bytes
        self._running = 0
        self._closed = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._work, args=(lane,), name=f"dump-{n}", daemon=True)
            for n, lane in enumerate(self._lanes)
        ]

    def __enter__(self) -> "WriterThreads":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.drain()
        finally:
            with self._changed:
                self._closed = True
                self._changed.notify_all()
            for thread in self._threads:
                thread.join()

    def put(self, lane: int, size: int, task: Task) -> None:
        """Adds a task; blocks while the waiting tasks take too much memory.

        Args:
            lane: Tasks of one lane keep their order.
            size: Bytes that the task keeps in memory.
            task: The task.

        Raises:
            BaseException: An earlier task's error; then the task is not added.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._error or not self._waiting or self._waiting + size <= self._limit
            )
            self._raise()
            self._waiting += size
            self._lanes[lane % len(self._lanes)].append((size, task))
            self._changed.notify_all()

    def drain(self) -> None:
        """Waits until all tasks are done.

        Raises:
            BaseException: A task's error.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or not self._left())
            self._raise()

    def _left(self) -> bool:
        return bool(self._running) or any(self._lanes)

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self, lane: deque[tuple[int, Task]]) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: lane or self._closed)
                if self._closed or not lane:
                    return
                size, task = lane.popleft()
                self._running += 1
            began = time.thread_time()
            try:
                if self._error is None:
                    task()
            except BaseException as error:  # raised in the caller
                self._error = self._error or error
            finally:
                # The last reference to a batch's tensors: free them before others arrive.
                del task
                with self._changed:
                    self.seconds += time.thread_time() - began
                    self._running -= 1
                    self._waiting -= size
                    self._changed.notify_all()
