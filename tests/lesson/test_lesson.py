"""Lessons: what is chosen, what is kept of it, and what a part says when it cannot apply."""

import re

import numpy as np
import pytest
import torch
from notebook_runs import foreign_checkpoint

import arcee_lab as al
from arcee_lab.errors import (
    ArceeLabError,
    Interrupted,
    ModelError,
    SettingError,
    TextError,
    WrongType,
)
from arcee_lab.evals import ArceeLab
from arcee_lab.lesson import LogOdds, Part, english, own_texts
from arcee_lab.lesson.material import Prompts
from arcee_lab.lesson.pairs import usable_pairs

SIDES = ("clean", "corrupt")
OWN = "The first line has 12 words. " * 3 + "Nothing is missing here, and nobody is waiting."


@pytest.fixture(scope="module")
def lesson(demo):
    return al.lesson.build(*demo)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    folder = foreign_checkpoint(tmp_path_factory.mktemp("foreign"), num_hidden_layers=2)
    return al.load(folder)


@pytest.fixture(scope="module")
def plain(other):
    return al.lesson.build(*other)


# -------------------------------------------------------------------------------- the choice


def test_the_tokenizer_decides(demo, lesson, plain):
    assert lesson.source == "demo"
    assert plain.source == "english"
    assert lesson.truth is not None
    assert plain.truth is None
    assert [one.text for one in lesson.truth["story"]] == list(lesson.domains["story"])
    assert "the demo's world: 540 documents of 9 kinds" in lesson.headline
    assert len(plain.domains) == 5
    assert set(lesson.frame()["kind"]) == set(lesson.domains)


def test_kinds_take_turns(lesson):
    kinds = list(lesson.domains)
    assert lesson.texts[: len(kinds)] == [lesson.domains[kind][0] for kind in kinds]
    assert len(lesson.texts) == sum(map(len, lesson.domains.values()))


@pytest.mark.parametrize("given", [OWN, [OWN], {"prose": OWN}, {"prose": [OWN]}, iter([OWN])])
def test_own_texts_take_the_place_of_ours(demo, given):
    mine = al.lesson.build(*demo, texts=given)
    assert mine.source == "yours"
    assert mine.texts == [OWN]
    assert OWN.startswith(mine.prompt)
    assert mine.truth is None
    assert len(mine.pieces) == 2  # different sentences
    assert len(mine.pairs()) == 24  # of the demo's world, which its tokenizer reads
    assert "your texts: 1 document of 1 kind" in mine.headline


def test_beginnings_of_texts_are_whole_words_and_say_that_they_go_on(demo):
    long = "word " * 15 + "sentences go on"  # the 80th character is within "sentences"
    given = {"long": [long], "short": ["A short one."], "one": ["x" * 90], "fits": ["a" * 80]}
    shown = al.lesson.build(*demo, texts=given).frame().set_index("kind")["first"]
    assert shown["long"] == "word " * 15 + "..."
    assert shown["short"] == "A short one."
    assert shown["one"] == "x" * 80 + " ..."
    assert shown["fits"] == "a" * 80


def test_kinds_of_unequal_length(demo):
    mine = al.lesson.build(*demo, texts={"a": ["one a", "two a", "three a"], "b": ["one b"]})
    assert mine.texts == ["one a", "one b", "two a", "three a"]


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        (5, WrongType),
        ([5], TextError),
        ([], TextError),
        ({}, TextError),
        ({"a": []}, TextError),
        ({5: ["a"]}, TextError),
        ({"": ["a"]}, TextError),
        ("  \n", TextError),
        (["\ud800"], TextError),
    ],
)
def test_texts_that_are_none(demo, texts, error):
    with pytest.raises(error, match=r"\.$"):
        al.lesson.build(*demo, texts=texts)


def test_bad_calls(demo, lesson):
    model, tokenizer = demo
    for call, error in (
        (lambda: al.lesson.build(tokenizer, model), ArceeLabError),
        (lambda: al.lesson.build(torch.nn.Linear(2, 2), tokenizer), ModelError),
        (lambda: al.lesson.build(model, "demo"), WrongType),
        (lambda: lesson.pairs("nonsense"), SettingError),
        (lambda: lesson.pairs(part="nonsense"), SettingError),
        (lambda: lesson.labels("nonsense"), SettingError),
        (lambda: lesson.labels(n=0), SettingError),
        (lambda: lesson.copies(0), SettingError),
        (lambda: lesson.batch([]), TextError),
        (lambda: lesson.pairs().batch("nonsense"), SettingError),
        (lambda: lesson.caption("nothing", values=[float("nan")]), SettingError),
        (lambda: LogOdds((1,), (1, 2)), SettingError),
        (lambda: LogOdds((), (1,)), SettingError),
        (lambda: lesson.needs("nonsense"), SettingError),
    ):
        with pytest.raises(error, match=r"\.$"):
            call()


def test_telling_prompts_apart_is_more_than_luck(lesson):
    pairs, zero = lesson.pairs(), torch.zeros(24)
    for right, told in ((24, True), (20, True), (19, False), (12, False), (0, False)):
        odds = torch.where(torch.arange(24) < right, 0.1, -9.0)  # how large does not matter
        assert pairs.told_apart(odds, zero) is told, right


# -------------------------------------------------------------------------------- tokens


def test_a_batch_is_what_the_tokenizer_gives(lesson, demo):
    texts = lesson.texts[:5]
    theirs = demo[1](texts, return_tensors="pt", padding=True, padding_side="right")
    mine = lesson.batch(texts)
    assert torch.equal(mine["attention_mask"], theirs["attention_mask"])
    real = mine["attention_mask"].bool()
    assert torch.equal(mine["input_ids"][real], theirs["input_ids"][real])
    assert lesson.tokens("The dogs sleep .")[2].strip() == "dogs"


def test_al_load_gives_a_pad_token(tmp_path, caplog):
    folder = foreign_checkpoint(tmp_path, num_hidden_layers=1)
    _, tokenizer = al.load(folder)
    assert tokenizer.pad_token == "</s>"
    assert "has no pad token" in caplog.text
    assert tokenizer(["one", "one two three"], padding=True)["attention_mask"][0][-1] == 0


# -------------------------------------------------------------------------------- pairs


def test_pairs_differ_where_they_say(lesson, plain):
    for one in (lesson.pairs(), lesson.pairs(part="confirmation"), plain.pairs()):
        clean, corrupt = (one.batch(side)["input_ids"] for side in ("clean", "corrupt"))
        different = (clean != corrupt).all(0).nonzero().flatten().tolist()
        assert different == list(one.at)
        assert ((clean != corrupt).any(0)).sum() == len(one.at)
        assert len(one.words) == clean.shape[1]
        assert f"{len(one)} of {one.given} pairs usable" in one.headline
        assert len(one.frame()) == len(one)
    assert set(lesson.pairs().clean).isdisjoint(lesson.pairs(part="confirmation").clean)


def test_the_metric_is_the_log_odds_of_the_answers(lesson, demo):
    model, tokenizer = demo
    pairs, given = lesson.pairs(), lesson.material.pairs("agreement", "search")
    with torch.no_grad():
        logits = model(**pairs.batch("clean")).logits[:, -1]
    by_word = torch.log_softmax(logits, -1).exp()
    right, wrong = (
        by_word[:, [tokenizer(f" {word}").input_ids[-1] for word in words]].sum(1)
        for words in (given.right, given.wrong)
    )
    # Logs of sums of probabilities in fp32: a few units in the last place of numbers near 10.
    torch.testing.assert_close(pairs.metric(logits), (right / wrong).log(), atol=1e-4, rtol=1e-4)
    assert pairs.answer_ids[0] == tokenizer(pairs.answers[0]).input_ids[-1]
    assert pairs.answer_ids[1] in pairs.metric.wrong
    assert (pairs.metric(logits) > 0).all()  # the demo agrees in number


def test_the_verdict_hangs_on_one_word(lesson, demo):
    pairs = lesson.pairs("verdict")
    assert len(pairs) == pairs.given == 24
    assert len(pairs.at) == 1
    assert set(pairs.clean).isdisjoint(lesson.pairs("verdict", part="confirmation").clean)
    with torch.no_grad():
        odds = [pairs.metric(demo[0](**pairs.batch(side)).logits[:, -1]) for side in SIDES]
    assert ((odds[0] > 0) & (odds[1] < 0)).float().mean() > 0.9  # the demo keeps and skips

    for half in (0, 1):
        good, bad = english.review_pairs(half)
        assert len(set(good)) == len(set(bad)) == 12
        for one, other in zip(good, bad, strict=True):
            different = [a != b for a, b in zip(one.split(), other.split(), strict=True)]
            assert sum(different) == 1
        heard = [re.search(r"said that the \w+ was (\w+)", one)[1] for one in good]
        assert sum(word in english.GOOD.split() for word in heard) == 6
    assert set(english.review_pairs(0)[0]).isdisjoint(english.review_pairs(1)[0])


class Pieces:
    """A tokenizer by letters; a space is part of the letter behind it."""

    unk_token_id = None
    is_fast = True

    def __call__(self, texts, **_):
        pieces = [re.findall(" ?[a-z]", text) for text in texts]
        return {"input_ids": [[ord(p[-1]) + 1000 * (len(p) - 1) for p in row] for row in pieces]}

    def decode(self, ids):
        return "".join(" " * (i // 1000) + chr(i % 1000) for i in ids)


def test_pairs_of_unequal_length_are_left_out():
    given = Prompts(
        clean=("a cat", "a dog", "a cow", "a pig", "a ape", "two"),
        corrupt=("a cot", "a dig", "a cowl", "a peg", "a apt", "two"),
        right=("x", "y"),
        wrong=("z",),
        question="nothing",
    )
    with pytest.raises(TextError, match="3 of 6 pairs"):
        usable_pairs(Pieces(), given, "letters")
    # Four differ at the same place; one at another, one in length, one nowhere.
    more = Prompts(
        ("a cat", "a dog", "a pig", "a hut", "a ape", "a cow", "two"),
        ("a cot", "a dig", "a peg", "a hat", "a apt", "a cowl", "two"),
        ("x", "y"),
        ("z",),
        "nothing",
    )
    found = usable_pairs(Pieces(), more, "letters")
    assert (len(found), found.given, found.at) == (4, 7, (2,))
    assert found.words == ("a", " c", "a", "t")
    assert found.metric == LogOdds((1120, 1121), (1122,))


def test_answers_with_the_same_first_token_are_not_usable():
    given = Prompts(("a cat",) * 4, ("a cot",) * 4, ("xa",), ("xb",), "nothing")
    with pytest.raises(TextError, match="0 of 4 pairs"):
        usable_pairs(Pieces(), given, "letters")


# -------------------------------------------------------------------------------- labels and copies


def test_english_labels_are_where_the_slots_were(plain):
    labels = plain.labels("search", n=50)
    assert labels.names == tuple(english.CONCEPTS.values())
    for slot, name in english.CONCEPTS.items():
        words = {
            text[start:end]
            for text, spans in zip(labels.texts, labels.spans[name], strict=True)
            for start, end in spans
        }
        assert words <= set(english.FILLINGS[slot].split())
        assert len(words) > 3
    assert set(labels.texts).isdisjoint(plain.labels("confirmation", n=50).texts)


def test_english_has_about_forty_sentences_and_no_two_documents_alike():
    sentences = [one for kind in english.SENTENCES.values() for one in kind]
    assert len(sentences) == 40
    assert len(set(sentences)) == 40
    found = [
        one.text for kind in english.SENTENCES for one in english.documents(kind, n=60, seed=0)
    ]
    assert len(set(found)) == len(found)
    assert not [text for text in found if "{" in text or re.search(r"\b[Aa] [aeiou]", text)]


def test_long_texts_are_cut_to_what_the_model_reads(other):
    """At the ends of sentences, else of words, else anywhere; nothing is lost but blanks."""
    from arcee_lab.data.tokenization import token_ids
    from arcee_lab.lesson.cutting import fitting, pieces_of

    tokenizer = other[1]
    texts = ["One dog sleeps. " * 30, "dogs " * 80, "x" * 300, "Short.", "今天" * 90]
    for most in (2, 7, 40):
        pieces = fitting(texts, tokenizer, most)
        lengths = [len(ids) for ids in token_ids(tokenizer, pieces)]
        assert all(n <= most or len(one) == 1 for n, one in zip(lengths, pieces, strict=True))
        assert "".join("".join(pieces).split()) == "".join("".join(texts).split())
    assert fitting(texts, tokenizer, 10_000) == texts
    assert all(one.rstrip().endswith("sleeps.") for one in fitting(texts[:1], tokenizer, 40))
    assert pieces_of(["One. Two. One."], tokenizer, 40) == ["One.", "Two."]
    most = other[0].config.max_position_embeddings
    many = [f"{n}. " + "The dogs near the door sleep. " * most for n in range(30)]
    mine = al.lesson.build(*other, texts=many)
    assert len(mine.texts) == 30
    assert max(map(len, token_ids(tokenizer, mine.pieces))) < most
    found = al.evals.run(ArceeLab(*other), tasks=mine.tasks(), limit=3, progress=False)
    assert not any(score.n_skipped for score in found.scores)


def test_texts_of_one_token_are_refused(other):
    with pytest.raises(TextError, match="No text has two tokens"):
        al.lesson.build(*other, texts=["a", "b"])


def test_labels_that_a_tokenizer_cannot_tell_are_left_out(other):
    """All tokens are numbers here, or none is: a search for either would be refused."""
    texts = ["1 2 3 4 5 6, 7 8"] * 30
    names = al.lesson.build(*other, texts=[f"{text} {n}." for n, text in enumerate(texts)])
    for part in ("search", "confirmation"):
        assert names.labels(part).names == ("number", "punctuation", "short word")
    signs = [chr(0x4E00 + n) + chr(0x5E00 + n) for n in range(60)]
    every = al.lesson.build(*other, texts=signs)
    with pytest.raises(SettingError, match="at every token"):
        every.labels()


def test_capitals_are_those_of_scripts_that_have_them():
    pattern = own_texts.CONCEPTS["capital letter"]
    for text, found in (
        ("мама и Папа, été, Élan", ["Папа", "Élan"]),
        ("今天 שלום x9 A1", ["A1"]),
        ("Ångström über Ñandú", ["Ångström", "Ñandú"]),
    ):
        assert re.findall(pattern, text) == found


def test_patterns_label_own_texts():
    pieces = [f"Line {number} is missing, perhaps." for number in range(8)]
    labels = own_texts.labels(pieces, "search", 10)
    assert "number" in labels.names
    assert len(labels.texts) == 4
    with pytest.raises(SettingError, match="give more text"):
        own_texts.labels(["one"], "search", 10)


def test_answers_of_copies(lesson, plain):
    for one in (lesson, plain):
        copies = one.copies(12)
        ids = copies.input_ids
        rows, columns = copies.asked.nonzero().T
        keys = copies.answer[rows, columns]
        # What is looked up is what comes next, and it was there before.
        assert torch.equal(ids[rows, columns + 1], ids[rows, keys])
        assert (keys <= columns).all()
        assert len(rows) >= 12 * 2
        assert len(copies.frame()) == 12
        assert "that can be looked up" in copies.headline
    assert plain.copies(3, seed=1).texts != plain.copies(3, seed=2).texts


def test_the_demo_copies_better_than_chance(lesson, demo):
    copies = lesson.copies(12)
    with torch.no_grad():
        said = demo[0](**copies.batch()).logits.argmax(-1)
    rows, columns = copies.asked.nonzero().T
    assert (said[rows, columns] == copies.input_ids[rows, columns + 1]).float().mean() > 0.9


# -------------------------------------------------------------------------------- captions, parts


def test_captions(lesson):
    assert lesson.caption("Nothing.") == "Nothing."
    assert lesson.caption("It is", n=1, of="pair") == "It is (N = 1 pair)."
    values = np.arange(100.0)
    said = lesson.caption("The mean is {}", values=values, of="pair")
    mean, low, high = (float(x) for x in re.findall(r"[\d.]+(?= \(|\b(?= to)|(?=; N))", said)[:3])
    half = 1.96 * values.std() / 10
    assert mean == 49.5
    # The bootstrap of 2,000 draws misses the normal interval by a few per cent of its width.
    assert abs(low - (49.5 - half)) < 1
    assert abs(high - (49.5 + half)) < 1
    assert said.endswith("N = 100 pairs).")
    assert "50.0%" in lesson.caption("{}", values=[0, 1], percent=True)


def test_a_part_turns_our_errors_into_one_line(lesson, capsys):
    with lesson.part("pairs") as part:
        raise TextError("the first line,\nand the second.")
    assert capsys.readouterr().out == "Left out, pairs: the first line, and the second.\n"
    assert not part.done
    assert part.why == "the first line, and the second."
    with lesson.part("later"):
        lesson.needs("pairs")
    assert "it needs 'pairs', which did not run to its end." in capsys.readouterr().out
    with lesson.part("pairs"):
        pass
    lesson.needs("pairs")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x"), SystemExit()])
def test_other_errors_pass(lesson, error, capsys):
    with pytest.raises(type(error)), lesson.part("anything"):
        raise error
    assert capsys.readouterr().out == ""


def test_an_interrupt_leaves_no_hook_and_keeps_what_is_done(lesson, demo, monkeypatch):
    model, _ = demo
    before = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    calls = 0
    whole = type(model).forward

    def stopped(self, *args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", stopped)
    part = Part("a long cell")

    def long_cell():
        with part, al.capture(model, "layers.*.mlp.hook_post"), torch.no_grad():
            for text in lesson.texts[:9]:
                model(**lesson.batch(text))

    with pytest.raises(Interrupted, match="Stopped, a long cell") as stop:
        long_cell()
    assert stop.value._render_traceback_() == ["Stopped, a long cell: nothing was finished."]
    after = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    assert after == before
    assert not part.done
    with pytest.raises(Interrupted) as stop, part:
        raise Interrupted("2 of 5 are done.", partial=[1, 2])
    assert part.partial == stop.value.partial == [1, 2]
    assert stop.value._render_traceback_() == ["Stopped, a long cell: 2 of 5 are done."]


# -------------------------------------------------------------------------------- tasks


def test_tasks_of_plain_english(plain, other):
    tasks = plain.tasks()
    assert set(tasks["tasks"]) == {
        "arcee_english_agreement",
        "arcee_english_news",
        "arcee_english_story",
    }
    found = al.evals.run(*other, tasks=tasks, limit=6, progress=False)
    score = found.score("arcee_english_story", "nats_per_word")
    samples = tasks["tasks"]["arcee_english_story"].dataset["test"].select(range(6))
    spent, words = 0.0, 0
    with torch.no_grad():
        for row in samples:
            ids = torch.tensor([other[1](row["text"]).input_ids])
            start = torch.tensor([[other[1].eos_token_id]])  # lm-eval's beginning of a text
            logits = other[0](torch.cat([start, ids], 1)).logits[0, :-1].float()
            spent += float(torch.nn.functional.cross_entropy(logits, ids[0], reduction="sum"))
            words += len(row["text"].split())
    # bf16 logits of batches that are padded otherwise: 2^-8 of a logit per token.
    assert score.value == pytest.approx(spent / words, rel=2e-3)
    assert found.figure().axes


def test_tasks_of_own_texts(other):
    mine = al.lesson.build(*other, texts=[OWN])
    tasks = mine.tasks()
    assert set(tasks["tasks"]) == {"arcee_english_agreement", "arcee_your_text"}
    (row,) = tasks["tasks"]["arcee_your_text"].dataset["test"]
    assert row == {"text": OWN, "words": len(OWN.split())}
