"""Prompts that differ in one word: those of a lesson that the tokenizer allows to be compared."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from arcee_lab.data.token_words import token_word
from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import SettingError, TextError
from arcee_lab.lesson.material import Prompts
from arcee_lab.results import Result, counted

LEAST = 4  # pairs below which no mean is worth showing


@dataclass(frozen=True)
class LogOdds:
    """How much more probable one group of tokens is than another, in nats.

    Attributes:
        right: Token ids of the first group.
        wrong: Of the second.

    Raises:
        SettingError: A group is empty, or a token is in both.

    Example:
        >>> import torch
        >>> import arcee_lab as al
        >>> al.lesson.LogOdds((0,), (1,))(torch.tensor([[2.0, 0.5, 0.0]]))
        tensor([1.5000])
    """

    right: tuple[int, ...]
    wrong: tuple[int, ...]

    def __post_init__(self) -> None:
        both = set(self.right) & set(self.wrong)
        if not self.right or not self.wrong or both:
            raise SettingError(
                f"right and wrong are {self.right} and {self.wrong}; expected two groups of token "
                "ids that share none."
            )

    def __call__(self, logits: Float[Tensor, "pair vocab"]) -> Float[Tensor, " pair"]:
        """The log odds, one number per row."""
        right, wrong = list(self.right), list(self.wrong)
        return logits[:, right].logsumexp(-1) - logits[:, wrong].logsumexp(-1)


@dataclass(frozen=True, repr=False)
class Pairs(Result):
    """Pairs of prompts with equally many tokens, which differ at the same place.

    Attributes:
        name: Of the question, such as "agreement".
        question: What a large metric says, in a few words.
        clean: The first prompt of each pair.
        corrupt: The second.
        ids: Token ids of the clean and of the corrupt prompts.
        at: Columns at which the two differ, the same for all pairs.
        words: The tokens of the first clean prompt, as text.
        metric: The log odds of the answers to the clean prompts against those to the corrupt.
        answers: The first right and wrong answer, as text with the space before it.
        answer_ids: Their first tokens.
        given: How many pairs there were.
    """

    name: str
    question: str
    clean: tuple[str, ...]
    corrupt: tuple[str, ...]
    ids: tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]
    at: tuple[int, ...]
    words: tuple[str, ...]
    metric: LogOdds
    answers: tuple[str, str]
    answer_ids: tuple[int, int]
    given: int

    def __len__(self) -> int:
        return len(self.clean)

    def batch(self, side: str, *, device: Any = None) -> dict[str, Tensor]:
        """The prompts of one side as a batch; all have the same length.

        Args:
            side: "clean" or "corrupt".
            device: Where the tensors go; the CPU by default.

        Returns:
            `input_ids` and `attention_mask`, each `[pair, pos]`.

        Raises:
            SettingError: Another word.
        """
        if side not in ("clean", "corrupt"):
            raise SettingError(f"side={side!r}; expected 'clean' or 'corrupt'.")
        ids = torch.tensor(self.ids[side == "corrupt"], device=device)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def told_apart(self, clean: Float[Tensor, " pair"], corrupt: Float[Tensor, " pair"]) -> bool:
        """Whether the metric is larger for clean prompts in clearly more than half of the pairs.

        Clearly: three standard errors of a fair coin above one half. Effects on the answers of a
        model that does not tell two prompts apart are about nothing, however large.

        Args:
            clean: The metric of each clean prompt.
            corrupt: Of each corrupt one.
        """
        share = float((clean > corrupt).double().mean())
        return share > 0.5 + 1.5 / len(clean) ** 0.5

    @property
    def headline(self) -> str:
        """How many of the pairs can be used, and what they ask."""
        return (
            f"{len(self)} of {counted(self.given, 'pair')} usable with this tokenizer, "
            f"{len(self.words)} tokens each; the question: {self.question}"
        )

    def frame(self) -> Any:
        """One row per pair: both prompts."""
        import pandas as pd

        return pd.DataFrame({"clean": self.clean, "corrupt": self.corrupt})


def usable_pairs(tokenizer: Any, prompts: Prompts, name: str) -> Pairs:
    """The pairs that can be compared token by token.

    A pair is kept if both prompts have equally many tokens and every answer begins with a token
    that no answer of the other side begins with. Of what is left, the largest group is taken that
    has the same number of tokens and differs at the same place, so that a mean over pairs is one
    over the same words.

    Args:
        tokenizer: Of the model.
        prompts: The pairs.
        name: Of the question.

    Raises:
        TextError: Fewer than four are left.
    """
    clean, corrupt = (token_ids(tokenizer, list(side)) for side in (prompts.clean, prompts.corrupt))
    groups: Counter[tuple[Any, ...]] = Counter()
    shapes = []
    for number, (one, two) in enumerate(zip(clean, corrupt, strict=True)):
        shape = None
        if len(one) == len(two) and one != two:
            at = tuple(i for i, (a, b) in enumerate(zip(one, two, strict=True)) if a != b)
            answers = [
                _first_tokens(tokenizer, side[number], words)
                for side in (prompts.clean, prompts.corrupt)
                for words in (prompts.right, prompts.wrong)
            ]
            if answers[:2] == answers[2:] and all(answers) and not answers[0] & answers[1]:
                shape = len(one), at, tuple(map(tuple, map(sorted, answers[:2])))
                groups[shape] += 1
        shapes.append(shape)
    given = len(shapes)
    best, count = groups.most_common(1)[0] if groups else (None, 0)
    if best is None or count < LEAST:
        raise TextError(
            f"{count} of {counted(given, 'pair')} of prompts are usable with this tokenizer, which "
            f"are too few (at least {LEAST}): both prompts need equally many tokens, and their "
            "answers other first tokens. Write pairs of your own, as docs/how-to/lessons.md shows."
        )
    kept = [number for number, shape in enumerate(shapes) if shape == best]
    _, at, (right, wrong) = best
    first, second = (
        min(_first_tokens(tokenizer, prompts.clean[kept[0]], words[:1]))
        for words in (prompts.right, prompts.wrong)
    )
    return Pairs(
        name=name,
        question=prompts.question,
        clean=tuple(prompts.clean[i] for i in kept),
        corrupt=tuple(prompts.corrupt[i] for i in kept),
        ids=(tuple(tuple(clean[i]) for i in kept), tuple(tuple(corrupt[i]) for i in kept)),
        at=at,
        words=tuple(token_word(tokenizer, token) for token in clean[kept[0]]),
        metric=LogOdds(right, wrong),
        answers=(f" {prompts.right[0]}", f" {prompts.wrong[0]}"),
        answer_ids=(first, second),
        given=given,
    )


def _first_tokens(tokenizer: Any, prompt: str, words: tuple[str, ...]) -> set[int]:
    """The first token of each word after the prompt; empty where it does not start a token."""
    (start,) = tokenizer([prompt], add_special_tokens=False)["input_ids"]
    whole = tokenizer([f"{prompt} {word}" for word in words], add_special_tokens=False)["input_ids"]
    unknown = getattr(tokenizer, "unk_token_id", None)
    found = set()
    for ids in whole:
        if list(ids[: len(start)]) != list(start) or len(ids) == len(start):
            return set()
        found.add(int(ids[len(start)]))
    return set() if unknown is not None and unknown in found else found
