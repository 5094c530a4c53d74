"""Which logit is meant: a class, a tag, a span's start or end, or an answer of the vocabulary.

Whatever takes `target=` reads it here. A logit is linear in what the final norm gives, so a target
is also a direction there: a row of the head's weight, or the difference of two.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from arcee_lab.data.token_words import token_word
from arcee_lab.errors import ModelError, SettingError, TextError
from arcee_lab.heads.batches import head_labels, label_columns
from arcee_lab.model.anatomy import LAST_STEP, Anatomy, anatomy_of
from arcee_lab.model.wrappers.adapters import effective_weight

Given = str | int | Sequence[str] | Sequence[int]
SPAN = {"start": (0,), "end": (1,), "span": (0, 1)}  # target of a QA head -> columns of its logits


@dataclass(frozen=True)
class Term:
    """One logit of a target.

    Attributes:
        columns: Its column on the last axis of the logits: one for all examples, or one for each.
        sign: 1.0, or -1.0 for the logit that is subtracted.
        spot: Which of the positions given to `Target.value` it is read at.
    """

    columns: tuple[int, ...]
    sign: float = 1.0
    spot: int = 0


@dataclass(frozen=True)
class Target:
    """A number per example, read from a head's logits.

    Attributes:
        head: "causal", "sequence", "token" or "qa".
        name: What it is called in tables, e.g. "good - bad".
        terms: The logits that are added up.
    """

    head: str
    name: str
    terms: tuple[Term, ...]

    @property
    def spots(self) -> int:
        """Positions that it is read at: 0 for a sequence head, 2 for a span, otherwise 1."""
        return 0 if self.head == "sequence" else 1 + max(term.spot for term in self.terms)

    @property
    def examples(self) -> int | None:
        """How many examples it names an answer for; None: one answer for any number."""
        lengths = {len(term.columns) for term in self.terms} - {1}
        return max(lengths, default=None)

    def value(
        self, logits: Float[Tensor, "..."], at: Int[Tensor, "..."] | None = None
    ) -> Float[Tensor, " example"]:
        """The target of each example, in fp32 at least; gradients flow.

        Args:
            logits: What `hook_logits` holds: `[example, n_labels]` of a sequence head, otherwise
                `[example, pos, n_labels or vocab]`.
            at: The column of the token that is read, `[example]`; of a span those of its first and
                its last token, `[example, 2]`. None for a sequence head.

        Raises:
            SettingError: The logits or positions have another shape.
        """
        wanted = 2 if self.head == "sequence" else 3
        if logits.ndim != wanted:
            raise SettingError(
                f"The logits of {self.name!r} must have {wanted} axes for a {self.head} head; got "
                f"{list(logits.shape)}. Give what hook_logits holds."
            )
        batch = logits.shape[0]
        if self.examples not in (None, batch):
            raise SettingError(
                f"The target names answers for {self.examples} examples, and there are {batch}; "
                "give one per example, or one for all."
            )
        if self.spots:
            shape = [batch] if self.spots == 1 else [batch, self.spots]
            if at is None or list(at.shape) != shape:
                got = "None" if at is None else list(at.shape)
                raise SettingError(
                    f"The target {self.name!r} is read at positions {shape}; got {got}."
                )
            at = at.to(logits.device).reshape(batch, self.spots)
        elif at is not None:
            raise SettingError(
                "A sequence head has one row of logits per example; leave the positions out."
            )
        rows = torch.arange(batch, device=logits.device)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        total = logits.new_zeros(batch)
        for term in self.terms:
            row = logits if at is None else logits[rows, at[:, term.spot]]
            if len(term.columns) == 1:
                one = row[:, term.columns[0]]
            else:
                index = torch.tensor(term.columns, device=logits.device)
                one = row.gather(1, index[:, None])[:, 0]
            total = total + term.sign * one
        return total

    def direction(self, model: nn.Module) -> Float[Tensor, "... d_model"]:
        """The direction that the target is a product with: `target = x · direction + offset`.

        x is what the final norm gives at the position (`norm.hook_normalized`). Adapters count, and
        quantised weights are read as the numbers that they act as.

        Returns:
            fp32 (fp64 of an fp64 model) on the model's device: `[d_model]`, or
            `[example, d_model]` where each example has an answer of its own. Of a span
            `[2, d_model]`: the rows of its start and of its end.

        Raises:
            ModelError: The model has another head than the one the target was made for.
        """
        return self._combined(effective_weight(self._last_step(model)))

    def offset(self, model: nn.Module) -> Float[Tensor, "..."]:
        """What the head's bias adds to the target: a number, or one per example; 0 without a bias.

        Raises:
            ModelError: As for `direction`.
        """
        step = self._last_step(model)
        bias = getattr(step, "bias", None)
        if bias is None:
            weight = effective_weight(step)
            bias = weight.new_zeros(weight.shape[0])
        whole = self._combined(bias.detach()[:, None]).squeeze(-1)
        return whole.sum() if self.spots == 2 else whole

    def _last_step(self, model: nn.Module) -> Any:
        anatomy = anatomy_of(model)
        if anatomy.legend.head != self.head:
            raise ModelError(
                f"The target {self.name!r} is of a {self.head} head, and this is a "
                f"{type(anatomy.model).__name__}; make it anew for this model."
            )
        return getattr(anatomy.model, LAST_STEP[self.head])

    def _combined(self, weight: Float[Tensor, "n_out d"]) -> Tensor:
        weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
        found: list[Any] = [0.0] * max(1, self.spots)
        for term in self.terms:
            index = torch.tensor(term.columns, device=weight.device)
            rows = weight.index_select(0, index)
            found[term.spot] = found[term.spot] + term.sign * rows
        parts = torch.stack(found)  # [spot, example or 1, d]
        parts = parts[:, 0] if self.examples is None else parts
        return parts[0] if len(parts) == 1 else parts


def target_of(
    model: nn.Module,
    target: Given | Target,
    *,
    versus: Given | None = None,
    tokenizer: Any = None,
) -> Target:
    """Reads `target=`: which logit of this model's head is meant.

    | head | target |
    |---|---|
    | causal | an answer of one token, as text or as token id; or a list of them, one per example |
    | sequence | a label, or its number; or a list of them |
    | token | a tag, or its number; or a list of them |
    | qa | "start", "end", or "span": the start logit at one position plus the end logit at one |

    An answer of several tokens is refused: which of its logits is meant is the caller's choice.

    Args:
        model: A model with a head.
        target: See above; a `Target` is returned as it is.
        versus: Likewise, what is subtracted: "good" against "bad".
        tokenizer: Needed where an answer of the vocabulary is given as text.

    Raises:
        ModelError: The model has no head.
        SettingError: The head has no such label, or no such column.
        TextError: The answer is not one token.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.heads.targets import target_of
        >>> model, tokenizer = al.load("demo", head="sequence")
        >>> target_of(model, "good", versus="bad").name
        'good - bad'
    """
    anatomy = anatomy_of(model)
    head = anatomy.legend.head
    if isinstance(target, Target):
        if target.head != head:
            raise ModelError(
                f"The target {target.name!r} is of a {target.head} head, and this is a "
                f"{type(anatomy.model).__name__}; make it anew for this model."
            )
        return target
    if head not in LAST_STEP:
        raise ModelError(
            f"A {type(anatomy.model).__name__} has no head, so it has no logit to take as a "
            "target; load it with head='causal', 'sequence', 'token' or 'qa'."
        )
    if head == "qa":
        return _of_span(target, versus)
    columns, name = _columns(anatomy, target, "target", tokenizer)
    terms = [Term(columns)]
    if versus is not None:
        other, its_name = _columns(anatomy, versus, "versus", tokenizer)
        if len({len(columns), len(other)} - {1}) > 1:
            raise SettingError(
                f"target names {len(columns)} answers and versus {len(other)}; give as many, or "
                "one for all."
            )
        terms.append(Term(other, -1.0))
        name = f"{name} - {its_name}"
    return Target(head, name, tuple(terms))


def _of_span(target: object, versus: object) -> Target:
    if not isinstance(target, str) or target not in SPAN:
        raise SettingError(
            f"A question-answering head has the targets {', '.join(SPAN)}; got {target!r}."
        )
    if versus is not None:
        raise SettingError(
            "A question-answering head has no answer to set against another; leave versus out."
        )
    terms = tuple(Term((column,), spot=spot) for spot, column in enumerate(SPAN[target]))
    return Target("qa", target, terms)


def _columns(
    anatomy: Anatomy, given: object, what: str, tokenizer: Any
) -> tuple[tuple[int, ...], str]:
    """The columns of the logits that are meant, and what they are called together."""
    one = isinstance(given, str | int)
    items = [given] if one else list(cast(Any, given)) if isinstance(given, Sequence) else []
    if not items or not all(isinstance(i, str | int) and not isinstance(i, bool) for i in items):
        raise SettingError(
            f"{what} must be a label or an answer, its number, or a list of these, one per "
            f"example; got {given!r}."
        )
    columns = tuple(_column(anatomy, item, what, tokenizer) for item in items)
    names = [_name(anatomy, item, tokenizer) for item in items]
    several = "the answers" if what == "target" else "the others"
    return columns, names[0] if len(set(names)) == 1 else several


def _column(anatomy: Anatomy, given: str | int, what: str, tokenizer: Any) -> int:
    causal = anatomy.legend.head == "causal"
    size = anatomy.size("vocab" if causal else "n_labels")
    if isinstance(given, int):
        if not 0 <= given < size:
            unit = "token id" if causal else "label's number"
            raise SettingError(f"{what}={given} is no {unit}; expected 0 to {size - 1}.")
        return given
    if causal:
        return _token(given, what, size, tokenizer)
    try:
        return label_columns(anatomy, [given])[0]
    except ModelError:
        known = head_labels(anatomy)
        near = difflib.get_close_matches(given, known, n=3, cutoff=0.4)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        more = ", ..." if len(known) > 12 else ""
        raise SettingError(
            f"{what}={given!r} is no label of this head; expected one of "
            f"{', '.join(known[:12])}{more}{hint}."
        ) from None


def _token(text: str, what: str, size: int, tokenizer: Any) -> int:
    if tokenizer is None:
        raise SettingError(
            f"{what}={text!r} is a text, and there is no tokenizer; give tokenizer=, or a token id."
        )
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if len(ids) != 1:
        pieces = ", ".join(f"{token_word(tokenizer, i)!r} ({i})" for i in ids[:4])
        raise TextError(
            f"{what}={text!r} is {len(ids)} tokens{': ' + pieces if pieces else ''}; expected an "
            "answer of one token, so give one of them by its id."
        )
    if not 0 <= ids[0] < size:
        raise SettingError(
            f"{what}={text!r} is token {ids[0]}, and the model has {size}; give the model's own "
            "tokenizer."
        )
    return int(ids[0])


def _name(anatomy: Anatomy, given: str | int, tokenizer: Any) -> str:
    if isinstance(given, str):
        return given
    if anatomy.legend.head == "causal":
        return str(given) if tokenizer is None else token_word(tokenizer, given)
    return head_labels(anatomy)[given]
