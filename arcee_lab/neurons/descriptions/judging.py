"""Detection and fuzzing: a judge that reads only the description says where the neuron fires.

Detection asks in which texts it fires at all, among texts in which it does and texts in which it
does not. Fuzzing asks in which texts the marked tokens are those at which it fires, among right and
wrong marks on texts in which it fires. Source: Paulo et al., arXiv:2410.13928.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from arcee_lab.neurons.descriptions import prompts
from arcee_lab.neurons.descriptions.description import JudgeScore
from arcee_lab.neurons.pages.excerpts import Excerpt

AT_ONCE = 5  # texts in one question
Generate = Callable[[list[str]], list[str]]


@dataclass(frozen=True)
class Question:
    """One text of a question, and the right answer.

    Attributes:
        text: As the judge sees it.
        answer: Yes or no.
    """

    text: str
    answer: bool


def detection(
    firing: Sequence[Excerpt], silent: Sequence[Excerpt], random: np.random.Generator
) -> list[Question]:
    """The texts of detection in random order, without any mark.

    Args:
        firing: Excerpts in which the neuron fires.
        silent: Excerpts in which it does not.
        random: Decides the order.
    """
    questions = [
        Question(prompts.marked(x, ()), answer)
        for answer, excerpts in ((True, firing), (False, silent))
        for x in excerpts
    ]
    return [questions[place] for place in random.permutation(len(questions))]


def fuzzing(firing: Sequence[Excerpt], random: np.random.Generator) -> list[Question]:
    """The texts of fuzzing in random order: each is marked rightly or, half of them, wrongly.

    A wrong mark is on as many tokens as the right one, drawn from those at which the neuron is
    silent. A text in which it fires everywhere is left out.

    Args:
        firing: Excerpts in which the neuron fires, with values.
        random: Decides which are marked wrongly, where, and the order.
    """
    usable = []
    for x in firing:
        quiet = [place for place, value in enumerate(x.known) if value == 0 and x.tokens[place]]
        count = len(prompts.active(x))
        if count and len(quiet) >= count:
            usable.append((x, quiet, count))
    questions = []
    for number, place in enumerate(random.permutation(len(usable))):
        x, quiet, count = usable[place]
        right = number % 2 == 0
        places = prompts.active(x) if right else random.choice(quiet, count, replace=False).tolist()
        questions.append(Question(prompts.marked(x, places), right))
    return [questions[place] for place in random.permutation(len(questions))]


def judge(
    method: str, description: str, questions: Sequence[Question], generate: Generate
) -> JudgeScore:
    """Asks, reads the answers, and counts.

    Args:
        method: "detection" or "fuzzing".
        description: What the judge knows of the neuron.
        questions: The texts and the right answers.
        generate: The language model.
    """
    ask = prompts.detect if method == "detection" else prompts.fuzz
    groups = [questions[at : at + AT_ONCE] for at in range(0, len(questions), AT_ONCE)]
    said = generate([ask(description, [q.text for q in group]) for group in groups])
    hits = rejections = unread = 0
    for group, answer in zip(groups, said, strict=True):
        read = prompts.read_list(answer, len(group))
        if read is None:
            unread += len(group)
            continue
        for question, yes in zip(group, read, strict=True):
            hits += question.answer and yes
            rejections += not question.answer and not yes
    n_yes = sum(question.answer for question in questions)
    return JudgeScore(method, hits, n_yes, rejections, len(questions) - n_yes, unread)
