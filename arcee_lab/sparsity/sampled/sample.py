"""The tokens that an expensive analysis reads: a seeded choice of documents."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.data.limits import default_context, require_context, require_tokens
from arcee_lab.data.windows import Windows, cut
from arcee_lab.errors import SettingError, TextError

DEFAULT_TOKENS = 4096


@dataclass(frozen=True)
class Sample:
    """Windows of some documents.

    Attributes:
        windows: What is read.
        groups: For each window, the number of its document among those drawn, from 0. Of a single
            document, the number of the window: intervals then go over windows.
        unit: What `groups` counts: "documents" or "windows".
    """

    windows: Windows
    groups: Int[np.ndarray, " window"]
    unit: str

    @property
    def n_groups(self) -> int:
        """How many documents, or windows."""
        return int(self.groups.max()) + 1

    def batches(self, batch_size: int, device: torch.device) -> "Iterator[SampleBatch]":
        """The windows as padded batches on a device, shortest first."""
        for batch in self.windows.batches(batch_size):
            real = batch.attention_mask.bool()
            yield SampleBatch(
                ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                counted=(real & ~batch.first).to(device),
                groups=torch.from_numpy(self.groups[list(batch.rows)]).to(device),
            )


@dataclass(frozen=True)
class SampleBatch:
    """Some windows on the model's device.

    Attributes:
        ids: Token ids.
        attention_mask: 1 for a token, 0 for padding.
        counted: True but for padding and first positions.
        groups: The group of each row.
    """

    ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    counted: Bool[Tensor, "batch pos"]
    groups: Int[Tensor, " batch"]

    @property
    def inputs(self) -> dict[str, Any]:
        """What the model is called with."""
        return {"input_ids": self.ids, "attention_mask": self.attention_mask, "use_cache": False}

    def as_one_group(self) -> "SampleBatch":
        """The same, all rows of it in group 0."""
        return replace(self, groups=torch.zeros_like(self.groups))


def draw(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    sample_tokens: int | None,
    context: int | None,
    seed: int,
) -> Sample:
    """Draws about `sample_tokens` tokens: whole documents in a seeded order, the last one cut.

    Of a list, and of windows, the order is random, so that texts sorted by kind give all kinds.
    What can be read only once, in order, is read from its start.

    Args:
        model: The model, for the longest window that it reads.
        tokenizer: Its tokenizer.
        texts: Documents, or windows of them.
        sample_tokens: How many, first positions included; None takes 4,096, or all if fewer.
        context: Longest window in tokens; by default 1,024, or what the model reads if less.
        seed: Of the order.

    Raises:
        ValueError: Empty texts, a bad limit, fewer tokens than asked, or nothing but first tokens.
    """
    if sample_tokens is not None and sample_tokens < 2:
        raise SettingError(f"sample_tokens is {sample_tokens}; expected at least 2.")
    wanted = sample_tokens or DEFAULT_TOKENS
    if isinstance(texts, Windows):
        if texts.repeated is not None:
            raise SettingError("these windows overlap, so tokens would count twice; cut them anew.")
        if texts.chosen is not None:
            raise SettingError(
                "these windows count the tokens of one role, and samples count all; cut them "
                "without role=."
            )
        if context is not None:
            raise SettingError(
                f"context={context} came with windows that are cut already; give it to cut(...), "
                "or give documents."
            )
        windows = _some_windows(texts, wanted, seed)
    else:
        longest = default_context(model) if context is None else context
        require_context(model, longest, "context")
        windows = cut(tokenizer, _shuffled(texts, seed), context=longest, max_tokens=wanted)
    if sample_tokens is not None:
        require_tokens(windows, sample_tokens, "sample_tokens")
    if np.diff(windows.bounds).max() < 2:
        raise TextError("every window is one token long; expected texts of at least two tokens.")
    documents = np.unique(windows.documents, return_inverse=True)[1]
    if documents.max() > 0:
        return Sample(windows, documents, "documents")
    return Sample(windows, np.arange(len(windows)), "windows")


def _shuffled(texts: Iterable[str], seed: int) -> Iterable[str]:
    if not isinstance(texts, Sequence) or isinstance(texts, str):
        return texts
    return [texts[int(i)] for i in np.random.default_rng(seed).permutation(len(texts))]


def _some_windows(windows: Windows, wanted: int, seed: int) -> Windows:
    """Windows in a seeded order until `wanted` tokens are there."""
    sizes = np.diff(windows.bounds)
    order = np.random.default_rng(seed).permutation(len(windows))
    enough = int(np.searchsorted(sizes[order].cumsum(), wanted)) + 1
    chosen = order[:enough]
    pieces = [windows[int(i)] for i in chosen]
    over = max(0, int(sizes[chosen].sum()) - wanted)
    pieces[-1] = pieces[-1][: len(pieces[-1]) - over]
    return Windows(
        ids=np.concatenate(pieces),
        bounds=np.cumsum([0, *map(len, pieces)]),
        documents=windows.documents[chosen],
        bos_id=windows.bos_id,
        pad_id=windows.pad_id,
    )
