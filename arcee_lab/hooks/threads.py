"""Which thread's forwards a block is about: hooks on a model run in every thread that calls it."""

from threading import get_ident

import torch

from arcee_lab.errors import ModelError

# -1 outside of a backward. torch's own checkpointing asks the same.
_graph_task = torch._C._current_graph_task_id


def in_backward() -> bool:
    """Whether this thread is inside a backward, where layers may be computed again.

    On a GPU that is a thread of autograd's own, on the CPU the one that called backward.
    """
    return _graph_task() != -1


class OneThread:
    """The thread that opened a block, whose forwards alone are its own.

    Recomputation inside a backward counts as the owner's, whichever thread it runs in.

    Args:
        what: What was opened, for the error.
    """

    def __init__(self, what: str):
        self._what = what
        self._owner = get_ident()
        self.running = self._owner  # the thread of the last forward

    def begin(self) -> None:
        """Notes that a forward begins in this thread.

        Raises:
            ModelError: If it is not the owner's.
        """
        here = get_ident()
        if here != self._owner and not in_backward():
            raise self._strange()
        self.running = here

    def end(self) -> bool:
        """Notes that a forward ends in this thread; False for one that was refused."""
        return get_ident() == self.running

    def own(self) -> bool:
        """Whether what a hook sees in this thread belongs to the forward that runs now.

        False for a layer that a backward in another thread computes again.

        Raises:
            ModelError: For a forward in another thread.
        """
        here = get_ident()
        if here == self.running or here == self._owner:
            return True
        if in_backward():
            return False
        raise self._strange()

    def _strange(self) -> ModelError:
        return ModelError(
            f"The model ran in another thread than the one that opened {self._what}, which would "
            "mix what belongs to the two. Open the block in the thread that calls the model, let "
            "one thread use the model at a time, or give each thread a model of its own."
        )
