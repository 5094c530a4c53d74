"""What a QA head says about questions, for its calibration: probabilities of tokens and answers.

The first and the last token of an answer are each a choice among the tokens of the context and the
first token of the window, as in training. One temperature serves both.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.evals import metrics
from arcee_lab.heads.batches import require_head
from arcee_lab.heads.qa import given_answers, read_windows
from arcee_lab.training.heads.calibration import Judged
from arcee_lab.training.heads.questions import LabelledQuestions
from arcee_lab.training.heads.spans import encode_questions


@dataclass(frozen=True)
class JudgedSpans(Judged):
    """Of `logs` and `gold`, the first half is of the first tokens in all windows, then the last.

    Attributes:
        given: The answer given to each question: its window, its first and its last token.
        right: Whether it is an exact match.
    """

    given: Int[np.ndarray, "question 3"]
    right: Bool[np.ndarray, " question"]

    @property
    def n(self) -> int:
        """How many questions are judged."""
        return len(self.right)

    def nll_and_ece(self, temperature: float) -> tuple[float, float]:
        """The scores at a temperature; see `calibration.Effect`."""
        logs = self.log_probs(temperature)
        windows = len(logs) // 2
        nll = -logs[np.arange(len(logs)), self.gold].sum() / windows
        window, first, last = self.given.T
        sure = np.exp(logs[window, first] + logs[windows + window, last])
        items = list(zip(sure.tolist(), self.right.astype(float).tolist(), strict=True))
        return float(nll), metrics.ece(items)


def judged_spans(
    part: str,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    data: LabelledQuestions,
    *,
    batch_size: int,
) -> JudgedSpans:
    """What a QA head says about questions.

    Args:
        part: "held-out" or "test".
        model: With the head.
        tokenizer: Its tokenizer.
        data: The questions.
        batch_size: Windows per forward.
    """
    rows = encode_questions(require_head(model, "qa"), tokenizer, data, part=part)
    read = read_windows(model, tokenizer, data.questions, data.contexts, batch_size=batch_size)
    logs = np.full((2, len(rows), max(map(len, rows))), -np.inf)
    for number, (row, one) in enumerate(zip(rows, read, strict=True)):
        for side, logits in enumerate((one.starts, one.ends)):
            said = np.where(row.allowed, logits.double().numpy(), -np.inf)
            logs[side, number, : len(row)] = said
    answers = given_answers(read, data.contexts, may_be_empty=data.may_be_empty)
    matches = [
        metrics.answer_items(golds, answer.text)["em"]
        for golds, answer in zip(data.answers, answers, strict=True)
    ]
    return JudgedSpans(
        part=part,
        logs=logs.reshape(2 * len(rows), -1),
        gold=np.array([row.start for row in rows] + [row.end for row in rows]),
        given=np.array([(one.window, one.first, one.last) for one in answers]),
        right=np.array(matches) == 1,
    )
