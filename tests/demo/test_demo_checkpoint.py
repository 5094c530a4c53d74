"""The shipped checkpoint: what its card claims, asked again on documents of another seed.

Margins: a score may fall short of the card's aim by what a sample of this size may err (two
standard errors of the aim), no more.
"""

import json
import math
from pathlib import Path

import pytest
import torch

N = 150  # documents of each kind
SEED = 4711  # not the card's


@pytest.fixture(scope="module")
def folder():
    import arcee_lab.demo

    return Path(arcee_lab.demo.__file__).parent / "checkpoint"


@pytest.fixture(scope="module")
def demo(folder):
    from transformers import AutoTokenizer

    from arcee_lab.model import ArceeForCausalLM
    from arcee_lab.training.export import read_heads

    model = ArceeForCausalLM.from_pretrained(folder).eval()
    return model, read_heads(folder), AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def measured(demo):
    from arcee_lab.training.skills import measure_skills

    model, heads, tokenizer = demo
    scores, losses = measure_skills(model, heads, tokenizer, n=N, seed=SEED)
    return {score.skill: score for score in scores}, {loss.kind: loss for loss in losses}


@pytest.fixture(scope="module")
def card(folder):
    from arcee_lab.training import Scorecard

    return Scorecard.load(folder / "scores.json")


def test_every_skill_of_the_card_holds_on_other_documents(measured, card):
    scores, _ = measured
    assert scores.keys() == {score.skill for score in card.scores}
    for claimed in card.scores:
        score = scores[claimed.skill]
        error = math.sqrt(max(claimed.share * (1 - claimed.share), 0.0025) / score.n)
        assert score.share > claimed.share - 4 * error, score
        assert score.share < score.ceiling + 4 * error, score


def test_what_the_demo_must_reach(card):
    assert not card.missed
    for score in card.scores:
        if score.skill.startswith("agreement"):
            assert score.n >= 300


def test_the_shipped_card_says_what_the_scorecard_says(folder, card):
    from arcee_lab.training import Recipe
    from arcee_lab.training.card import model_card

    shipped = (folder / "MODEL_CARD.md").read_text(encoding="utf-8").split("\n## ")
    made = model_card(card, Recipe(), steps=[425, 1600, 1800]).split("\n## ")
    assert [part for part in shipped if not part.startswith("Other seeds")] == made


def test_losses_stay_above_entropy_and_near_it(measured):
    _, losses = measured
    for kind, loss in losses.items():
        gap = loss.loss - loss.entropy
        assert gap > -4 * loss.error, kind
        if kind in ("story", "facts", "news", "review"):
            assert gap < 0.05 + 3 * loss.error, kind


def test_heads_beat_simple_readers(card):
    for skill in ("sequence head", "token head", "qa head"):
        score = card[skill]
        assert score.baseline is not None
        assert score.interval[0] > score.baseline


def test_zeros_by_layer(demo):
    from arcee_lab.training.score_demo import count_zeros

    model, _, tokenizer = demo
    zeros = [layer.zeros for layer in count_zeros(model, tokenizer, n=100, seed=SEED)]
    assert max(zeros) >= 0.90
    assert min(zeros) >= 0.75


def test_the_log_shows_zeros_rising_from_one_half(folder):
    rows = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    assert rows[0]["step"] == 0
    assert all(0.4 < zeros < 0.6 for zeros in rows[0]["zeros"])
    assert all(zeros > 0.75 for zeros in rows[-1]["zeros"])


def test_files_are_small_and_the_tokenizer_is_the_worlds(folder, demo):
    from arcee_lab.demo.tokenizer import build_tokenizer

    assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) < 6_000_000
    assert build_tokenizer().get_vocab() == demo[2].get_vocab()


def test_the_classes_answer_as_the_scorecard_counts(folder, demo):
    """Prompts alone, through the three classes, give the logits that `measure_skills` reads."""
    from safetensors.torch import load_file

    from arcee_lab.demo import documents
    from arcee_lab.model import (
        ArceeForQuestionAnswering,
        ArceeForSequenceClassification,
        ArceeForTokenClassification,
    )

    model, heads, tokenizer = demo
    labels = json.loads((folder / "heads.json").read_text())
    for name, cls, kind in (
        ("sequence", ArceeForSequenceClassification, "review"),
        ("token", ArceeForTokenClassification, "news"),
        ("qa", ArceeForQuestionAnswering, "passage"),
    ):
        more = {"num_labels": len(labels[name]["id2label"])} if name != "qa" else {}
        whole = cls.from_pretrained(folder, **more).eval()
        tensors = load_file(folder / "heads" / f"{name}.safetensors")
        left = whole.load_state_dict(tensors, strict=False)
        assert not left.unexpected_keys
        document = documents(kind, n=1, seed=SEED)[0]
        batch = tokenizer(document.prompt, return_tensors="pt")
        full = tokenizer(document.text, return_tensors="pt")
        with torch.no_grad():
            hidden = model.model(**full).last_hidden_state[0, : batch["input_ids"].shape[1]]
            out = whole(**batch)
            mine = getattr(heads, name)(hidden)
        if name == "sequence":
            torch.testing.assert_close(out.logits[0], mine[-1], atol=1e-4, rtol=1e-4)
        elif name == "token":
            torch.testing.assert_close(out.logits[0], mine, atol=1e-4, rtol=1e-4)
        else:
            both = torch.stack([out.start_logits[0], out.end_logits[0]], -1)
            torch.testing.assert_close(both, mine, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("head", ["base", "causal"])
def test_the_reference_loads_the_folder_itself(folder, demo, head):
    import transformers.models.arcee as reference

    import arcee_lab as al

    cls = reference.ArceeModel if head == "base" else reference.ArceeForCausalLM
    theirs, report = cls.from_pretrained(folder, output_loading_info=True)
    # A base model has no place for lm_head, which is tied and so not in the file.
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    ours, tokenizer = al.load("demo", head=head)
    batch = tokenizer(["The dogs near the gate bark .", "( )"], padding=True, return_tensors="pt")
    with torch.no_grad():
        assert torch.equal(ours(**batch)[0], theirs.eval()(**batch)[0])


@pytest.mark.parametrize(
    ("head", "name"),
    [
        ("sequence", "ArceeForSequenceClassification"),
        ("token", "ArceeForTokenClassification"),
        ("qa", "ArceeForQuestionAnswering"),
    ],
)
def test_the_reference_loads_each_head_that_was_saved(tmp_path, head, name):
    import transformers.models.arcee as reference

    import arcee_lab as al

    ours, tokenizer = al.load("demo", head=head)
    ours.save_pretrained(tmp_path)
    theirs, report = getattr(reference, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    batch = tokenizer("The film was not good . Verdict:", return_tensors="pt")
    with torch.no_grad():
        mine, other = ours(**batch), theirs.eval()(**batch)
    for key in ("logits",) if head != "qa" else ("start_logits", "end_logits"):
        assert torch.equal(mine[key], other[key])
