"""`detect`: directions of a concept at every layer, tried on other documents, with controls."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import nn

from arcee_lab import bootstrap
from arcee_lab.directions import methods
from arcee_lab.directions.auroc import auroc, interval, resampled
from arcee_lab.directions.detected import AUROC, GAP, SHUFFLED, UNTRAINED, Detection
from arcee_lab.directions.direction import Check, Direction
from arcee_lab.directions.methods import Fit, Method
from arcee_lab.directions.reading import (
    MAX_POSITIONS,
    SITES,
    Places,
    activations,
    find_places,
    token_sites,
)
from arcee_lab.errors import ModelError, SameMeans, SettingError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.neurons.labels.labelled import Labels
from arcee_lab.neurons.search.controls import Untrained, untrained_copy
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar

METHODS = ("mean difference", "logistic", "ridge")
_GATHERED = 2**30  # bytes of activations that are held at once


@checked
def detect(
    model: nn.Module,
    tokenizer: Any,
    labels: Labels,
    concept: str,
    *,
    method: str = "mean difference",
    sites: str | Sequence[str] = SITES,
    confirm: Labels | None = None,
    context: int | None = None,
    batch_size: int = 8,
    max_positions: int = MAX_POSITIONS,
    strength: float = 1.0,
    shuffles: int = 20,
    untrained: nn.Module | bool | None = None,
    seed: int = 0,
    progress: bool | None = None,
) -> Detection:
    """Finds a direction of a concept at each site, and measures how well it detects the concept.

    A direction is fitted on one half of the documents and tried on the other. Two controls say
    what the AUROC would be without the concept or without the training: directions fitted on
    shuffled labels, whose interval is over shuffles and documents, and the same method on a copy of
    the model with weights drawn anew, whose difference to the model is paired by document.

    A direction that detects a concept need not be one that the model uses: `steer` tries that.

    Args:
        model: An Arcee model with any head.
        tokenizer: Its tokenizer.
        labels: Texts with labels, from `al.neurons.labels`, `whole_texts` or `predicted_labels`.
        concept: The label.
        method: "mean difference", "logistic" or "ridge".
        sites: Hook points with one vector per token; by default the residual stream after each
            layer.
        confirm: Other texts to confirm on; then all of `labels` is fitted on.
        context: Tokens per window; by default 1024, or the model's context if shorter.
        batch_size: Windows per forward.
        max_positions: Most tokens to fit on, and to confirm on; of more, evenly spaced ones of each
            class.
        strength: Of the probes: logistic regression's C, and the inverse of ridge's penalty.
        shuffles: How often the labels are shuffled.
        untrained: As for `al.neurons.find`: a model to take as the untrained control; True for a
            copy with weights drawn anew, False for none. None takes a copy where it fits into half
            of the free memory, and otherwise the result says that this control is missing.
        seed: Of the division into halves, the shuffles, the intervals and the copy's weights.
        progress: Whether a bar is shown.

    Raises:
        SettingError: There is no such label or method, a number is out of its range, or
            `untrained=True` and no copy can be made.
        SiteError: A site has not one vector per token.
        TextError: A half lacks one of the two classes.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> labels = al.neurons.labels.demo("review", n=30)
        >>> found = al.directions.detect(model, tokenizer, labels, "negated", progress=False)
        >>> len(found.directions)
        5
    """
    fit = method_of(method, strength)
    if shuffles < 2:
        raise SettingError(f"shuffles={shuffles}; expected 2 or more, for an interval.")
    names = token_sites(anatomy_of(model), sites)
    places = find_places(
        model,
        tokenizer,
        labels,
        concept,
        confirm=confirm,
        context=context,
        max_positions=max_positions,
        seed=seed,
    )
    control, missing = _control(model, untrained, seed)
    if control is not None:
        _require_alike(model, control, names)
    known = _Known(concept, method, model_name(model), model_fingerprint(model))
    directions, chosen, alike = [], [], []
    groups = _groups(anatomy_of(model), names, len(places.row))
    passes = len(groups) * (1 if control is None else 2)
    with progress_bar(total=passes * len(places.rows), show=progress) as bar:
        for group in groups:
            x = _read(model, places, group, batch_size, bar)
            other = None if control is None else _read(control, places, group, batch_size, bar)
            for site in group:
                z = None if other is None else other[site]
                try:
                    found = _tried(
                        x[site], z, places, fit, known, site, shuffles=shuffles, seed=seed
                    )
                except SameMeans:
                    if len(names) == 1:
                        raise
                    alike.append(site)
                    continue
                directions.append(found)
                chosen.append(_within(x[site], places, fit, seed))
    if not directions:
        raise SettingError(
            f"The tokens with {concept!r} have the same mean as the others at all "
            f"{len(names)} sites; choose another concept or other sites."
        )
    best = int(np.argmax(np.round(chosen, 6)))
    return Detection(concept, method, known.model, tuple(directions), best, missing, tuple(alike))


def method_of(method: str, strength: float) -> Method:
    """The function behind a method's name.

    Raises:
        SettingError: There is no such method, or the strength is not positive.
    """
    if not (np.isfinite(strength) and strength > 0):
        raise SettingError(f"strength={strength}; expected a positive number.")
    known = {
        "mean difference": lambda: methods.difference_of_means,
        "logistic": lambda: methods.logistic_probe(strength),
        "ridge": lambda: methods.ridge_probe(1 / strength),
    }
    if method not in known:
        raise SettingError(f"method={method!r}; expected one of {', '.join(METHODS)}.")
    return known[method]()


class _Known(NamedTuple):
    concept: str
    method: str
    model: str
    fingerprint: str


def _read(
    model: nn.Module, places: Places, sites: list[str], batch_size: int, bar: Any
) -> dict[str, Float[np.ndarray, "place d"]]:
    return activations(
        model, places.rows, places.row, places.at, sites, batch_size=batch_size, bar=bar
    )


def _control(model: nn.Module, untrained: nn.Module | bool | None, seed: int) -> Untrained:
    if isinstance(untrained, nn.Module):
        return Untrained(untrained, "")
    if untrained is False:
        return Untrained(None, "it was left out")
    made = untrained_copy(anatomy_of(model), seed=seed)
    if untrained and made.model is None:
        raise SettingError(
            f"untrained=True asks for a copy of the model, and there is none: {made.missing}. Give "
            "a model, or False."
        )
    return made


def _require_alike(model: nn.Module, control: nn.Module, names: list[str]) -> None:
    ours, theirs = anatomy_of(model), anatomy_of(control)
    legend = ours.legend.sites()
    for name in names:
        axis = legend[name].axes[-1]
        if name not in theirs.legend.sites() or ours.size(axis) != theirs.size(axis):
            raise ModelError(
                f"untrained has no {name} of the width {ours.size(axis)}; expected a model of "
                "the same shape, such as one with fresh weights."
            )


def _groups(anatomy: Any, names: list[str], n: int) -> list[list[str]]:
    """Sites whose activations are held at the same time."""
    legend = anatomy.legend.sites()
    groups: list[list[str]] = []
    held = 0
    for name in names:
        size = 4 * n * anatomy.size(legend[name].axes[-1])
        if not groups or held + size > _GATHERED // 2:  # the control's are held too
            groups.append([])
            held = 0
        groups[-1].append(name)
        held += size
    return groups


def _tried(
    x: Float[np.ndarray, "place d"],
    other: Float[np.ndarray, "place d"] | None,
    places: Places,
    fit: Method,
    known: _Known,
    site: str,
    *,
    shuffles: int,
    seed: int,
) -> Direction:
    """A direction with its checks."""
    here, there = places.fit, ~places.fit
    truth, document = places.truth[there], places.document[there]
    n, documents = places.part(fit=False)

    def check(name: str, value: float, draws: Float[np.ndarray, " draw"]) -> Check:
        return Check(name, value, *interval(draws), n, documents)

    found = fit(x[here], places.truth[here])
    scores = x[there].astype(np.float64) @ found.vector
    draws = resampled(scores, truth, document, seed=seed)
    value = auroc(scores, truth)
    checks = [check(AUROC, value, draws)]
    checks.append(check(SHUFFLED, *_shuffled(x, places, fit, shuffles, seed)))
    if other is not None:
        control_scores = _scores(other, places.truth[here], places, fit)
        control_draws = resampled(control_scores, truth, document, seed=seed)
        control_value = auroc(control_scores, truth)
        checks.append(check(UNTRAINED, control_value, control_draws))
        checks.append(check(GAP, value - control_value, draws - control_draws))
    scale = methods.distance(x[here], places.truth[here], found.vector)
    return direction_of(
        found,
        scale,
        site=site,
        places=places,
        known=known,
        checks=tuple(checks),
    )


def direction_of(
    found: Fit,
    scale: float,
    *,
    site: str,
    places: Places,
    known: _Known,
    checks: tuple[Check, ...],
) -> Direction:
    """A fitted vector as a value."""
    n, documents = places.part(fit=True)
    return Direction(
        site=site,
        vectors=torch.from_numpy(found.vector[None]).float(),
        scale=torch.tensor([scale], dtype=torch.float32),
        threshold=found.threshold,
        method=known.method,
        concept=known.concept,
        model=known.model,
        fingerprint=known.fingerprint,
        n=n,
        documents=documents,
        split=places.split,
        checks=checks,
    )


def _scores(
    x: Float[np.ndarray, "place d"], labels: Bool[np.ndarray, " fit"], places: Places, fit: Method
) -> Float[np.ndarray, " held"]:
    """Scores of the tokens to confirm on, by a control; all the same where it finds nothing."""
    try:
        vector = fit(x[places.fit], labels).vector
    except SameMeans:
        return np.zeros(int((~places.fit).sum()))
    return x[~places.fit].astype(np.float64) @ vector


def _shuffled(
    x: Float[np.ndarray, "place d"], places: Places, fit: Method, shuffles: int, seed: int
) -> tuple[float, Float[np.ndarray, " draw"]]:
    """The mean AUROC of directions fitted on shuffled labels, and draws over all of them."""
    here, there = places.fit, ~places.fit
    order = np.random.default_rng(seed)
    values, draws = [], []
    each = max(1, bootstrap.DRAWS // shuffles)
    for number in range(shuffles):
        labels = order.permutation(places.truth[here])
        scores = _scores(x, labels, places, fit)
        values.append(auroc(scores, places.truth[there]))
        draws.append(
            resampled(
                scores,
                places.truth[there],
                places.document[there],
                draws=each,
                seed=seed + number,
            )
        )
    return float(np.mean(values)), np.concatenate(draws)


def _within(x: Float[np.ndarray, "place d"], places: Places, fit: Method, seed: int) -> float:
    """The AUROC within the documents to fit on: fitted on two thirds, tried on the others."""
    here = np.flatnonzero(places.fit)
    known = np.unique(places.document[here])
    third = np.random.default_rng(seed).permutation(known)[::3]
    held: Bool[np.ndarray, " place"] = np.isin(places.document[here], third)
    truth = places.truth[here]
    for part in (truth[held], truth[~held]):
        if part.all() or not part.any():
            return float("-inf")  # too few documents to choose by
    try:
        vector = fit(x[here][~held], truth[~held]).vector
    except SameMeans:
        return float("-inf")
    return auroc(x[here][held].astype(np.float64) @ vector, truth[held])
