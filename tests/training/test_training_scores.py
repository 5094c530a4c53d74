"""Scores, cards and baselines, on numbers worked out by hand."""

import math

import pytest


def test_wilson_interval_against_its_defining_equation():
    from arcee_lab.training.scores import Z, wilson

    for right, n in ((0, 10), (3, 10), (10, 10), (934, 1000)):
        for bound in wilson(right, n):
            # at a bound the observed share lies Z standard errors of that bound away
            assert abs(right / n - bound) == pytest.approx(
                Z * math.sqrt(bound * (1 - bound) / n), abs=1e-9
            )
    assert wilson(0, 0) == (0.0, 1.0)


def test_best_span_is_the_likeliest_short_one():
    import torch

    from arcee_lab.training.skills import LONGEST_SPAN, best_span

    logits = torch.zeros(9, 2)
    logits[6, 0] = 5.0  # the best start lies after the best end
    logits[2, 1] = 5.0
    logits[7, 1] = 1.0
    assert best_span(logits) == (6, 7)
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        logits = torch.randn(9, 2, generator=generator)
        spans = [(a, b) for a in range(9) for b in range(a, min(9, a + LONGEST_SPAN))]
        best = max(spans, key=lambda span: (logits[span[0], 0] + logits[span[1], 1]).item())
        assert best_span(logits) == best


def test_card_and_file_say_what_the_scorecard_says(tmp_path):
    from arcee_lab.training import KindLoss, LayerZeros, Recipe, Scorecard, SkillScore
    from arcee_lab.training.card import model_card

    card = Scorecard(
        scores=(SkillScore("copy", 970, 1000, 1.0, 0.97), SkillScore("recall", 10, 40, 1.0, 0.97)),
        losses=(KindLoss("story", 2.1, 2.05, 0.01, 900),),
        zeros=(LayerZeros(0, 0.81, 0.5, 3, 4, 896, 900),),
        seed=0,
        split="test",
    )
    assert card.missed == ("recall",)
    assert card["copy"].reached
    assert Scorecard.load(card.save(tmp_path / "scores.json")) == card
    text = model_card(card, Recipe(), steps=[7, 8, 9], others={5: card})
    assert "| skill | shipped | seed 5 |" in text
    assert "| zeros, layer 0 | 0.810 | 0.810 |" in text
    assert "24 steps of" in text
    assert "| 7 | 3000 | copy 0.95, recall 0.95, meaning 0.95 |" in text
    assert "| 0.970 | 0.957-0.979 | 1000 |" in text
    assert "Below its aim: recall." in text
    assert "| 0 | 0.810 | 0.500 | 3 | 4 | 896 | 900 |" in text
    assert list(card.frame()["skill"]) == ["copy", "recall"]
    with pytest.raises(KeyError, match="There is no skill 'kopy'"):
        card["kopy"]
    assert card._ipython_key_completions_() == ["copy", "recall"]
    assert card.headline.startswith("1 of 2 skills reach their aim")
    assert "Scorecard(1 of 2" in repr(card)


def test_the_rate_falls_in_the_last_stage():
    from arcee_lab.training import Recipe

    recipe = Recipe()
    last = recipe.stages[-1].steps
    rates = [recipe.rate_at(step, [0, 700, 900]) for step in range(900 + last)]
    assert rates[0] == pytest.approx(recipe.rate / recipe.warm_up)
    assert set(rates[recipe.warm_up : 900]) == {recipe.rate}
    assert rates[-1] == pytest.approx(recipe.last_rate)
    assert recipe.rate_at(5000, [0, 700]) == recipe.rate
