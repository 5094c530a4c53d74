"""Requests in the shapes of well-known tasks, made of the demo's world, and plain answers."""

import random
from collections.abc import Sequence
from itertools import chain, islice

import torch
from lm_eval.api.instance import Instance

from arcee_lab.demo import stream


class Words:
    """Endless words of the demo's world."""

    def __init__(self, seed: int):
        self.words = chain.from_iterable(
            document.text.split() for document in stream(None, seed=seed, split="test")
        )
        self.rng = random.Random(seed)

    def some(self, low: int, high: int) -> str:
        return " ".join(islice(self.words, self.rng.randint(low, high)))


def choices(documents: Sequence[tuple[str, Sequence[str]]], task: str = "task") -> list[Instance]:
    """One request a choice of each (context, choices)."""
    return [
        Instance("loglikelihood", {}, (context, choice), index, (task, number, 1))
        for number, (context, several) in enumerate(documents)
        for index, choice in enumerate(several)
    ]


def rolling(texts: Sequence[str]) -> list[Instance]:
    return [
        Instance("loglikelihood_rolling", {}, (text,), 0, ("rolling", number, 1))
        for number, text in enumerate(texts)
    ]


def generation(prompts: Sequence[str], tokens: int = 12) -> list[Instance]:
    until = {"until": ["\n"], "max_gen_toks": tokens, "do_sample": False}
    return [
        Instance("generate_until", {}, (prompt, until), 0, ("generation", number, 1))
        for number, prompt in enumerate(prompts)
    ]


def shapes(seed: int = 0) -> dict[str, list[Instance]]:
    """Log-likelihood requests by the task they resemble; the demo reads 128 tokens."""
    words = Words(seed)

    def texts(low: int = 1, high: int = 4) -> list[str]:
        return [f" {words.some(low, high)}" for _ in range(4)]

    shots = "".join(f"Q: {words.some(4, 6)} A: B\n" for _ in range(5))
    sentences = [words.some(5, 9).split() for _ in range(8)]
    found = {
        "arc": [(f"Q: {words.some(8, 14)} A:", texts()) for _ in range(5)],
        "mmlu": [(f"{shots}Q: {words.some(4, 8)} A:", [" A", " B", " C", " D"]) for _ in range(5)],
        "blimp": [("", [" ".join(s), " ".join([*s[:-2], "the", s[-1]])]) for s in sentences],
        "race": [(f"{words.some(50, 60)} Q: {words.some(3, 6)} A:", texts(2, 5)) for _ in range(3)],
        "cloze": [(words.some(12, 20), [f" {words.some(1, 1)}"]) for _ in range(6)],
        "truncated": [(words.some(130, 160), texts()) for _ in range(2)],
        # One choice fits and another does not; one context is blank.
        "edge": [
            (words.some(100, 101), [" a", f" {words.some(25, 25)}"]),
            (" ", [words.some(2, 2)]),
        ],
    }
    return {name: choices(documents, name) for name, documents in found.items()}


def plain_answer(model, encoder, context: str, continuation: str) -> tuple[float, bool]:
    """Log-likelihood of one request by one unpadded forward."""
    ((before, after),) = encoder.pairs([(context, continuation)])
    with torch.no_grad():
        logits = model(torch.tensor([(before + after)[:-1]])).logits[0].float()
    logs = logits.log_softmax(-1)[len(before) - 1 :]
    score = sum(logs[place, token].item() for place, token in enumerate(after))
    return score, logs.argmax(-1).tolist() == after
