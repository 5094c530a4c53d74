"""Further numbers per token: given by document, stored by token."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.errors import TextError, WrongType
from arcee_lab.runs.arguments import check_fields


@dataclass(frozen=True)
class Tag:
    """A number per token, such as a part of speech, a label or a score.

    Attributes:
        values: One sequence of whole numbers per document, with one number per token that the
            tokenizer makes of it, BOS included.
        labels: Meaning of the numbers 0, 1, ...; None if they are plain numbers.

    Example:
        >>> from arcee_lab.dump import Tag
        >>> Tag([[0, 1, 1, 2]], labels=("none", "noun", "verb")).labels[2]
        'verb'
    """

    values: Sequence[Sequence[int]]
    labels: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


def cut_tags(
    windows: Windows, tags: Mapping[str, Tag] | None
) -> tuple[dict[str, Int[Tensor, " token"]], dict[str, tuple[str, ...] | None]]:
    """The numbers of each stored token, and what they mean.

    Raises:
        TextError: A document has fewer numbers than tokens, or a number has no label.
    """
    columns: dict[str, Tensor] = {}
    for name, tag in (tags or {}).items():
        if not isinstance(tag, Tag):
            raise WrongType(f"tag {name!r} is {tag!r}; expected an al.dump.Tag.")
        done: dict[int, int] = {}
        parts = []
        for window, document in enumerate(windows.documents.tolist()):
            ids = windows[window]
            prefix = int(ids[0] == windows.bos_id)
            n_body = int(windows.new(window).sum()) - prefix
            at = done.get(document, 0)
            done[document] = at + n_body
            if document >= len(tag.values) or prefix + at + n_body > len(tag.values[document]):
                raise TextError(
                    f"tag {name!r} has too few numbers for document {document}; expected one for "
                    "each token of every document, BOS included."
                )
            values = np.asarray(tag.values[document])
            parts += [values[:prefix], values[prefix + at : prefix + at + n_body]]
        column = np.concatenate(parts)
        if tag.labels is not None and not (column.min() >= 0 and column.max() < len(tag.labels)):
            raise TextError(
                f"tag {name!r} has numbers from {column.min()} to {column.max()}, and labels for "
                f"0 to {len(tag.labels) - 1}."
            )
        columns[name] = torch.from_numpy(column.astype(np.int32))
    return columns, {name: tag.labels for name, tag in (tags or {}).items()}
