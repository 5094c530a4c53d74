"""A direction of a labelled concept at one site: difference of means and linear probes."""

from typing import Any

from torch import nn

from arcee_lab.directions.detection import detect
from arcee_lab.directions.direction import Direction
from arcee_lab.directions.reading import MAX_POSITIONS, token_sites
from arcee_lab.errors import SiteError
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.neurons.labels.labelled import Labels
from arcee_lab.runs.arguments import checked


@checked
def mean_difference(
    model: nn.Module,
    tokenizer: Any,
    labels: Labels,
    concept: str,
    *,
    site: str,
    confirm: Labels | None = None,
    context: int | None = None,
    batch_size: int = 8,
    max_positions: int = MAX_POSITIONS,
    shuffles: int = 20,
    seed: int = 0,
    progress: bool | None = None,
) -> Direction:
    """The direction from the mean of the tokens without a label to the mean of those with it.

    The usual choice for steering. Strength 1 is the distance between the means; the threshold is in
    the middle. `detect` does the same at every layer and compares it with an untrained copy.

    Source: Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition", arXiv:2312.06681.

    Args:
        model: An Arcee model with any head.
        tokenizer: Its tokenizer.
        labels: Texts with labels; half of their documents is fitted on.
        concept: The label.
        site: A hook point with one vector per token.
        confirm: As for `detect`.
        context: As for `detect`.
        batch_size: As for `detect`.
        max_positions: As for `detect`.
        shuffles: As for `detect`.
        seed: As for `detect`.
        progress: Whether a bar is shown.

    Returns:
        The direction, with its AUROC on the other documents and that of shuffled labels.

    Raises:
        SettingError: As for `detect`.
        SiteError: As for `detect`.
        TextError: As for `detect`.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> labels = al.neurons.labels.demo("review", n=30)
        >>> found = al.directions.mean_difference(
        ...     model, tokenizer, labels, "negated", site="layers.1.hook_resid_post", progress=False
        ... )
        >>> with al.intervene(model, found.add(2.0)):
        ...     output = model(**tokenizer(["The soup was"], return_tensors="pt"))
    """
    return _at_one_site(
        model,
        tokenizer,
        labels,
        concept,
        method="mean difference",
        sites=site,
        confirm=confirm,
        context=context,
        batch_size=batch_size,
        max_positions=max_positions,
        shuffles=shuffles,
        seed=seed,
        progress=progress,
    )


@checked
def logistic(
    model: nn.Module,
    tokenizer: Any,
    labels: Labels,
    concept: str,
    *,
    site: str,
    strength: float = 1.0,
    confirm: Labels | None = None,
    context: int | None = None,
    batch_size: int = 8,
    max_positions: int = MAX_POSITIONS,
    shuffles: int = 20,
    seed: int = 0,
    progress: bool | None = None,
) -> Direction:
    """A logistic probe of a label: scikit-learn's regression on standardised features.

    It often detects better than a difference of means, because it takes correlations between
    features into account; for the same reason it may steer worse.

    Args:
        model: As for `mean_difference`.
        tokenizer: As for `mean_difference`.
        labels: As for `mean_difference`.
        concept: The label.
        site: As for `mean_difference`.
        strength: The regression's C; smaller values regularise more.
        confirm: As for `detect`.
        context: As for `detect`.
        batch_size: As for `detect`.
        max_positions: As for `detect`.
        shuffles: As for `detect`.
        seed: As for `detect`.
        progress: Whether a bar is shown.

    Raises:
        SettingError: As for `detect`.
        SiteError: As for `detect`.
        TextError: As for `detect`.
    """
    return _at_one_site(
        model,
        tokenizer,
        labels,
        concept,
        method="logistic",
        sites=site,
        strength=strength,
        confirm=confirm,
        context=context,
        batch_size=batch_size,
        max_positions=max_positions,
        shuffles=shuffles,
        seed=seed,
        progress=progress,
    )


@checked
def ridge(
    model: nn.Module,
    tokenizer: Any,
    labels: Labels,
    concept: str,
    *,
    site: str,
    strength: float = 1.0,
    confirm: Labels | None = None,
    context: int | None = None,
    batch_size: int = 8,
    max_positions: int = MAX_POSITIONS,
    shuffles: int = 20,
    seed: int = 0,
    progress: bool | None = None,
) -> Direction:
    """A ridge probe of a label: regression of -1 and 1 on standardised features, by scikit-learn.

    It has a closed form, so it is quick and needs no steps of optimisation.

    Args:
        model: As for `mean_difference`.
        tokenizer: As for `mean_difference`.
        labels: As for `mean_difference`.
        concept: The label.
        site: As for `mean_difference`.
        strength: The inverse of ridge's penalty; smaller values regularise more.
        confirm: As for `detect`.
        context: As for `detect`.
        batch_size: As for `detect`.
        max_positions: As for `detect`.
        shuffles: As for `detect`.
        seed: As for `detect`.
        progress: Whether a bar is shown.

    Raises:
        SettingError: As for `detect`.
        SiteError: As for `detect`.
        TextError: As for `detect`.
    """
    return _at_one_site(
        model,
        tokenizer,
        labels,
        concept,
        method="ridge",
        sites=site,
        strength=strength,
        confirm=confirm,
        context=context,
        batch_size=batch_size,
        max_positions=max_positions,
        shuffles=shuffles,
        seed=seed,
        progress=progress,
    )


def _at_one_site(
    model: nn.Module, tokenizer: Any, labels: Labels, concept: str, **how: Any
) -> Direction:
    names = token_sites(anatomy_of(model), how["sites"])
    if len(names) != 1:
        raise SiteError(
            f"site={how['sites']!r} names {len(names)} hook points; expected one. al.directions."
            "detect takes several."
        )
    return detect(model, tokenizer, labels, concept, untrained=False, **how).directions[0]
