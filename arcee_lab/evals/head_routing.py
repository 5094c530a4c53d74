"""Sends documents whose `head` column names a classification head to that head, not to the LM."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple, cast

from lm_eval.api.instance import Instance
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.errors import TaskError
from arcee_lab.evals.intervened import EvalInterventions, eval_interventions
from arcee_lab.heads.batches import Advance, label_columns, require_head
from arcee_lab.heads.qa import find_spans
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.heads.token import label_words
from arcee_lab.interventions import Intervention
from arcee_lab.model.anatomy import HEADS, anatomy_of
from arcee_lab.model.checkpoint import read_json
from arcee_lab.model.loading import find_checkpoint

MODEL_ARGUMENTS = {"sequence": "seqcls", "token": "tokcls", "qa": "qa"}  # head -> model argument
Source = str | os.PathLike | nn.Module


class LoadedHead(NamedTuple):
    """A loaded head.

    Attributes:
        model: The model with that head.
        tokenizer: Its own.
        interventions: The interventions that act on it.
    """

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    interventions: EvalInterventions


def head_of(request: Instance) -> str | None:
    """The head that a request's document names; None for the LM."""
    return request.doc.get("head") if isinstance(request.doc, dict) else None


def heads_needed(tasks: Iterable[Any]) -> Iterator[tuple[str, str | None]]:
    """Each task's name, and the head that its first document names; None for the LM."""
    for task in tasks:
        first = next(iter(task.eval_docs), None)
        # Not task.task_name: lm-eval draws from `random` whenever that is read.
        yield task.config.task, first.get("head") if isinstance(first, dict) else None


def checkpoint_heads(source: str | os.PathLike, revision: str | None = None) -> list[str]:
    """The heads of a checkpoint: that of its architecture, and those in its folder `heads/`."""
    folder = find_checkpoint(source, revision=revision)
    named = read_json(folder / "config.json").get("architectures") or [HEADS["causal"].__name__]
    own = [head for head, cls in HEADS.items() if cls.__name__ in named]
    return own + [
        head for head in MODEL_ARGUMENTS if (folder / "heads" / f"{head}.safetensors").is_file()
    ]


@dataclass
class HeadRouter:
    """The classification heads of an evaluation; each is loaded when a document needs it.

    Attributes:
        sources: Head -> a checkpoint or a model.
        load: Loads a head from a checkpoint.
        tokenizer: For heads that are given as models.
        interventions: The interventions that act on them.
        batch_size: Texts per forward.
        loaded: The heads that are loaded.
    """

    sources: dict[str, Source]
    load: Callable[[str | os.PathLike, str], tuple[nn.Module, PreTrainedTokenizerBase]]
    tokenizer: PreTrainedTokenizerBase | None
    interventions: Sequence[Intervention] = ()
    batch_size: int = 8
    loaded: dict[str, LoadedHead] = field(default_factory=dict)

    def loglikelihood(
        self, requests: Sequence[Instance], advance: Advance
    ) -> list[tuple[float, bool]]:
        """Log-probability of each request's label, and whether it is the head's choice."""
        answers: list[tuple[float, bool]] = [(0.0, False)] * len(requests)
        for task, head, numbers in _by_task(requests):
            if head != "sequence":
                raise TaskError(
                    f"Task {task!r}: documents for the {head!r} head are answered by "
                    "generate_until; only those for 'sequence' are multiple choice."
                )
            with _named(task):
                loaded_head = self._loaded(head)
                asked = [cast(tuple[str, str], requests[n].args) for n in numbers]
                labels = list(dict.fromkeys(label.strip() for _, label in asked))
                columns = label_columns(anatomy_of(loaded_head.model), labels)
                at = dict(zip(labels, columns, strict=True))
                texts = {text: n for n, text in enumerate(dict.fromkeys(text for text, _ in asked))}
                with loaded_head.interventions.around(loaded_head.model):
                    scores = score_sequence(
                        loaded_head.model,
                        loaded_head.tokenizer,
                        list(texts),
                        batch_size=self._batch(loaded_head),
                        advance=partial(_times, advance, len(numbers)),
                    )
            best = scores.argmax(dim=-1).tolist()
            rows = scores.tolist()
            for number, (text, label) in zip(numbers, asked, strict=True):
                row, column = texts[text], at[label.strip()]
                answers[number] = (rows[row][column], best[row] == column)
        return answers

    def generate(self, requests: Sequence[Instance], advance: Advance) -> list[str]:
        """The answer of the token or QA head to each request's document, as text."""
        answers = [""] * len(requests)
        for task, head, numbers in _by_task(requests):
            with _named(task):
                if head == "sequence":
                    raise TaskError(
                        "the sequence head answers multiple choice, not generate_until; "
                        "expected output_type: multiple_choice."
                    )
                loaded_head = self._loaded(head)
                docs = [requests[n].doc for n in numbers]
                _require_columns(docs[0], head)
                with loaded_head.interventions.around(loaded_head.model):
                    moved = partial(_times, advance, len(numbers))
                    found = _ANSWERS[head](loaded_head, docs, self._batch(loaded_head), moved)
            for number, text in zip(numbers, found, strict=True):
                answers[number] = text
        return answers

    def model(self, head: str, task: str) -> nn.Module:
        """The model of a head, loaded, for a task that needs it."""
        with _named(task):
            return self._loaded(head).model

    def require(self, head: str, task: str) -> None:
        """Checks that a task's head exists; no weight is loaded.

        Args:
            head: The head.
            task: The task that needs it.

        Raises:
            TaskError: It does not exist, or not where it was given; the task is named.
        """
        with _named(task):
            self._source(head)

    def _batch(self, loaded_head: LoadedHead) -> int:
        return self.batch_size if loaded_head.interventions.padding else 1

    def _source(self, head: str) -> Source:
        if head not in MODEL_ARGUMENTS:
            raise TaskError(
                f"its documents ask for the head {head!r}; expected one of "
                f"{', '.join(MODEL_ARGUMENTS)}."
            )
        source = self.sources.get(head)
        if source is None:
            raise TaskError(
                f"it needs a {head} head, and the model has none. Give heads={{{head!r}: PATH}} "
                f"({MODEL_ARGUMENTS[head]}=PATH on a command line), a checkpoint with that head, "
                "or fit one with `arcee-lab train-head`."
            )
        if isinstance(source, nn.Module):
            require_head(source, head)
        elif head not in (inside := checkpoint_heads(source)):
            raise TaskError(
                f"{os.fspath(source)!r}, given for the {head} head, has only {', '.join(inside)}: "
                "scores would be those of random weights; give a checkpoint that has it."
            )
        return source

    def _loaded(self, head: str) -> LoadedHead:
        if head not in self.loaded:
            source = self._source(head)
            if isinstance(source, nn.Module):
                if self.tokenizer is None:
                    raise TaskError(
                        f"the {head} head is a model, and there is no tokenizer for it; give "
                        "tokenizer= too."
                    )
                model, tokenizer = anatomy_of(source).model, self.tokenizer
            else:
                model, tokenizer = self.load(source, head)
            interventions = eval_interventions(self.interventions, model)
            self.loaded[head] = LoadedHead(model.eval(), tokenizer, interventions)
        return self.loaded[head]


def _times(advance: Advance, requests: int, share: float | int) -> None:
    """Converts a fraction of some requests into requests."""
    advance(requests * share)


def _label(
    loaded_head: LoadedHead, docs: Sequence[dict[str, Any]], batch: int, advance: Advance
) -> list[str]:
    labelled = label_words(
        loaded_head.model,
        loaded_head.tokenizer,
        [doc["words"] for doc in docs],
        texts=[doc.get("text") for doc in docs],
        expected={label for doc in docs for label in doc.get("labels", ())},
        batch_size=batch,
        advance=advance,
    )
    return [json.dumps(labels) for labels in labelled]


def _span(
    loaded_head: LoadedHead, docs: Sequence[dict[str, Any]], batch: int, advance: Advance
) -> list[str]:
    return find_spans(
        loaded_head.model,
        loaded_head.tokenizer,
        [doc["question"] for doc in docs],
        [doc["context"] for doc in docs],
        may_be_empty=[bool(doc.get("may_be_empty")) for doc in docs],
        batch_size=batch,
        advance=advance,
    )


_ANSWERS = {"token": _label, "qa": _span}
_COLUMNS = {"token": ("words",), "qa": ("question", "context")}


def _require_columns(doc: dict[str, Any], head: str) -> None:
    missing = [name for name in _COLUMNS[head] if name not in doc]
    if missing:
        raise TaskError(
            f"its documents have no column {missing[0]!r}, which the {head} head reads; they have "
            f"{', '.join(doc)}."
        )


def _by_task(requests: Sequence[Instance]) -> Iterator[tuple[str, str, list[int]]]:
    keys = [(str(request.task_name), str(head_of(request))) for request in requests]
    order = sorted(range(len(keys)), key=keys.__getitem__)
    for (task, head), numbers in groupby(order, key=keys.__getitem__):
        yield task, head, list(numbers)


@contextmanager
def _named(task: str) -> Iterator[None]:
    """Adds the task's name to an error."""
    try:
        yield
    except ValueError as error:
        raise TaskError(f"Task {task!r}: {error}") from error
