"""The logit lens: the head applied to the residual stream after every site."""

from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from arcee_lab.data.token_words import TokenWords
from arcee_lab.errors import SettingError
from arcee_lab.hooks.selection import Choice
from arcee_lab.lens.answers import Answers, answer_count, answer_words, read_answers
from arcee_lab.lens.prompts import Given, Prompts
from arcee_lab.lens.reading import LogitLens
from arcee_lab.lens.readout import Readout
from arcee_lab.lens.streaming import each, run
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.runs.arguments import checked

if TYPE_CHECKING:
    from arcee_lab.lens.tuned import TunedLens

RESIDUAL = ("hook_embed", "layers.*.hook_resid_mid", "layers.*.hook_resid_post")
_STREAM = ("hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post")
# Comparisons are written into one buffer of 2 MiB, that stays in the processor's cache.
_AT_ONCE = 2**19
# Residuals that wait for the head: 4 MiB in fp32, however many sites there are.
_MOST_WAITING = 2**20


@checked
def logit_lens(
    model: nn.Module,
    tokenizer: Any,
    prompts: Given,
    *,
    answers: Answers = None,
    sites: str | list[str] | tuple[str, ...] = RESIDUAL,
    positions: Choice = None,
    top: int = 5,
    lens: "TunedLens | None" = None,
) -> LogitLens:
    """What the head would say of the residual stream after each site, with ranks of answers.

    The final norm, with the scale of that site's stream, and the head are applied to every residual
    site while the model runs; residuals are not kept (a few small ones, of 2^20 numbers together,
    wait until the head reads them one after another). At the last site these are the model's own
    logits. A rank is the number of larger logits, so 0 is the strongest; tokens with the same logit
    are counted separately, as ties (in half precision there are many). Works with every head, and
    inside `al.intervene`.

    Source of the method: nostalgebraist, "interpreting GPT: the logit lens", 2020.

    Args:
        model: One of arcee_lab's models, with any head.
        tokenizer: Its tokenizer; may be None for a batch of tokens and answers that are ids.
        prompts: A text, a list of texts, or a batch with `input_ids` and `attention_mask`.
        answers: Whose ranks are wanted: texts of one token each (mind the space before a word),
            token ids, or a tensor of ids `[batch, 1]` or `[batch, pos]`, -1 for none. By default
            the token that follows in the text; of a classification head all labels.
        sites: Residual sites, as filters. By default the embedding, and each layer after its
            attention and after its MLP.
        positions: Attended tokens to read at, negative from the end; by default all.
        top: How many of the strongest tokens to name, with their probabilities; 0 for none, which
            is faster.
        lens: A tuned or Jacobian lens to use in place of the plain one, at its sites.

    Returns:
        Ranks, ties and logits of the answers by site, sequence and token.

    Raises:
        ValueError: For a model without a head, an empty prompt, an answer that is not one token, a
            site that is no residual stream, or a lens of another model.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.lens.logit_lens(
        ...     model, tokenizer, "The dogs near the door", answers=" sleep", positions=-1
        ... )
        >>> found.ranks.shape == (1 + 2 * model.config.num_hidden_layers, 1, 1, 1)
        True
    """
    anatomy = anatomy_of(model)
    readout = Readout(anatomy)
    names = residual_sites(anatomy, sites)
    if isinstance(top, bool) or not isinstance(top, int) or top < 0:
        raise SettingError(f"top is how many tokens to name, a whole number from 0; got {top!r}.")
    given = Prompts.read(anatomy, tokenizer, prompts, positions=positions)
    asked = read_answers(anatomy, tokenizer, given, answers)
    if lens is not None:
        names = lens.sites_of(model, names)
    size = answer_count(anatomy)
    if anatomy.legend.head == "qa":
        top = 0  # its logits are compared between tokens, and not with each other
    read = _Read(readout, given, asked, size, min(top, size), lens)
    run(anatomy, given, each(names, read.take_from(names)))
    ranks, ties, logits, *strongest = read.found()
    top_logits, top_ids, log_z = strongest or (None, None, None)
    tokens, asked = given.tokens.cpu(), asked.cpu()
    named = asked if top_ids is None else torch.cat((asked.flatten(), top_ids.flatten()))
    return LogitLens(
        sites=tuple(names),
        head=anatomy.legend.head,
        lens="logit lens" if lens is None else lens.kind,
        tokens=tokens,
        columns=given.chosen.cpu(),
        there=given.there.cpu(),
        answers=asked,
        ranks=ranks,
        ties=ties,
        logits=logits,
        log_z=log_z,
        top_ids=top_ids,
        top_logits=top_logits,
        words=answer_words(anatomy, tokenizer, named),
        text=TokenWords(tokenizer, tokens),
    )


def residual_sites(anatomy: Anatomy, filters: str | list[str] | tuple[str, ...]) -> list[str]:
    """The sites that filters mean.

    Raises:
        SiteError: A filter matches nothing.
        SettingError: A site is no residual stream.
    """
    names = anatomy.resolve(filters)
    others = [name for name in names if name.rsplit(".", 1)[-1] not in _STREAM]
    if others:
        raise SettingError(
            f"{others[0]} is no residual stream; expected sites such as hook_embed, "
            "layers.*.hook_resid_mid or layers.*.hook_resid_post."
        )
    return names


class _Read:
    """Reads one site after another into tensors on the model's device."""

    def __init__(
        self,
        readout: Readout,
        prompts: Prompts,
        asked: Int[Tensor, "batch chosen answer"],
        size: int,
        top: int,
        lens: "TunedLens | None",
    ):
        self._readout, self._prompts, self._asked = readout, prompts, asked
        self._size, self._top, self._lens = size, top, lens
        self._columns = asked.flatten(0, 1).clamp_min(0)
        self._waiting: list[Tensor] = []
        self._parts: list[list[Tensor]] = []
        self._buffer: Tensor | None = None

    def take_from(self, names: list[str]):
        """The function that takes the activation of each of these sites."""

        def take(number: int, x: Tensor) -> None:
            x = self._prompts.take(x)
            if self._lens is not None:
                x = self._lens.translate(names[number], x)
            self._waiting.append(self._readout.normalised(x))
            # Small products one after another find the head's matrix in the processor's cache.
            full = sum(x.numel() for x in self._waiting) > _MOST_WAITING
            if full or number == len(names) - 1:
                self._read_waiting()

        return take

    def _read_waiting(self) -> None:
        for x in self._waiting:
            for some, logits in self._readout.pieces(x, columns=self._size):
                self._parts.append(self._piece(logits, some))
                del logits  # so that the next product is written where this one was
        self._waiting.clear()

    def _piece(self, logits: Float[Tensor, "some vocab"], some: slice) -> list[Tensor]:
        own = logits.gather(1, self._columns[some].to(logits.device))
        if self._buffer is None:
            self._buffer = buffer_for(logits)
        found = [counts(logits, own, self._buffer), own]
        if self._top:
            strongest = logits.topk(self._top, dim=-1)
            wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
            found += [strongest.values, strongest.indices, wide.logsumexp(dim=-1, keepdim=True)]
        return found

    def found(self) -> list[Tensor]:
        """Ranks, ties and logits; of the strongest tokens logits and ids, and log Z."""
        shape, there = self._prompts.chosen.shape, self._prompts.there[..., None]
        out = []
        for pieces in zip(*self._parts, strict=True):
            # A model may be spread over devices.
            whole = torch.cat([x.to(there.device) for x in pieces], dim=-2)
            out.append(whole.unflatten(-2, (-1, *shape)))
        counted, own, *strongest = out
        # A logit that is not a number, of weights or a stream that overflowed, has no rank.
        none = (self._asked < 0) | ~there | own.isnan()
        numbers = counted.long()
        numbers[1] -= numbers[0] + 1  # as large, and not the answer itself
        found = [*numbers.masked_fill_(none, -1), own.float().masked_fill(none, torch.nan)]
        if strongest:
            logits, ids, log_z = strongest
            found += [logits.float().masked_fill(~there, torch.nan), ids.masked_fill(~there, -1)]
            found.append(log_z.float().masked_fill(~there, torch.nan).squeeze(-1))
        return [x.cpu() for x in found]


def buffer_for(logits: Float[Tensor, "some vocab"]) -> Float[Tensor, "step vocab"]:
    """Where `counts` writes comparisons of some tokens at a time."""
    tokens, columns = logits.shape
    step = max(1, _AT_ONCE // columns) if logits.device.type == "cpu" else tokens
    return torch.empty(max(1, min(step, tokens)), columns, device=logits.device)


def counts(
    logits: Float[Tensor, "some vocab"],
    own: Float[Tensor, "some answer"],
    buffer: Float[Tensor, "step vocab"],
) -> Float[Tensor, "2 some answer"]:
    """How many logits are larger than each answer's, and how many at least as large.

    Comparisons are written as 0 and 1 in fp32 and added up, which is exact up to 2^24 columns and
    several times faster than a sum of booleans.

    Args:
        logits: Of some tokens.
        own: Those of the answers.
        buffer: Overwritten; comparisons of as many tokens as it has rows are made at a time.
    """
    found = torch.empty(2, own.shape[1], len(own), device=logits.device)
    for start in range(0, len(own), len(buffer)):
        some = slice(start, start + len(buffer))
        here = logits[some]
        held = buffer[: len(here)]
        for answer in range(own.shape[1]):
            value = own[some, answer, None]
            torch.gt(here, value, out=held)
            torch.sum(held, dim=1, out=found[0, answer, some])
            torch.ge(here, value, out=held)
            torch.sum(held, dim=1, out=found[1, answer, some])
    return found.transpose(1, 2)
