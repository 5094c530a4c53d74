"""All that is known of one neuron, as one frozen result."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from arcee_lab.neurons.pages.excerpts import Excerpt
from arcee_lab.results import Result, counted
from arcee_lab.sites import unit_name
from arcee_lab.views.html import number

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.neurons.descriptions.description import Description
    from arcee_lab.views.figures.figure import Figure

Scored = tuple[tuple[str, float], ...]  # texts of tokens, each with a number


@dataclass(frozen=True)
class UnitEffects:
    """What one neuron writes and reads, in tokens.

    Attributes:
        raises: Tokens whose logit it raises most, with the effect of a value of 1.
        lowers: Tokens whose logit it lowers most, the lowest first.
        kind: Its class by what it writes, such as "prediction", or None.
        moments: Moments of its effects over the vocabulary, by name.
        nearest: Tokens whose embedding is nearest to what it reads, with the cosine.
    """

    raises: Scored = ()
    lowers: Scored = ()
    kind: str | None = None
    moments: Mapping[str, float] = field(default_factory=dict)
    nearest: Scored = ()


@dataclass(frozen=True)
class UnitLabel:
    """How well one neuron carries a label.

    Attributes:
        label: The label.
        scores: Numbers by name, from the texts that confirm.
        confirmed: Whether it is the label's best unit, and beats the controls.
    """

    label: str
    scores: Mapping[str, float]
    confirmed: bool = False


@dataclass(frozen=True, repr=False)
class NeuronPage(Result):
    """All that is known of one neuron.

    Values are relu(u)², as in the run.

    Attributes:
        model: Name of the model.
        layer: Number of the layer.
        unit: Number of the neuron within it.
        n_tokens: Tokens that were counted.
        n_fired: Tokens at which it fired.
        rate: Share of tokens at which it fired.
        maximum: Its largest value; 0 if it never fired.
        edges: Edges of the histogram's bins, from 0 to infinity.
        counts: Windows whose largest value is in each bin.
        top: Exemplars with the largest values, best first.
        strata: Exemplars drawn by size, strata from low to high.
        negatives: Windows in which it never fires.
        effects: What it writes and reads; None if that was not asked for.
        labels: Labels that it carries, best first.
        ablation: What changes without it, by name.
        description: Text that a language model gave, with its scores.
        values_seconds: How long computing the values per token took; None if they are not there,
            0 if they came from a file.
    """

    model: str
    layer: int
    unit: int
    n_tokens: int
    n_fired: int
    rate: float
    maximum: float
    edges: Float[np.ndarray, " edge"]
    counts: Int[np.ndarray, " bin"]
    top: tuple[Excerpt, ...]
    strata: tuple[tuple[Excerpt, ...], ...]
    negatives: tuple[Excerpt, ...]
    effects: UnitEffects | None = None
    labels: tuple[UnitLabel, ...] = ()
    ablation: Mapping[str, float] = field(default_factory=dict)
    description: "Description | None" = None
    values_seconds: float | None = None

    @property
    def name(self) -> str:
        """The neuron as `L1/N32`."""
        return unit_name(self.layer, self.unit)

    @property
    def headline(self) -> str:
        """How often it fires, with N, and what it carries."""
        n = f"N = {counted(self.n_tokens, 'token')}"
        if not self.n_fired:
            return (
                f"{self.name} of {self.model} never fired ({n}), so with 95 % confidence it fires "
                f"at less than {number(3 / max(self.n_tokens, 1))} of tokens"
            )
        parts = [
            f"{self.name} of {self.model} fires at {self.rate:.3%} of tokens ({n}), up to "
            f"{number(self.maximum)}"
        ]
        if self.labels:
            best = self.labels[0]
            name, value = next(iter(best.scores.items()))
            parts.append(f"best label {best.label!r} ({name} {value:.2f})")
        if self.effects is not None and self.effects.kind:
            parts.append(f"class {self.effects.kind}")
        return "; ".join(parts)

    @property
    def excerpts(self) -> Iterator[Excerpt]:
        """All excerpts: the best, the strata, the negatives."""
        yield from self.top
        for stratum in self.strata:
            yield from stratum
        yield from self.negatives

    def frame(self) -> "pd.DataFrame":
        """One row per exemplar: where it is, its value, its token and the text around it."""
        import pandas as pd

        rows = [
            (
                x.kind,
                x.rank,
                x.stratum,
                x.window,
                x.document,
                x.domain,
                x.position,
                x.value,
                None if x.peak is None else x.tokens[x.peak],
                x.text,
            )
            for x in self.excerpts
        ]
        columns = ["kind", "rank", "stratum", "window", "document", "domain", "position", "value"]
        frame = pd.DataFrame(rows, columns=[*columns, "token", "text"])
        return frame.astype(dict.fromkeys(("stratum", "document", "position"), "Int64"))

    def figure(self, *, dark: bool = False) -> "Figure":
        """The sizes of its values, and next to them the tokens that it raises and lowers."""
        from arcee_lab.views.figures.neuron import neuron_figure

        effects = self.effects or UnitEffects()
        shown = [*effects.raises[:8], *reversed(effects.lowers[:8])]
        return neuron_figure(
            self.edges,
            self.counts,
            [token for token, _ in shown],
            [value for _, value in shown],
            title=self._finding,
            dark=dark,
        )

    @property
    def _finding(self) -> str:
        share = self.n_fired / max(self.n_tokens, 1)
        said = f"{self.name} fires at {share:.2%} of {counted(self.n_tokens, 'token')}"
        raises = self.effects.raises if self.effects is not None else ()
        return f"{said} and raises {raises[0][0]!r} most" if raises else said

    def html(self, *, title: str | None = None) -> str:
        """The page as a file that opens offline: no script, no request, at most 60,000 bytes.

        Args:
            title: The heading; by default the neuron's name and the model's.
        """
        from arcee_lab.neurons.pages.html import whole_page

        return whole_page(self, title=title)

    def _repr_html_(self) -> str:
        from arcee_lab.neurons.pages.html import fragment

        return fragment(self)
