"""The figures of a report that follow from its counts alone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from arcee_lab.errors import SettingError
from arcee_lab.results import counted
from arcee_lab.sparsity.core.counts import CoreCounts

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

PLAIN = ("layers", "rates", "tokens")


def layers(counts: CoreCounts, *, dark: bool = False) -> "Figure":
    """Active neurons by layer, which is all that is not exactly zero.

    They are shown in place of the zeros because shares of 94 % and of 98 % look alike from 0,
    while 6 % and 2 % do not.
    """
    from arcee_lab.views.figures.layers import share_bars

    d_mlp = counts.fired.shape[1]
    zeros = float(counts.zeros.mean())
    return share_bars(
        1 - counts.zeros.numpy(),
        (counts.quantiles(0.05) / d_mlp).numpy(),
        (counts.quantiles(0.95) / d_mlp).numpy(),
        baseline=0.5,
        baseline_name="untrained weights",
        what="share of neurons that are active, mean over tokens",
        spread="from the sparsest 5% of tokens to the densest 5%",
        title=f"{1 - zeros:.1%} of activations are active, {zeros:.1%} exactly zero "
        f"(N = {counts.n_tokens:,} tokens)",
        dark=dark,
    )


def rates(counts: CoreCounts, *, dark: bool = False) -> "Figure":
    """How often neurons fire, layer by layer, on a log axis."""
    from arcee_lab.views.figures.curves import percent
    from arcee_lab.views.figures.layers import rate_ridges

    half = float(counts.rates.flatten().quantile(0.5, interpolation="higher"))
    title = f"Half of the neurons fire on at most {percent(half)} of {counts.n_tokens:,} tokens"
    if not half:
        never = float((counts.fired == 0).double().mean())
        title = f"{percent(never)} of the neurons fired on none of {counts.n_tokens:,} tokens"
    return rate_ridges(
        list(counts.rates.numpy()),
        floor=1 / counts.n_tokens,
        floor_name=f"the first bin begins at one token in {counts.n_tokens:,}",
        what="share of tokens on which a neuron fires",
        title=title,
        dark=dark,
    )


def tokens(
    counts: CoreCounts,
    *,
    start: int = 0,
    most: int = 120,
    words: Sequence[str] | None = None,
    dark: bool = False,
) -> "Figure":
    """Layer by token: the share of neurons that fire at each of some tokens, in their order.

    Args:
        counts: What was counted.
        start: The first token to show, among those that were kept.
        most: How many to show.
        words: The text of these tokens, for the axis; a report keeps none, so by default it has
            their places.
        dark: For a dark page.

    Raises:
        ValueError: Not one word per token that is shown.
    """
    from arcee_lab.views.figures.curves import grid

    active = counts.state["kept_active"][start : start + most].numpy()
    if words is not None and len(words) != len(active):
        raise SettingError(f"got {len(words)} words for {len(active)} tokens; expected as many.")
    share = active.T / counts.fired.shape[1]
    title = "No token was kept"
    if share.size:
        title = f"A token uses {share.min():.1%} to {share.max():.1%} of a layer's neurons"
    return grid(
        share,
        rows=[str(layer) for layer in range(active.shape[1])],
        columns=list(words or map(str, range(start, start + len(active)))),
        x="token" if words else "token, in the order of the text",
        y="layer",
        what="share of neurons that fire",
        title=f"{title} (N = {counted(len(active), 'token')})",
        dark=dark,
    )
