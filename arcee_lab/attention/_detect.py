"""Runs detectors over the caller's texts and over random text that repeats itself."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from arcee_lab.attention.block import heads
from arcee_lab.attention.detected import Detected
from arcee_lab.attention.detectors import DuplicateToken, Induction
from arcee_lab.attention.result import HeadStatistic
from arcee_lab.attention.statistics import FirstMass, Offset, Statistic
from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import Windows
from arcee_lab.errors import SettingError
from arcee_lab.model.anatomy import Anatomy, anatomy_of

DETECTORS: tuple[Statistic, ...] = (Offset(1), DuplicateToken(), Induction(), FirstMass())
REPEATED = "random repeated"


def detect(
    model: nn.Module,
    tokenizer: Any,
    texts: Iterable[str] | Windows | None = None,
    *,
    detectors: Sequence[Statistic] = DETECTORS,
    period: int = 25,
    repeats: int = 20,
    context: int | None = None,
    max_tokens: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
) -> Detected:
    """Scores every head with every detector, on texts and on random text that is said twice.

    A score is a head's mean attention weight on what the detector marks, over the tokens for which
    it marks anything: 1 is a head that reads nothing else. In random text that is said twice
    (`repeats` sequences of `period` tokens, drawn from the whole vocabulary without the special
    tokens, then the same again), no meaning helps; but a small model may have heads for repetition
    in its own texts alone. A score says where a head looks, and not what it is needed for: ablate
    it, with `al.attention.ablate_heads`.

    Args:
        model: One of arcee_lab's models.
        tokenizer: Its tokenizer.
        texts: Documents, or windows of `al.data.cut`; None: random text alone.
        detectors: What to look for; by default the previous token, the same token before, what came
            after it (induction) and the first token. `al.attention.Rule` takes any rule.
        period: Length of the random string, without BOS.
        repeats: How many of them; 0: texts alone.
        context: Tokens per window of the texts; by default as long as suits the model.
        max_tokens: Most tokens to read of the texts.
        batch_size: Windows per forward.
        seed: Of the random text.

    Returns:
        The scores by source, detector, layer and head.

    Raises:
        ValueError: For neither texts nor repeats, strings longer than the model's context, or an
            unknown detector.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> found = al.attention.detect(model, tokenizer, repeats=2, period=10)
        >>> sorted(set(found.frame()["source"]))
        ['random repeated']
    """
    anatomy = anatomy_of(model)
    if texts is None and not repeats:
        raise SettingError("There is nothing to read: give texts, or repeats of 1 or more.")
    sources: dict[str, list[tuple[Tensor, Tensor]]] = {}
    if texts is not None:
        windows = windows_of(
            anatomy.model, tokenizer, texts, context=context, max_tokens=max_tokens
        )
        batches = windows.batches(batch_size)
        sources["texts"] = [(batch.input_ids, batch.attention_mask) for batch in batches]
    if repeats:
        ids = repeated_text(anatomy, tokenizer, period=period, repeats=repeats, seed=seed)
        pieces = ids.split(max(1, batch_size))
        sources[REPEATED] = [(piece, torch.ones_like(piece)) for piece in pieces]
    found = {name: _scores(anatomy, batches, detectors) for name, batches in sources.items()}
    return Detected(found)


def repeated_text(
    anatomy: Anatomy, tokenizer: Any, *, period: int, repeats: int, seed: int
) -> Int[Tensor, "repeat pos"]:
    """BOS, if there is one, then a random string of tokens, twice.

    Raises:
        SettingError: Lengths out of range.
    """
    bos = anatomy.model.config.bos_token_id
    room = anatomy.model.config.max_position_embeddings
    start = 0 if bos is None else 1
    if period < 2 or repeats < 1 or start + 2 * period > room:
        raise SettingError(
            f"period={period} and repeats={repeats}; expected a period of 2 to "
            f"{(room - start) // 2} tokens, said twice, and repeats from 1."
        )
    special = set(getattr(tokenizer, "all_special_ids", ()))
    size = (
        anatomy.size("vocab") if tokenizer is None else min(anatomy.size("vocab"), len(tokenizer))
    )
    plain = torch.tensor([i for i in range(size) if i not in special])
    draws = torch.Generator().manual_seed(seed)
    said = plain[torch.randint(len(plain), (repeats, period), generator=draws)]
    first = torch.full((repeats, start), 0 if bos is None else bos)
    return torch.cat([first, said, said], dim=1)


def _scores(
    anatomy: Anatomy, batches: list[tuple[Tensor, Tensor]], detectors: Sequence[Statistic]
) -> dict[str, HeadStatistic]:
    device = anatomy.model.device
    with torch.no_grad(), heads(anatomy.model, list(detectors), tokens=False) as stats:
        for ids, mask in batches:
            anatomy.backbone(
                input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False
            )
    return {name: stats[name] for name in stats}
