"""Tokenises documents, cuts them to windows of a model's context, and batches these.

A document becomes one or more windows of at most `context` tokens, which overlap only if `overlap`
says so. If the tokenizer starts a document with BOS, every window starts with BOS, so that the
later windows of a long document look to the model like its first. The order of batches depends only
on the tokens and the settings: the same texts give the same batches on every machine.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.data.roles import chosen_tokens, marks_of, role_of
from arcee_lab.data.rows import require_unicode
from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import SettingError, TextError, WrongType
from arcee_lab.runs.arguments import checked

_TOKENIZE_AT_ONCE = 256


@dataclass(frozen=True)
class PaddedBatch:
    """A batch of windows, padded on the right, where no real token of a causal model attends to it.

    Attributes:
        input_ids: Token ids.
        attention_mask: 1 for a real token, 0 for padding.
        first: True at a window's first token and at BOS; statistics count these separately.
        rows: Number of the window in each row.
    """

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    first: Bool[Tensor, "batch pos"]
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Windows:
    """Tokenised documents, cut to windows. They take four bytes per token in memory.

    Attributes:
        ids: Token ids of all windows, concatenated.
        bounds: Window w is `ids[bounds[w]:bounds[w + 1]]`.
        documents: Number of each window's document.
        bos_id: The tokenizer's BOS id, or None.
        pad_id: Token id of padding; any valid id works, since padding is masked.
        repeated: How many tokens after its BOS each window shares with the previous one; None if
            windows do not overlap.
        chosen: Which tokens are in messages of the role that was asked for; None if all count.
    """

    ids: np.ndarray
    bounds: np.ndarray
    documents: np.ndarray
    bos_id: int | None
    pad_id: int
    repeated: np.ndarray | None = None
    chosen: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.documents)

    def __getitem__(self, window: int) -> np.ndarray:
        return self.ids[self.bounds[window] : self.bounds[window + 1]]

    @property
    def n_tokens(self) -> int:
        """All tokens, BOS included."""
        return len(self.ids)

    def new(self, window: int) -> Bool[np.ndarray, " pos"]:
        """Which tokens of a window are in no earlier window: all except the repeated ones."""
        ids = self[window]
        new = np.ones(len(ids), dtype=bool)
        if self.repeated is not None:
            start = int(len(ids) > 0 and ids[0] == self.bos_id)
            new[start : start + int(self.repeated[window])] = False
        return new

    def first(self) -> Bool[np.ndarray, " token"]:
        """Which of `ids` are BOS or the first of their window."""
        first = self.ids == (-1 if self.bos_id is None else self.bos_id)
        first[self.bounds[:-1]] = True
        return first

    def counted(self) -> Bool[np.ndarray, " token"]:
        """Which of `ids` statistics count: those of the role, but no first ones."""
        counted = ~self.first()
        return counted if self.chosen is None else counted & self.chosen

    @property
    def n_documents(self) -> int:
        """Documents that gave at least one window."""
        return len(np.unique(self.documents))

    @checked
    def batches(self, batch_size: int) -> Iterator[PaddedBatch]:
        """Yields the windows as padded batches, shortest first, which keeps padding low.

        Args:
            batch_size: Windows per batch.
        """
        for rows in plan_batches(np.diff(self.bounds).tolist(), batch_size):
            length = max(len(self[row]) for row in rows)
            input_ids = np.full((len(rows), length), self.pad_id, dtype=np.int64)
            mask = np.zeros_like(input_ids)
            for slot, row in enumerate(rows):
                ids = self[row]
                input_ids[slot, : len(ids)] = ids
                mask[slot, : len(ids)] = 1
            first = mask.astype(bool) & (input_ids == (-1 if self.bos_id is None else self.bos_id))
            first[:, 0] = True
            yield PaddedBatch(
                torch.from_numpy(input_ids), torch.from_numpy(mask), torch.from_numpy(first), rows
            )


def plan_batches(lengths: Sequence[int], batch_size: int) -> list[tuple[int, ...]]:
    """Which windows go together: by length, then by number, `batch_size` at a time.

    Raises:
        SettingError: `batch_size` is below 1.
    """
    if not isinstance(batch_size, int) or batch_size < 1:
        raise SettingError(f"batch size is {batch_size!r:.80}; expected at least 1.")
    order = sorted(range(len(lengths)), key=lambda window: (lengths[window], window))
    return [tuple(order[at : at + batch_size]) for at in range(0, len(order), batch_size)]


@checked
def cut(
    tokenizer: Any,
    texts: Iterable[str],
    *,
    context: int,
    max_tokens: int | None = None,
    overlap: int = 0,
    role: str | None = None,
) -> Windows:
    """Tokenises documents and cuts them into windows.

    Reading stops as soon as `max_tokens` is reached, so a huge or endless source is fine. A
    document whose text begins with BOS gets no second one. A document without any word gives no
    window, but it is numbered.

    Args:
        tokenizer: A Hugging Face tokenizer.
        texts: The documents.
        context: Longest window, in tokens, BOS included.
        max_tokens: Most tokens to take, BOS included; None takes all. Repeated ones do not count.
        overlap: Tokens of a long document that the next window reads again after its BOS, as
            context of its new tokens.
        role: Of conversations, whose tokens count: "system", "user" or "assistant", or "not user"
            and so on for all tokens but theirs. All tokens are read; see `arcee_lab.data.roles`.

    Raises:
        SettingError: A limit out of its range, an unknown role, or a single string instead of a
            list.
        TextError: A document that is no string, or texts without any token; with a role, a
            tokenizer without a chat template, a text that its template did not write, or no token
            of the role.

    Example:
        >>> from arcee_lab import load
        >>> _, tokenizer = load("demo")
        >>> windows = cut(tokenizer, ["The lamp above the doors finds the red king."], context=8)
        >>> [tokenizer.decode(ids) for ids in windows]
        ['<bos> The lamp above the doors finds the', '<bos> red king.']
    """
    if tokenizer is None:
        raise WrongType(
            "tokenizer is None; expected the model's tokenizer, which only windows that are cut "
            "already do without."
        )
    if isinstance(texts, str):
        raise WrongType("texts is one string; expected a list of documents, so pass [text].")
    if context < 2:
        raise SettingError(f"context is {context} tokens; expected at least 2.")
    if max_tokens is not None and max_tokens < 1:
        raise SettingError(f"max_tokens is {max_tokens}; expected at least 1.")
    if not 0 <= overlap <= context - 2:
        raise SettingError(
            f"overlap is {overlap} tokens; expected 0 to {context - 2}, so that each window of "
            f"{context} holds something new."
        )
    if role is not None:
        role_of(role)
    bos_id = tokenizer.bos_token_id
    chosen: list[np.ndarray] = []
    windows: list[np.ndarray] = []
    documents: list[int] = []
    repeated: list[int] = []
    left = float("inf") if max_tokens is None else max_tokens
    for number, ids, inside in _tokenize(tokenizer, texts, role):
        starts_with_bos = bool(ids) and ids[0] == bos_id
        prefix, body = (ids[:1], ids[1:]) if starts_with_bos else ([], ids)
        room = context - len(prefix)
        # A document of only BOS is a window; an empty one is not. The last window is the first that
        # reaches the end: another would only repeat.
        ends = max(len(body) - overlap, len(prefix), min(1, len(body)))
        for at in range(0, ends, room - overlap):
            again = overlap if at else 0
            window = np.asarray(prefix + body[at : at + room], dtype=np.int32)
            windows.append(window[: int(min(left + again, len(window)))])
            if inside is not None:
                here = [inside[: len(prefix)], inside[len(prefix) :][at : at + room]]
                chosen.append(np.concatenate(here)[: len(windows[-1])])
            documents.append(number)
            repeated.append(again)
            left -= len(windows[-1]) - again
            if left == 0:
                break
        if left == 0:
            break
    if not windows:
        raise TextError("the texts hold no token; expected at least one non-empty document.")
    if role is not None and not np.concatenate(chosen).any():
        raise TextError(f"no token of the texts is of the role {role!r}; give other conversations.")
    pad_id = tokenizer.pad_token_id
    return Windows(
        ids=np.concatenate(windows),
        bounds=np.cumsum([0, *map(len, windows)]),
        documents=np.asarray(documents),
        bos_id=bos_id,
        pad_id=0 if pad_id is None else pad_id,
        repeated=np.asarray(repeated) if overlap else None,
        chosen=None if role is None else np.concatenate(chosen),
    )


def _tokenize(
    tokenizer: Any, texts: Iterable[str], role: str | None
) -> Iterator[tuple[int, list[int], np.ndarray | None]]:
    """The number and token ids of each document that holds a word; with a role, which are its."""
    documents = enumerate(texts)
    marks = None if role is None else marks_of(tokenizer)
    while chunk := list(islice(documents, _TOKENIZE_AT_ONCE)):
        for number, text in chunk:
            if not isinstance(text, str):
                raise TextError(
                    f"document {number} is {type(text).__name__}; expected a string. Leave it out, "
                    "or give its text."
                )
            require_unicode(text, f"document {number}")
        words = [(number, text) for number, text in chunk if text.strip()]
        if marks is not None and role is not None:
            for number, text in words:
                where = f"document {number}"
                yield number, *chosen_tokens(tokenizer, marks, text, role, where=where)
            continue
        found = token_ids(tokenizer, [text for _, text in words]) if words else []
        for (number, _), ids in zip(words, found, strict=True):
            yield number, ids, None
