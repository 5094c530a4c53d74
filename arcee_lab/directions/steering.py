"""Steering curves: how often a strength changes the answer, and what it costs elsewhere."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from torch import nn
from torch.nn.functional import cross_entropy

from arcee_lab import bootstrap
from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import Windows
from arcee_lab.directions.direction import Direction
from arcee_lab.directions.files import require_site
from arcee_lab.directions.prompts import Prompts, Sources, positions_of, rows_of
from arcee_lab.directions.questions import Questions, rows_of_pairs
from arcee_lab.errors import ModelError, SettingError
from arcee_lab.heads.targets import Given, Target
from arcee_lab.interventions.arithmetic import Add
from arcee_lab.interventions.context import intervene
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.results import Result, counted
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

    from arcee_lab.views.figures.figure import Figure

STRENGTHS = (0.5, 1.0, 2.0, 4.0)
_LOGITS = 2**24  # numbers of logits that are turned to fp32 at once


@dataclass(frozen=True, repr=False)
class Steering(Result):
    """The result of `steer`.

    Attributes:
        direction: What was added.
        target: The answer that is wanted minus the other one.
        strengths: Strength 0 first, then those asked for.
        success: `[strength]`: share of prompts whose wanted answer has the larger logit.
        interval: `[2, strength]`: its 95 % interval, resampling prompts.
        control: `[strength]`: the same for a random direction whose step is as long.
        whole: The same where the whole activations are those of the sources; None without sources.
        whole_interval: Its interval.
        n: Prompts.
        nll: `[strength]`: nats per token of the neutral text; None without it.
        cost: `[strength]`: the same minus that without steering.
        cost_interval: `[2, strength]`: its 95 % interval, resampling documents.
        n_tokens: Tokens of the neutral text that were predicted.
    """

    direction: Direction
    target: str
    strengths: tuple[float, ...]
    success: Float[np.ndarray, " strength"]
    interval: Float[np.ndarray, "2 strength"]
    control: Float[np.ndarray, " strength"]
    whole: float | None
    whole_interval: tuple[float, float] | None
    n: int
    nll: Float[np.ndarray, " strength"] | None
    cost: Float[np.ndarray, " strength"] | None
    cost_interval: Float[np.ndarray, "2 strength"] | None
    n_tokens: int

    @property
    def best(self) -> int:
        """Number of the strength with the most success; of equals the smallest in size."""
        order = sorted(range(len(self.strengths)), key=lambda i: abs(self.strengths[i]))
        return max(order, key=lambda i: self.success[i])

    @property
    def of_whole(self) -> float | None:
        """The best success as a share of that of the whole activations; None without sources."""
        return None if not self.whole else float(self.success[self.best]) / self.whole

    def frame(self) -> "pd.DataFrame":
        """One row per strength: success with its interval, the control, and the cost."""
        import pandas as pd

        columns: dict[str, Any] = {
            "strength": self.strengths,
            "success": self.success,
            "low": self.interval[0],
            "high": self.interval[1],
            "random direction": self.control,
            "n": self.n,
        }
        if self.nll is not None and self.cost is not None and self.cost_interval is not None:
            columns |= {"nll": self.nll, "cost": self.cost}
            columns |= {"cost_low": self.cost_interval[0], "cost_high": self.cost_interval[1]}
            columns["n_tokens"] = self.n_tokens
        return pd.DataFrame(columns)

    @property
    def headline(self) -> str:
        """The best strength, in one sentence."""
        at, (low, high) = self.best, self.interval[:, self.best]
        between = f" ({low:.3f} to {high:.3f})" if np.isfinite(low) else ""
        text = (
            f"{self.direction.concept!r} at {self.direction.site}: strength {self.strengths[at]:g} "
            f"makes {self.target} positive in {self.success[at]:.3f}{between} of "
            f"{counted(self.n, 'prompt')}, without it {self.success[0]:.3f}, a random direction "
            f"{self.control[at]:.3f}"
        )
        if self.whole is not None:
            text += f", the whole activations of the sources {self.whole:.3f}"
        if self.cost is None or self.cost_interval is None:
            return f"{text}; its cost was not measured"
        low, high = self.cost_interval[:, at]
        return (
            f"{text}; it costs {self.cost[at]:.3f} nats per token ({low:.3f} to {high:.3f}) on "
            f"neutral text (n = {self.n_tokens:,})"
        )

    def figure(self, *, dark: bool = False) -> "Figure":
        """Success by strength with its 95 % interval, the control, and the whole activations.

        Args:
            dark: For a dark page.
        """
        from arcee_lab.views.figures.curves import Line, lines
        from arcee_lab.views.scale import CATEGORIES

        order = np.argsort(self.strengths)
        x = np.asarray(self.strengths)[order]
        curves = [
            Line("direction, 95% interval", x, self.success[order]),
            Line("random direction", x, self.control[order]),
        ]
        if self.whole is not None:
            level = np.full(len(x), self.whole)
            curves.append(Line("whole activations", x, level, dashed=True))
        target = self.target.replace(" - ", " minus ")
        figure = lines(
            curves,
            x="strength (1: the distance between the classes)",
            y="share of prompts",
            shares="y",
            title=f"Strength {self.strengths[self.best]:g} of the direction of "
            f"{self.direction.concept!r} makes “{target}” positive in "
            f"{self.success[self.best]:.0%} of prompts, a random one in "
            f"{self.control[self.best]:.0%} (N = {counted(self.n, 'prompt')})",
            dark=dark,
        )
        (axes,) = figure.axes
        low, high = self.interval[:, order]
        axes.fill_between(x, low, high, color=CATEGORIES[0], alpha=0.18, linewidth=0)
        return figure


@checked
def steer(
    model: nn.Module,
    tokenizer: Any,
    direction: Direction,
    prompts: Sequence[str] | Sequence[tuple[str, str]],
    *,
    target: Given | Target,
    versus: Given | None = None,
    strengths: Sequence[float] = STRENGTHS,
    sources: Sequence[str] | Sequence[tuple[str, str]] | None = None,
    neutral: Iterable[str] | Windows | None = None,
    positions: int | Sequence[int] | None = -1,
    context: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> Steering:
    """Adds a direction at each strength: how often it changes the answer, and what it costs.

    Success is the share of prompts after whose last token the wanted answer has a larger logit than
    the other. A random direction with a step of the same length is the control. The cost is read on
    neutral text with the direction added at every token, as in a model that is steered throughout.

    With a question-answering head the answers are words of the contexts, and success is the share
    of questions whose wanted span has the larger score, start logit plus end logit.

    Args:
        model: A model with any head: the one that the direction was found in.
        tokenizer: Its tokenizer.
        direction: The direction.
        prompts: Texts without the concept, such that steering has something to change. For a
            question-answering head pairs of a question and its context.
        target: The answer that is wanted: of one token, or a label, one for all prompts or one for
            each; see `arcee_lab.heads.targets.target_of`. Of a question-answering head words of the
            context, of which the first place counts.
        versus: The answer that it is to replace.
        strengths: Which; 1 is the distance between the means of the classes. 0 is always measured.
        sources: A text with the concept for each prompt. For comparison, the whole activations at
            the positions are replaced by those of the sources.
        neutral: Texts whose nats per token are the cost; for a causal head.
        positions: Tokens of the prompts that are changed, counted within each; None: all. A
            question-answering head reads tokens before the last, so it needs None or those.
        context: Tokens per window of the neutral text; as for `al.sparsity.measure`.
        max_tokens: Tokens of the neutral text that are read; None reads all.
        batch_size: Prompts or windows per forward.
        seed: Of the random direction and the intervals.
        progress: Whether a bar is shown.

    Raises:
        ModelError: The direction was found in another model, or the model has no such head.
        SettingError: A strength is not finite or makes a step that the model's dtype cannot hold,
            or there is no such answer.
        TextError: A prompt or source cannot be read.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.directions.neuron(model, 1, 17)
        >>> curve = al.directions.steer(
        ...     model, tokenizer, found, ["The dog near the doors", "The cat"], target="sleep",
        ...     versus="sleeps", strengths=[1.0], progress=False,
        ... )
        >>> len(curve.frame())
        2
    """
    given = _strengths(strengths)
    spans = anatomy_of(model).legend.head == "qa"
    read: Any = Questions.of if spans else Prompts.read
    asked: Prompts = read(model, tokenizer, prompts, target=target, versus=versus)
    direction.require(model)
    require_site(direction, model)
    anatomy, where = asked.anatomy, positions_of(positions)
    asked.require_positions(where)
    edits = [_adds(direction, strength, where) for strength in given]
    drawn = _random_step(direction, seed)
    controls = [_steps(direction, drawn, strength, where) for strength in given]
    for edit in edits:  # what the dtype cannot hold is found before anything runs
        intervene(anatomy.model, edit)
    there = None
    if sources is not None:
        tokenised = rows_of_pairs if spans else rows_of
        rows = tokenised(anatomy, tokenizer, sources, "sources")
        there = Sources(asked, rows, direction.site, where)
    windows = None
    if neutral is not None:
        if anatomy.legend.head != "causal":
            raise ModelError(
                f"The cost is read from a causal head, and this is a {type(anatomy.model).__name__}"
                "; leave neutral out."
            )
        windows = windows_of(
            anatomy.model, tokenizer, neutral, context=context, max_tokens=max_tokens
        )
    n = len(asked)
    runs = 2 * len(given) + (there is not None)
    total = runs * n + len(given) * (0 if windows is None else len(windows))
    with progress_bar(total=total, show=progress) as bar:
        right, other = (
            np.stack(
                [
                    (asked.measured(batch_size, lambda _, own=own: own, bar=bar) > 0).numpy()
                    for own in some
                ]
            )
            for some in (edits, controls)
        )
        replaced = None
        if there is not None:
            values = asked.measured(batch_size, there.patches, bar=bar)
            replaced = (values > 0).numpy()
        costs = None
        if windows is not None:
            costs = _costs(anatomy, windows, direction, given, batch_size, seed, bar)
    nll, cost, cost_interval, n_tokens = costs or (None, None, None, 0)
    return Steering(
        direction=direction,
        target=asked.target.name,
        strengths=given,
        success=right.mean(axis=1),
        interval=_shares(right.T, seed),
        control=other.mean(axis=1),
        whole=None if replaced is None else float(replaced.mean()),
        whole_interval=None if replaced is None else _pair(_shares(replaced[:, None], seed)),
        n=n,
        nll=nll,
        cost=cost,
        cost_interval=cost_interval,
        n_tokens=n_tokens,
    )


def _strengths(strengths: Sequence[float]) -> tuple[float, ...]:
    given = [float(s) for s in strengths]
    if not given or not all(math.isfinite(s) for s in given) or len(set(given)) < len(given):
        raise SettingError(
            f"strengths={list(strengths)}; expected different finite numbers, one or more."
        )
    return (0.0, *(s for s in given if s != 0.0))


def _adds(direction: Direction, strength: float, where: tuple[int, ...] | None) -> list[Any]:
    return [direction.add(strength, positions=where)] if strength else []


def _random_step(direction: Direction, seed: int) -> torch.Tensor:
    drawn = torch.randn(direction.width, generator=torch.Generator().manual_seed(seed))
    return drawn / drawn.norm() * direction.step.norm()


def _steps(
    direction: Direction, step: torch.Tensor, strength: float, where: tuple[int, ...] | None
) -> list[Any]:
    return [Add(direction.site, step, strength, positions=where)] if strength else []


def _shares(right: np.ndarray, seed: int) -> Float[np.ndarray, "2 column"]:
    return bootstrap.ratio_interval(
        right.astype(np.float64), np.ones(len(right), dtype=int), seed=seed
    )


def _pair(ends: Float[np.ndarray, "2 1"]) -> tuple[float, float]:
    return float(ends[0, 0]), float(ends[1, 0])


@torch.no_grad()
def _costs(
    anatomy: Anatomy,
    windows: Windows,
    direction: Direction,
    strengths: tuple[float, ...],
    batch_size: int,
    seed: int,
    bar: Any,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Nats per token at each strength, and the difference to none with its interval."""
    known, document = np.unique(windows.documents, return_inverse=True)
    sums = np.zeros((len(known), len(strengths)))
    counts = np.zeros(len(known), dtype=int)
    device = next(anatomy.model.parameters()).device
    model: Any = anatomy.model
    for batch in windows.batches(batch_size):
        ids, mask = batch.input_ids.to(device), batch.attention_mask.to(device)
        predicted = mask[:, 1:].bool()
        of = document[list(batch.rows)]
        np.add.at(counts, of, predicted.sum(dim=1).cpu().numpy())
        for column, strength in enumerate(strengths):
            with intervene(anatomy.model, _adds(direction, strength, None)):
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
            row = _nats(logits[:, :-1], ids[:, 1:]).masked_fill(~predicted, 0.0).sum(dim=1)
            np.add.at(sums[:, column], of, row.double().cpu().numpy())
            bar.update(len(batch.rows))
    used = counts > 0
    sums, counts = sums[used], counts[used]
    if not len(counts):
        raise SettingError(
            "The neutral text holds no token that follows another; expected longer texts."
        )
    nll = sums.sum(axis=0) / counts.sum()
    ends = bootstrap.ratio_interval(sums - sums[:, :1], counts, seed=seed)
    return nll, nll - nll[0], ends, int(counts.sum())


def _nats(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """-log p of each token, `[batch, pos]`; a few positions at a time, as fp32 logits are large."""
    step = max(1, _LOGITS // (logits.shape[0] * logits.shape[-1]))
    pieces = [
        cross_entropy(
            logits[:, at : at + step].float().transpose(1, 2),
            ids[:, at : at + step],
            reduction="none",
        )
        for at in range(0, logits.shape[1], step)
    ]
    return torch.cat(pieces, dim=1) if pieces else logits.new_zeros(ids.shape)
