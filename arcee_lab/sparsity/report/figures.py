"""The figures of a report that follow from its counts alone."""

from typing import TYPE_CHECKING

from arcee_lab.sparsity.core.counts import CoreCounts

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure

PLAIN = ("layers", "rates", "tokens")


def layers(counts: CoreCounts, *, dark: bool = False) -> "Figure":
    """Exact zeros by layer, next to the one half that untrained weights give."""
    from arcee_lab.views.figures.layers import share_bars

    d_mlp = counts.fired.shape[1]
    return share_bars(
        counts.zeros.numpy(),
        1 - (counts.quantiles(0.95) / d_mlp).numpy(),
        1 - (counts.quantiles(0.05) / d_mlp).numpy(),
        baseline=0.5,
        baseline_name="untrained weights",
        what="share of exact zeros",
        spread="from the densest 5 % of tokens to the sparsest 5 %",
        title=f"{counts.zeros.mean():.1%} of activations are exactly zero "
        f"({counts.n_tokens:,} tokens)",
        dark=dark,
    )


def rates(counts: CoreCounts, *, dark: bool = False) -> "Figure":
    """How often neurons fire, layer by layer, on a log axis."""
    from arcee_lab.views.figures.bands import percent
    from arcee_lab.views.figures.layers import rate_ridges

    half = float(counts.rates.flatten().quantile(0.5, interpolation="higher"))
    title = f"Half of the neurons fire on at most {percent(half)} of tokens"
    if not half:
        never = float((counts.fired == 0).double().mean())
        title = f"{percent(never)} of the neurons fired on none of {counts.n_tokens:,} tokens"
    return rate_ridges(
        list(counts.rates.numpy()),
        floor=1 / counts.n_tokens,
        floor_name=f"the left end is one token in {counts.n_tokens:,}",
        what="share of tokens on which a neuron fires",
        title=title,
        dark=dark,
    )


def tokens(counts: CoreCounts, *, start: int = 0, most: int = 120, dark: bool = False) -> "Figure":
    """Layer by token: the share of neurons that fire at each of some tokens, in their order.

    Args:
        counts: What was counted.
        start: The first token to show, among those that were kept.
        most: How many to show.
        dark: For a dark page.
    """
    from arcee_lab.views.figures.curves import grid

    active = counts.state["kept_active"][start : start + most].numpy()
    positions = counts.state["kept_positions"][start : start + most].tolist()
    return grid(
        active.T / counts.fired.shape[1],
        rows=[str(layer) for layer in range(active.shape[1])],
        columns=[str(position) for position in positions],
        x="token, by its position in its window",
        y="layer",
        what="share of neurons that fire",
        title="Active neurons by layer and token",
        dark=dark,
    )
