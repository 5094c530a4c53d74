"""Texts with labelled spans of characters, and the same labels for the tokens of a tokenizer."""

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int

from arcee_lab.data.rows import require_unicode
from arcee_lab.errors import SettingError, TextError, WrongType
from arcee_lab.results import Result, counted

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.data.windows import Windows

Span = tuple[int, int]
Spans = tuple[Span, ...]


@dataclass(frozen=True, repr=False)
class Labels(Result):
    """Texts, and where in them each label holds.

    Made by the functions of `al.neurons.labels`; the constructor checks everything again.

    A token has a label if one of its characters does. The white space before a word, which many
    tokenizers put into the word's token, does not count, and a token without characters, such as
    BOS, has no label and is not asked.

    Attributes:
        texts: The texts.
        spans: Name of a label -> for each text, the spans of characters where it holds, as first
            and last-plus-one character.
        asked: Name of a label -> for each text, the spans where the label applies at all; tokens
            outside are left out of every count. A label that is missing here applies everywhere.
        documents: Number of the document that each text belongs to; by default each text is one.
            Documents are what is split and resampled: texts of one document stay together.
        domains: A word for each text's kind, such as "news"; by default empty.

    Raises:
        TextError: Texts or spans that cannot be used.
    """

    texts: tuple[str, ...]
    spans: Mapping[str, tuple[Spans, ...]]
    asked: Mapping[str, tuple[Spans, ...]] = field(default_factory=dict)
    documents: tuple[int, ...] = ()
    domains: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        texts = texts_of(self.texts)
        for what in ("spans", "asked"):
            object.__setattr__(self, what, spans_of(texts, getattr(self, what)))
        if not self.spans:
            raise TextError("There is no label; expected a mapping from at least one name.")
        if unknown := set(self.asked) - set(self.spans):
            raise TextError(f"asked names {sorted(unknown)}, which spans does not hold.")
        defaults = {"documents": tuple(range(len(texts))), "domains": ("",) * len(texts)}
        for what, default in defaults.items():
            given = tuple(getattr(self, what)) or default
            if len(given) != len(texts):
                raise TextError(
                    f"{what} has {len(given)} entries for {counted(len(texts), 'text')}; expected "
                    "one per text."
                )
            object.__setattr__(self, what, given)

    @property
    def names(self) -> tuple[str, ...]:
        """The labels."""
        return tuple(self.spans)

    def require(self, names: str | Collection[str] | None = None) -> tuple[str, ...]:
        """The names themselves, all by default.

        Raises:
            SettingError: One of them is no label; the nearest are named.
        """
        if names is None:
            return self.names
        asked = (names,) if isinstance(names, str) else tuple(names)
        for name in asked:
            if name not in self.spans:
                near = difflib.get_close_matches(str(name), self.names, n=3, cutoff=0.4)
                shown = ", ".join(near or self.names[:5])
                what = "nearest" if near else "there are"
                raise SettingError(
                    f"There is no label {name!r}; expected one of the {len(self.names)} labels "
                    f"({what}: {shown})."
                )
        if not asked:
            raise SettingError("No label was given; expected at least one name.")
        return asked

    def tokens(self, tokenizer: Any, name: str) -> tuple[Bool[np.ndarray, " pos"], ...]:
        """Which tokens of each whole text have a label.

        Args:
            tokenizer: A fast tokenizer.
            name: The label.

        Returns:
            One array per text, over its tokens with special ones, as `tokenizer(text)` gives them.

        Raises:
            SettingError: There is no such label.
            TextError: The tokenizer is not a fast one, which alone knows characters of tokens.

        Example:
            >>> import arcee_lab as al
            >>> _, tokenizer = al.load("demo")
            >>> labels = al.neurons.labels.spans(["The dogs sleep ."], {"plural": [[(4, 8)]]})
            >>> labels.tokens(tokenizer, "plural")[0].tolist()
            [False, False, True, False, False]
        """
        self.require(name)
        rows = []
        for number, text in enumerate(self.texts):
            _, pieces = _pieces(tokenizer, text)
            rows.append(overlapping(pieces, self.spans[name][number]))
        return tuple(rows)

    def cut(
        self,
        tokenizer: Any,
        *,
        context: int,
        names: str | Collection[str] | None = None,
        role: str | None = None,
    ) -> "LabelledTokens":
        """The texts as windows of tokens, with a label per token.

        Args:
            tokenizer: A fast tokenizer.
            context: Longest window, in tokens; a longer text gives several.
            names: The labels that are wanted; all by default.
            role: Of conversations, whose tokens the labels apply to, as for `al.data.cut`.

        Raises:
            SettingError: There is no such label or role, or the context is too short.
            TextError: As for `tokens`; with a role, a text that is no conversation.
        """
        from arcee_lab.data.windows import cut

        wanted = self.require(names)
        _require_fast(tokenizer)
        windows = cut(tokenizer, self.texts, context=context, role=role)
        truth = np.zeros((windows.n_tokens, len(wanted)), dtype=bool)
        asked = np.zeros_like(truth)
        place = 0  # first window of the text at hand
        for number, text in enumerate(self.texts):
            last = place
            while last < len(windows) and windows.documents[last] == number:
                last += 1
            if last == place:
                continue  # a text without any word gives no window
            ids, pieces = _pieces(tokenizer, text)
            starts = int(bool(ids) and ids[0] == windows.bos_id)
            rows = np.concatenate(  # every window repeats the BOS, and goes on after the one before
                [
                    np.arange(windows.bounds[window] + starts, windows.bounds[window + 1])
                    for window in range(place, last)
                ]
            )
            own = pieces[starts:]
            for column, name in enumerate(wanted):
                truth[rows, column] = overlapping(own, self.spans[name][number])
                if name in self.asked:
                    asked[rows, column] = overlapping(own, self.asked[name][number])
                else:
                    asked[rows, column] = own[:, 0] < own[:, 1]
            place = last
        if windows.chosen is not None:
            asked &= windows.chosen[:, None]
        return LabelledTokens(
            names=wanted,
            windows=windows,
            truth=truth & asked,
            asked=asked,
            documents=np.asarray(self.documents)[windows.documents],
        )

    def of(self, documents: Collection[int]) -> "Labels":
        """The same labels of the texts of some documents only.

        Args:
            documents: Numbers out of `documents`.

        Raises:
            SettingError: None of the texts belongs to these.
        """
        wanted = set(documents)
        rows = [i for i, document in enumerate(self.documents) if document in wanted]
        if not rows:
            raise SettingError(f"No text belongs to the {len(wanted)} documents that were named.")

        def taken(values: Sequence[Any]) -> tuple[Any, ...]:
            return tuple(values[row] for row in rows)

        return Labels(
            taken(self.texts),
            {name: taken(spans) for name, spans in self.spans.items()},
            {name: taken(spans) for name, spans in self.asked.items()},
            taken(self.documents),
            taken(self.domains),
        )

    @property
    def headline(self) -> str:
        """How many labels, texts and documents."""
        return (
            f"{counted(len(self.names), 'label')} of {counted(len(self.texts), 'text')} in "
            f"{counted(len(set(self.documents)), 'document')}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per label: label, spans, texts with one, whether it applies everywhere."""
        import pandas as pd

        rows = [
            (name, sum(map(len, spans)), sum(map(bool, spans)), name not in self.asked)
            for name, spans in self.spans.items()
        ]
        return pd.DataFrame(rows, columns=["label", "spans", "texts", "applies everywhere"])


@dataclass(frozen=True, repr=False)
class LabelledTokens(Result):
    """Windows of tokens with labels.

    Attributes:
        names: The labels, in the order of the columns below.
        windows: The windows; `truth` and `asked` go with `windows.ids`.
        truth: Whether a token has a label.
        asked: Whether a label applies to a token at all.
        documents: Number of each window's document.
    """

    names: tuple[str, ...]
    windows: "Windows"
    truth: Bool[np.ndarray, "token label"]
    asked: Bool[np.ndarray, "token label"]
    documents: Int[np.ndarray, " window"]

    @cached_property
    def token_documents(self) -> Int[np.ndarray, " token"]:
        """Number of each token's document."""
        return np.repeat(self.documents, np.diff(self.windows.bounds))

    @property
    def headline(self) -> str:
        """How many tokens and labels."""
        return (
            f"{counted(len(self.names), 'label')} of {counted(self.windows.n_tokens, 'token')} in "
            f"{counted(len(self.windows), 'window')}"
        )

    def frame(self) -> "pd.DataFrame":
        """One row per label: label, tokens it applies to, tokens that have it."""
        import pandas as pd

        return pd.DataFrame(
            {
                "label": self.names,
                "asked": self.asked.sum(axis=0),
                "true": self.truth.sum(axis=0),
            }
        )


def overlapping(
    pieces: Int[np.ndarray, "pos 2"], spans: Sequence[Span]
) -> Bool[np.ndarray, " pos"]:
    """Which pieces of text share a character with one of the spans; an empty piece shares none."""
    found = np.zeros(len(pieces), dtype=bool)
    for start, end in spans:
        found |= (pieces[:, 0] < end) & (pieces[:, 1] > start)
    return found & (pieces[:, 0] < pieces[:, 1])


def _pieces(tokenizer: Any, text: str) -> tuple[list[int], Int[np.ndarray, "pos 2"]]:
    """Token ids of a text, and the characters of each, without white space before a word."""
    from arcee_lab.data.tokenization import token_offsets

    _require_fast(tokenizer)
    ids, offsets = token_offsets(tokenizer, text)
    special = tokenizer.all_special_ids
    pieces = np.asarray(offsets, dtype=np.int64).reshape(-1, 2)
    for place, (start, end) in enumerate(pieces.tolist()):
        piece = text[start:end]
        if ids[place] in special:
            pieces[place] = start, start  # BOS has no label, also where it is in the text
        elif word := piece.lstrip():
            pieces[place, 0] = end - len(word)
    return list(ids), pieces


def _require_fast(tokenizer: Any) -> None:
    if not getattr(tokenizer, "is_fast", False):
        raise TextError(
            f"{type(tokenizer).__name__} cannot say which characters a token has; expected a fast "
            "tokenizer, which al.load gives where the checkpoint has one."
        )


def texts_of(texts: Any) -> tuple[str, ...]:
    """Texts as a tuple, checked."""
    if isinstance(texts, str):
        raise WrongType("texts is one string; expected a list of texts, so pass [text].")
    found = tuple(texts)
    if not found:
        raise TextError("There are no texts; expected at least one.")
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise TextError(f"text {number} is {type(text).__name__}; expected a string.")
        require_unicode(text, f"text {number}")
    return found


def spans_of(texts: Sequence[str], where: Any) -> dict[str, tuple[Spans, ...]]:
    """Spans of each label and text as tuples, checked."""
    if not isinstance(where, Mapping):
        raise WrongType(
            f"spans are {type(where).__name__}; expected a mapping from a label to spans per text."
        )
    found = {}
    for name, given in where.items():
        if not isinstance(name, str) or not name:
            raise TextError(f"A label is named {name!r}; expected a non-empty string.")
        rows = tuple(given)
        if len(rows) != len(texts):
            raise TextError(
                f"label {name!r} has spans for {counted(len(rows), 'text')} of {len(texts)}; "
                "expected one list per text, empty where it does not occur."
            )
        found[name] = tuple(
            tuple(_span(text, span, f"text {number}, label {name!r}") for span in row)
            for number, (text, row) in enumerate(zip(texts, rows, strict=True))
        )
    return found


def _span(text: str, span: Any, where: str) -> Span:
    try:
        start, end = span
        whole = all(isinstance(x, int | np.integer) and not isinstance(x, bool) for x in span)
    except (TypeError, ValueError):
        start, end, whole = 0, 0, False
    if not whole or not 0 <= start < end <= len(text):
        raise TextError(
            f"{where}: {span!r} is no span of its {len(text)} characters; expected (start, end) "
            f"with 0 <= start < end <= {len(text)}."
        )
    return int(start), int(end)
