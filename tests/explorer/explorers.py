"""Explorers without a browser: what they would send is kept in a list."""

from typing import Any

import torch

MESSAGE = {"page": dict(sort="rate", descending=True, query="", start=0, count=13)}


def opened(model: Any, tokenizer: Any, run: Any = None, **settings: Any) -> tuple[Any, list]:
    """An explorer, and the list of what it sends: `(content, buffers)`."""
    import arcee_lab as al

    explorer = al.explore(model, tokenizer, run, **settings)
    sent: list = []
    explorer.send = lambda content, buffers=None: sent.append((content, buffers or []))
    return explorer, sent


class Asking:
    """Asks as a view does, and gives the answer."""

    def __init__(self, explorer: Any, sent: list):
        self.explorer, self.sent, self._serial = explorer, sent, 0

    def __call__(self, kind: str, **body: Any) -> tuple[dict, list]:
        self._serial += 1
        self.explorer._on_message(None, {"id": f"view-{self._serial}", "kind": kind, **body}, [])
        return self.sent[-1]


def floats(buffer: bytes, *shape: int) -> torch.Tensor:
    """An fp32 buffer as a tensor."""
    return torch.frombuffer(bytearray(buffer), dtype=torch.float32).view(*shape)
