"""How much text a model reads: its context and the tokens asked for, checked in one place."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from arcee_lab.data.windows import Windows, cut
from arcee_lab.errors import TextError

LONGEST_WINDOW = 1024  # by default


def windows_of(
    model: Any,
    tokenizer: Any,
    texts: Iterable[str] | Windows,
    *,
    context: int | None = None,
    max_tokens: int | None = None,
    overlap: int = 0,
) -> Windows:
    """The windows that a model shall read, as many tokens as were asked for.

    A text that ends early is an error: every number has its N, and a run that silently had a tenth
    of it would be compared with one that had all.

    Args:
        model: The model, outside of any compile wrapper.
        tokenizer: Its tokenizer.
        texts: Documents, or windows, which are taken as they are.
        context: Longest window in tokens; by default 1024, or what the model can read if less.
        max_tokens: How many tokens to read; None reads all.
        overlap: As for `cut`.

    Raises:
        ValueError: As `cut`; fewer tokens than `max_tokens`, windows longer than the model reads,
            or limits for windows that are cut already.
    """
    if isinstance(texts, Windows):
        given = {"context": context, "max_tokens": max_tokens, "overlap": overlap or None}
        named = [f"{name}={value}" for name, value in given.items() if value is not None]
        if named:
            raise TextError(
                f"{' and '.join(named)} came with windows that are cut already; give limits to "
                "cut(...), or give documents."
            )
        require_context(model, int(np.diff(texts.bounds).max(initial=0)), "the longest window")
        return texts
    longest = default_context(model) if context is None else context
    require_context(model, longest, "context")
    windows = cut(tokenizer, texts, context=longest, max_tokens=max_tokens, overlap=overlap)
    if max_tokens is not None:
        require_tokens(windows, max_tokens, "max_tokens")
    return windows


def default_context(model: Any) -> int:
    """The longest window to read: 1024 tokens, or what the model can read if that is less."""
    return min(LONGEST_WINDOW, _longest(model) or LONGEST_WINDOW)


def require_context(model: Any, tokens: int, name: str) -> None:
    """Checks that a model can read so many tokens at once.

    Args:
        model: The model.
        tokens: How many.
        name: What sets this length, for the message.

    Raises:
        ValueError: It reads fewer.
    """
    most = _longest(model)
    if most is not None and tokens > most:
        raise TextError(
            f"{name} is {tokens:,} tokens; the model reads {most:,} at most. Give {most} or less."
        )


def require_tokens(windows: Windows, tokens: int, name: str) -> None:
    """Checks that texts held as many tokens as were asked for; repeated ones do not count.

    Args:
        windows: What was cut from the texts.
        tokens: How many.
        name: What asks for them, for the message.

    Raises:
        ValueError: They held fewer.
    """
    found = windows.n_tokens
    if windows.repeated is not None:
        found -= int(windows.repeated.sum())
    if found < tokens:
        raise TextError(
            f"the texts hold {found:,} tokens; {name} asks for {tokens:,}. Give more text, or "
            f"leave {name} out to take what there is."
        )


def _longest(model: Any) -> int | None:
    """The longest input of a model; None where its config states none."""
    return getattr(model.config, "max_position_embeddings", None)
