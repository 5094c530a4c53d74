"""A lesson: what the cells of a notebook ask for, whatever the model is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from arcee_lab.data.limits import default_context
from arcee_lab.errors import SettingError, TextError
from arcee_lab.lesson.copies import Copies, as_tokens
from arcee_lab.lesson.cutting import fitting, pieces_of
from arcee_lab.lesson.material import QUESTIONS, SIDES, Material, Source
from arcee_lab.lesson.pairs import Pairs, usable_pairs
from arcee_lab.lesson.parts import Part
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.demo.document import Document
    from arcee_lab.neurons.labels.labelled import Labels


_DRAWS = 2000  # of the bootstrap over values
_BEGINNING = 80  # characters of a text in the table of kinds
_FROM = {
    "demo": "the demo's world",
    "english": "plain English of arcee_lab's own",
    "yours": "your texts",
}


@dataclass(frozen=True, repr=False, eq=False)
class Lesson(Result):
    """Texts, labels, pairs and captions for one model; `al.lesson.build` makes it.

    Attributes:
        model: The model.
        tokenizer: Its tokenizer.
        material: Where everything comes from.
        parts: The parts that began so far, by name.
    """

    model: nn.Module
    tokenizer: Any
    material: Material
    parts: dict[str, Part] = field(default_factory=dict)

    @property
    def source(self) -> Source:
        """Where texts come from: "demo", "english" or "yours"."""
        return self.material.source

    @property
    def domains(self) -> Mapping[str, tuple[str, ...]]:
        """Kind of text -> its documents."""
        return self.material.domains

    @cached_property
    def texts(self) -> list[str]:
        """All documents, the kinds in turn."""
        rows = [list(found) for found in self.domains.values()]
        longest = max(map(len, rows))
        return [row[place] for place in range(longest) for row in rows if place < len(row)]

    @cached_property
    def pieces(self) -> list[str]:
        """The documents, or their sentences where there are fewer than 24 documents.

        Longer ones than the model reads at once are cut. For what needs several documents, to read
        some and to be tested on others, and for a batch.
        """
        return pieces_of(self.texts, self.tokenizer, longest_text(self.model))

    @cached_property
    def n_tokens(self) -> int:
        """Tokens of all documents."""
        from arcee_lab.data.tokenization import token_ids

        return sum(map(len, token_ids(self.tokenizer, self.texts)))

    @property
    def prompt(self) -> str:
        """A short text to read closely, cut where the model cannot read all of it at once."""
        return fitting([self.material.prompt], self.tokenizer, longest_text(self.model))[0]

    @property
    def truth(self) -> "Mapping[str, tuple[Document, ...]] | None":
        """The documents with the tags of every word, by kind; None off the demo's world."""
        return self.material.truth

    def labels(self, part: str = "search", *, n: int = 120) -> "Labels":
        """Labels of words, for searches: known ones, or patterns in the user's texts.

        Those that hold at every token, or at none, are left out: tokenizers differ.

        Args:
            part: "search", or "confirmation", which shares no text with it.
            n: About how many documents.

        Raises:
            SettingError: Another part, or too little text.
        """
        if n < 1:
            raise SettingError(f"n={n}; expected at least 1 document.")
        found = self.material.labels(_side(part), n)
        if self.source == "demo":
            return found
        usable = self._usable_labels(n)
        names = [name for name in found.names if name in usable]
        if not names:
            raise SettingError(
                f"Each of the labels {', '.join(found.names)} holds at every token of this "
                "tokenizer or at none; give other texts."
            )
        spans, asked = (
            {name: kept[name] for name in names if name in kept}
            for kept in (found.spans, found.asked)
        )
        return replace(found, spans=spans, asked=asked)

    def _usable_labels(self, n: int) -> set[str]:
        """Labels that hold at some tokens and not at others, in each half of both parts."""
        usable: set[str] | None = None
        for side in SIDES:
            tokens = self.material.labels(side, n).cut(
                self.tokenizer, context=longest_text(self.model)
            )
            for half in (0, 1):
                here = (tokens.token_documents % 2 == half)[:, None] & tokens.asked
                mixed = (tokens.truth & here).any(0) & (~tokens.truth & here).any(0)
                names = {name for name, good in zip(tokens.names, mixed, strict=True) if good}
                usable = names if usable is None else usable & names
        return usable or set()

    def pairs(self, question: str = "agreement", *, part: str = "search") -> Pairs:
        """Prompts that differ in one word, as far as the tokenizer allows it.

        Args:
            question: "agreement": whether a plural or a singular verb follows. "verdict": whether
                a review ends in praise or in blame, after one word of opinion that differs and
                hearsay that says nothing.
            part: "search" or "confirmation", which has other pairs.

        Raises:
            SettingError: Another question or part.
            TextError: Fewer than four pairs are usable.
        """
        if question not in QUESTIONS:
            raise SettingError(f"question={question!r}; expected one of {', '.join(QUESTIONS)}.")
        prompts = self.material.pairs(question, _side(part))
        return usable_pairs(self.tokenizer, prompts, question)

    def copies(self, n: int = 40, *, seed: int = 0) -> Copies:
        """Texts that say a string twice.

        Args:
            n: How many.
            seed: Random seed of the strings.

        Raises:
            SettingError: n below 1.
            TextError: The tokenizer is not a fast one.
        """
        if n < 1:
            raise SettingError(f"n={n}; expected at least 1 text.")
        return as_tokens(self.tokenizer, self.material.copies(n, seed))

    def batch(self, texts: str | Sequence[str]) -> dict[str, Tensor]:
        """Texts as `input_ids` and `attention_mask` on the model's device, padded on the right.

        Args:
            texts: A text or several.

        Raises:
            TextError: No text.
        """
        from arcee_lab.data.tokenization import token_ids

        given = [texts] if isinstance(texts, str) else list(texts)
        if not given:
            raise TextError("There is no text; expected at least one.")
        rows = token_ids(self.tokenizer, given)
        ids = torch.zeros((len(rows), max(map(len, rows))), dtype=torch.long)
        mask = torch.zeros_like(ids)  # where it is 0, any token will do
        for place, row in enumerate(rows):
            ids[place, : len(row)] = torch.tensor(row)
            mask[place, : len(row)] = 1
        device = self.model.get_input_embeddings().weight.device  # type: ignore[operator]
        return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}

    def tokens(self, text: str) -> list[str]:
        """The tokens of a text, as text, for the axes of a figure."""
        from arcee_lab.data.token_words import token_word
        from arcee_lab.data.tokenization import token_ids

        (ids,) = token_ids(self.tokenizer, [text])
        return [token_word(self.tokenizer, token) for token in ids]

    def tasks(self) -> Any:
        """Evaluation tasks of this material, for `al.evals.run(tasks=)`.

        The demo's own tasks; a choice between verbs and the price of the texts in plain English;
        the price of the user's texts.
        """
        return self.material.tasks()

    def caption(
        self,
        finding: str,
        *,
        n: int | None = None,
        of: str = "token",
        interval: Sequence[float] | None = None,
        values: Any = None,
        percent: bool = False,
    ) -> str:
        """A finding in one sentence, with what it rests on.

        Args:
            finding: What the figure shows, as computed; `{}` in it becomes the mean of `values`.
            n: How many cases it rests on.
            of: What a case is, in the singular.
            interval: The ends of its 95% interval.
            values: One number per case, in place of n and interval: the interval of their mean is
                bootstrapped.
            percent: Whether numbers are shares, to be shown per cent.

        Raises:
            SettingError: No finite value.

        Example:
            >>> import arcee_lab as al
            >>> lesson = al.lesson.build(*al.load("demo"))
            >>> lesson.caption("Layer 1 has most zeros", n=2, interval=(0.5, 0.6), percent=True)
            'Layer 1 has most zeros (95% interval 50.0% to 60.0%; N = 2 tokens).'
        """
        if values is not None:
            rows = np.asarray(values, dtype=float)
            rows = rows[np.isfinite(rows)]
            if not len(rows):
                raise SettingError(f"There is no finite value for {finding!r}; give at least one.")
            n, mean = len(rows), float(rows.mean())
            if len(rows) > 1:
                draws = np.random.default_rng(0).choice(rows, (_DRAWS, len(rows))).mean(1)
                interval = np.quantile(draws, (0.025, 0.975)).tolist()
            finding = finding.replace("{}", _shown(mean, percent=percent))
        facts = []
        if interval is not None:
            low, high = (_shown(end, percent=percent) for end in interval)
            facts.append(f"95% interval {low} to {high}")
        if n is not None:
            facts.append(f"N = {counted(n, of)}")
        told = f" ({'; '.join(facts)})" if facts else ""
        return f"{finding.rstrip('.')}{told}."

    def part(self, name: str) -> Part:
        """A part of the notebook: `with lesson.part("patching"): ...`.

        An error of this package that the user can mend becomes one line, and the notebook
        continues. All other errors pass; an interrupt ends the cell with one line.

        Args:
            name: What the part is about.
        """
        self.parts[name] = Part(name)
        return self.parts[name]

    def needs(self, *names: str) -> None:
        """Ends a part in which results of earlier parts are used, if one of them is missing.

        Args:
            names: Of these parts.

        Raises:
            SettingError: One of them did not run to its end; inside a part this becomes its line.
        """
        for name in names:
            if name not in self.parts or not self.parts[name].done:
                raise SettingError(f"it needs {name!r}, which did not run to its end.")

    @property
    def headline(self) -> str:
        """Where the texts come from, and how many there are."""
        kinds = counted(len(self.domains), "kind")
        return (
            f"A lesson on {_FROM[self.source]}: {counted(len(self.texts), 'document')} of {kinds}, "
            f"{counted(self.n_tokens, 'token')}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per kind of text: kind, documents, the beginning of the first."""
        import pandas as pd

        return pd.DataFrame(
            [(kind, len(found), _beginning(found[0])) for kind, found in self.domains.items()],
            columns=["kind", "documents", "first"],
        )


def longest_text(model: nn.Module) -> int:
    """Tokens of the longest text that a model reads at once, with one left for BOS or EOS."""
    return max(2, default_context(anatomy_of(model).model) - 1)


def _beginning(text: str) -> str:
    """The first words of a text, marked as cut where it goes on."""
    if len(text) <= _BEGINNING:
        return text
    whole, rest = text[:_BEGINNING], text[_BEGINNING:]
    if not rest[0].isspace() and " " in whole:
        whole = whole.rsplit(" ", 1)[0]  # not within a word
    return f"{whole.rstrip()} ..."


def _shown(value: float, *, percent: bool) -> str:
    if percent:
        return f"{value:.1%}"
    return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def _side(part: str) -> str:
    if part not in SIDES:
        raise SettingError(f"part={part!r}; expected one of {', '.join(SIDES)}.")
    return part
