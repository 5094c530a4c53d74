"""What formats need of a neuron: excerpts with values, their groups, and random windows."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from arcee_lab.errors import SettingError
from arcee_lab.neurons.pages.excerpts import AFTER, BEFORE, Excerpt, span, with_values
from arcee_lab.neurons.pages.neuron_page import NeuronPage
from arcee_lab.neurons.pages.token_text import TokenText
from arcee_lab.neurons.pages.values import read_values, spots_of


class Group(NamedTuple):
    """Exemplars of one stratum: of windows whose largest value is in one octave.

    Attributes:
        low: The lower bound of the octave.
        high: The upper bound; the neuron's largest value where there is none.
        share: Share of the windows in which the neuron fires that have their largest value there.
        excerpts: With values.
    """

    low: float
    high: float
    share: float
    excerpts: tuple[Excerpt, ...]


def groups(page: NeuronPage) -> list[Group]:
    """The strata that hold something, from high to low."""
    found = []
    for stratum in reversed(page.strata):
        if stratum:
            bin_ = int(np.searchsorted(page.edges, stratum[0].value, side="right")) - 1
            low, high = float(page.edges[bin_]), min(float(page.edges[bin_ + 1]), page.maximum)
            share = int(page.counts[bin_]) / max(1, int(page.counts.sum()))
            found.append(Group(low, high, share, stratum))
    return found


def check_name(name: str, what: str) -> str:
    """A name that becomes a part of file names and identifiers.

    Raises:
        SettingError: It holds something else than letters, digits, -, _ and dots.
    """
    if not isinstance(name, str) or not name.strip(".") or set(name) - _NAMES:
        raise SettingError(f"{what} is {name!r}; expected letters, digits, -, _ and dots.")
    return name


_NAMES = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.")


def random_excerpts(
    run: Any, model: Any, units: Sequence[tuple[int, int]], text: TokenText, *, n: int, seed: int
) -> Iterator[tuple[Excerpt, ...]]:
    """For each neuron, excerpts drawn at random from all counted tokens, whether it fires or not.

    The draw of a neuron depends on the seed and on the neuron alone.

    Args:
        run: The run.
        model: The model that it is of.
        units: Layer and number of each neuron.
        text: Decodes token ids.
        n: Excerpts per neuron; no token twice.
        seed: Random seed.
    """
    tokens = np.flatnonzero(run.counts)
    bounds = run.corpus.windows.bounds
    drawn: list[Excerpt] = []
    per_unit = min(n, len(tokens))
    for layer, unit in units:
        word = hashlib.sha256(f"random windows {seed} {layer} {unit}".encode()).digest()
        random = np.random.default_rng(int.from_bytes(word[:8], "little"))
        for rank, place in enumerate(random.choice(len(tokens), per_unit, replace=False)):
            token = int(tokens[place])
            window = int(np.searchsorted(bounds, token, side="right")) - 1
            position, length = token - int(bounds[window]), int(np.diff(bounds)[window])
            first, stop = span(position, length, BEFORE, AFTER)
            ids = run.ids(window)[first:stop]
            drawn.append(
                Excerpt(
                    kind="random",
                    rank=rank,
                    stratum=None,
                    window=window,
                    document=run.document(window),
                    domain=run.domain(window),
                    position=position,
                    value=0.0,
                    start=first,
                    length=length,
                    ids=ids,
                    tokens=text(ids),
                    counted=run.counted(window)[first:stop],
                )
            )
    which = [unit for unit in units for _ in range(per_unit)]
    values = read_values(run, model, spots_of(which, drawn)).tolist()
    valued = [with_values(x, row) for x, row in zip(drawn, values, strict=True)]
    for number in range(len(units)):
        yield tuple(valued[number * per_unit : (number + 1) * per_unit])
