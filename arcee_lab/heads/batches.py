"""Texts of unequal length as batches: sorted by length, padded on the right, masked."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from arcee_lab.data.windows import plan_batches
from arcee_lab.errors import ModelError, TextError
from arcee_lab.model.anatomy import Anatomy, anatomy_of

Advance = Callable[[float], Any]  # called with the amount of work just done


def require_head(model: nn.Module, head: str) -> Anatomy:
    """The anatomy of a model that has this head.

    Args:
        model: An Arcee model.
        head: "sequence", "token" or "qa".

    Raises:
        ModelError: It has another head.
    """
    anatomy = anatomy_of(model)
    if anatomy.legend.head != head:
        raise ModelError(
            f"Got a {type(anatomy.model).__name__}, expected a model with the {head} head; load it "
            f"with al.load(..., head={head!r})."
        )
    return anatomy


def head_labels(anatomy: Anatomy) -> list[str]:
    """The labels of a sequence or token head, in the order of its logits."""
    names = cast(dict[int, str], anatomy.model.config.id2label)
    return [names[i] for i in range(cast(int, anatomy.model.config.num_labels))]


def label_columns(anatomy: Anatomy, labels: Sequence[str]) -> list[int]:
    """The columns of labels in a head's logits.

    Args:
        anatomy: A model with a sequence or token head.
        labels: Labels; their case matters only if two labels of the head differ by it.

    Raises:
        ModelError: The head does not know a label.
    """
    known = head_labels(anatomy)
    exact = {label: i for i, label in enumerate(known)}
    folded = {label.casefold(): i for label, i in exact.items()}
    if len(folded) < len(exact):
        folded = {}
    found = [exact.get(label, folded.get(label.casefold(), -1)) for label in labels]
    if -1 in found:
        raise ModelError(
            f"The head has no label {labels[found.index(-1)]!r}; it knows {', '.join(known)}; set "
            "id2label in config.json (or heads.json) to the data set's names, in the head's order."
        )
    return found


def require_room(anatomy: Anatomy, rows: Sequence[Sequence[int]]) -> None:
    """Checks that every row fits the model and holds a token.

    Raises:
        TextError: A row does not fit; the first such row is named.
    """
    room = anatomy.model.config.max_position_embeddings
    for number, row in enumerate(rows):
        if not 0 < len(row) <= room:
            raise TextError(
                f"Text {number} has {len(row)} tokens, the model reads 1 to {room}; leave it out, "
                "shorten it, or take a model with a longer context."
            )


def in_batches(
    anatomy: Anatomy,
    rows: Sequence[Sequence[int]],
    *,
    batch_size: int,
    advance: Advance | None = None,
) -> Iterator[tuple[tuple[int, ...], Tensor, Tensor]]:
    """Rows of token ids as padded batches, shortest first.

    Args:
        anatomy: The model; the tensors are put on its device.
        rows: Token ids.
        batch_size: Rows per batch.
        advance: Called after each batch with its fraction of all rows.

    Yields:
        The rows' numbers, their ids `[batch, pos]`, and the attention mask `[batch, pos]`.
    """
    device = next(anatomy.model.parameters()).device
    pad = anatomy.model.config.pad_token_id or 0  # masked, so any id will do
    for numbers in plan_batches([len(row) for row in rows], batch_size):
        width = max(len(rows[n]) for n in numbers)
        ids = torch.tensor([[*rows[n], *[pad] * (width - len(rows[n]))] for n in numbers])
        mask = torch.tensor([[1] * len(rows[n]) + [0] * (width - len(rows[n])) for n in numbers])
        yield numbers, ids.to(device), mask.to(device)
        if advance is not None:
            advance(len(numbers) / len(rows))
