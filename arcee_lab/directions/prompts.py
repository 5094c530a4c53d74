"""Prompts with an answer to read: what steering and alignment run the model on."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import ModelError, SettingError, TextError, WrongType
from arcee_lab.heads.batches import in_batches, require_room
from arcee_lab.heads.targets import Given, Target, Term, target_of
from arcee_lab.hooks.selection import Choice, find_positions, indices
from arcee_lab.interventions.ablate import Patch
from arcee_lab.interventions.base import Intervention
from arcee_lab.interventions.context import intervene
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.recording.capturing import capture

Numbers = tuple[int, ...]


@dataclass(frozen=True)
class Prompts:
    """Texts, and the difference of two logits after each.

    Attributes:
        anatomy: Of the model.
        rows: Token ids of each prompt.
        target: The answer that is wanted minus the other one; read at the last token.
    """

    anatomy: Anatomy
    rows: list[list[int]]
    target: Target

    @classmethod
    def read(
        cls,
        model: nn.Module,
        tokenizer: Any,
        texts: Sequence[str],
        *,
        target: Given | Target,
        versus: Given | None,
        what: str = "prompts",
    ) -> "Prompts":
        """Tokenises prompts and reads which answers are meant.

        Raises:
            ModelError: The model has no head with answers of its own at one token.
            TextError: A prompt cannot be read.
            SettingError: There is no such answer, or nothing to set it against.
        """
        anatomy = anatomy_of(model)
        if anatomy.legend.head == "qa":
            raise ModelError(
                "A question-answering head has no two answers at one token; use a model with the "
                "causal, sequence or token head."
            )
        meant = target_of(model, target, versus=versus, tokenizer=tokenizer)
        if len(meant.terms) < 2:
            raise SettingError(
                f"The target {meant.name!r} has nothing to set it against; give versus=, the "
                "answer that it is to replace."
            )
        rows = rows_of(anatomy, tokenizer, texts, what)
        if meant.examples not in (None, len(rows)):
            raise SettingError(
                f"There are answers for {meant.examples} prompts and {len(rows)} prompts; give one "
                "per prompt, or one for all."
            )
        return cls(anatomy, rows, meant)

    def __len__(self) -> int:
        return len(self.rows)

    def require_positions(self, positions: Numbers | None) -> None:
        """Checks that every prompt has a token at each position.

        Raises:
            TextError: One has not.
        """
        for number, row in enumerate(self.rows):
            for position in positions or ():
                if not -len(row) <= position < len(row):
                    raise TextError(
                        f"Prompt {number} has {len(row)} tokens and no token at position "
                        f"{position}; give longer prompts or another position."
                    )

    def batches(
        self, batch_size: int, numbers: Sequence[int] | None = None
    ) -> Iterator[tuple[Numbers, dict[str, Tensor]]]:
        """Numbers of prompts, and their padded inputs, all or some of them."""
        chosen = range(len(self)) if numbers is None else numbers
        rows = [self.rows[n] for n in chosen]
        for places, ids, mask in in_batches(self.anatomy, rows, batch_size=batch_size):
            yield (
                tuple(chosen[place] for place in places),
                {"input_ids": ids, "attention_mask": mask},
            )

    def values(self, numbers: Numbers, batch: dict[str, Tensor]) -> Float[Tensor, " example"]:
        """The target of some prompts, from a forward of their batch; gradients flow."""
        output: Any = self.anatomy.model(**batch, use_cache=False)
        last = batch["attention_mask"].sum(dim=1) - 1  # padded on the right
        at = None if self.target.head == "sequence" else last
        return _some(self.target, numbers).value(output.logits, at)

    @torch.no_grad()
    def measured(
        self,
        batch_size: int,
        edits: Callable[[Numbers], list[Intervention]] | None = None,
        *,
        numbers: Sequence[int] | None = None,
        bar: Any = None,
    ) -> Float[Tensor, " prompt"]:
        """The target of all prompts under interventions, on the CPU.

        Args:
            batch_size: Prompts per forward.
            edits: Gives the interventions of a batch.
            numbers: Which prompts; by default all. The result is in their order.
            bar: A progress bar that counts prompts.
        """
        chosen = list(range(len(self)) if numbers is None else numbers)
        place = {number: i for i, number in enumerate(chosen)}
        found = torch.zeros(len(chosen))
        for taken, batch in self.batches(batch_size, chosen):
            own = [] if edits is None else edits(taken)
            with intervene(self.anatomy.model, own):
                values = self.values(taken, batch)
            found[[place[n] for n in taken]] = values.float().cpu()
            if bar is not None:
                bar.update(len(taken))
        return found


class Sources:
    """Other texts, one per prompt, whose activations at a site are put in place.

    Args:
        prompts: What is changed.
        rows: Token ids of the sources.
        site: Canonical name.
        positions: Tokens that are patched, counted within each text; None: all, in texts of equal
            length.

    Raises:
        TextError: There are not as many as prompts, or they have other lengths.
    """

    def __init__(
        self, prompts: Prompts, rows: list[list[int]], site: str, positions: Numbers | None
    ):
        self._prompts, self._rows, self._site = prompts, rows, site
        self._positions = positions
        if len(rows) != len(prompts):
            raise TextError(
                f"There are {len(rows)} sources and {len(prompts)} prompts; expected one per "
                "prompt."
            )
        for number, row in enumerate(rows):
            if not all(-len(row) <= position < len(row) for position in positions or ()):
                raise TextError(
                    f"Source {number} has no token at positions {list(positions or ())}; give "
                    "longer texts or other positions."
                )
        if positions is None:
            for number, (one, other) in enumerate(zip(rows, prompts.rows, strict=True)):
                if len(one) != len(other):
                    raise TextError(
                        f"Source {number} has {len(one)} tokens and its prompt {len(other)}; "
                        "expected as many where all positions are patched, or give positions=-1."
                    )

    @torch.no_grad()
    def activations(self, numbers: Numbers) -> Float[Tensor, "example position d"]:
        """What the site holds at the positions, for some of the sources."""
        rows = [self._rows[n] for n in numbers]
        anatomy = self._prompts.anatomy
        ((order, ids, mask),) = in_batches(anatomy, rows, batch_size=len(rows))
        with capture(anatomy.model, [self._site], stop_at=True) as acts:
            anatomy.model(input_ids=ids, attention_mask=mask, use_cache=False)
        x = acts[self._site]
        if self._positions is not None:
            where, _ = find_positions(self._positions, mask.bool())
            x = x[torch.arange(len(rows), device=x.device)[:, None], where]
        back = torch.empty(len(rows), dtype=torch.long)
        back[list(order)] = torch.arange(len(rows))
        return x[back.to(x.device)]

    def patches(self, numbers: Numbers, *, within: Tensor | None = None) -> list[Intervention]:
        """Puts them in place, all of them or their part in the span of directions."""
        x = self.activations(numbers)
        if self._positions is None:
            return [Patch(self._site, x, within=within)]
        return [
            Patch(self._site, x[:, i : i + 1], positions=position, within=within)
            for i, position in enumerate(self._positions)
        ]


def rows_of(anatomy: Anatomy, tokenizer: Any, texts: object, what: str) -> list[list[int]]:
    """Token ids of texts, checked.

    Raises:
        WrongType: It is no list of texts.
        TextError: It is empty, or a text cannot be read.
    """
    if isinstance(texts, str) or not isinstance(texts, Sequence):
        raise WrongType(f"{what} must be a list of texts; got {type(texts).__name__}.")
    given = list(texts)
    if not given:
        raise TextError(f"There are no {what}; expected one text or more.")
    for number, text in enumerate(given):
        if not isinstance(text, str) or not text.strip():
            raise TextError(f"{what} {number} is empty or no text; expected a text.")
    rows = token_ids(tokenizer, given)
    require_room(anatomy, rows)
    return rows


def positions_of(positions: Choice) -> Numbers | None:
    """Positions as whole numbers; None: all."""
    return indices(positions, what="positions")


def _some(target: Target, numbers: Numbers) -> Target:
    """The target of some of the examples that it names."""
    terms = tuple(
        Term(
            term.columns if len(term.columns) == 1 else tuple(term.columns[n] for n in numbers),
            term.sign,
            term.spot,
        )
        for term in target.terms
    )
    return Target(target.head, target.name, terms)
