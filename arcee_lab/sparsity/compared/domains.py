"""Row 15: the same model on several kinds of text.

    selectivity   p_i^D / Σ_D' p_i^D'    1 where a neuron fires in one domain alone, 1/domains where
                                         it fires in all alike
    JS, hot       as in `comparison`, for each pair of domains

Sources: Luo et al., "Sparsing Law", arXiv:2411.02335, figure 9; Song et al., "ProSparse",
arXiv:2402.13516 (sparsity by data set).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from arcee_lab.errors import SettingError, WrongType
from arcee_lab.results import Result
from arcee_lab.runs.arguments import checked
from arcee_lab.sparsity.compared.comparison import divergence, hot_overlap
from arcee_lab.sparsity.core.counts import CoreCounts, Counted

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class Domains(Result):
    """One model, several texts.

    Attributes:
        names: Of the domains.
        rates: p, `[domain, layer, d_mlp]`.
        tokens: N of each.
    """

    names: tuple[str, ...]
    rates: np.ndarray
    tokens: tuple[int, ...]

    @property
    def selectivity(self) -> np.ndarray:
        """`[domain, layer, d_mlp]`; NaN for neurons that never fired."""
        with np.errstate(invalid="ignore"):
            return self.rates / self.rates.sum(0, keepdims=True)

    @property
    def headline(self) -> str:
        zeros = 1 - self.rates.mean((1, 2))
        told = [
            f"{name} {share:.1%} (N = {tokens:,})"
            for name, share, tokens in zip(self.names, zeros, self.tokens, strict=True)
        ]
        return f"exact zeros: {', '.join(told)}"

    def frame(self) -> "pd.DataFrame":
        """One row per layer and domain: zeros, dead, selective (above 0.8 here), n_tokens."""
        import pandas as pd

        selective = (np.nan_to_num(self.selectivity) > 0.8).sum(2)
        rows = []
        for place, name in enumerate(self.names):
            for layer in range(self.rates.shape[1]):
                rates = self.rates[place, layer]
                zeros, dead = 1 - rates.mean(), int((rates == 0).sum())
                rows.append(
                    (layer, name, zeros, dead, int(selective[place, layer]), self.tokens[place])
                )
        columns = ["layer", "domain", "zeros", "dead", "selective", "n_tokens"]
        return pd.DataFrame(rows, columns=columns)

    def pairs(self) -> "pd.DataFrame":
        """One row per layer and pair of domains: js_bits, hot_jaccard."""
        import pandas as pd

        parts = []
        for one, two in combinations(range(len(self.names)), 2):
            first, second = self.rates[one], self.rates[two]
            parts.append(
                pd.DataFrame(
                    {
                        "layer": range(len(first)),
                        "first": self.names[one],
                        "second": self.names[two],
                        "js_bits": divergence(first, second),
                        "hot_jaccard": hot_overlap(first, second),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def neurons(self) -> "pd.DataFrame":
        """One row per neuron: layer, unit, and its selectivity for each domain."""
        import pandas as pd

        _, layers, d_mlp = self.rates.shape
        columns: dict[str, object] = {
            "layer": np.repeat(np.arange(layers), d_mlp),
            "unit": np.tile(np.arange(d_mlp), layers),
        }
        columns |= {name: self.selectivity[place].ravel() for place, name in enumerate(self.names)}
        return pd.DataFrame(columns)

    def figure(self, *, dark: bool = False) -> "Figure":
        """Zeros by layer, one line per domain; a map where there are more than six."""
        from arcee_lab.views.figures.curves import Line, grid, lines
        from arcee_lab.views.figures.drawing.series import MOST

        zeros = 1 - self.rates.mean(2)
        means = zeros.mean(1)
        most, least = int(means.argmax()), int(means.argmin())
        title = (
            f"Exact zeros: {means[most]:.1%} in {self.names[most]}, {means[least]:.1%} in "
            f"{self.names[least]}, means over layers (N = {sum(self.tokens):,} tokens)"
        )
        layers = np.arange(zeros.shape[1])
        if len(self.names) > MOST:
            # Lines of so many colours could not be told apart.
            return grid(
                zeros,
                rows=self.names,
                columns=[str(layer) for layer in layers],
                x="layer",
                y="",
                what="share of exact zeros",
                title=title,
                limits=(float(zeros.min()), float(zeros.max())),
                dark=dark,
            )
        return lines(
            [Line(name, layers, zeros[place]) for place, name in enumerate(self.names)],
            x="layer",
            y="share of exact zeros",
            shares="y",
            title=title,
            dark=dark,
        )


@checked
def domains(reports: Mapping[str, Counted]) -> Domains:
    """Puts the reports of one model on several texts side by side.

    Args:
        reports: By the name of the domain.

    Raises:
        ValueError: Fewer than two, or models of different shapes.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = {"animals": ["The dogs near the barn sleep ."], "boats": ["A boat drifts ."]}
        >>> al.sparsity.domains(
        ...     {name: al.sparsity.measure(model, tokenizer, text) for name, text in texts.items()}
        ... ).names
        ('animals', 'boats')
    """
    if len(reports) < 2:
        raise SettingError(f"{len(reports)} domain was given; expected at least two to compare.")
    for name, report in reports.items():
        if not isinstance(getattr(report, "counts", None), CoreCounts):
            raise WrongType(f"{name!r} is {report!r}; expected a report of al.sparsity.measure.")
    shapes = {name: tuple(report.counts.rates.shape) for name, report in reports.items()}
    if len(set(shapes.values())) > 1:
        raise SettingError(f"the domains were measured on models of other shapes: {shapes}.")
    return Domains(
        tuple(reports),
        np.stack([report.counts.rates.numpy() for report in reports.values()]),
        tuple(report.counts.n_tokens for report in reports.values()),
    )
