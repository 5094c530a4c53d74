"""Simple readers to compare the heads with: n-gram counts, the most common type, a position."""

from collections import Counter, defaultdict
from collections.abc import Sequence

import torch

from arcee_lab.demo import Document, documents
from arcee_lab.demo.passages import FIRST_IS_RIGHT
from arcee_lab.demo.reviews import LABELS

FITTED_ON = 8000  # documents


def _grams(document: Document, longest: int) -> list[tuple[str, ...]]:
    words = [w.text.lower() for w in document.words if w.end <= document.facts["prompt_end"]]
    return [
        tuple(words[i : i + n]) for n in range(1, longest + 1) for i in range(len(words) - n + 1)
    ]


def bag_of_words(
    test: Sequence[Document], *, longest: int, train: Sequence[Document] | None = None
) -> float:
    """Accuracy of a logistic regression on counts of 1- to `longest`-grams of reviews.

    Args:
        test: Reviews to score.
        longest: Longest n-gram counted.
        train: Reviews to fit on; `FITTED_ON` of the train split by default.
    """
    train = train or documents("review", n=FITTED_ON, seed=0, split="train")
    counts = Counter(gram for document in train for gram in set(_grams(document, longest)))
    index = {gram: i for i, gram in enumerate(gram for gram, n in counts.items() if n >= 5)}

    def features(found: Sequence[Document]) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.zeros(len(found), len(index))
        for row, document in enumerate(found):
            for gram in _grams(document, longest):
                if gram in index:
                    x[row, index[gram]] += 1
        y = torch.tensor([float(LABELS.index(document.facts["label"])) for document in found])
        return x, y

    x, y = features(train)
    weight = torch.zeros(x.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.binary_cross_entropy_with_logits(x @ weight + bias, y)
        loss = loss + 0.5 * weight.square().sum() / len(y)  # the usual C = 1
        loss.backward()
        return loss

    optimizer.step(closure)
    x, y = features(test)
    with torch.no_grad():
        return ((x @ weight + bias > 0).float() == y).float().mean().item()


def commonest_type(test: Sequence[Document]) -> float:
    """Share of names whose type is the most common one of their first word in training."""
    seen: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for document in documents("news", n=FITTED_ON, seed=0, split="train"):
        for word in document.words:
            if word.tags.get("bio", "").startswith("B-"):
                seen[word.text][word.tags["entity"]] += 1
    asked = [w for d in test for w in d.words if w.tags.get("bio", "").startswith("B-")]
    right = sum(
        seen[w.text].most_common(1)[0][0] == w.tags["entity"] for w in asked if w.text in seen
    )
    return right / len(asked)


def any_spot(test: Sequence[Document]) -> float:
    """Share of correct answers when a person of the passage is chosen at random."""
    chances = []
    for document in test:
        people = sum(word.tags.get("role") == "person" for word in document.words)
        chances.append((FIRST_IS_RIGHT if document.facts["ambiguous"] else 1.0) / people)
    return sum(chances) / len(chances)
