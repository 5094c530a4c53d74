"""Log-probabilities of labels from a sequence head."""

from collections.abc import Sequence
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.data.tokenization import token_ids
from arcee_lab.errors import ModelError
from arcee_lab.heads.batches import (
    Advance,
    head_labels,
    in_batches,
    label_columns,
    require_head,
    require_room,
)


@torch.no_grad()
def score_sequence(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    labels: Sequence[str] | None = None,
    batch_size: int = 8,
    advance: Advance | None = None,
) -> Float[Tensor, "text n_labels"]:
    """Log-probabilities of the labels of texts; a text that occurs twice is read once.

    Args:
        model: A sequence model (`al.load(..., head="sequence")`).
        tokenizer: Its tokenizer.
        texts: The texts.
        labels: Which labels to return, in this order; by default all, in the head's order.
        batch_size: Texts per forward.
        advance: Called after each forward with its fraction of the work.

    Returns:
        Natural logarithms of probabilities over all labels of the head, in float32 on the CPU.

    Raises:
        ModelError: The model has another head, a regression head, or lacks a label.
        TextError: A text is empty or longer than the model's context.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.heads.sequence import score_sequence
        >>> model, tokenizer = al.load("demo", head="sequence")
        >>> texts = ["Review: The soup was very good. Verdict:"]
        >>> score_sequence(model, tokenizer, texts, labels=["good", "bad"]).argmax().item()
        0
    """
    anatomy = require_head(model, "sequence")
    if cast(int, anatomy.model.config.num_labels) < 2:
        raise ModelError(
            "The head gives one number per text; expected a head with two or more labels."
        )
    if anatomy.model.config.problem_type == "multi_label_classification":
        raise ModelError(
            "The head gives several labels per text; expected a head with exclusive labels."
        )
    columns = label_columns(anatomy, head_labels(anatomy) if labels is None else labels)
    distinct = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    rows = token_ids(tokenizer, list(distinct))
    require_room(anatomy, rows)
    scores = torch.empty(len(rows), len(columns))
    for numbers, ids, mask in in_batches(anatomy, rows, batch_size=batch_size, advance=advance):
        logits = anatomy.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        scores[list(numbers)] = logits.float().log_softmax(-1).cpu()[:, columns]
    return scores[[distinct[text] for text in texts]]
