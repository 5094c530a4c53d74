"""Checks of what is said about a model, before anything is loaded or sized by it."""

import os
from collections.abc import Iterable
from typing import Any

from arcee_lab.errors import SettingError
from arcee_lab.evals.head_routing import Source


def require_loading(settings: dict[str, Any], heads: Iterable[Source | None]) -> None:
    """Checks that what is said about loading a checkpoint has one to load.

    Args:
        settings: By name; None where nothing is said.
        heads: What is given for them: checkpoints, models or nothing.

    Raises:
        ValueError: The model is in memory, and so are its heads.
    """
    given = [name for name, value in settings.items() if value is not None]
    if given and not any(isinstance(head, (str, os.PathLike)) for head in heads):
        raise SettingError(
            f"{', '.join(given)} came with a model in memory, which is not loaded again; give a "
            "path or a Hub id, or set it on the model itself (model.to(...))."
        )


def require_sizes(*, batch_size: Any = None, **tokens: Any) -> None:
    """Checks the numbers that decide how much is read at once.

    Args:
        batch_size: Sequences per batch, also as lm-eval's command line has them: "8", "auto".
        tokens: Numbers of tokens by name.

    Raises:
        ValueError: One is no number above 0.
    """
    for name, value in tokens.items():
        if value is not None and (type(value) is not int or value < 1):
            raise SettingError(f"{name}={value!r}; expected a whole number of tokens above 0.")
    word = str(batch_size)
    right = word.startswith("auto") or (word.isdecimal() and int(word) > 0)
    if batch_size is not None and not right:
        raise SettingError(
            f"batch_size={batch_size!r}; expected a whole number of sequences above 0, or 'auto'."
        )


def require_arguments(given: dict) -> None:
    """Checks what a command line gave as `--model_args`, where a word can be anything.

    Raises:
        ValueError: An argument is missing or is not what it has to be.
    """
    if not given.get("pretrained"):
        raise SettingError(
            "arcee-lab needs a model; expected pretrained=demo, a folder or a Hub id, e.g. "
            "--model_args pretrained=demo."
        )
    require_sizes(**{name: given.get(name) for name in ("max_length", "batch_tokens")})
    for name in ("exact", "add_bos_token"):
        if given.get(name) not in (None, True, False):
            raise SettingError(f"{name}={given[name]!r}; expected True or False.")
