"""Evaluation tasks of a lesson: a choice between verbs, and what texts cost the LM."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict

from arcee_lab.evals.metrics import likelihood_items
from arcee_lab.lesson import english
from arcee_lab.lesson.material import SIDES


def agreement(**_: Any) -> DatasetDict:
    """Prompts before a verb, each with a right and a wrong one.

    Returns:
        The split `test` with the columns `text`, `choices` (the right one first in every other
        row, so that a tie favours neither) and `label`.
    """
    rows = []
    for half in range(len(SIDES)):
        for prompts, right, wrong in zip(
            english.prompt_pairs(half),
            (english.PLURAL_ANSWERS, english.SINGULAR_ANSWERS),
            (english.SINGULAR_ANSWERS, english.PLURAL_ANSWERS),
            strict=True,
        ):
            for prompt in prompts:
                label = len(rows) % 2
                both = [f" {right[0]}", f" {wrong[0]}"]
                rows.append(
                    {"text": prompt, "choices": both[::-1] if label else both, "label": label}
                )
    return DatasetDict({"test": Dataset.from_list(rows)})


def texts(*, kind: str = "", n: int = 40, data: Any = None, **_: Any) -> DatasetDict:
    """Whole documents, of one of our kinds or of a file.

    Args:
        kind: A kind of our English.
        n: Documents of it.
        data: A file with one JSON string per line, in place of a kind; or such files by task.

    Returns:
        The split `test` with the columns `text` and `words`, their number.
    """
    file = data if data is None or isinstance(data, str) else data.get("arcee_your_text")
    if file is None:
        found = [one.text for one in english.documents(kind, n=n, seed=0)]
    else:
        lines = Path(file).read_text(encoding="utf-8").splitlines()
        found = [json.loads(line) for line in lines]
    rows = [{"text": text, "words": len(text.split())} for text in found]
    return DatasetDict({"test": Dataset.from_list(rows)})


def text_read(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, Any]:
    """A document: its log-likelihood per word. Nobody knows what it holds."""
    ((likelihood, _),) = results
    items = likelihood_items(likelihood, doc["words"], 0.0)
    return {name: items[name] for name in ("nats_per_word", "word_perplexity")}
