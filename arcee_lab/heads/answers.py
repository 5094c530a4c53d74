"""`al.answer`: answer spans of a question, for which transformers 5 has no pipeline."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.data.limits import require_context
from arcee_lab.data.tokenization import written_bos
from arcee_lab.errors import ModelError, SettingError, TextError
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.runs.arguments import checked


@dataclass(frozen=True)
class Answer:
    """A span of the context.

    Attributes:
        text: `context[start:end]`.
        start: First character.
        end: Character after the last one.
        score: Start logit plus end logit; comparable within one question.
        probability: Of its first token times that of its last one, over the tokens of the context
            in its window and the first token, which stands for no answer. `train_head` with
            `calibrate=True` brings it closer to the share of right answers.
    """

    text: str
    start: int
    end: int
    score: float
    probability: float


@checked
def answer(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    context: str,
    *,
    top_k: int = 1,
    max_answer_tokens: int = 30,
    max_length: int | None = None,
    stride: int | None = None,
) -> list[Answer]:
    """Returns the best spans of the context as answers, best first.

    The question comes first, because a causal model must know it while it reads. A context too long
    for one window is read in overlapping windows. If question or context begin with a written BOS,
    it is not read twice.

    Args:
        model: A question-answering model (`al.load(..., head="qa")`).
        tokenizer: Its tokenizer, a fast one (it has to know the characters of a token).
        question: The question.
        context: The text that holds the answer.
        top_k: How many different spans to return.
        max_answer_tokens: Longest span in tokens.
        max_length: Tokens per window, question included; the model's context by default.
        stride: Tokens by which windows overlap; by default a quarter of the context's tokens.

    Raises:
        ModelError: The model has another head.
        TextError: Question or context is empty.
        SettingError: A window is longer than the model's context or has no room for the context, or
            a number is out of range.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo", head="qa")
        >>> spans = al.answer(model, tokenizer, " Where ?", " The cat is in the barn .", top_k=2)
        >>> len(spans)
        2
    """
    anatomy = anatomy_of(model)
    if anatomy.legend.head != "qa":
        raise ModelError(
            f"A {type(model).__name__} has no question-answering head; load it with head='qa'."
        )
    if top_k < 1 or max_answer_tokens < 1:
        raise SettingError(
            f"top_k={top_k}, max_answer_tokens={max_answer_tokens}; expected 1 or more for both."
        )
    found: dict[tuple[int, int], Answer] = {}
    device = next(anatomy.model.parameters()).device
    for window in cut_windows(
        anatomy, tokenizer, question, context, max_length=max_length, stride=stride
    ):
        with torch.no_grad():
            output = anatomy.model(input_ids=torch.tensor([window.ids], device=device))
        for span, *_ in spans_of(
            window,
            output.start_logits[0].float(),
            output.end_logits[0].float(),
            context,
            max_answer_tokens=max_answer_tokens,
            top_k=top_k,
        ):
            known = found.get((span.start, span.end))
            if known is None or known.score < span.score:
                found[span.start, span.end] = span
    return sorted(found.values(), key=lambda a: (-a.score, a.start, a.end))[:top_k]


class TokenSpan(NamedTuple):
    """An answer with its tokens.

    Attributes:
        answer: The answer.
        first: Its first token, in its window.
        last: Its last token.
    """

    answer: Answer
    first: int
    last: int


@dataclass(frozen=True)
class Window:
    """A question and as much of its context as fits.

    Attributes:
        ids: Token ids.
        inside: Whether a token belongs to the context.
        offsets: First and last-plus-one character of each token, in question or context.
    """

    ids: list[int]
    inside: list[bool]
    offsets: list[tuple[int, int]]

    @property
    def allowed(self) -> list[bool]:
        """Tokens among which a reader chooses: those of the context, and the first."""
        return [True, *self.inside[1:]]


def cut_windows(
    anatomy: Anatomy,
    tokenizer: PreTrainedTokenizerBase,
    question: str,
    context: str,
    *,
    max_length: int | None = None,
    stride: int | None = None,
) -> list[Window]:
    """The windows in which a context is read; see `answer` for the arguments and errors."""
    question = question[written_bos(tokenizer, question) :]
    cut = written_bos(tokenizer, context)  # inside a window there is no BOS
    if not question.strip() or not context[cut:].strip():
        raise TextError("Question and context must hold text; got an empty one.")
    room = anatomy.model.config.max_position_embeddings if max_length is None else max_length
    require_context(anatomy.model, room, "max_length")
    left = room - len(tokenizer(question).input_ids)
    if left < 8:
        raise SettingError(
            f"A window of {room} tokens leaves {left} for the context; expected at "
            "least 8, so raise max_length or shorten the question."
        )
    if stride is not None and not 0 <= stride < left:
        raise SettingError(
            f"stride is {stride} tokens; expected 0 to {left - 1}, so that each window of {room} "
            "reads something new of the context."
        )
    windows = tokenizer(
        question,
        context[cut:],
        truncation="only_second",
        max_length=room,
        stride=left // 4 if stride is None else stride,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    found = []
    for n, ids in enumerate(windows["input_ids"]):
        inside = [part == 1 for part in windows.sequence_ids(n)]
        offsets = [
            (start + cut * own, end + cut * own)
            for own, (start, end) in zip(inside, windows["offset_mapping"][n], strict=True)
        ]
        found.append(Window(ids, inside, offsets))
    return found


def spans_of(
    window: Window,
    start: Float[Tensor, " pos"],
    end: Float[Tensor, " pos"],
    context: str,
    *,
    max_answer_tokens: int,
    top_k: int,
) -> list[TokenSpan]:
    """The best spans of one window, at most `4 * top_k`, best first.

    Args:
        window: The window.
        start: The head's logit of each token as the first of the answer.
        end: Its logit as the last.
        context: The text that was cut.
        max_answer_tokens: Longest span in tokens.
        top_k: How many different spans to find.
    """
    inside = torch.tensor(window.inside, device=start.device)
    allowed = torch.tensor(window.allowed, device=start.device)
    sure = [one.masked_fill(~allowed, -torch.inf).log_softmax(0) for one in (start, end)]
    start = start.masked_fill(~inside, -torch.inf)
    end = end.masked_fill(~inside, -torch.inf)
    # scores[i, n]: the span from token i to token i + n; a band, not a square.
    longest = max_answer_tokens
    ends = torch.nn.functional.pad(end, (0, longest - 1), value=-torch.inf).unfold(0, longest, 1)
    best = (start[:, None] + ends).flatten()
    best = best.topk(min(4 * top_k, len(best)))
    token = best.indices // longest
    behind = (token + best.indices % longest).clamp(max=len(start) - 1)
    probability = (sure[0][token] + sure[1][behind]).exp()
    found = []
    told = torch.stack([best.values, probability], dim=1).tolist()
    for at, (score, chance) in zip(best.indices.tolist(), told, strict=True):
        i, n = divmod(at, longest)
        if score == -torch.inf:
            break
        first, last = window.offsets[i][0], window.offsets[i + n][1]
        # A byte-level token includes the space before its word.
        first += len(context[first:last]) - len(context[first:last].lstrip())
        if first < last:
            one = Answer(context[first:last], first, last, score, chance)
            found.append(TokenSpan(one, i, i + n))
    return found
