"""An exemplar with the tokens around it: what a page, a record and a prompt show of a window."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from arcee_lab.errors import SettingError
from arcee_lab.neurons.pages.token_text import TokenText

BEFORE, AFTER = 24, 8  # tokens around the peak


@dataclass(frozen=True)
class Excerpt:
    """A few tokens of a window, around one of them.

    Attributes:
        kind: "top", "stratum" or "negative".
        rank: Place within its kind, from 0; strata count through, low to high.
        stratum: Number of the stratum, from 0 for the lowest; None for other kinds.
        window: Number of the window.
        document: Number of its document.
        domain: The window's domain, or "".
        position: The token, counted within the window, at which the value was; None for a negative.
        value: relu(u)² there; 0 for a negative.
        start: Position of the first token that is shown.
        length: Tokens of the window.
        ids: Token ids that are shown.
        tokens: Their text.
        counted: Whether the run counts each of them; first tokens are read only.
        values: relu(u)² at each of them; None where they were not computed.
    """

    kind: str
    rank: int
    stratum: int | None
    window: int
    document: int
    domain: str
    position: int | None
    value: float
    start: int
    length: int
    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    counted: tuple[bool, ...]
    values: tuple[float, ...] | None = None

    @property
    def text(self) -> str:
        """The tokens as one text."""
        return "".join(self.tokens)

    @property
    def peak(self) -> int | None:
        """Place of `position` among the tokens that are shown."""
        return None if self.position is None else self.position - self.start

    @property
    def known(self) -> tuple[float, ...]:
        """A value per token: all if they were computed, else the exemplar's own and zeros."""
        if self.values is not None:
            return self.values
        return tuple(self.value if place == self.peak else 0.0 for place in range(len(self.ids)))

    def around(self, before: int, after: int) -> tuple[int, int]:
        """Where fewer tokens around the same token begin and end, among those that are shown."""
        peak = self.length // 2 - self.start if self.peak is None else self.peak
        return max(0, peak - before), min(len(self.ids), peak + after + 1)


def span(position: int | None, length: int, before: int, after: int) -> tuple[int, int]:
    """First and last + 1 position of what is shown of a window.

    A window that ends early on one side shows no more on the other. One without a peak is shown
    around its middle, so that its excerpt looks like the others.

    Args:
        position: The peak; None if there is none.
        length: Tokens of the window.
        before: Tokens before the peak.
        after: Tokens after it.
    """
    if position is None:
        position = length // 2
    return max(0, position - before), min(length, position + after + 1)


def cut_exemplars(
    run: Any, layer: int, unit: int, text: TokenText, *, before: int = BEFORE, after: int = AFTER
) -> tuple[tuple[Excerpt, ...], tuple[tuple[Excerpt, ...], ...], tuple[Excerpt, ...]]:
    """The exemplars of a unit: best ones, strata from low to high, and negatives.

    Args:
        run: What `al.neurons.exemplars` found.
        layer: The layer.
        unit: The neuron.
        text: Decodes token ids.
        before: Tokens shown before the peak.
        after: Tokens shown after it.
    """
    check_span(before, after)

    def cut(kind: str, rank: int, stratum: int | None, found: Any) -> Excerpt:
        window = found if kind == "negative" else found.window
        position = None if kind == "negative" else found.position
        ids = run.ids(window)
        first, stop = span(position, len(ids), before, after)
        shown = tuple(int(number) for number in ids[first:stop])
        return Excerpt(
            kind=kind,
            rank=rank,
            stratum=stratum,
            window=int(window),
            document=run.document(window),
            domain=run.domain(window),
            position=position,
            value=0.0 if kind == "negative" else found.value,
            start=first,
            length=len(ids),
            ids=shown,
            tokens=text(shown),
            counted=run.counted(window)[first:stop],
            values=(0.0,) * len(shown) if kind == "negative" else None,
        )

    top = tuple(cut("top", rank, None, x) for rank, x in enumerate(run.top(layer, unit)))
    strata, rank = [], 0
    for number, members in enumerate(run.stratified(layer, unit)):
        strata.append(
            tuple(cut("stratum", rank + i, number, found) for i, found in enumerate(members))
        )
        rank += len(members)
    negatives = tuple(
        cut("negative", rank, None, window)
        for rank, window in enumerate(run.negatives(layer, unit))
    )
    return top, tuple(strata), negatives


def check_span(before: int, after: int) -> None:
    """Checks how many tokens are to be shown around a peak.

    Raises:
        SettingError: A number below 0 or above 512.
    """
    for name, number in (("before", before), ("after", after)):
        if not 0 <= number <= 512:
            raise SettingError(f"{name} is {number} tokens; expected 0 to 512.")


def with_values(excerpt: Excerpt, values: Sequence[float]) -> Excerpt:
    """The excerpt with a value per token; tokens that the run does not count get 0.

    Args:
        excerpt: Any.
        values: One per shown token; more are left out.
    """
    some = zip(excerpt.counted, values, strict=False)
    return replace(excerpt, values=tuple(float(value) if count else 0.0 for count, value in some))
