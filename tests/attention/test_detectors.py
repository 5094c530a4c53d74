"""Detectors against a look at every pair of tokens, and on patterns whose score is known."""

import itertools

import pytest
import torch
from tiny_calls import batch_of, call_of, reference_patterns

import arcee_lab as al
from arcee_lab.attention import DuplicateToken, FirstMass, Induction, Offset, Rule, block
from arcee_lab.attention._detect import repeated_text
from arcee_lab.model.anatomy import anatomy_of

CASES = ["plain", "left", "right", "packed", "-inf"]


def marks(kind, ids, readable, q, k):
    """Whether query q is meant to read key k, by the words of the docs."""
    if not readable[q, k]:
        return False
    if kind == "duplicate_token":
        return k < q and ids[k] == ids[q]
    return 0 < k <= q and bool(readable[q, k - 1]) and k - 1 < q and ids[k - 1] == ids[q]


@pytest.mark.parametrize("attn", ["sdpa", "eager"])
@pytest.mark.parametrize("case", CASES)
def test_scores_equal_a_look_at_every_pair(tiny, monkeypatch, attn, case):
    import tiny_calls
    from test_head_statistics import readable

    model = tiny(attn=attn, initializer_range=0.4)
    plain = batch_of

    def few(**settings):
        batch = plain(**settings)
        ids = batch["input_ids"]
        return batch | {"input_ids": torch.where(ids > 2, ids % 4 + 3, ids)}

    monkeypatch.setattr(tiny_calls, "batch_of", few)
    monkeypatch.setattr(block, "MOST_WEIGHTS", 200)  # two or three queries at a time
    call, patterns = call_of(model, case), reference_patterns(model, case)
    allowed = readable(case)[0]
    kinds = [DuplicateToken(), Induction()]
    with al.attention.heads(model, kinds) as stats:
        model(**call)
    real = torch.ones(2, 9, dtype=torch.bool)
    if case in ("left", "right"):
        real = call["attention_mask"].bool()
    if case == "-inf":
        real[1, :3] = False
    ids = call["input_ids"].tolist()
    for layer in [0] if case == "-inf" else [0, 1, 2]:
        for kind in kinds:
            expected = torch.zeros(2, 4, 9, dtype=torch.float64)
            counts = torch.zeros(2, 9, dtype=torch.bool)
            for b in range(2):
                for q in range(9):
                    meant = [k for k in range(9) if marks(kind.name, ids[b], allowed[b, 0], q, k)]
                    choice = int(allowed[b, 0, q].sum()) >= 2
                    counts[b, q] = bool(meant) and choice and bool(real[b, q])
                    for k in meant:
                        expected[b, :, q] += patterns[layer][b, :, q, k].double()
            got = stats[kind]
            assert torch.equal(got.n[layer], counts.sum().expand(4))
            assert int(counts.sum()) > 0
            mean = (expected * counts[:, None]).sum((0, 2)) / counts.sum()
            torch.testing.assert_close(got.mean[layer], mean, atol=2e-5, rtol=2e-6)


def test_a_perfect_head_scores_one():
    """Patterns that are what the rule says, read by the detectors themselves."""
    from arcee_lab.attention.rows import Rows

    ids = torch.tensor([[9, 4, 5, 6, 4, 5, 6]])
    allowed = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    for kind, shift in ((Induction(), 2), (DuplicateToken(), 3)):
        pattern = torch.zeros(1, 2, 7, 7)
        for q in range(7):
            pattern[0, 0, q, max(0, q - shift)] = 1.0
            pattern[0, 1, q, q] = 1.0
        reading = kind.read(Rows(pattern, allowed, torch.arange(7), ids))
        counted = reading.counts[0, 0]
        assert counted.tolist() == [False] * 4 + [True] * 3
        assert (reading.value[0, 0][counted] == 1).all()
        assert (reading.value[0, 1][counted] == 0).all()


def test_a_rule_of_ones_own(tiny):
    model, batch = tiny(initializer_range=0.4), batch_of(padding="left")

    def back(ids):
        places = torch.arange(ids.shape[1])
        return (places[:, None] - places == 2).expand(len(ids), -1, -1)

    with al.attention.heads(model, [Rule("two_back", back), Offset(2)]) as stats:
        model(**batch)
    assert torch.equal(stats["two_back"].n, stats["offset_2"].n)
    torch.testing.assert_close(stats["two_back"].mean, stats["offset_2"].mean)
    assert stats.figure().axes


def test_calls_that_do_not_tell_all_ids(tiny):
    model = tiny()
    ids = batch_of()["input_ids"]
    with (
        pytest.raises(al.errors.ModelError, match="does not give the ids of all keys"),
        al.attention.heads(model, Induction()),
    ):
        model(inputs_embeds=model.model.embed_tokens(ids))
    with (
        pytest.raises(al.errors.ModelError, match="does not give the ids of all keys"),
        al.attention.heads(model, Induction()),
    ):
        model.generate(ids, max_new_tokens=3, do_sample=False, pad_token_id=0)


BAD_RULES = {
    "a number": lambda ids: 3,
    "floats": lambda ids: torch.zeros(*ids.shape, ids.shape[1]),
    "another shape": lambda ids: torch.zeros(2, 2, dtype=torch.bool),
}


@pytest.mark.parametrize("case", BAD_RULES)
def test_rules_that_give_something_else(tiny, case):
    model = tiny()
    with (
        pytest.raises(al.errors.SettingError, match=r"must give bools \[2, 9, 9\]"),
        al.attention.heads(model, Rule("mine", BAD_RULES[case])),
    ):
        model(**batch_of())


def test_random_text_is_said_twice(tiny, demo):
    anatomy = anatomy_of(demo[0])
    ids = repeated_text(anatomy, demo[1], period=11, repeats=5, seed=3)
    assert ids.shape == (5, 23)
    assert (ids[:, 0] == 1).all()
    assert torch.equal(ids[:, 1:12], ids[:, 12:])
    assert not set(ids[:, 1:].flatten().tolist()) & set(demo[1].all_special_ids)
    assert torch.equal(ids, repeated_text(anatomy, demo[1], period=11, repeats=5, seed=3))
    assert not torch.equal(ids, repeated_text(anatomy, demo[1], period=11, repeats=5, seed=4))


def test_detect_is_the_mean_over_batches(demo):
    model, tokenizer = demo
    texts = ["The dogs near the door sleep .", "Say: ba di ba. Again: ba di ba.", "The kings"]
    found = al.attention.detect(model, tokenizer, texts, repeats=3, period=8, batch_size=2)
    one = al.attention.detect(model, tokenizer, texts, repeats=3, period=8, batch_size=8)
    assert set(found.found) == {"texts", "random repeated"}
    for source in found.found:
        for name in ("offset_1", "duplicate_token", "induction", "first_mass"):
            torch.testing.assert_close(
                found.scores(name, source), one.scores(name, source), atol=1e-6, rtol=1e-5
            )
    table = found.frame()
    assert len(table) == 2 * 4 * 16
    assert (table["n"] > 0).all()
    layer, head = found.top("offset_1", source="random repeated")[0]
    best = found.scores("offset_1", "random repeated")
    assert float(best[layer, head]) == float(best.max())
    assert found.figure().axes
    assert "to what came after the same token L" in found.headline
    windows = al.data.cut(tokenizer, texts, context=32)
    again = al.attention.detect(model, tokenizer, windows, repeats=0)
    torch.testing.assert_close(again.scores("offset_1"), one.scores("offset_1"))


BAD = {
    "nothing": ({"repeats": 0}, "nothing to read"),
    "period": ({"period": 64}, "expected a period of 2 to 63"),
    "period of one": ({"period": 1}, "expected a period of 2"),
    "detectors": ({"detectors": []}, "statistics are values"),
    "a string": ({"texts": "The dogs"}, "expected"),
}


@pytest.mark.parametrize("case", BAD)
def test_detect_refuses(demo, case):
    settings, match = BAD[case]
    with pytest.raises(al.errors.ArceeLabError, match=match):
        al.attention.detect(*demo, **settings)


def test_unknown_names(demo):
    found = al.attention.detect(*demo, repeats=1, period=5, detectors=[FirstMass()])
    with pytest.raises(al.errors.UnknownName, match="No detector 'induction'"):
        found.scores("induction")
    with pytest.raises(al.errors.UnknownName, match="No source 'texts'"):
        found.scores("first_mass", "texts")
    with pytest.raises(al.errors.SettingError, match="k=17"):
        found.top("first_mass", 17)


def test_maps_of_many_heads_stay_legible():
    """36 layers of 20 heads: no label covers another."""
    from arcee_lab.views.figures.attention_heads import head_maps

    values = torch.rand(36, 20).numpy()
    figure = head_maps(dict.fromkeys("abcd", values), [str(i) for i in range(36)])
    figure.draw_without_rendering()  # lays it out
    for axes in figure.axes[:4]:
        for labels in (axes.get_yticklabels(), axes.get_xticklabels()):
            boxes = [label.get_window_extent() for label in labels if label.get_text()]
            pairs = itertools.pairwise(boxes)
            assert not any(a.overlaps(b) for a, b in pairs)
