"""Texts by domain, cut into the windows of one pass."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Int

from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import Windows
from arcee_lab.errors import SettingError

Texts = Iterable[str] | Windows | Mapping[str, Iterable[str]]


@dataclass(frozen=True, eq=False)
class Corpus:
    """The text of a pass.

    Attributes:
        windows: Its windows, in the order of the domains and their documents.
        names: Of the domains; one empty name where the texts are not divided.
        domains: Number of each window's domain.
    """

    windows: Windows
    names: tuple[str, ...]
    domains: Int[np.ndarray, " window"]


def corpus_of(
    model: Any,
    tokenizer: Any,
    texts: Texts,
    *,
    context: int | None,
    max_tokens: int | None,
    role: str | None,
) -> Corpus:
    """Cuts texts.

    Args:
        model: The model, for the longest window that it reads.
        tokenizer: Its tokenizer.
        texts: Documents, windows of them, or documents by domain. Documents are numbered through
            all domains, each of which ends with its last document that gave a window.
        context: Longest window in tokens.
        max_tokens: Tokens to read, of each domain.
        role: Whose tokens count, as for `arcee_lab.data.cut`.

    Raises:
        SettingError: Bad limits, overlapping windows, or no domain.
        TextError: As for `arcee_lab.data.cut`.
    """
    if not isinstance(texts, Mapping):
        windows = windows_of(
            model, tokenizer, texts, context=context, max_tokens=max_tokens, role=role
        )
        if windows.repeated is not None:
            raise SettingError("these windows overlap, so tokens would count twice; cut them anew.")
        return Corpus(windows, ("",), np.zeros(len(windows), np.int16))
    if not texts:
        raise SettingError("texts holds no domain; expected documents by the name of their domain.")
    parts = [
        windows_of(model, tokenizer, documents, context=context, max_tokens=max_tokens, role=role)
        for documents in texts.values()
    ]
    domains = np.repeat(np.arange(len(parts)), [len(part) for part in parts]).astype(np.int16)
    return Corpus(_joined(parts), tuple(texts), domains)


def _joined(parts: list[Windows]) -> Windows:
    """Windows one after the other."""
    tokens = np.cumsum([0, *(part.n_tokens for part in parts)])
    documents = np.cumsum([0, *(int(part.documents[-1]) + 1 for part in parts)])
    return Windows(
        ids=np.concatenate([part.ids for part in parts]),
        bounds=np.concatenate(
            [[0], *(part.bounds[1:] + at for part, at in zip(parts, tokens, strict=False))]
        ),
        documents=np.concatenate(
            [part.documents + at for part, at in zip(parts, documents, strict=False)]
        ),
        bos_id=parts[0].bos_id,
        pad_id=parts[0].pad_id,
        chosen=None
        if parts[0].chosen is None
        else np.concatenate([part.chosen for part in parts if part.chosen is not None]),
    )
