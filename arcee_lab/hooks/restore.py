"""Changes to a model or to the process that last for one block, and are undone whatever happens."""

import sys
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn


def replace_method(module: nn.Module, name: str, value: object, undo: ExitStack) -> None:
    """Sets an instance attribute and has `undo` restore exactly what was there.

    Where somebody has wrapped it again since, it stays: without hooks that stop, it only passes
    calls through.
    """
    before = module.__dict__.get(name)

    def restore() -> None:
        if module.__dict__.get(name) is value:
            del module.__dict__[name]
            if before is not None:
                setattr(module, name, before)

    undo.callback(restore)
    setattr(module, name, value)


_eager_blocks: list[Any] = []  # captures now open, in any order, and what ends the last one


class without_compiled_code:  # not a generator: a class opens at half the cost
    """Runs compiled code eagerly while any capture is open.

    A graph compiled before has no guard on hooks and would record nothing.
    """

    def __enter__(self) -> None:
        self._counted = "torch._dynamo" in sys.modules
        if not self._counted:
            return
        if not _eager_blocks:
            stance = torch.compiler.set_stance("force_eager")
            stance.__enter__()
            _eager_blocks.append(stance)
        _eager_blocks.append(None)

    def __exit__(self, *error: object) -> None:
        if not self._counted:
            return
        _eager_blocks.pop()
        if len(_eager_blocks) == 1:
            _eager_blocks.pop().__exit__(None, None, None)
