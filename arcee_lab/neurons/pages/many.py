"""Pages of many neurons, their values per token computed together."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from arcee_lab.neurons.pages._page import page, valued, with_read
from arcee_lab.neurons.pages.neuron_page import NeuronPage
from arcee_lab.neurons.pages.values import BATCH_SIZE, read_values, spots_of

_TOGETHER = 256  # neurons whose values one pass over their windows computes


def pages(
    run: Any,
    units: Sequence[tuple[int, int]],
    *,
    model: Any = None,
    batch_size: int = BATCH_SIZE,
    progress: bool | None = False,
    **known: Any,
) -> Iterator[NeuronPage]:
    """The page of each neuron, in order.

    With a model, the windows of 256 neurons at a time are read once for all of them.

    Args:
        run: What `al.neurons.exemplars` found.
        units: Layer and number of each neuron.
        model: The model that the run is of, for values per token.
        batch_size: Windows per forward.
        progress: Whether each pass shows a bar.
        **known: The other arguments of `page`.
    """
    rest = iter(units)
    while some := list(islice(rest, _TOGETHER)):
        made = [page(run, layer, unit, **known) for layer, unit in some]
        if model is not None:
            made = list(_with_values(run, model, made, batch_size, progress))
        yield from made


def _with_values(
    run: Any, model: Any, made: Sequence[NeuronPage], batch_size: int, progress: bool | None
) -> Iterator[NeuronPage]:
    began = time.perf_counter()
    wanted = [(one, x) for one in made for x in valued(one)]
    values = read_values(
        run,
        model,
        spots_of([(one.layer, one.unit) for one, _ in wanted], [x for _, x in wanted]),
        batch_size=batch_size,
        progress=progress,
    ).tolist()
    seconds = (time.perf_counter() - began) / len(made)
    first = 0
    for one in made:
        stop = first + len(valued(one))
        yield with_read(one, values[first:stop], seconds)
        first = stop
