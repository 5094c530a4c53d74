"""Scores of a head on labelled texts or questions: during training, and as an evaluation."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.bootstrap import DRAWS, interval
from arcee_lab.errors import ModelError, SettingError
from arcee_lab.evals import metrics
from arcee_lab.evals.metrics._entities import are_entities, counted_words
from arcee_lab.evals.metrics.redrawn import redrawn
from arcee_lab.evals.result import Score
from arcee_lab.heads.batches import head_labels, label_columns, require_head
from arcee_lab.heads.qa import find_spans
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.heads.token import label_words
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.runs.arguments import checked
from arcee_lab.training.heads.labelled import Labelled, LabelledTexts
from arcee_lab.training.heads.questions import LabelledQuestions

if TYPE_CHECKING:
    from arcee_lab.evals import Evaluation
    from arcee_lab.evals.intervened import InterventionsLike

SCORED = {
    "sequence": ("acc", "macro_f1", "mcc", "nll", "brier", "ece"),
    "token": ("token_acc", "entity_f1", "entity_precision", "entity_recall"),
    "qa": ("em", "f1", "em_answer", "f1_answer", "em_none"),
}
_DECIDES = {"sequence": "nll", "token": "entity_f1", "qa": "f1"}
_OF_SPANS = ("em", "f1")  # where every question has an answer
Items = dict[str, list[Any]]


def items_of(
    model: nn.Module, tokenizer: PreTrainedTokenizerBase, data: Labelled, batch_size: int
) -> Items:
    """What each metric of the head sums over: one item per text or question.

    Args:
        model: With the head.
        tokenizer: Its tokenizer.
        data: Texts or questions.
        batch_size: Of them, per forward.
    """
    found: list[dict[str, Any]]
    if isinstance(data, LabelledQuestions):
        spans = find_spans(
            model,
            tokenizer,
            data.questions,
            data.contexts,
            may_be_empty=data.may_be_empty,
            batch_size=batch_size,
        )
        found = [metrics.answer_items(g, a) for g, a in zip(data.answers, spans, strict=True)]
    elif data.words is None:
        logs = score_sequence(model, tokenizer, data.texts, batch_size=batch_size).tolist()
        found = [metrics.label_items(g, row) for g, row in zip(data.labels, logs, strict=True)]
    else:
        given = label_words(model, tokenizer, data.words, texts=data.texts, batch_size=batch_size)
        gold = [[data.names[label] for label in row] for row in data.labels]
        items = metrics.entity_items if are_entities(data.names) else counted_words
        found = [items(a, b) for a, b in zip(gold, given, strict=True)]
    return {name: [item[name] for item in found] for name in metric_names(data)}


def metric_names(data: Labelled) -> tuple[str, ...]:
    """The metrics that texts or questions have: entities only where the labels name some."""
    names = SCORED[data.head]
    if isinstance(data, LabelledQuestions):
        return names if data.may_be_empty else _OF_SPANS
    return names if data.head == "sequence" or are_entities(data.names) else names[:1]


def deciding_metric(data: Labelled, wanted: str | None) -> str:
    """The metric that decides which epoch is best.

    Raises:
        SettingError: The held-out texts have no such metric.
    """
    names = metric_names(data)
    if wanted is not None and wanted not in names:
        raise SettingError(
            f"metric={wanted!r} is no score of these held-out texts; expected one of "
            f"{', '.join(names)}."
        )
    own = _DECIDES[data.head]
    return wanted or (own if own in names else names[0])


def scores_of(items: Items) -> tuple[Score, ...]:
    """Each metric with its 95 % bootstrap interval."""
    return tuple(score_of(getattr(metrics, name), some) for name, some in items.items())


def score_of(metric: Callable[[Sequence[Any]], float], items: list[Any]) -> Score:
    """A score on held-out texts, with its 95 % bootstrap interval."""
    low, high = interval(redrawn(metric, items)).tolist()
    name = getattr(metric, "name", "")
    return Score("test", name, "none", metric(items), low, high, len(items))


def values_of(items: Items) -> dict[str, float]:
    """Each metric as a number."""
    return {name: float(getattr(metrics, name)(some)) for name, some in items.items()}


@checked
def evaluate_head(
    model: str | os.PathLike | nn.Module,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    data: LabelledTexts | LabelledQuestions,
    name: str = "labelled",
    interventions: "InterventionsLike" = None,
    limit: int | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    dtype: str | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool | None = None,
) -> "Evaluation":
    """Evaluates a head on labelled data of one's own: a task of lm-eval without a task file.

    The result is that of `al.evals.run`: intervals, samples, `compare` with another run, files.

    Args:
        model: "demo", a folder, a Hub id, or a model in memory, with the head that the data are
            for.
        tokenizer: For a model in memory.
        data: Texts or questions from `read_labelled`. Labels are matched with those of the head by
            name; all labels of the head can be chosen, also those that the data lack.
        name: What the task is called.
        interventions: Interventions that act on the head, or a file of them.
        limit: Most texts; the first ones are used.
        batch_size: Texts per forward; at least 8.
        device: "cpu", "cuda", ...; by default CUDA if it is available.
        dtype: Of the weights.
        draws: Of the bootstrap.
        seed: Of the bootstrap.
        out: A folder for the files of the result.
        progress: Show a bar over the texts; by default in notebooks and terminals.

    Returns:
        Scores with 95 % intervals and the samples.

    Raises:
        ModelError: The model has no such head, or the head lacks a label of the data.
        TaskError: A text is too long for the model, or has a word that cannot be placed.
        SettingError: An argument is out of range or would have no effect.
        Interrupted: Ctrl-C was pressed.

    Example:
        >>> import arcee_lab as al
        >>> from arcee_lab.training.heads import evaluate_head, read_labelled
        >>> reviews = read_labelled("demo:test", head="sequence", limit=8)
        >>> evaluate_head("demo", data=reviews, progress=False).score("labelled", "acc").n
        8
    """
    from arcee_lab.evals import run

    headed, own, task = asked_of_head(
        model, tokenizer, data=data, name=name, device=device, dtype=dtype
    )
    return run(
        headed,
        own,
        tasks=task,
        interventions=interventions,
        limit=limit,
        batch_size=batch_size,
        draws=draws,
        seed=seed,
        out=out,
        progress=progress,
    )


def asked_of_head(
    model: str | os.PathLike | nn.Module,
    tokenizer: PreTrainedTokenizerBase | None,
    *,
    data: Labelled,
    name: str,
    device: str | None,
    dtype: str | None,
) -> tuple[Any, Any, Any]:
    """The model with its head, its tokenizer and the task, as `al.evals.run` takes them.

    For arguments and errors see `evaluate_head`.
    """
    from arcee_lab.evals.head_routing import checkpoint_heads
    from arcee_lab.evals.loading import Loader
    from arcee_lab.evals.tasks.in_memory import task_of

    if not name or not all(one.isalnum() or one in "-_." for one in name):
        raise SettingError(f"name={name!r}; expected letters, digits, -, _ and dots.")
    headed: Any = model
    if isinstance(model, nn.Module):
        given = [word for word, one in (("device", device), ("dtype", dtype)) if one is not None]
        if given:
            raise SettingError(
                f"{', '.join(given)} came with a model in memory; set it on the model itself "
                "(model.to(...))."
            )
    else:
        inside = checkpoint_heads(model)
        if data.head not in inside:
            raise ModelError(
                f"{os.fspath(model)!r} has only {', '.join(inside)}, and the data are for the "
                f"{data.head} head; give a checkpoint that has it, such as one of train-head."
            )
        headed, own = Loader(dtype=dtype, device=device).load(model, data.head)
        tokenizer = own if tokenizer is None else tokenizer
    anatomy = require_head(headed, data.head)
    labels = [] if data.head == "qa" else head_labels(anatomy)
    return headed, tokenizer, task_of(name, data.head, _documents(data, anatomy), labels)


def _documents(data: Labelled, anatomy: Anatomy) -> list[dict[str, Any]]:
    """What `arcee_lab.evals` reads, with the labels in the head's order."""
    if isinstance(data, LabelledQuestions):
        return [
            {
                "head": "qa",
                "question": question,
                "context": context,
                "answers": list(dict.fromkeys(answers)),
                "may_be_empty": data.may_be_empty,
            }
            for question, context, answers in zip(
                data.questions, data.contexts, data.answers, strict=True
            )
        ]
    columns = label_columns(anatomy, data.names)
    if data.words is None:
        return [
            {"head": "sequence", "text": text, "label": columns[label]}
            for text, label in zip(data.texts, data.labels, strict=True)
        ]
    names = head_labels(anatomy)
    return [
        {
            "head": "token",
            "text": text,
            "words": list(words),
            "labels": [names[columns[label]] for label in labels],
        }
        for text, words, labels in zip(data.texts, data.words, data.labels, strict=True)
    ]
