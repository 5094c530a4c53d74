"""The tasks as Hugging Face datasets: train, validation and test share no document."""

from collections.abc import Callable, Iterable
from typing import Any

from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

from arcee_lab.demo.document import Document
from arcee_lab.demo.news import TYPES
from arcee_lab.demo.reviews import LABELS
from arcee_lab.demo.world import SPLITS, stream
from arcee_lab.errors import SettingError

BIO = ("O", *(f"{side}-{kind}" for kind in TYPES for side in "BI"))  # label ids of the token task


def _lm(document: Document) -> dict[str, Any]:
    return {"text": document.text, "kind": document.kind, "nats": document.nats}


def _sequence(document: Document) -> dict[str, Any]:
    return {
        "text": document.prompt,
        "label": document.facts["label"],
        "p_good": document.facts["p_good"],
    }


def _token(document: Document) -> dict[str, Any]:
    words = document.words
    return {
        "text": document.text,
        "tokens": [word.text for word in words],
        "starts": [word.start for word in words],
        "ends": [word.end for word in words],
        "tags": [word.tags.get("bio", "O") for word in words],
    }


def _qa(document: Document) -> dict[str, Any]:
    """In SQuAD's form: offsets count from the start of the context."""
    facts = document.facts
    begin = facts["question_end"] + 1
    return {
        "question": document.text[: facts["question_end"]],
        "context": document.text[begin : facts["prompt_end"]],
        "answers": {
            "text": [document.text[facts["answer_start"] : facts["answer_end"]]],
            "answer_start": [facts["answer_start"] - begin],
        },
        "ambiguous": facts["ambiguous"],
    }


_text = Value("string")
_TASKS: dict[str, tuple[str | None, Callable[[Document], dict[str, Any]], Features]] = {
    "lm": (None, _lm, Features({"text": _text, "kind": _text, "nats": Value("float64")})),
    "sequence": (
        "review",
        _sequence,
        Features(
            {"text": _text, "label": ClassLabel(names=list(LABELS)), "p_good": Value("float64")}
        ),
    ),
    "token": (
        "news",
        _token,
        Features(
            {
                "text": _text,
                "tokens": List(_text),
                "starts": List(Value("int32")),
                "ends": List(Value("int32")),
                "tags": List(ClassLabel(names=list(BIO))),
            }
        ),
    ),
    "qa": (
        "passage",
        _qa,
        Features(
            {
                "question": _text,
                "context": _text,
                "answers": {"text": List(_text), "answer_start": List(Value("int32"))},
                "ambiguous": Value("bool"),
            }
        ),
    ),
}
TASKS = tuple(_TASKS)


def dataset(
    task: str, *, train: int = 2000, validation: int = 500, test: int = 1000, seed: int = 0
) -> DatasetDict:
    """One task of the demo as a `DatasetDict`.

    Args:
        task: "lm" (texts of all kinds), "sequence" (reviews before their verdict), "token" (news,
            BIO) or "qa" (passages in SQuAD's form).
        train: Rows of the train split.
        validation: Rows of the validation split.
        test: Rows of the test split.
        seed: Seed of the documents.

    Returns:
        The three splits. No text occurs twice, in one split or in two.

    Raises:
        ValueError: The task is unknown, or a number of rows is below 1.

    Example:
        >>> from arcee_lab.demo.tasks import dataset
        >>> dataset("qa", train=8, validation=8, test=8)["test"].num_rows
        8
    """
    if task not in _TASKS:
        raise SettingError(f"There is no task {task!r}; expected one of {', '.join(TASKS)}.")
    kind, row, features = _TASKS[task]
    sizes = dict(zip(SPLITS, (train, validation, test), strict=True))
    if min(sizes.values()) < 1:
        raise SettingError(f"Got the sizes {sizes}; expected at least 1 row for every split.")
    return DatasetDict(
        {
            split: Dataset.from_list(
                [row(d) for d in _distinct(stream(kind, seed=seed, split=split), n)], features
            )
            for split, n in sizes.items()
        }
    )


def _distinct(found: Iterable[Document], n: int) -> list[Document]:
    """The first n documents whose prompts differ."""
    seen: dict[str, Document] = {}
    for document in found:
        seen.setdefault(document.prompt, document)
        if len(seen) == n:
            break
    return list(seen.values())
