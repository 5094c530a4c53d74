"""Distributed alignment search: a subspace that carries what decides the answer, by training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.functional import softplus

from arcee_lab import bootstrap
from arcee_lab.directions.direction import Check, Direction
from arcee_lab.directions.prompts import Numbers, Prompts, Sources, positions_of, rows_of
from arcee_lab.directions.reading import token_sites
from arcee_lab.errors import SettingError, SiteError, TextError
from arcee_lab.heads.targets import Given
from arcee_lab.interventions.base import Intervention
from arcee_lab.interventions.context import intervene
from arcee_lab.interventions.replace import Replace
from arcee_lab.model.fingerprint import model_fingerprint, model_name
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar

ACCURACY = "interchange accuracy"


@checked
def distributed_alignment(
    model: nn.Module,
    tokenizer: Any,
    base: Sequence[str],
    sources: Sequence[str],
    *,
    site: str,
    target: Given,
    versus: Given,
    rank: int = 1,
    positions: int | Sequence[int] = -1,
    concept: str = "the answer",
    toward: Sequence[bool] | None = None,
    steps: int = 100,
    learning_rate: float = 0.03,
    batch_size: int = 16,
    seed: int = 0,
    progress: bool | None = None,
) -> Direction:
    """Finds the subspace whose part of a source, put into a base, gives the source's answer.

    An orthonormal basis is trained by gradient descent, the model stays as it is: at the positions
    the base's activations get the source's part within the subspace, and the loss is that of the
    answer that this should give against the base's own. Half of the pairs is trained on.

    Source: Geiger et al., "Finding Alignments Between Interpretable Causal Variables and
    Distributed Neural Representations", arXiv:2303.02536.

    Args:
        model: A model with the causal, sequence or token head.
        tokenizer: Its tokenizer.
        base: Prompts, read at their last token.
        sources: One for each prompt, which differs in what is looked for.
        site: A hook point with one vector per token.
        target: The answer after the interchange, one per pair or one for all; see
            `arcee_lab.heads.targets.target_of`.
        versus: The answer of the base itself.
        rank: Dimensions of the subspace.
        positions: Tokens that are interchanged, counted within each text.
        concept: What it stands for.
        toward: Whether each source is one that strength 1 should lead to. None: the step is as
            long as sources and bases differ on average, and its sign means nothing.
        steps: Steps of Adam.
        learning_rate: Of Adam.
        batch_size: Pairs per forward.
        seed: Of the division, the first basis, the batches and the intervals.
        progress: Whether a bar is shown.

    Returns:
        The direction. Its checks are the share of other pairs whose answer follows the interchange:
        within the subspace, of the whole activations, within a random subspace of this rank, and
        within one that was trained on answers that were exchanged at random.

    Raises:
        SettingError: A number is out of its range, or there is no such answer.
        TextError: Texts that cannot be read, or fewer than four pairs.
        SiteError: The site has not one vector per token.
        ModelError: The model has no such head.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> nouns = ["dog", "cat", "bird", "goat"]
        >>> found = al.directions.distributed_alignment(
        ...     model, tokenizer, [f"The {noun}" for noun in nouns],
        ...     [f"The {noun}s" for noun in nouns], site="layers.2.hook_resid_post",
        ...     target="sleep", versus="sleeps", steps=5, progress=False,
        ... )
        >>> [check.name for check in found.checks][0]
        'interchange accuracy'
    """
    prompts = Prompts.read(model, tokenizer, base, target=target, versus=versus, what="base")
    anatomy = prompts.anatomy
    names = token_sites(anatomy, site)
    chosen = positions_of(positions)
    if len(names) != 1 or chosen is None:
        raise SiteError(
            f"site={site!r} names {len(names)} hook points; expected one, and positions."
        )
    prompts.require_positions(chosen)
    there = Sources(prompts, rows_of(anatomy, tokenizer, sources, "sources"), names[0], chosen)
    n = len(prompts)
    width = anatomy.size(anatomy.legend.sites()[names[0]].axes[-1])
    if n < 4:
        raise TextError(f"There are {n} pairs; expected four or more, as half of them is held out.")
    if not 1 <= rank <= width or steps < 1 or not learning_rate > 0:
        raise SettingError(
            f"rank={rank}, steps={steps}, learning_rate={learning_rate}; expected a rank of 1 to "
            f"{width}, one step or more and a positive rate."
        )
    if toward is not None and len(toward) != n:
        raise SettingError(f"toward has {len(toward)} entries for {n} pairs; give one per pair.")
    order = np.random.default_rng(seed).permutation(n)
    fit, held = sorted(order[: (n + 1) // 2].tolist()), sorted(order[(n + 1) // 2 :].tolist())

    search = _Search(prompts, there, names[0], chosen, width, rank, batch_size)
    exchanged = np.random.default_rng(seed).random(n) < 0.5
    with progress_bar(total=2 * steps + 4 * len(held), show=progress) as bar:
        basis = search.train(fit, steps, learning_rate, seed, np.zeros(n, dtype=bool), bar)
        control = search.train(fit, steps, learning_rate, seed, exchanged, bar)
        random = search.first(seed + 1)
        checks = [
            _accuracy(name, search.answers(held, within, bar), seed)
            for name, within in (
                (ACCURACY, basis),
                (f"{ACCURACY}, whole activations", None),
                (f"{ACCURACY}, random subspace", random),
                (f"{ACCURACY}, shuffled labels", control),
            )
        ]
    vectors, scale = search.oriented(basis, fit, toward)
    return Direction(
        site=names[0],
        vectors=vectors,
        scale=scale,
        threshold=None,
        method="distributed alignment search",
        concept=concept,
        model=model_name(model),
        fingerprint=model_fingerprint(model),
        n=len(fit),
        documents=len(fit),
        split=f"half of the pairs to fit on, half to confirm on, drawn with seed {seed}",
        checks=tuple(checks),
    )


class _Search:
    def __init__(
        self,
        prompts: Prompts,
        sources: Sources,
        site: str,
        positions: Numbers,
        width: int,
        rank: int,
        batch_size: int,
    ):
        if batch_size < 1:
            raise SettingError(f"batch size is {batch_size}; expected at least 1.")
        self.prompts, self.sources, self.site = prompts, sources, site
        self.positions, self.width, self.rank = positions, width, rank
        self.batch_size = batch_size
        self.device = next(prompts.anatomy.model.parameters()).device

    def first(self, seed: int) -> Float[Tensor, "rank d"]:
        """A random basis."""
        generator = torch.Generator().manual_seed(seed)
        return _orthonormal(torch.randn(self.width, self.rank, generator=generator))

    def train(
        self,
        numbers: list[int],
        steps: int,
        learning_rate: float,
        seed: int,
        exchanged: Bool[np.ndarray, " pair"],
        bar: Any,
    ) -> Float[Tensor, "rank d"]:
        """A trained basis, on the CPU."""
        weight = self.first(seed).T.to(self.device).requires_grad_()
        optimiser = torch.optim.Adam([weight], lr=learning_rate)
        draw = np.random.default_rng(seed)
        size = min(self.batch_size, len(numbers))
        for _ in range(steps):
            picks = draw.choice(numbers, size=size, replace=False).tolist()
            ((taken, batch),) = self.prompts.batches(size, picks)
            there = self.sources.activations(taken)
            signs = torch.tensor([-1.0 if exchanged[n] else 1.0 for n in taken])
            with torch.enable_grad():
                basis = _orthonormal(weight)
                with intervene(self.prompts.anatomy.model, self._edits(basis, there)):
                    values = self.prompts.values(taken, batch)
                loss = softplus(-values * signs.to(values.device)).mean()
            (weight.grad,) = torch.autograd.grad(loss, [weight])
            optimiser.step()
            bar.update(1)
        return _orthonormal(weight.detach()).cpu()

    def answers(
        self, numbers: list[int], within: Tensor | None, bar: Any
    ) -> Bool[np.ndarray, " pair"]:
        """Whether the answer of each pair follows the interchange."""
        values = self.prompts.measured(
            self.batch_size,
            lambda taken: self.sources.patches(taken, within=within),
            numbers=numbers,
            bar=bar,
        )
        return (values > 0).numpy()

    def oriented(
        self, basis: Float[Tensor, "rank d"], numbers: list[int], toward: Sequence[bool] | None
    ) -> tuple[Float[Tensor, "rank d"], Float[Tensor, " rank"]]:
        """The basis, and what strength 1 adds along each row."""
        base = Sources(self.prompts, self.prompts.rows, self.site, self.positions)
        gaps = []
        for start in range(0, len(numbers), self.batch_size):
            some = tuple(numbers[start : start + self.batch_size])
            gap = (self.sources.activations(some) - base.activations(some)).float().cpu()
            gaps.append((gap @ basis.T).mean(dim=1))
        along = torch.cat(gaps)  # [pair, rank]
        if toward is None:
            return basis, along.square().mean(dim=0).sqrt()
        signs = torch.tensor([1.0 if toward[n] else -1.0 for n in numbers])
        scale = (along * signs[:, None]).mean(dim=0)
        turn = torch.where(scale < 0, -1.0, 1.0)
        return basis * turn[:, None], scale * turn

    def _edits(
        self, basis: Float[Tensor, "rank d"], there: Float[Tensor, "example position d"]
    ) -> list[Intervention]:
        """The interchange as a function that gradients flow through."""

        def into(source: Tensor) -> Any:
            def change(x: Tensor) -> Tensor:
                gap = source.to(x.device, basis.dtype) - x.to(basis.dtype)
                return (x.to(basis.dtype) + (gap @ basis.T) @ basis).to(x.dtype)

            return change

        return [
            Replace(self.site, into(there[:, i : i + 1]), positions=position)
            for i, position in enumerate(self.positions)
        ]


def _orthonormal(weight: Float[Tensor, "d rank"]) -> Float[Tensor, "rank d"]:
    return torch.linalg.qr(weight.float()).Q.T


def _accuracy(name: str, right: Bool[np.ndarray, " pair"], seed: int) -> Check:
    low, high = bootstrap.ratio_interval(
        right[:, None].astype(np.float64), np.ones(len(right), dtype=int), seed=seed
    )[:, 0]
    return Check(name, float(right.mean()), float(low), float(high), len(right), len(right))
