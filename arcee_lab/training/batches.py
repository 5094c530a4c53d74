"""The documents of one step, packed into rows, with the targets of every head.

A batch is a function of recipe, stage and step only, so a resumed run sees the documents that the
interrupted one would have seen. No document sees another: the mask is block-diagonal and positions
restart. Because the backbone is causal and each head reads a prefix of the same text, one forward
pass serves all four heads.
"""

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo import KINDS, Document, stream
from arcee_lab.demo.tasks import BIO
from arcee_lab.demo.tokenizer import EOS_ID
from arcee_lab.errors import SettingError
from arcee_lab.training.recipe import Recipe, Stage

FIXED_BY_CONTEXT = frozenset({"copy", "recall", "answer", "again", "verdict", "meaning"})
TOKEN_LABELS = BIO
IGNORED = -100


@dataclass(frozen=True)
class Encoded:
    """A document as token ids; token i + 1 is word i, because every word of the world is one token.

    Attributes:
        document: The document.
        ids: `<bos>`, the words, `<eos>`.
    """

    document: Document
    ids: list[int]

    def token_at(self, char: int) -> int:
        """Index of the token of the word that starts at, or holds, this character."""
        starts = [word.start for word in self.document.words]
        return bisect.bisect_right(starts, char)


@dataclass(frozen=True)
class Batch:
    """Packed documents and the targets of each head.

    `flat` positions index the concatenated rows.

    Attributes:
        ids: Token ids.
        positions: Position of each token in its own document.
        mask: True where a query may attend to a key.
        targets: The next token of the same document, or `IGNORED`.
        weights: Loss weight of each target.
        kinds: Index of the document's kind in `KINDS` for each token, -1 for padding.
        token_labels: Index into `TOKEN_LABELS` at the words of news, or `IGNORED`.
        sequence_at: Flat positions of the token before each review's verdict, and of each
            clause's full stop: the meaning of a clause is far easier to learn right after it.
        sequence_shares: For each of these, the probability of each of `LABELS` given the review's
            clauses: on average over reviews it is their label, but without its noise.
        spans_at: Flat positions of each passage's prompt, -1 after the end of shorter ones.
        span_starts: Column of `spans_at` in which the answer starts.
        span_ends: Column in which it ends.
    """

    ids: Int[Tensor, "row pos"]
    positions: Int[Tensor, "row pos"]
    mask: Bool[Tensor, "row 1 pos pos"]
    targets: Int[Tensor, "row pos"]
    weights: Float[Tensor, "row pos"]
    kinds: Int[Tensor, "row pos"]
    token_labels: Int[Tensor, "row pos"]
    sequence_at: Int[Tensor, " prefix"]
    sequence_shares: Float[Tensor, "prefix label"]
    spans_at: Int[Tensor, "passage prompt"]
    span_starts: Int[Tensor, " passage"]
    span_ends: Int[Tensor, " passage"]


def encode(tokenizer: PreTrainedTokenizerBase, documents: Sequence[Document]) -> list[Encoded]:
    """Tokenises documents.

    Args:
        tokenizer: The demo's tokenizer.
        documents: Documents of the world.

    Raises:
        SettingError: The tokenizer splits words of the world, so it is not the demo's.
    """
    texts = [document.text for document in documents]
    all_ids: list[list[int]] = tokenizer(texts)["input_ids"]  # pyright: ignore[reportAssignmentType]
    encoded = []
    for document, ids in zip(documents, all_ids, strict=True):
        if len(ids) != len(document.words) + 1:
            raise SettingError(
                f"This tokenizer makes {len(ids) - 1} tokens of {len(document.words)} words; "
                "the demo's world needs the demo's own tokenizer."
            )
        encoded.append(Encoded(document, [*ids, EOS_ID]))
    return encoded


def pack(encoded: Iterable[Encoded], *, rows: int, length: int) -> list[list[Encoded]]:
    """Packs whole documents into rows, first fit, until one does not fit."""
    packed: list[list[Encoded]] = [[] for _ in range(rows)]
    room = [length] * rows
    for item in encoded:
        row = next((i for i, left in enumerate(room) if left >= len(item.ids)), None)
        if row is None:
            break
        packed[row].append(item)
        room[row] -= len(item.ids)
    return packed


def batch_of(packed: Sequence[Sequence[Encoded]], *, length: int, answer_weight: float) -> Batch:
    """The tensors of packed documents."""
    rows = len(packed)
    ids = torch.zeros(rows, length, dtype=torch.long)
    positions = torch.zeros(rows, length, dtype=torch.long)
    owner = torch.full((rows, length), -1, dtype=torch.long)
    targets = torch.full((rows, length), IGNORED, dtype=torch.long)
    weights = torch.ones(rows, length)
    kinds = torch.full((rows, length), -1, dtype=torch.long)
    token_labels = torch.full((rows, length), IGNORED, dtype=torch.long)
    sequences: list[tuple[int, float]] = []
    spans: list[tuple[range, int, int]] = []
    for r, row in enumerate(packed):
        start = 0
        for n, item in enumerate(row):
            document, size = item.document, len(item.ids)
            here = slice(start, start + size)
            ids[r, here] = torch.tensor(item.ids)
            positions[r, here] = torch.arange(size)
            owner[r, here] = n
            kinds[r, here] = KINDS.index(document.kind)
            targets[r, start : start + size - 1] = ids[r, start + 1 : start + size]
            for slot in document.slots:
                if slot.skill in FIXED_BY_CONTEXT:
                    first, last = item.token_at(slot.start), item.token_at(slot.end - 1)
                    weights[r, start + first - 1 : start + last] = answer_weight
            flat = r * length + start
            if document.kind == "news":
                labels = [TOKEN_LABELS.index(w.tags.get("bio", "O")) for w in document.words]
                token_labels[r, start + 1 : start + size - 1] = torch.tensor(labels)
            elif document.kind == "review":
                good = document.facts["p_good"]
                prompt = [w for w in document.words if w.end <= document.facts["prompt_end"]]
                sequences += [(flat + i + 1, good) for i, w in enumerate(prompt) if w.text == "."]
                sequences.append((flat + len(prompt), good))
            elif document.kind == "passage":
                stop = item.token_at(document.facts["prompt_end"] - 1) + 1
                first = item.token_at(document.facts["answer_start"])
                last = item.token_at(document.facts["answer_end"] - 1)
                spans.append((range(flat, flat + stop), first, last))
            start += size
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    same = owner[:, :, None] == owner[:, None, :]
    widest = max((len(at) for at, _, _ in spans), default=0)
    at = torch.full((len(spans), widest), -1, dtype=torch.long)
    for i, (where, _, _) in enumerate(spans):
        at[i, : len(where)] = torch.tensor(where)
    return Batch(
        ids=ids,
        positions=positions,
        mask=(same & causal)[:, None],
        targets=targets,
        weights=weights,
        kinds=kinds,
        token_labels=token_labels,
        sequence_at=torch.tensor([at for at, _ in sequences], dtype=torch.long),
        sequence_shares=torch.tensor([(1 - good, good) for _, good in sequences]).view(-1, 2),
        spans_at=at,
        span_starts=torch.tensor([first for _, first, _ in spans], dtype=torch.long),
        span_ends=torch.tensor([last for _, _, last in spans], dtype=torch.long),
    )


def step_batch(
    recipe: Recipe, stage: Stage, tokenizer: PreTrainedTokenizerBase, step: int
) -> Batch:
    """The batch of one step of a recipe, which is in this stage."""
    source = stream(None, seed=f"{recipe.seed}/{step}", split="train", mix=stage.mix)
    documents = []
    tokens = 0
    while tokens < recipe.rows * recipe.length:
        documents.append(next(source))
        tokens += len(documents[-1].words) + 2
    packed = pack(encode(tokenizer, documents), rows=recipe.rows, length=recipe.length)
    return batch_of(packed, length=recipe.length, answer_weight=stage.answer_weight)
