"""`EvalOptions`: what lm-eval's flags of the same names set, checked before anything is loaded."""

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lm_eval._cli.utils import key_val_to_dict

from arcee_lab.errors import SettingError, TaskError, WrongType
from arcee_lab.runs.json_text import parse_json, read_json

CACHES = ("true", "refresh", "delete")
MOST_REPEATS = 10_000
Numbers = Mapping[str, Sequence[int]]


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """How documents are asked; each field is lm-eval's flag of that name, but the last two.

    Attributes:
        limit: Most documents per task: a number, or below 1 a fraction, rounded up.
        samples: Task -> the numbers of its documents that are asked.
        apply_chat_template: Whether prompts are chats, or the name of the template.
        system_instruction: Text before the task's own description.
        fewshot_as_multiturn: Whether examples are turns of the chat; None: as
            `apply_chat_template`.
        gen_kwargs: Settings of generation, over those of each task.
        predict_only: Whether answers are kept without scores.
        cache_requests: None, or one of `CACHES`.
        write_out: Whether the first prompt of each task is logged.
        repeats: How often each text is generated; None: as each task says.
        strict: Whether a document that cannot be scored ends its task.
    """

    limit: int | float | None = None
    samples: Numbers | None = None
    apply_chat_template: bool | str = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool | None = None
    gen_kwargs: Mapping[str, Any] = field(default_factory=dict)
    predict_only: bool = False
    cache_requests: str | None = None
    write_out: bool = False
    repeats: int | None = None
    strict: bool = False

    @property
    def multiturn(self) -> bool:
        """Whether examples are turns of the chat."""
        if self.fewshot_as_multiturn is None:
            return bool(self.apply_chat_template)
        return self.fewshot_as_multiturn

    def recorded(self) -> dict[str, Any]:
        """What decides the answers, as JSON values."""
        return {
            "limit": self.limit,
            "samples": None if self.samples is None else dict(self.samples),
            "apply_chat_template": self.apply_chat_template,
            "system_instruction": self.system_instruction,
            "fewshot_as_multiturn": self.multiturn,
            "gen_kwargs": dict(self.gen_kwargs),
            "repeats": self.repeats,
            "predict_only": self.predict_only,
            "strict": self.strict,
        }

    def asked(self) -> dict[str, Any]:
        """The arguments of lm-eval's `evaluate`; samples are of all tasks."""
        return {
            "limit": self.limit,
            "samples": None if self.samples is None else dict(self.samples),
            "system_instruction": self.system_instruction,
            "apply_chat_template": self.apply_chat_template,
            "fewshot_as_multiturn": self.multiturn,
            "cache_requests": self.cache_requests in ("true", "refresh"),
            "rewrite_requests_cache": self.cache_requests == "refresh",
        }


def read_options(
    *,
    limit: int | float | None = None,
    samples: Numbers | str | os.PathLike | None = None,
    apply_chat_template: bool | str = False,
    system_instruction: str | None = None,
    fewshot_as_multiturn: bool | None = None,
    gen_kwargs: Mapping[str, Any] | str | None = None,
    predict_only: bool = False,
    cache_requests: bool | str = False,
    write_out: bool = False,
    repeats: int | None = None,
    strict: bool = False,
) -> EvalOptions:
    """Reads options as a user gives them; see `EvalOptions`.

    Raises:
        SettingError: One has a value that cannot be used, or two exclude each other.
    """
    require_limit(limit)
    if samples is not None and limit is not None:
        raise SettingError(
            f"limit={limit} and samples= both say which documents are asked; give one of them."
        )
    if fewshot_as_multiturn and not apply_chat_template:
        raise SettingError(
            "fewshot_as_multiturn=True makes turns of a chat; give apply_chat_template too, or "
            "leave it out."
        )
    if apply_chat_template == "":
        raise SettingError("apply_chat_template=''; expected True, or the name of a template.")
    if repeats is not None and not 1 <= repeats <= MOST_REPEATS:
        raise SettingError(f"repeats={repeats}; expected from 1 to {MOST_REPEATS}.")
    cache = {True: "true", False: None}.get(cache_requests, cache_requests)  # type: ignore[arg-type]
    if cache is not None and cache not in CACHES:
        raise SettingError(
            f"cache_requests={cache_requests!r}; expected True, False, 'refresh' or 'delete'."
        )
    return EvalOptions(
        limit=limit,
        samples=None if samples is None else read_numbers(samples),
        apply_chat_template=apply_chat_template,
        system_instruction=system_instruction,
        fewshot_as_multiturn=fewshot_as_multiturn,
        gen_kwargs=read_gen_kwargs(gen_kwargs),
        predict_only=predict_only,
        cache_requests=cache,
        write_out=write_out,
        repeats=repeats,
        strict=strict,
    )


def require_limit(limit: int | float | None) -> None:
    """Checks a number of documents per task.

    Raises:
        SettingError: It is neither a whole number above 0 nor a fraction.
    """
    if limit is None:
        return
    whole = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 1
    fraction = isinstance(limit, float) and 0 < limit < 1
    if not (whole or fraction):
        raise SettingError(
            f"limit={limit}; expected at least 1 document per task, a fraction of them between 0 "
            "and 1, or None for all."
        )


def documents_asked(task: Any, options: EvalOptions) -> int:
    """How many documents of a task are asked."""
    numbers = (options.samples or {}).get(task.config.task)
    if numbers is not None:
        return len(numbers)
    whole = len(task.eval_docs)
    if options.limit is None:
        return whole
    return min(whole, math.ceil(whole * options.limit) if options.limit < 1 else int(options.limit))


def read_gen_kwargs(given: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Settings of generation, also as lm-eval's "temperature=0.8,top_p=0.95" or as JSON.

    Raises:
        SettingError: They are neither.
    """
    if given is None:
        return {}
    if isinstance(given, str):
        text = given.strip()
        if text.startswith("{"):
            given = parse_json(text, "gen_kwargs", error=SettingError, do="give one object")
        else:
            try:
                given = key_val_to_dict(text)  # of lm-eval's own command
            except ValueError:
                raise SettingError(
                    f"gen_kwargs={given!r}; expected KEY=VALUE, separated by commas."
                ) from None
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise WrongType(f"gen_kwargs={given!r}; expected settings of generation by their names.")
    return dict(given)


def read_numbers(given: Numbers | str | os.PathLike) -> dict[str, list[int]]:
    """The documents of each task that are named, in the task's order, each once.

    Args:
        given: Task -> numbers from 0; or JSON, or a file of it.

    Raises:
        SettingError: Anything else.
    """
    if isinstance(given, str) and given.lstrip().startswith("{"):
        value = parse_json(given, "samples", error=SettingError, do="give one object")
    elif isinstance(given, (str, os.PathLike)):
        value = read_json(Path(given), error=SettingError, do="give a JSON file of samples")
    else:
        value = given
    expected = 'expected {"TASK": [0, 1, ...]}, with numbers of documents from 0'
    if not isinstance(value, Mapping) or not value:
        raise SettingError(f"samples={json.dumps(value, default=str)[:80]}; {expected}.")
    found = {}
    for task, numbers in value.items():
        listed = isinstance(numbers, Iterable) and not isinstance(numbers, (str, bytes, Mapping))
        whole = list(numbers) if listed else []
        if not whole or any(type(one) is not int or one < 0 for one in whole):
            raise SettingError(f"samples of {task!r} is {str(numbers)[:80]}; {expected}.")
        found[str(task)] = sorted(set(whole))
    return found


def require_documents(tasks: Mapping[str, Any], options: EvalOptions) -> None:
    """Checks that the named documents are there.

    Raises:
        TaskError: A task was not asked for, or has fewer documents.
    """
    for name, numbers in (options.samples or {}).items():
        if name not in tasks:
            raise TaskError(
                f"samples name the task {name!r}, which is not among those that were asked for: "
                f"{', '.join(tasks)}."
            )
        count = len(tasks[name].eval_docs)
        if numbers[-1] >= count:
            raise TaskError(
                f"samples name document {numbers[-1]} of task {name!r}, which has {count}; "
                f"expected numbers from 0 to {count - 1}."
            )
