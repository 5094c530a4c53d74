"""The call that describes a neuron with a language model, and judges the description."""

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from arcee_lab.errors import ModelError, SettingError
from arcee_lab.neurons.descriptions import judging, prompts
from arcee_lab.neurons.descriptions.description import Description, JudgeScore
from arcee_lab.neurons.descriptions.generators import generator_of
from arcee_lab.neurons.pages._page import check_unit
from arcee_lab.neurons.pages.excerpts import (
    AFTER,
    BEFORE,
    Excerpt,
    cut_exemplars,
    with_values,
)
from arcee_lab.neurons.pages.token_text import TokenText
from arcee_lab.neurons.pages.values import read_values, spots_of
from arcee_lab.sites import unit_name

_LEAST = 2  # exemplars that were not shown, for scores


def explain(
    run: Any,
    layer: int,
    unit: int,
    generator: Any,
    *,
    model: Any,
    tokenizer: Any,
    judge: Any = None,
    shown: int = 20,
    max_new_tokens: int = 128,
    batch_size: int = 8,
    seed: int = 0,
) -> Description:
    """Describes a neuron in words with a language model, and measures what the words predict.

    The generator sees the best exemplars, with the tokens marked at which the neuron fires at 0.3
    of the largest value or more. A judge that sees only the description then says in which other
    exemplars the neuron fires (detection), and in which the right tokens are marked (fuzzing).
    Exemplars of windows that the generator saw take no part. The same description is judged on
    exemplars of other neurons of the layer too: a score that is no higher than that says nothing of
    this neuron.

    The protocol is that of Paulo et al., arXiv:2410.13928, with prompts of our own, so scores are
    comparable with each other and only roughly with published ones.

    Args:
        run: What `al.neurons.exemplars` found.
        layer: Number of the layer.
        unit: Number of the neuron within it.
        generator: The language model: a function from a list of prompts to a list of texts, a
            text-generation pipeline of transformers, a pair of model and tokenizer, a local folder
            or a Hub id. Nothing but a Hub id that is given here is asked of the network.
        model: The model that the run is of, for values per token.
        tokenizer: Its tokenizer.
        judge: Another language model for the judgement; by default the generator.
        shown: Exemplars that the generator sees.
        max_new_tokens: Tokens of an answer at most.
        batch_size: Prompts, and windows of the model, per forward.
        seed: Random seed of the order of questions, of wrong marks and of other neurons.

    Returns:
        The description with its scores.

    Raises:
        SettingError: A unit that the run does not have or that never fired, or too few exemplars to
            describe and to judge.
        ModelError: The generator gave no text.
        OtherRun: The model is not the one of the run.
        CheckpointError: There is no such generator.
    """
    began = time.perf_counter()
    layer, unit = check_unit(run, layer, unit)
    if shown < 1:
        raise SettingError(f"shown is {shown} exemplars; expected at least 1.")
    generate, name = generator_of(generator, max_new_tokens=max_new_tokens, batch_size=batch_size)
    ask = generate
    if judge is not None:
        ask, judge_name = generator_of(judge, max_new_tokens=max_new_tokens, batch_size=batch_size)
        name = f"{name}; judge: {judge_name}"
    text = TokenText(tokenizer)
    top, strata, silent = cut_exemplars(run, layer, unit, text, before=BEFORE, after=AFTER)
    if not top:
        raise SettingError(
            f"{unit_name(layer, unit)} never fired at the {run.n_tokens:,} tokens of the run; "
            "expected a neuron that did. There is nothing to describe."
        )
    top = top[:shown]
    seen = {x.window for x in top}
    rest = [x for stratum in strata for x in stratum if x.window not in seen]
    if len(rest) < _LEAST or len(silent) < _LEAST:
        raise SettingError(
            f"{unit_name(layer, unit)} has {len(rest)} exemplars in windows that are not shown and "
            f"{len(silent)} windows in which it never fires; expected at least {_LEAST} of both. "
            "Lower shown=, or make the run from more text."
        )
    random = np.random.default_rng(seed)
    other_firing, other_silent = _others(run, layer, unit, text, len(rest), len(silent), random)
    own = [(unit, x) for x in (*top, *rest)]
    valued = _valued(run, model, layer, [*own, *other_firing], batch_size)
    top, rest = valued[: len(top)], valued[len(top) : len(own)]
    description = prompts.read_description(generate([prompts.describe(top)])[0])
    if not description:
        raise ModelError(
            f"generator {name} gave no text for {unit_name(layer, unit)}; expected a sentence. "
            "Try another generator, or a larger max_new_tokens=."
        )

    def scores(firing: Sequence[Excerpt], quiet: Sequence[Excerpt]) -> tuple[JudgeScore, ...]:
        questions = {
            "detection": judging.detection(firing, quiet, random),
            "fuzzing": judging.fuzzing(firing, random),
        }
        return tuple(judging.judge(how, description, q, ask) for how, q in questions.items() if q)

    return Description(
        layer=layer,
        unit=unit,
        text=description,
        generator=name,
        n_shown=len(top),
        scores=scores(rest, silent),
        shuffled=scores(valued[len(own) :], other_silent) if other_firing else (),
        seconds=time.perf_counter() - began,
    )


def _valued(
    run: Any, model: Any, layer: int, wanted: Sequence[tuple[int, Excerpt]], batch_size: int
) -> list[Excerpt]:
    """Excerpts with values per token, whichever neuron of the layer they are of."""
    values = read_values(
        run,
        model,
        spots_of([(layer, unit) for unit, _ in wanted], [x for _, x in wanted]),
        batch_size=batch_size,
    ).tolist()
    return [with_values(x, row) for (_, x), row in zip(wanted, values, strict=True)]


def _others(
    run: Any,
    layer: int,
    unit: int,
    text: TokenText,
    n_firing: int,
    n_silent: int,
    random: np.random.Generator,
) -> tuple[list[tuple[int, Excerpt]], list[Excerpt]]:
    """Exemplars of other neurons of the layer: as many, from as many neurons as there are."""
    rates = np.asarray(run.rates(layer))
    live = np.flatnonzero(rates > 0)
    live = live[live != unit]
    firing: list[tuple[int, Excerpt]] = []
    silent: list[Excerpt] = []
    for number in random.permutation(live).tolist():
        if len(firing) >= n_firing and len(silent) >= n_silent:
            break
        _, strata, negatives = cut_exemplars(run, layer, number, text)
        drawn = [x for stratum in strata for x in stratum]
        if drawn and negatives:
            firing.append((number, drawn[random.integers(len(drawn))]))
            silent.append(negatives[random.integers(len(negatives))])
    return firing[:n_firing], silent[:n_silent]
