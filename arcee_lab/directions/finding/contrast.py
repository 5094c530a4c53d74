"""A direction from pairs of texts that differ in one thing, by principal components."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn

from arcee_lab import bootstrap
from arcee_lab.data.tokenization import token_ids
from arcee_lab.directions.auroc import auroc, interval, resampled
from arcee_lab.directions.direction import Check, Direction
from arcee_lab.directions.reading import activations, token_sites
from arcee_lab.errors import SettingError, SiteError, TextError, WrongType
from arcee_lab.heads.batches import require_room
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar


@checked
def contrast_pca(
    model: nn.Module,
    tokenizer: Any,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    site: str,
    concept: str = "positive",
    rank: int = 1,
    batch_size: int = 8,
    shuffles: int = 20,
    seed: int = 0,
    progress: bool | None = None,
) -> Direction:
    """The directions in which pairs of texts differ most: principal components of differences.

    Each text is read at its last token. The components are those of `positive - negative`, not
    centred, so that the difference that all pairs share is found first; each points to the
    positive texts.
    Strength 1 is their mean difference within these directions.

    Source: Zou et al., "Representation Engineering", arXiv:2310.01405, who draw the sign of each
    difference at random before they centre; in expectation that gives the same components.

    Args:
        model: An Arcee model with any head.
        tokenizer: Its tokenizer.
        positive: Texts; the fit uses half of the pairs.
        negative: The other text of each pair.
        site: A hook point with one vector per token.
        concept: A name for what the positive texts have in common.
        rank: How many components.
        batch_size: Texts per forward.
        shuffles: How often texts are paired and signed at random, as a control.
        seed: Of the division, the shuffles and the intervals.
        progress: Whether a bar is shown.

    Returns:
        The direction, with the AUROC of positive against negative texts of the other pairs.

    Raises:
        TextError: There are fewer than four pairs, or a text that cannot be read.
        SettingError: A number is out of its range.
        SiteError: The site does not have one vector per token.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> good = [f"The {thing} was lovely." for thing in ("soup", "room", "wine", "staff")]
        >>> found = al.directions.contrast_pca(
        ...     model, tokenizer, good, [text.replace("lovely", "nasty") for text in good],
        ...     site="layers.1.hook_resid_post", progress=False,
        ... )
        >>> found.rank
        1
    """
    anatomy = anatomy_of(model)
    names = token_sites(anatomy, site)
    if len(names) != 1:
        raise SiteError(f"site={site!r} names {len(names)} hook points; expected one.")
    texts = _pairs(positive, negative)
    n = len(texts) // 2
    order = np.random.default_rng(seed).permutation(n)
    here, there = np.sort(order[: (n + 1) // 2]), np.sort(order[(n + 1) // 2 :])
    width = anatomy.size(anatomy.legend.sites()[names[0]].axes[-1])
    if not 1 <= rank <= min(len(here), width) or shuffles < 2:
        raise SettingError(
            f"rank={rank}, shuffles={shuffles}; expected a rank of 1 to {min(len(here), width)}, "
            f"as {len(here)} pairs to fit on have no more, and 2 shuffles or more."
        )
    rows = token_ids(tokenizer, texts)
    require_room(anatomy, rows)
    at = np.array([len(row) - 1 for row in rows])
    with progress_bar(total=len(rows), show=progress) as bar:
        x = activations(model, rows, np.arange(2 * n), at, names, batch_size=batch_size, bar=bar)
    high, low = x[names[0]][:n].astype(np.float64), x[names[0]][n:].astype(np.float64)
    vectors, scale = _components(high[here] - low[here], rank)
    axis = scale @ vectors / np.linalg.norm(scale)
    middle = float((high[here].mean(axis=0) + low[here].mean(axis=0)) @ axis / 2)

    truth = np.repeat([True, False], len(there))
    pair = np.tile(there, 2)
    held = np.concatenate([high[there], low[there]])
    scores = held @ axis
    checks = [
        Check(
            "AUROC",
            auroc(scores, truth),
            *interval(resampled(scores, truth, pair, seed=seed)),
            len(truth),
            len(there),
        ),
        _shuffled(np.concatenate([high[here], low[here]]), held, truth, pair, rank, shuffles, seed),
    ]
    return Direction(
        site=names[0],
        vectors=torch.from_numpy(vectors).float(),
        scale=torch.from_numpy(scale).float(),
        threshold=middle,
        method="PCA of contrast pairs",
        concept=concept,
        model=model_name(model),
        fingerprint=model_fingerprint(model),
        n=len(here),
        documents=len(here),
        split=f"half of the pairs to fit on, half to confirm on, drawn with seed {seed}",
        checks=tuple(checks),
    )


def _pairs(positive: object, negative: object) -> list[str]:
    """All texts, the positive ones first."""
    sides: list[list[str]] = []
    for what, given in (("positive", positive), ("negative", negative)):
        if isinstance(given, str) or not isinstance(given, Sequence):
            raise WrongType(f"{what} must be a list of texts; got {type(given).__name__}.")
        texts = list(given)
        for number, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise TextError(f"{what} text {number} is empty or no text; leave its pair out.")
        sides.append(texts)
    if len(sides[0]) != len(sides[1]) or len(sides[0]) < 4:
        raise TextError(
            f"There are {len(sides[0])} positive and {len(sides[1])} negative texts; expected as "
            "many, and four pairs or more."
        )
    return sides[0] + sides[1]


def _components(
    difference: Float[np.ndarray, "pair d"], rank: int
) -> tuple[Float[np.ndarray, "rank d"], Float[np.ndarray, " rank"]]:
    """The first components, each pointing along the mean difference, and that difference."""
    _, sizes, rows = np.linalg.svd(difference, full_matrices=False)
    if not np.isfinite(sizes).all() or sizes[rank - 1] <= 1e-9 * max(sizes[0], 1e-300):
        raise SettingError(
            f"The pairs differ in fewer than {rank} directions at this site; give other pairs, a "
            "lower rank, or another site."
        )
    vectors = rows[:rank]
    along = vectors @ difference.mean(axis=0)
    signs = np.where(along < 0, -1.0, 1.0)
    return vectors * signs[:, None], along * signs


def _shuffled(
    fitted: Float[np.ndarray, "text d"],
    held: Float[np.ndarray, "text d"],
    truth: np.ndarray,
    pair: np.ndarray,
    rank: int,
    shuffles: int,
    seed: int,
) -> Check:
    """The same on texts that are paired and signed at random."""
    source = np.random.default_rng(seed)
    values, draws = [], []
    half = len(fitted) // 2
    for number in range(shuffles):
        mixed = fitted[source.permutation(len(fitted))]
        vectors, scale = _components(mixed[:half] - mixed[half:], rank)
        scores = held @ (scale @ vectors)
        values.append(auroc(scores, truth))
        each = max(1, bootstrap.DRAWS // shuffles)
        draws.append(resampled(scores, truth, pair, draws=each, seed=seed + number))
    return Check(
        "AUROC, shuffled labels",
        float(np.mean(values)),
        *interval(np.concatenate(draws)),
        len(truth),
        len(np.unique(pair)),
    )
