"""Targets are read off in pieces as plain log-softmax over all logits would have it."""

import pytest
import torch

import arcee_lab as al
from arcee_lab.evals.intervened import EvalInterventions
from arcee_lab.evals.scoring import target_logprobs
from arcee_lab.evals.scoring.scorer import Scorer
from arcee_lab.evals.scoring.target_logprobs import combined_scores, target_scores
from arcee_lab.evals.scoring.token_trie import TargetRequest, tree_rows

DOCUMENTS = [
    [TargetRequest(0, [1, 5, 6, 7], 1, [6, 7, 3]), TargetRequest(1, [1, 5, 8], 1, [8, 9])],
    [TargetRequest(2, [1, 4, 4, 4, 2, 9], 0, [4, 4, 4, 2, 9, 0])],
    [TargetRequest(3, [1, 3], 1, [2]), TargetRequest(4, [1, 3], 1, [7])],
]


def laid_out():
    """The documents as rows, and of each request where its targets stand: row, node, target."""
    rows = [row for one in DOCUMENTS for row in tree_rows(one, longest=64)]
    places = {
        read.number: [
            (index, node, target) for node, target in zip(read.nodes, read.targets, strict=True)
        ]
        for index, row in enumerate(rows)
        for read in row.reads
    }
    return rows, places


@pytest.mark.parametrize("piece", [1, 3, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scores_are_those_of_log_softmax(monkeypatch, piece, dtype):
    monkeypatch.setattr(target_logprobs, "_PIECE", piece)
    torch.manual_seed(piece)
    rows, places = laid_out()
    head = torch.nn.Linear(6, 10, bias=False, dtype=dtype)
    states = 3 * torch.randn(len(rows), max(map(len, rows)), 6, dtype=dtype)
    with torch.no_grad():
        logits = head(states)
        through = target_scores(states, rows, prefixes=[0] * len(rows), head=head)
        whole = target_scores(logits, rows, prefixes=[0] * len(rows), head=None)
    logs = logits.float().log_softmax(-1)
    got = combined_scores([through], count=5)
    for number, mine in places.items():
        expected = sum(logs[place].item() for place in mine)
        # A matrix product of other rows may round elsewhere.
        assert got[number][0] == pytest.approx(expected, abs=1e-4 if piece == 256 else 0.05)
    for number, (score, greedy) in enumerate(combined_scores([whole], count=5)):
        mine = places[number]
        assert score == pytest.approx(sum(logs[place].item() for place in mine), abs=1e-5)
        assert greedy == all(logits[place[:2]].argmax() == place[2] for place in mine)
    assert through.logits_bytes < whole.logits_bytes


def test_of_equal_logits_the_first_is_the_likeliest():
    """As argmax has it: in half precision ties are common."""
    (row,) = tree_rows([TargetRequest(n, [1], 0, [n]) for n in range(4)], longest=8)
    found = target_scores(torch.tensor([[[0.5, 2.0, 2.0, 1.0]]]), [row], prefixes=[0], head=None)
    assert [greedy for _, greedy in combined_scores([found], count=4)] == [
        False,
        True,
        False,
        False,
    ]


def test_logits_never_exist_together(demo, monkeypatch):
    monkeypatch.setattr(target_logprobs, "_PIECE", 8)
    model, _ = demo
    scorer = Scorer(model, EvalInterventions(), budget=400)
    made = []
    own = model.lm_head.forward
    monkeypatch.setattr(model.lm_head, "forward", lambda x: made.append(len(x)) or own(x))
    texts = [[TargetRequest(n, list(range(1, 41)), 0, list(range(2, 42)))] for n in range(10)]
    scorer.score(texts, count=10)
    assert set(made) == {8}
    assert sum(made) == 400
    assert scorer.cost.logits_bytes == 2 * 8 * model.config.vocab_size * 4


def test_a_hook_on_the_logits_sees_those_of_every_token(demo):
    model, _ = demo
    texts = [[TargetRequest(n, list(range(1, 30 + n)), 20, [5])] for n in range(2)]
    plain = Scorer(model, EvalInterventions(), budget=400).score(texts, count=2)
    with al.capture(model, "hook_logits") as acts:
        watched = Scorer(model, EvalInterventions(), budget=400).score(texts, count=2)
    assert acts["hook_logits"].shape == (2, 30, model.config.vocab_size)
    assert [one for one, _ in watched] == pytest.approx([one for one, _ in plain], abs=1e-5)


def test_flags_that_nobody_asks_for_are_not_computed(demo):
    model, _ = demo
    texts = [[TargetRequest(n, list(range(1, 30 + n)), 0, [5] * (29 + n))] for n in range(2)]
    scorer = Scorer(model, EvalInterventions(), budget=400)
    asked, unasked = (scorer.score(texts, count=2, greedy=greedy) for greedy in (True, False))
    assert [score for score, _ in asked] == [score for score, _ in unasked]
    assert [flag for _, flag in asked] == [False, False]
    assert [flag for _, flag in unasked] == [True, True]
