"""Questions with two answers in their context: what steering a question-answering head runs on."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from arcee_lab.directions.prompts import Numbers, Prompts
from arcee_lab.errors import SettingError, TextError, WrongType
from arcee_lab.heads.answers import Window, cut_windows
from arcee_lab.heads.targets import Target, Term
from arcee_lab.model.anatomy import Anatomy, anatomy_of

_TERMS = tuple(  # start and end logit of the wanted answer, less those of the other
    Term((column,), sign, spot)
    for spot, (column, sign) in enumerate(((0, 1.0), (1, 1.0), (0, -1.0), (1, -1.0)))
)


@dataclass(frozen=True)
class Questions(Prompts):
    """Questions with their contexts, and the difference of the scores of two spans in each.

    A span's score is its start logit plus its end logit, by which `al.answer` ranks spans.

    Attributes:
        at: Tokens that are read, `[prompt, 4]`: first and last of the wanted answer, then of the
            other.
    """

    at: Int[Tensor, "prompt 4"]

    @classmethod
    def of(
        cls, model: nn.Module, tokenizer: Any, pairs: object, *, target: object, versus: object
    ) -> "Questions":
        """Tokenises questions as `al.answer` does, and finds the answers in their contexts.

        Args:
            model: With a question-answering head.
            tokenizer: Its tokenizer.
            pairs: A question and a context for each prompt.
            target: The answer that is wanted: words of the context, one text for all or one for
                each. Where they occur several times, the first place is taken.
            versus: Likewise, the other answer.

        Raises:
            WrongType: The prompts are no pairs of texts.
            TextError: A context is empty or needs several windows, or lacks an answer.
            SettingError: There is no other answer, or not as many answers as prompts.
        """
        anatomy = anatomy_of(model)
        given = pairs_of(pairs, "prompts")
        if versus is None:
            raise SettingError(
                f"The answer {target!r} has nothing to set it against; give versus=, the answer "
                "that it is to replace."
            )
        wanted, other = _each(target, len(given), "target"), _each(versus, len(given), "versus")
        windows = [_window(anatomy, tokenizer, n, pair) for n, pair in enumerate(given)]
        at = [
            [
                *_place(window, context, wanted[n], n),
                *_place(window, context, other[n], n),
            ]
            for n, (window, (_, context)) in enumerate(zip(windows, given, strict=True))
        ]
        names = [one[0] if len(set(one)) == 1 else "the answers" for one in (wanted, other)]
        meant = Target("qa", f"{names[0]} - {names[1]}", _TERMS)
        return cls(anatomy, [window.ids for window in windows], meant, torch.tensor(at))

    def values(self, numbers: Numbers, batch: dict[str, Tensor]) -> Float[Tensor, " example"]:
        """The difference of some prompts, from a forward of their batch; gradients flow."""
        output: Any = self.anatomy.model(**batch)
        logits = torch.stack([output.start_logits, output.end_logits], dim=-1)
        return self.target.value(logits, self.at[list(numbers)])

    def require_positions(self, positions: Numbers | None) -> None:
        """Checks that every prompt has a token at each position, and that one can have an effect.

        Raises:
            TextError: A prompt lacks a token.
            SettingError: All positions are behind the answers, which a causal model reads before.
        """
        super().require_positions(positions)
        if positions is None:
            return
        last = self.at.max(dim=1).values.tolist()
        reached = [
            position % len(row) <= end
            for row, end in zip(self.rows, last, strict=True)
            for position in positions
        ]
        if not any(reached):
            raise SettingError(
                f"positions={list(positions)} are behind both answers of every prompt, whose "
                "logits they cannot change; give positions=None, or those of earlier tokens."
            )


def pairs_of(given: object, what: str) -> list[tuple[str, str]]:
    """Questions with their contexts, checked.

    Raises:
        WrongType: They are no pairs of texts.
        TextError: There are none.
    """
    listed = list(given) if isinstance(given, Sequence) and not isinstance(given, str) else []
    pairs = [tuple(one) for one in listed if isinstance(one, tuple | list)]
    whole = all(len(one) == 2 and all(isinstance(x, str) for x in one) for one in pairs)
    if not whole or len(pairs) < len(listed) or (not listed and given != []):
        raise WrongType(
            f"{what} of a question-answering head must be pairs of texts, a question and its "
            f"context; got {type(given).__name__}."
        )
    if not pairs:
        raise TextError(f"There are no {what}; expected one question or more.")
    return [(question, context) for question, context in pairs]


def rows_of_pairs(anatomy: Anatomy, tokenizer: Any, given: object, what: str) -> list[list[int]]:
    """Token ids of questions with their contexts; see `pairs_of` for the errors."""
    pairs = pairs_of(given, what)
    return [_window(anatomy, tokenizer, n, pair).ids for n, pair in enumerate(pairs)]


def _window(anatomy: Anatomy, tokenizer: Any, number: int, pair: tuple[str, str]) -> Window:
    windows = cut_windows(anatomy, tokenizer, *pair)
    if len(windows) > 1:
        raise TextError(
            f"Question {number} and its context need {len(windows)} windows of the model; expected "
            "a context that fits into one, so shorten it."
        )
    return windows[0]


def _each(given: object, n: int, what: str) -> list[str]:
    listed = [given] * n if isinstance(given, str) else given
    if not isinstance(listed, list | tuple) or not all(isinstance(one, str) for one in listed):
        raise SettingError(
            f"{what} of a question-answering head is an answer in the context, or a list of them, "
            f"one per prompt; got {given!r}."
        )
    if len(listed) != n:
        raise SettingError(
            f"{what} names {len(listed)} answers, and there are {n} prompts; give one per prompt, "
            "or one for all."
        )
    return list(listed)


def _place(window: Window, context: str, answer: str, number: int) -> tuple[int, int]:
    """The first and last token of an answer."""
    words = answer.strip()
    start = context.find(words) if words else -1
    covering = [
        token
        for token, (inside, (a, b)) in enumerate(zip(window.inside, window.offsets, strict=True))
        if inside and a < start + len(words) and b > start
    ]
    if start < 0 or not covering:
        raise TextError(
            f"The context of question {number} does not hold the answer {answer[:60]!r}; expected "
            "words that are in it."
        )
    return covering[0], covering[-1]
