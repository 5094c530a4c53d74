"""What a lens found: ranks and logits of answers and the strongest tokens, by site and token."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from arcee_lab.errors import SettingError
from arcee_lab.results import Result, counted
from arcee_lab.sites import site_label

if TYPE_CHECKING:
    from arcee_lab.views.figures.figure import Figure


@dataclass(frozen=True, repr=False)
class LogitLens(Result):
    """The head's view of the residual stream.

    Attributes:
        sites: Canonical names, in forward order.
        head: "causal", "sequence", "token" or "qa".
        lens: "logit lens", "tuned lens" or "Jacobian lens".
        tokens: The tokens that were read at.
        columns: Their columns in the batch.
        there: Whether the sequence has that token; all numbers of others are -1 or NaN.
        answers: Column of the logits of each answer; -1 where there is none.
        ranks: Number of larger logits; 0 is the strongest, and -1 for a logit that is not a number.
        ties: Number of others with the same logit.
        logits: Logits of the answers, in fp32.
        log_z: Logarithm of the sum of exponentials of all logits; None for `top=0`.
        top_ids: The strongest tokens, strongest first; None for `top=0`.
        top_logits: Their logits.
        words: What columns of the logits are called.
        text: Texts of the tokens that were read at.
    """

    sites: tuple[str, ...]
    head: str
    lens: str
    tokens: Int[Tensor, "batch chosen"]
    columns: Int[Tensor, "batch chosen"]
    there: Bool[Tensor, "batch chosen"]
    answers: Int[Tensor, "batch chosen answer"]
    ranks: Int[Tensor, "site batch chosen answer"]
    ties: Int[Tensor, "site batch chosen answer"]
    logits: Float[Tensor, "site batch chosen answer"]
    log_z: Float[Tensor, "site batch chosen"] | None
    top_ids: Int[Tensor, "site batch chosen top"] | None
    top_logits: Float[Tensor, "site batch chosen top"] | None
    words: Mapping[int, str]
    text: Mapping[int, str]

    @property
    def labels(self) -> tuple[str, ...]:
        """Short names of the sites: "embed", "L0/mid", "L0/post"."""
        return tuple(map(site_label, self.sites))

    @property
    def probabilities(self) -> Float[Tensor, "site batch chosen answer"]:
        """The share of the softmax of each answer.

        Raises:
            SettingError: The call had `top=0`.
        """
        if self.log_z is None:
            raise SettingError("Probabilities need the sum over all logits: ask for top=1 or more.")
        return (self.logits - self.log_z[..., None]).exp()

    def first_site(self, rank: int = 0) -> Int[Tensor, "batch chosen answer"]:
        """The first site from which an answer's rank stays at `rank` or better; -1 for none."""
        good = (self.ranks >= 0) & (self.ranks <= rank)
        stays = good.flip(0).long().cumprod(dim=0).sum(dim=0)  # sites at the end of which all hold
        return torch.where(stays > 0, len(self.sites) - stays, -1)

    def frame(self) -> pd.DataFrame:
        """One row per site, sequence, token and answer: rank, ties, logit, and its probability."""
        index = torch.cartesian_prod(*(torch.arange(n) for n in self.ranks.shape))
        index = index.view(-1, 4)
        site, row, place, answer = index.unbind(1)
        column = self.answers[row, place, answer]
        keep = (column >= 0) & self.there[row, place]
        site, row, place, answer = (x[keep] for x in (site, row, place, answer))
        ids = self.answers[row, place, answer].tolist()
        table = pd.DataFrame(
            {
                "site": [self.sites[i] for i in site.tolist()],
                "sequence": row.numpy(),
                "position": self.columns[row, place].numpy(),
                "token": [self.text[i] for i in self.tokens[row, place].tolist()],
                "answer": [self.words[i] for i in ids],
                "rank": self.ranks[site, row, place, answer].numpy(),
                "ties": self.ties[site, row, place, answer].numpy(),
                "logit": self.logits[site, row, place, answer].numpy(),
            }
        )
        if self.log_z is not None:
            table["probability"] = self.probabilities[site, row, place, answer].numpy()
        return table

    def strongest(self) -> pd.DataFrame:
        """One row per site, sequence, token and rank: the strongest tokens.

        Raises:
            SettingError: The call had `top=0`.
        """
        if self.top_ids is None or self.top_logits is None or self.log_z is None:
            raise SettingError("No strongest tokens were kept: ask for top=1 or more.")
        index = torch.cartesian_prod(*(torch.arange(n) for n in self.top_ids.shape)).view(-1, 4)
        index = index[self.there[index[:, 1], index[:, 2]]]
        site, row, place, rank = index.unbind(1)
        logit = self.top_logits[site, row, place, rank]
        return pd.DataFrame(
            {
                "site": [self.sites[i] for i in site.tolist()],
                "sequence": row.numpy(),
                "position": self.columns[row, place].numpy(),
                "token": [self.text[i] for i in self.tokens[row, place].tolist()],
                "rank": rank.numpy(),
                "answer": [self.words[i] for i in self.top_ids[site, row, place, rank].tolist()],
                "logit": logit.numpy(),
                "probability": (logit - self.log_z[site, row, place]).exp().numpy(),
            }
        )

    def figure(self, *, sequence: int = 0, dark: bool = False) -> "Figure":
        """Sites down, tokens across: the strongest token, coloured by its probability.

        Args:
            sequence: Which of the prompts.
            dark: For a dark page.

        Raises:
            SettingError: The call had `top=0`, or there is no such prompt.
        """
        from arcee_lab.views.figures.lens import lens_map

        if self.top_ids is None or self.top_logits is None or self.log_z is None:
            raise SettingError("The figure shows strongest tokens: ask for top=1 or more.")
        if not 0 <= sequence < len(self.tokens):
            raise SettingError(
                f"sequence={sequence}; expected 0 to {len(self.tokens) - 1}, one per prompt."
            )
        real = self.there[sequence]
        share = (self.top_logits[..., 0] - self.log_z).exp()[:, sequence, real]
        words = [
            [self.words[i] for i in row] for row in self.top_ids[:, sequence, real, 0].tolist()
        ]
        return lens_map(
            share.numpy(),
            words,
            list(self.labels),
            [self.text[i] for i in self.tokens[sequence, real].tolist()],
            keep=[self._settled(sequence)[0]],
            title=self._finding(sequence),
            dark=dark,
        )

    def _settled(self, sequence: int) -> tuple[int, float]:
        """From which site on most strongest tokens of a prompt are those of the last; how many."""
        assert self.top_ids is not None
        best = self.top_ids[:, sequence, self.there[sequence], 0]  # [site, token]
        stays = (best == best[-1]).flip(0).long().cumprod(dim=0).flip(0).double().mean(dim=1)
        site = int((stays >= 0.5).int().argmax())
        return site, float(stays[site])

    def _finding(self, sequence: int) -> str:
        """That, as a sentence."""
        assert self.log_z is not None
        n = counted(int(self.there[sequence].sum()), "token")
        if bool(self.log_z[-1, sequence, self.there[sequence]].isnan().any()):
            return f"{self.lens.capitalize()}: logits of the last site are NaN (N = {n})"
        site, share = self._settled(sequence)
        return (
            f"{self.lens.capitalize()}: from {self.labels[site]} on, {share:.0%} of tokens "
            f"keep the answer of the last site (N = {n})"
        )

    @property
    def headline(self) -> str:
        """Sites, tokens, and the answers' ranks at the first and the last site."""
        known = (self.answers >= 0) & self.there[..., None]
        n, answers = int(self.there.sum()), int(known.sum())
        lost = [i for i in range(len(self.sites)) if bool((self.ranks[i][known] < 0).any())]
        words = f"{self.lens} after {counted(len(self.sites), 'site')}, {counted(n, 'token')}"
        if lost:
            return f"{words}: logits are NaN from {self.labels[lost[0]]} on, not numbers"
        if not answers:
            return words
        first, last = (float(self.ranks[i][known].double().median()) for i in (0, -1))
        return (
            f"{words}: median rank of {counted(answers, 'answer')} {first:g} at the first site, "
            f"{last:g} at the last"
        )
