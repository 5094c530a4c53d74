"""Ceilings by brute force: what they say is what a perfect reader gets."""

import math

import pytest


def _near(measured, exact, n):
    assert abs(measured - exact) < 4 * math.sqrt(exact * (1 - exact) / n)


def test_entity_ceilings_agree_with_the_readers_they_describe():
    from arcee_lab.demo import documents
    from arcee_lab.demo.news import best_accuracy

    found = documents("news", n=1000, seed=0, split="train")
    names = [w.tags for d in found for w in d.words if "best_causal" in w.tags]
    for reader, both in (("causal", False), ("both", True)):
        share = sum(t[f"best_{reader}"] == t["entity"] for t in names) / len(names)
        _near(share, best_accuracy(both_sides=both), len(names))
    assert best_accuracy(both_sides=False) == pytest.approx(0.886, abs=0.001)
    assert best_accuracy(both_sides=True) == pytest.approx(0.981, abs=0.001)


def test_the_best_labels_of_all_words_agree_with_their_ceiling():
    from arcee_lab.demo import documents, news

    shares = []
    for document in documents("news", n=3000, seed=5):
        best = [word.tags.get("best_causal", word.tags.get("entity")) for word in document.words]
        truth = [word.tags.get("entity") for word in document.words]
        shares.append((sum(a == b for a, b in zip(best, truth, strict=True)), len(truth)))
    right, words = map(sum, zip(*shares, strict=True))
    ceiling = news.best_label_accuracy()
    off = [a - ceiling * n for a, n in shares]
    assert abs(right / words - ceiling) < 4 * sum(x * x for x in off) ** 0.5 / words
    assert ceiling < 0.98


def test_the_causal_reader_cannot_be_beaten_by_counting():
    """The commonest type of each (word before, first word), counted, comes no higher."""
    from collections import Counter, defaultdict

    from arcee_lab.demo import documents
    from arcee_lab.demo.news import best_accuracy

    counts = defaultdict(Counter)
    for document in documents("news", n=4000, seed=1, split="train"):
        for before, word in zip((None, *document.words), document.words, strict=False):
            if "best_causal" in word.tags:
                left = before.text if before else "."
                counts[left, word.text][word.tags["entity"]] += 1
    right = sum(max(c.values()) for c in counts.values())
    n = sum(sum(c.values()) for c in counts.values())
    assert right / n == pytest.approx(best_accuracy(both_sides=False), abs=0.03)  # counts flatter


def test_verdict_ceiling_agrees_with_bayes_on_documents():
    from arcee_lab.demo import documents
    from arcee_lab.demo.reviews import best_accuracy

    found = documents("review", n=2000, seed=0, split="train")
    p = [d.facts["p_good"] for d in found]
    sure = sum(max(x, 1 - x) for x in p) / len(p)
    assert sure == pytest.approx(best_accuracy(), abs=0.012)
    right = sum((x > 0.5) == (d.facts["label"] == "good") for x, d in zip(p, found, strict=True))
    _near(right / len(found), best_accuracy(), len(found))
    # calibrated: of the reviews that are good with 80 to 90 %, that many are
    some = [(x, d.facts["label"] == "good") for x, d in zip(p, found, strict=True) if 0.8 < x < 0.9]
    _near(sum(y for _, y in some) / len(some), sum(x for x, _ in some) / len(some), len(some))


def test_span_and_fact_ceilings():
    from arcee_lab.demo import documents, facts, passages

    found = documents("passage", n=1000, seed=0, split="train")
    _near(sum(d.facts["best"] for d in found) / 1000, passages.best_exact_match(), 1000)
    _near(sum(d.facts["ambiguous"] for d in found) / 1000, passages.AMBIGUOUS, 1000)
    slots = [s for d in documents("facts", n=400, seed=0, split="train") for s in d.slots]
    _near(sum(s.detail["true"] for s in slots) / len(slots), facts.TRUTH, len(slots))


def test_words_alone_say_little_of_a_review():
    from arcee_lab.demo import documents
    from arcee_lab.demo.reviews import best_accuracy
    from arcee_lab.training.baselines import bag_of_words

    train = documents("review", n=1200, seed=0, split="train")
    test = documents("review", n=800, seed=0, split="test")
    assert bag_of_words(test, longest=1, train=train) < 0.72
    assert bag_of_words(test, longest=3, train=train) < best_accuracy() - 0.03
