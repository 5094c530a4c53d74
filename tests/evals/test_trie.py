"""Rows of several sequences: the tree reads exactly what each sequence would read alone."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AttentionInterface

import arcee_lab as al
from arcee_lab.evals.intervened import EvalInterventions
from arcee_lab.evals.scoring import scorer as scorer_module
from arcee_lab.evals.scoring.prefix_cache import group_by_prefix
from arcee_lab.evals.scoring.rolling_windows import rolling_windows
from arcee_lab.evals.scoring.scorer import Scorer
from arcee_lab.evals.scoring.token_trie import TargetRequest, common_length, tree_rows

SEQUENCES = st.lists(st.lists(st.integers(3, 6), min_size=1, max_size=7), min_size=1, max_size=6)
TEXTS = st.lists(st.lists(st.integers(3, 5), max_size=30), min_size=1, max_size=8)
ALIKE = [[3, 4, 5, 6], [3, 4, 5, 7], [3, 4, 5, 6], [3, 4], [8, 9, 3]]  # a tree of 6 behind the root


def alone(model, one):
    """The log-likelihood of a request, and whether it is greedy, by a forward of its own."""
    with torch.no_grad():
        logs = model(torch.tensor([one.tokens])).logits[0].log_softmax(-1)[one.first :]
    score = logs[range(len(one.targets)), one.targets].sum().item()
    return score, logs.argmax(-1).tolist() == list(one.targets)


def windows(texts, longest=64):
    return [one for mine in rolling_windows(texts, prefix=1, longest=longest) for one in mine]


@given(st.lists(st.integers(0, 3)), st.lists(st.integers(0, 3)))
def test_common_length(one, other):
    slow = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    assert common_length(one, other) == (min(len(one), len(other)) if slow is None else slow)


@given(SEQUENCES, st.integers(4, 20))
def test_each_node_reads_its_own_document(sequences, longest):
    asked = [TargetRequest(n, one, 0, [7] * len(one)) for n, one in enumerate(sequences)]
    rows = tree_rows(asked, longest=longest)
    seen = []
    for row in rows:
        for read in row.reads:
            seen.append(read.number)
            last = read.nodes[-1]
            before = [j for j in range(last + 1) if last < row.ends[j]]
            assert before == list(read.nodes)
            assert [row.tokens[node] for node in before] == sequences[read.number]
            assert [row.depths[node] for node in before] == list(range(len(before)))
        assert len(row) <= max(longest, *(len(sequences[read.number]) for read in row.reads))
    assert sorted(seen) == list(range(len(sequences)))


@given(SEQUENCES, st.integers(1, 20), st.sampled_from([0.0, 0.25, 0.5]))
def test_no_sequence_joins_a_row_of_which_it_shares_too_little(sequences, longest, least):
    asked = [TargetRequest(n, one, 0, [7] * len(one)) for n, one in enumerate(sequences)]
    for row in tree_rows(asked, longest=longest, least=least):
        assert row.ends[0] == len(row)  # one root
        read = [tuple(sequences[one.number]) for one in row.reads]
        for before, one in pairwise(read):
            assert common_length(before, one) >= max(1, least * len(one))


def test_equal_sequences_share_a_row_even_where_nothing_may_branch():
    asked = [
        TargetRequest(0, [1, 5], 1, [2]),
        TargetRequest(1, [1, 5], 1, [3]),
        TargetRequest(2, [1, 6], 1, [3]),
    ]
    rows = tree_rows(asked, branch=False, longest=64)
    assert [(row.tokens, len(row.reads)) for row in rows] == [([1, 5], 2), ([1, 6], 1)]


def test_the_stem_neither_branches_nor_answers():
    long = [
        TargetRequest(0, [1, 2, 3, 4, 5], 3, [4, 5]),
        TargetRequest(1, [1, 2, 3, 9, 5], 3, [9, 5]),
    ]
    assert tree_rows(long, longest=64)[0].stem == 3
    early = [TargetRequest(0, [1, 2, 3, 4, 5], 1, [2, 3, 4, 5])]
    assert tree_rows(early, longest=64)[0].stem == 1


def test_a_context_over_the_limit_is_still_read_once():
    context = list(range(100, 200))
    asked = [TargetRequest(n, [*context, n, 7, 7], 99, [n, 7, 7, 8]) for n in range(4)]
    (row,) = tree_rows(asked, longest=15)
    assert (len(row), row.stem) == (112, 99)
    assert [len(one) for one in tree_rows(asked, longest=12)] == [109, 103]


def test_prefixes_are_found_and_strangers_stand_alone():
    shots, others = list(range(100, 140)), list(range(200, 230))
    sequences = [[*shots, n, n] for n in range(4)] + [[*others, n, 1] for n in range(3)] + [[7, 8]]
    rows = [
        row
        for n, tokens in enumerate(sequences)
        for row in tree_rows([TargetRequest(n, tokens, len(tokens) - 1, [1])], longest=64)
    ]
    groups = [(length, len(group)) for length, group in group_by_prefix(rows, budget=100)]
    assert sorted(groups) == [(0, 1), (30, 3), (40, 4)]


def test_a_long_row_with_branches_reads_its_stem_first():
    shots = list(range(100, 140))
    asked = [TargetRequest(n, [*shots, n, 7], 40, [7, 8]) for n in range(2)]
    rows = tree_rows(asked, longest=64)
    assert [(length, len(group)) for length, group in group_by_prefix(rows, budget=80)] == [(40, 1)]
    assert [(length, len(group)) for length, group in group_by_prefix(rows, budget=100)] == [(0, 1)]
    lone = tree_rows(asked[:1], longest=64)
    assert [length for length, _ in group_by_prefix(lone, budget=10)] == [0]


@given(SEQUENCES, st.data())
def test_scores_equal_single_sequences(tiny, sequences, data):
    model = tiny()
    shots = data.draw(st.sampled_from([[], list(range(3, 25))]))
    documents, expected = [[]], []
    for n, one in enumerate(sequences):
        tokens = [1, *shots, *one]
        first = data.draw(st.integers(0, len(one) - 1)) + len(shots)
        targets = [*tokens[first + 1 :], 9]
        if data.draw(st.booleans()):
            documents.append([])
        documents[-1].append(TargetRequest(n, tokens, first, targets))
        with torch.no_grad():
            logs = model(torch.tensor([tokens])).logits[0].log_softmax(-1)[first:]
        expected.append(logs[range(len(targets)), targets].sum().item())
    scorer = Scorer(model, EvalInterventions(), budget=data.draw(st.sampled_from([1, 40, 1000])))
    got = torch.tensor([score for score, _ in scorer.score(documents, count=len(sequences))])
    torch.testing.assert_close(got, torch.tensor(expected), atol=1e-4, rtol=0)


def test_long_documents_share_the_call_of_what_is_left_of_them(tiny, monkeypatch):
    """Each reads its own beginning, whose length differs, and no other's."""
    model = tiny()
    starts = [[47 - size, *range(3, 3 + size)] for size in (20, 31, 26)]
    asked = [
        [
            TargetRequest(3 * n + c, [*start, 40 + c, 2, 7], len(start) - 1, [40 + c, 2, 7, 9])
            for c in (0, 1, 2)
        ]
        for n, start in enumerate(starts)
    ]
    scorer = Scorer(model, EvalInterventions(), budget=40)
    calls = []
    own = scorer._forward
    monkeypatch.setattr(scorer, "_forward", lambda *args: calls.append(args[1]) or own(*args))
    got = scorer.score(asked, count=9)
    assert calls == [[31, 26, 20]]
    for one in (wanted for document in asked for wanted in document):
        expected, likeliest = alone(model, one)
        assert abs(got[one.number][0] - expected) <= 1e-4
        assert got[one.number][1] == likeliest


@given(TEXTS, st.sampled_from([1, 40, 1000]), st.sampled_from([4, 16, 96]))
def test_texts_score_together_as_alone(tiny, texts, budget, longest):
    """Equal ones, empty ones, such as begin alike, and windows that a long one leaves over."""
    model = tiny()
    asked = windows(texts, longest=24)
    scorer = Scorer(model, EvalInterventions(), budget=budget)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scorer_module, "_TEXTS", longest)
        got = scorer.score([[one] for one in asked], count=len(asked), together=True)
    assert len(got) == len(asked)
    for one, (score, greedy) in zip(asked, got, strict=True):
        expected, likeliest = alone(model, one)
        assert abs(score - expected) <= 1e-4
        assert greedy == likeliest


def test_texts_are_fed_what_they_do_not_share(tiny):
    asked = windows(ALIKE)
    costs = {}
    for together in (True, False):
        scorer = Scorer(tiny(), EvalInterventions(), budget=1000)
        scorer.score([[one] for one in asked], count=5, together=together)
        costs[together] = scorer.cost.rows, scorer.cost.fed
    # The last token of a text is scored and not read.
    assert costs == {True: (1, 1 + 3 + 2), False: (5, 4 + 4 + 4 + 2 + 3 + 3)}


def test_a_text_alone_takes_no_tree(tiny, monkeypatch):
    """Nor do long ones, each of which fills a row."""
    masks = []
    own = Scorer._states
    monkeypatch.setattr(
        Scorer, "_states", lambda self, **given: masks.append(given.keys()) or own(self, **given)
    )
    for texts in (ALIKE[:1], [[3, *[4] * 56], [3, *[5] * 56]]):
        asked = windows(texts)
        Scorer(tiny(), EvalInterventions(), budget=1000).score(
            [[one] for one in asked], count=len(asked), together=True
        )
    assert masks == [{"input_ids", "use_cache"}] * 2


def test_hooks_are_shown_every_text_whole(tiny):
    """What is counted in a run does not depend on which texts share a row."""
    model = tiny()
    asked = [[one] for one in windows(ALIKE)]
    scorer = Scorer(model, EvalInterventions(), budget=1000)
    plain = scorer.score(asked, count=5, together=True)
    site = "layers.1.mlp.hook_post"
    with al.capture(model, {site: al.reducers.FiringRate()}) as stats:
        watched = scorer.score(asked, count=5, together=True)
    assert stats[site].tokens == sum(len(one.tokens) for (one,) in asked)
    assert [one for one, _ in watched] == pytest.approx([one for one, _ in plain], abs=1e-5)


def test_a_kernel_that_takes_no_tree_reads_each_text_alone(tiny, monkeypatch):
    def causal(module, query, key, value, attention_mask, *, scaling, **unused):
        assert attention_mask is None
        groups = module.num_key_value_groups
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
        output = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scaling
        )
        return output.transpose(1, 2).contiguous(), None

    monkeypatch.setitem(AttentionInterface._global_mapping, "causal", causal)
    model = tiny(attn="causal")
    asked = windows(ALIKE)
    scorer = Scorer(model, EvalInterventions(), budget=1000)
    got = scorer.score([[one] for one in asked], count=5, together=True)
    assert scorer.cost.rows == 5
    for one, (score, greedy) in zip(asked, got, strict=True):
        expected, likeliest = alone(model, one)
        assert abs(score - expected) <= 1e-4
        assert greedy == likeliest


def test_nothing_is_read_back_before_the_end(tiny, monkeypatch):
    """On the meta device a host read raises; so does a tensor that was left on the CPU."""
    shots = list(range(3, 25))
    branched = [
        TargetRequest(0, [1, 5, 6], 1, [6, 7]),
        TargetRequest(1, [1, 5, 8, 9], 1, [8, 9, 2]),
    ]
    shared = [[TargetRequest(2 + n, [1, *shots, 30 + n, n + 5], 24, [4])] for n in range(3)]
    long = [
        [
            TargetRequest(5 + n, [1, *range(40, 74 + m), 2, n], 34 + m, [2, n, 5])
            for n in (2 * m, 2 * m + 1)
        ]
        for m in range(2)
    ]
    model = tiny().to("meta")
    found = []
    monkeypatch.setattr(
        scorer_module, "combined_scores", lambda batches, count: found.extend(batches) or []
    )
    Scorer(model, EvalInterventions(), budget=64).score([branched, *shared, *long], count=9)
    assert [one.numbers for one in found] == [[2, 3, 4], [0, 1], [7, 8, 5, 6]]
    texts = [[one] for one in windows(ALIKE)]
    Scorer(model, EvalInterventions(), budget=64).score(texts, count=5, together=True)
    assert sorted(found[-1].numbers) == [0, 1, 2, 3, 4]
    assert all(one.scores.is_meta and one.greedy.is_meta for one in found)
