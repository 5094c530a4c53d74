"""The call that joins all that is known of one neuron."""

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from arcee_lab.errors import SavedDamaged, SettingError
from arcee_lab.neurons.pages import joined
from arcee_lab.neurons.pages.excerpts import AFTER, BEFORE, Excerpt, cut_exemplars, with_values
from arcee_lab.neurons.pages.neuron_page import NeuronPage
from arcee_lab.neurons.pages.token_text import TokenText

if TYPE_CHECKING:
    from arcee_lab.neurons.descriptions.description import Description


def page(
    run: Any,
    layer: int,
    unit: int,
    *,
    tokenizer: Any,
    model: Any = None,
    effects: Any = None,
    found: Any = None,
    ablation: Any = None,
    description: "Description | None" = None,
    values: Any = None,
    before: int = BEFORE,
    after: int = AFTER,
) -> NeuronPage:
    """Joins all that is known of one neuron.

    Exemplars, rate and histogram come from the run, in milliseconds for any of its neurons. What
    else is given is looked up in it. Values per token are computed where a model is given: one
    forward pass, up to this layer, over the windows of the exemplars.

    Args:
        run: What `al.neurons.exemplars` found.
        layer: Number of the layer.
        unit: Number of the neuron within it.
        tokenizer: The tokenizer that the run was made with.
        model: The model that the run is of, for values per token.
        effects: What `al.neurons.effects` found, for the tokens that the neuron raises, lowers
            and reads; or a mapping from layers to that.
        found: What `al.neurons.find` found, for the labels that the neuron carries.
        ablation: What `al.neurons.ablate` found for this neuron alone, among others.
        description: What `al.neurons.explain` gave for this neuron.
        values: A `StoredValues`, from `al.neurons.StoredValues.load`, in place of a model.
        before: Tokens shown before a peak; stored values decide it.
        after: Tokens shown after it; stored values decide it.

    Returns:
        The page, frozen. A neuron that never fired has one too, which says so with its N.

    Raises:
        SettingError: A layer or unit that the run does not have, a number of tokens out of its
            range, or a description of another neuron.
        UnknownName: Effects or ablations without this neuron.
        OtherRun: The model is not the one that the run is of.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> texts = ["The lamp above the doors finds the red king.", "The dogs near the gate bark."]
        >>> run = al.neurons.exemplars(model, tokenizer, texts, top=2, strata=2, per_stratum=1)
        >>> page = al.neurons.page(run, 1, 3, tokenizer=tokenizer, model=model)
        >>> page.name
        'L1/N3'
    """
    layer, unit = check_unit(run, layer, unit)
    if description is not None and (description.layer, description.unit) != (layer, unit):
        raise SettingError(
            f"description is of L{description.layer}/N{description.unit}; expected one of "
            f"L{layer}/N{unit}. Call explain for this neuron."
        )
    if values is not None:
        values.require_of(run)
        before, after = values.before, values.after
    edges, counts = run.histogram(layer, unit)
    text = TokenText(tokenizer)
    top, strata, negatives = cut_exemplars(run, layer, unit, text, before=before, after=after)
    made = NeuronPage(
        model=run.model,
        layer=layer,
        unit=unit,
        n_tokens=run.n_tokens,
        n_fired=int(run.fired(layer)[unit]),
        rate=float(run.rates(layer)[unit]),
        maximum=float(run.maxima(layer)[unit]),
        edges=np.asarray(edges, dtype=np.float64),
        counts=np.asarray(counts, dtype=np.int64),
        top=top,
        strata=strata,
        negatives=negatives,
        effects=None if effects is None else joined.effects_of(effects, layer, unit, text),
        labels=() if found is None else joined.labels_of(found, layer, unit),
        ablation={} if ablation is None else joined.ablation_of(ablation, layer, unit),
        description=description,
    )
    if values is not None:
        read = values.read(layer, unit)
        return with_read(made, read, 0.0)
    return made if model is None else with_model(made, run, model)


def with_model(made: NeuronPage, run: Any, model: Any) -> NeuronPage:
    """The page with values per token, computed by the model.

    Args:
        made: A page of the run.
        run: The run.
        model: The model that it is of.
    """
    from arcee_lab.neurons.pages.values import read_values, spots_of

    began = time.perf_counter()
    wanted = valued(made)
    spots = spots_of([(made.layer, made.unit)] * len(wanted), wanted)
    values = read_values(run, model, spots)
    seconds = time.perf_counter() - began
    return with_read(made, values.tolist(), seconds)


def valued(made: NeuronPage) -> list[Excerpt]:
    """The excerpts whose values are not known yet: all but the negatives, in order."""
    return [*made.top, *(x for stratum in made.strata for x in stratum)]


def with_read(made: NeuronPage, values: Sequence[Sequence[float]], seconds: float) -> NeuronPage:
    """The page with values per token.

    Args:
        made: The page.
        values: For each of `valued(made)` its values; more than it has tokens are left out.
        seconds: How long they took.

    Raises:
        SavedDamaged: Not as many rows, or too short ones.
    """
    excerpts = valued(made)
    if len(values) != len(excerpts) or any(
        len(row) < len(x.ids) for row, x in zip(values, excerpts, strict=True)
    ):
        raise SavedDamaged(
            f"{made.name} has {len(excerpts)} exemplars and {len(values)} rows of values, or rows "
            "that are too short; expected one long enough per exemplar. Write the values again."
        )
    read = iter(values)

    def with_next(x: Excerpt) -> Excerpt:
        return with_values(x, next(read))

    top = tuple(map(with_next, made.top))
    strata = tuple(tuple(map(with_next, stratum)) for stratum in made.strata)
    return replace(made, top=top, strata=strata, values_seconds=seconds)


def check_unit(run: Any, layer: int, unit: int) -> tuple[int, int]:
    """A layer and a unit of a run.

    Raises:
        SettingError: The run does not have it.
    """
    for name, given in (("layer", layer), ("unit", unit)):
        if isinstance(given, bool) or not isinstance(given, int | np.integer):
            raise SettingError(f"{name} is {given!r}; expected a whole number.")
    if layer not in run.layers:
        raise SettingError(
            f"layer is {layer}; the run has the layers {', '.join(map(str, run.layers))}."
        )
    if not 0 <= unit < run.d_mlp:
        raise SettingError(
            f"unit is {unit}; layer {layer} has {run.d_mlp:,} neurons, so expected 0 to "
            f"{run.d_mlp - 1}."
        )
    return int(layer), int(unit)
