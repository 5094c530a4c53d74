"""The generator: same bytes, disjoint splits, tags that fit, information that adds up."""

import hashlib
import itertools
import math
import os
import random
import subprocess
import sys

import pytest


def _digest(kind, seed=11):
    from arcee_lab.demo import documents

    found = documents(kind, n=8, seed=seed, split="train")
    return hashlib.sha256("\n".join(d.text for d in found).encode()).hexdigest()[:16]


DIGESTS = {  # change a word of the world and its VERSION must change, and the weights with it
    "story": "21a558014cde48ae",
    "facts": "7430f28bd65da84b",
    "news": "c932d400d3f015d9",
    "review": "a36cc79ce1a6a9fa",
    "clause": "411205e4dafe01e0",
    "passage": "f843d2c82f610146",
    "brackets": "a9b4423d776d90e8",
    "copy": "f7843adc692b545e",
    "table": "b79789c10171f51a",
}


def test_same_seed_same_bytes_in_another_process_with_another_hash_seed():
    from arcee_lab.demo import KINDS

    code = (
        "import hashlib; from arcee_lab.demo import KINDS, documents\n"
        "for k in KINDS: print(hashlib.sha256('\\n'.join(d.text for d in "
        "documents(k, n=8, seed=11, split='train')).encode()).hexdigest()[:16])"
    )
    for hash_seed in ("1", "2"):
        env = os.environ | {"PYTHONHASHSEED": hash_seed}
        out = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=True
        )
        assert out.stdout.split() == [_digest(kind) for kind in KINDS]


def test_version_1_is_these_bytes():
    assert {kind: _digest(kind) for kind in DIGESTS} == DIGESTS


def test_the_first_documents_do_not_depend_on_how_many_are_asked_for():
    from arcee_lab.demo import documents

    assert documents(None, n=5, seed=3) == documents(None, n=12, seed=3)[:5]
    assert documents(None, n=5, seed=3) != documents(None, n=5, seed=4)


def test_splits_share_no_prompt_whatever_their_seeds():
    from arcee_lab.demo import KINDS, SPLITS, documents

    for kind in KINDS:
        prompts = [
            {d.prompt for seed in (0, 1) for d in documents(kind, n=25, seed=seed, split=split)}
            for split in SPLITS
        ]
        for one, other in itertools.combinations(prompts, 2):
            assert not one & other


def test_the_mix_is_the_stated_one():
    from arcee_lab.demo import MIX, documents

    found = documents(None, n=800, seed=0, split="train")
    assert math.isclose(sum(MIX.values()), 1.0)
    for kind, share in MIX.items():
        n = sum(d.kind == kind for d in found)
        assert abs(n - 800 * share) < 4 * math.sqrt(800 * share * (1 - share))


def test_words_and_slots_lie_where_they_say():
    from arcee_lab.demo import KINDS, documents

    for kind in KINDS:
        for document in documents(kind, n=15, seed=2, split="train"):
            end = 0
            for word in document.words:
                assert document.text[word.start : word.end] == word.text
                assert document.text[end : word.start] in ("", " ")
                end = word.end
            assert end == len(document.text)
            starts = {word.start for word in document.words}
            ends = {word.end for word in document.words}
            for slot in document.slots:
                assert slot.start in starts
                assert slot.end in ends


def test_agreement_tags_are_right_by_a_reading_of_their_own():
    from arcee_lab.demo import documents
    from arcee_lab.demo.stories import INTRANSITIVE, NOUNS, PLURALS, TRANSITIVE

    plain = set(INTRANSITIVE) | set(TRANSITIVE)
    plurals = set(PLURALS.values())
    assert len(plurals | set(NOUNS)) == 2 * len(NOUNS)
    for document in documents("story", n=60, seed=5, split="train"):
        for sentence in document.text.rstrip(".").split(". "):
            words = sentence.split()
            nouns = [w for w in words if w in plurals or w in NOUNS]
            verbs = [w for w in words if w in plain or w.removesuffix("s") in plain]
            # the last verb of a sentence is the main one, and the first noun is its subject
            assert (verbs[-1] in plain) == (nouns[0] in plurals)
        for slot in document.slots:
            assert document.text[slot.start : slot.end] in {slot.other + "s", slot.other[:-1]}


def test_answers_are_in_the_passage_and_brackets_are_closed():
    from arcee_lab.demo import documents
    from arcee_lab.demo.strings import BRACKETS, DEEPEST

    for document in documents("passage", n=100, seed=6, split="train"):
        facts = document.facts
        answer = document.text[facts["answer_start"] : facts["answer_end"]]
        after = document.text[len(document.prompt) :]
        assert after.startswith(f" Answer: {facts['asked']} visited {answer}.")
        for again in after.removesuffix(" Done.").split(". ")[1:]:
            assert f"{again.rstrip('.')}." in document.prompt
        assert f"{facts['asked']} " in document.prompt[: facts["answer_start"]]
        assert ("or" in document.prompt.split(answer)[1].split(".")[0]) <= facts["ambiguous"]
    for document in documents("brackets", n=100, seed=6, split="train"):
        stack = []
        for word in document.words:
            if word.text in BRACKETS:
                stack.append(BRACKETS[word.text])
                assert len(stack) <= DEEPEST
            elif word.text in BRACKETS.values():
                assert word.tags["depth"] == len(stack)
                assert word.text == stack.pop()
        assert not stack


def test_information_of_copies_and_tables_by_hand():
    from arcee_lab.demo import documents

    for document in documents("copy", n=30, seed=7, split="train"):
        syllables = sum(w.tags.get("copied") is False for w in document.words)
        assert document.nats == pytest.approx(math.log(10) + syllables * math.log(40))
    for document in documents("table", n=30, seed=7, split="train"):
        pairs = sum(w.tags.get("role") == "key" and not w.tags["copied"] for w in document.words)
        asked = len(document.slots)
        nats = math.log(5) + sum(math.log(24 - i) + math.log(24) for i in range(pairs))
        nats += math.log(min(3, pairs)) + sum(math.log(pairs - i) for i in range(asked))
        assert document.nats == pytest.approx(nats)


@pytest.mark.parametrize("kind", ["brackets", "review", "news"])
def test_the_same_text_never_has_two_prices_and_comes_as_often_as_it_costs(kind):
    from arcee_lab.demo.document import Page
    from arcee_lab.demo.world import _WRITERS

    rng = random.Random(0)
    seen = {}
    n = 2500
    for _ in range(n):
        page = Page(rng)
        document = page.finish(kind, **(_WRITERS[kind](page) or {}))
        count, nats = seen.get(document.text, (0, document.nats))
        assert nats == pytest.approx(document.nats)
        seen[document.text] = (count + 1, nats)
    for count, nats in sorted(seen.values(), key=lambda pair: pair[1])[:20]:
        expected = n * math.exp(-nats)
        assert abs(count - expected) < 5 * math.sqrt(expected) + 5


def test_prices_of_all_short_nests_sum_to_their_chance():
    """Every nest of three pairs, listed: together they come one time in six."""
    from arcee_lab.demo.strings import BRACKETS

    def price(shape):
        # six lengths, a kind for each of three pairs, a coin wherever both moves are possible
        coins, left, depth = 0, 3, 0
        for opens in shape:
            coins += depth > 0 and left > 0
            left, depth = (left - 1, depth + 1) if opens else (left, depth - 1)
        return math.log(6) + 3 * math.log(len(BRACKETS)) + coins * math.log(2)

    shapes = [
        shape
        for shape in itertools.product((True, False), repeat=6)
        if sum(shape) == 3 and all(sum(shape[: i + 1]) * 2 >= i + 1 for i in range(6))
    ]
    assert len(shapes) == 5
    total = sum(3**3 * math.exp(-price(shape)) for shape in shapes)
    assert total == pytest.approx(1 / 6)

    from arcee_lab.demo import documents

    for document in documents("brackets", n=60, seed=1, split="train"):
        words = [w for w in document.words if "depth" in w.tags]
        if len(words) == 6:
            shape = tuple(w.tags["role"] == "opener" for w in words)
            assert document.nats == pytest.approx(price(shape))


def test_unknown_kind_names_the_nearest():
    from arcee_lab.demo import documents

    with pytest.raises(ValueError, match="nearest: story"):
        documents("storys", n=1)
    with pytest.raises(ValueError, match="n=0; expected at least 1"):
        documents("story", n=0)
    with pytest.raises(ValueError, match="train, validation, test"):
        documents("story", n=1, split="tset")


def test_names_are_all_different():
    from arcee_lab.demo import names

    pools = [names.PEOPLE, names.PLACES, names.SURNAMES, names.FIRST_NAMES, names.SPOTS]
    everyone = [name for pool in pools for name in pool]
    assert len(set(everyone)) == len(everyone) == 48 + 32 + 48 + 12 + 24
