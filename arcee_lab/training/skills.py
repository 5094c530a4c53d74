"""Measures every skill of the demo on held-out documents.

An LM skill is measured at the slots of a document: the model reads the text to the left of the slot
and is right if its most likely next token is. The heads read the same hidden states: the backbone
is causal, so the states of a prompt do not depend on the text after it.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo import KINDS, MIX, Document, documents, facts, news, passages, reviews
from arcee_lab.demo.tokenizer import PAD_ID
from arcee_lab.model import ArceeForCausalLM
from arcee_lab.training.batches import TOKEN_LABELS, Encoded, encode
from arcee_lab.training.joint_loss import DemoHeads
from arcee_lab.training.scores import KindLoss, SkillScore

LONGEST_SPAN = 3  # tokens
# A verdict is a noisy sum: the best reader errs on one in six. Four times as many reviews as other
# documents bring its interval down to a hundredth on either side.
TIMES = {"review": 4}
ASKED_BY = {"copy": "copy", "recall": "table", "meaning": "clause"}  # skill -> kind of document


class Seen(NamedTuple):
    """One document with the model's hidden states and logits."""

    item: Encoded
    hidden: Float[Tensor, "pos d_model"]
    logits: Float[Tensor, "pos vocab"]


@torch.no_grad()
def _see(
    model: ArceeForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    found: Sequence[Document],
    *,
    batch_size: int = 64,
) -> Iterator[Seen]:
    device = model.lm_head.weight.device
    for start in range(0, len(found), batch_size):
        items = encode(tokenizer, found[start : start + batch_size])
        longest = max(len(item.ids) for item in items)
        ids = torch.tensor([item.ids + [PAD_ID] * (longest - len(item.ids)) for item in items])
        mask = torch.tensor(
            [[1] * len(item.ids) + [0] * (longest - len(item.ids)) for item in items]
        )
        hidden = model.model(
            input_ids=ids.to(device), attention_mask=mask.to(device)
        ).last_hidden_state
        logits = model.lm_head(hidden)
        for i, item in enumerate(items):
            size = len(item.ids)
            yield Seen(item, hidden[i, :size].float().cpu(), logits[i, :size].float().cpu())


class Tally:
    """Counts of right answers by skill."""

    def __init__(self) -> None:
        self.right: dict[str, int] = {}
        self.n: dict[str, int] = {}

    def add(self, skill: str, right: bool) -> None:
        """Counts one answer."""
        self.right[skill] = self.right.get(skill, 0) + bool(right)
        self.n[skill] = self.n.get(skill, 0) + 1

    def share(self, skill: str) -> float | None:
        """Share of correct answers, or None if there was no question."""
        return self.right[skill] / self.n[skill] if self.n.get(skill) else None


def lm_shares(
    model: ArceeForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    skills: Sequence[str],
    *,
    n: int = 60,
) -> dict[str, float]:
    """Shares of correct answers on validation documents, for skills of one kind of document each.

    Args:
        model: A demo LM.
        tokenizer: The demo's.
        skills: Names from `ASKED_BY`.
        n: Documents of each kind.
    """
    tally = Tally()
    for skill in skills:
        for seen in _see(
            model, tokenizer, documents(ASKED_BY[skill], n=n, seed=0, split="validation")
        ):
            _ask_lm(tally, tokenizer, seen)
    return {skill: tally.right[skill] / tally.n[skill] for skill in skills}


def measure_skills(
    model: ArceeForCausalLM,
    heads: DemoHeads | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    n: int = 1000,
    seed: int = 0,
    split: str = "test",
) -> tuple[tuple[SkillScore, ...], tuple[KindLoss, ...]]:
    """Measures every skill, and the loss of each kind of document next to its entropy.

    Args:
        model: A demo LM.
        heads: The other heads; None measures only the LM.
        tokenizer: The demo's.
        n: Documents of each kind; four times as many reviews.
        seed: Random seed of the documents.
        split: Their split.

    Returns:
        One score per skill, and one loss per kind.
    """
    tally = Tally()
    losses = []
    for kind in KINDS:
        gaps: list[tuple[float, float, int]] = []
        found = documents(kind, n=n * TIMES.get(kind, 1), seed=seed, split=split)
        for seen in _see(model, tokenizer, found):
            _ask_lm(tally, tokenizer, seen)
            if heads is not None:
                _ask_heads(tally, heads, seen)
            gaps.append(_loss(seen))
        losses.append(_kind_loss(kind, gaps))
    return _scores(tally), tuple(losses)


def _loss(seen: Seen) -> tuple[float, float, int]:
    targets = torch.tensor(seen.item.ids[1:])
    loss = torch.nn.functional.cross_entropy(seen.logits[:-1], targets, reduction="sum").item()
    document = seen.item.document
    # no reader is told the kind; the first words reveal it, at its information in the mix
    return loss, document.nats - math.log(MIX[document.kind]), len(targets)


def _kind_loss(kind: str, gaps: list[tuple[float, float, int]]) -> KindLoss:
    tokens = sum(size for _, _, size in gaps)
    loss = sum(loss for loss, _, _ in gaps) / tokens
    entropy = sum(nats for _, nats, _ in gaps) / tokens
    # standard error of a ratio of sums, over documents
    off = torch.tensor([a - b - (loss - entropy) * size for a, b, size in gaps], dtype=torch.double)
    error = off.square().sum().sqrt().item() / tokens
    return KindLoss(kind, loss, entropy, error, tokens)


def _ask_lm(tally: Tally, tokenizer: PreTrainedTokenizerBase, seen: Seen) -> None:
    item = seen.item
    for slot in item.document.slots:
        first, last = item.token_at(slot.start), item.token_at(slot.end - 1)
        guesses = seen.logits[first - 1 : last].argmax(-1).tolist()
        right = guesses == item.ids[first : last + 1]
        if slot.skill in ("agreement", "verdict", "meaning"):
            assert slot.other is not None
            (other,) = tokenizer.encode(slot.other, add_special_tokens=False)
            at = seen.logits[first - 1]
            right = bool(at[item.ids[first]] > at[other])
        if slot.skill == "agreement":
            wrong = min(slot.detail["attractors"], 2)
            tally.add(f"agreement {wrong}{'+' if wrong == 2 else ''}", right)
        elif slot.skill == "answer":
            tally.add(f"answer {'ambiguous' if slot.detail['ambiguous'] else 'certain'}", right)
        else:
            tally.add(slot.skill, right)
        if "best" in slot.detail:
            tally.add(f"best {slot.skill}", slot.detail["best"])
        if slot.skill == "fact":
            tally.add("best fact", slot.detail["true"])


def _ask_heads(tally: Tally, heads: DemoHeads, seen: Seen) -> None:
    item, document = seen.item, seen.item.document
    if document.kind == "review":
        last = item.token_at(document.facts["prompt_end"] - 1)
        label = reviews.LABELS[heads.sequence(seen.hidden[last]).argmax().item()]
        tally.add("sequence head", label == document.facts["label"])
    elif document.kind == "news":
        guesses = heads.token(seen.hidden).argmax(-1).tolist()
        for i, word in enumerate(document.words):
            guess = TOKEN_LABELS[guesses[i + 1]]
            tally.add("token head, all words", guess == word.tags.get("bio", "O"))
            unsure = word.tags.get("best_causal", word.tags.get("entity"))
            tally.add("best label", unsure == word.tags.get("entity"))
            if "best_causal" in word.tags:
                tally.add("token head", guess == word.tags["bio"])
                for reader in ("causal", "both"):
                    best = word.tags[f"best_{reader}"] == word.tags["entity"]
                    tally.add(f"best token {reader}", best)
    elif document.kind == "passage":
        stop = item.token_at(document.facts["prompt_end"] - 1) + 1
        span = best_span(heads.qa(seen.hidden[:stop]))
        right = (
            item.token_at(document.facts["answer_start"]),
            item.token_at(document.facts["answer_end"] - 1),
        )
        tally.add("qa head", span == right)
        unsure = "ambiguous" if document.facts["ambiguous"] else "certain"
        tally.add(f"qa head {unsure}", span == right)


def best_span(logits: Float[Tensor, "pos 2"]) -> tuple[int, int]:
    """First and last token of the best span of at most `LONGEST_SPAN` tokens."""
    starts, ends = logits.unbind(-1)
    both = starts[:, None] + ends[None, :]
    allowed = torch.ones_like(both).triu().tril(LONGEST_SPAN - 1).bool()
    at = int(both.masked_fill(~allowed, -torch.inf).argmax())
    return at // len(starts), at % len(starts)


def _scores(tally: Tally) -> tuple[SkillScore, ...]:
    verdict = reviews.best_accuracy()
    causal = news.best_accuracy(both_sides=False)
    span = passages.best_exact_match()
    unsure = passages.FIRST_IS_RIGHT
    asked = [  # skill, ceiling, what it must reach, the best reader's tally
        ("agreement 0", 1.0, 0.98, None),
        ("agreement 1", 1.0, 0.98, None),
        ("agreement 2+", 1.0, 0.98, None),
        ("fact", facts.TRUTH, 0.93, "best fact"),
        ("copy", 1.0, 0.97, None),
        ("recall", 1.0, 0.97, None),
        ("closer", 1.0, 0.0, None),
        ("verdict", verdict, verdict - 0.02, "best verdict"),
        ("meaning", 1.0, 0.0, None),
        ("answer certain", 1.0, 0.80, None),
        ("answer ambiguous", unsure, 0.0, None),
        ("again", 1.0, 0.0, None),
        ("sequence head", verdict, verdict - 0.02, "best verdict"),
        ("token head", causal, causal - 0.02, "best token causal"),
        ("token head, all words", news.best_label_accuracy(), 0.0, "best label"),
        ("qa head", span, 0.85, "best answer"),
        ("qa head certain", 1.0, 0.0, None),
        ("qa head ambiguous", unsure, 0.0, None),
    ]
    return tuple(
        SkillScore(
            skill,
            tally.right[skill],
            tally.n[skill],
            ceiling,
            must,
            tally.share(best) if best else None,
        )
        for skill, ceiling, must, best in asked
        if skill in tally.n
    )
