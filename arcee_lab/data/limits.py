"""How much text a model reads: checks of its context and of the requested tokens."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from arcee_lab.data.windows import Windows, cut
from arcee_lab.errors import SettingError, TooFewTokens

LONGEST_WINDOW = 1024  # by default


def windows_of(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    context: int | None = None,
    max_tokens: int | None = None,
    overlap: int = 0,
    role: str | None = None,
) -> Windows:
    """The windows for a model to read, with as many tokens as requested.

    A text that ends early is an error: a run with silently fewer tokens would be compared with a
    complete one.

    Args:
        model: The model, without a compile wrapper.
        tokenizer: Its tokenizer.
        texts: Documents, or windows, which are used as they are.
        context: Longest window in tokens; by default 1024, or the model's context if shorter.
        max_tokens: How many tokens to read; None reads all.
        overlap: As for `cut`.
        role: As for `cut`.

    Raises:
        SettingError: As for `cut`; windows longer than the model's context, or limits for windows
            that are cut already.
        TextError: As for `cut`.
        TooFewTokens: The texts hold fewer tokens than `max_tokens`.
    """
    if isinstance(texts, Windows):
        given = {
            "context": context,
            "max_tokens": max_tokens,
            "overlap": overlap or None,
            "role": role,
        }
        named = [f"{name}={value}" for name, value in given.items() if value is not None]
        if named:
            raise SettingError(
                f"{' and '.join(named)} came with windows that are cut already; give limits to "
                "cut(...), or give documents."
            )
        require_context(model, int(np.diff(texts.bounds).max(initial=0)), "the longest window")
        return texts
    longest = default_context(model) if context is None else context
    require_context(model, longest, "context")
    windows = cut(
        tokenizer, texts, context=longest, max_tokens=max_tokens, overlap=overlap, role=role
    )
    if max_tokens is not None:
        require_tokens(windows, max_tokens, "max_tokens")
    return windows


def default_context(model: Any) -> int:
    """The longest window to read: 1024 tokens, or the model's context if shorter."""
    return min(LONGEST_WINDOW, _longest(model) or LONGEST_WINDOW)


def require_context(model: Any, tokens: int, name: str) -> None:
    """Checks that a model can read a number of tokens in one forward.

    Args:
        model: The model.
        tokens: How many.
        name: The name of this length, for the message.

    Raises:
        SettingError: The model's context is shorter.
    """
    most = _longest(model)
    if most is not None and tokens > most:
        raise SettingError(
            f"{name} is {tokens:,} tokens; the model reads {most:,} at most. Give {most} or less."
        )


def require_tokens(windows: Windows, tokens: int, name: str) -> None:
    """Checks that texts hold as many tokens as requested; repeated ones do not count.

    Args:
        windows: The windows of the texts.
        tokens: How many.
        name: The setting that requests them, for the message.

    Raises:
        TooFewTokens: They hold fewer.
    """
    found = windows.n_tokens
    if windows.repeated is not None:
        found -= int(windows.repeated.sum())
    if found < tokens:
        raise TooFewTokens(found, tokens, name)


def _longest(model: Any) -> int | None:
    """The longest input of a model; None if its config states none."""
    return getattr(model.config, "max_position_embeddings", None)
