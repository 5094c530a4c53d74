"""Questions as windows of tokens, their loss, and what is said of bad ones."""

import json
import math
import time
from dataclasses import replace

import pytest
import torch

import arcee_lab as al
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.loading import DEMO
from arcee_lab.training.heads import (
    HeadRecipe,
    LabelledQuestions,
    evaluate_head,
    read_labelled,
    train_head,
)
from arcee_lab.training.heads.judging import items_of
from arcee_lab.training.heads.spans import collate_windows, encode_questions, span_loss


@pytest.fixture(scope="module")
def base():
    return al.load("demo", head="base")


@pytest.fixture(scope="module")
def passages():
    return read_labelled("demo:train", head="qa", limit=24)


def test_an_answers_tokens_say_its_words(base, passages):
    model, tokenizer = base
    rows = encode_questions(anatomy_of(model), tokenizer, passages)
    assert len(rows) == len(passages)
    for row, (answer, *_) in zip(rows, passages.answers, strict=True):
        assert tokenizer.decode(row.ids[row.start : row.end + 1]).strip() == answer
        assert row.allowed[row.start]
        assert row.allowed[row.end]
        assert row.allowed[0], "the place for no answer"
        assert not row.allowed[1], "the question"


def test_long_contexts_are_cut_into_windows(base):
    model, tokenizer = base
    anatomy = anatomy_of(model)
    before, config = anatomy.model.config.max_position_embeddings, anatomy.model.config
    sentence = "Bovork visited the mill. "
    context = sentence * 40 + "Zavim visited the barn. " + sentence * 40
    start = context.index("barn")
    data = LabelledQuestions(
        ("Where did Zavim go?",) * 2, (context,) * 2, (("barn",), ()), ((start,), ()), True
    )
    try:
        config.max_position_embeddings = 64
        rows = encode_questions(anatomy, tokenizer, data)
    finally:
        config.max_position_embeddings = before
    holding = [row for row in rows if row.start]
    assert 1 <= len(holding) < len(rows) / 2
    for row in holding:
        assert tokenizer.decode(row.ids[row.start : row.end + 1]).strip() == "barn"
    assert all((row.start, row.end) == (0, 0) for row in rows if row not in holding)
    assert all(len(row) <= 64 for row in rows)


def test_the_loss_by_hand(base, passages):
    model, tokenizer = base
    rows = encode_questions(anatomy_of(model), tokenizer, passages)[:3]
    batch = collate_windows(rows, pad=0)
    width = batch["input_ids"].shape[1]
    drawn = torch.randn(2, len(rows), width, generator=torch.Generator().manual_seed(0))

    class Output:
        start_logits, end_logits = drawn

    expected = 0.0
    for slot, row in enumerate(rows):
        for logits, right in zip(drawn[:, slot].double(), (row.start, row.end), strict=True):
            choices = [logits[at].exp() for at in range(len(row)) if row.allowed[at]]
            expected -= (logits[right].exp() / sum(choices)).log().item() / (2 * len(rows))
    found = span_loss(Output, batch["labels"], batch["allowed"])
    assert found.item() == pytest.approx(expected, rel=1e-5)  # fp32 sums of some tens of numbers
    wider = {key: torch.nn.functional.pad(one, (0, 7)) for key, one in batch.items()}
    Output.start_logits, Output.end_logits = torch.nn.functional.pad(drawn, (0, 7), value=9.0)
    assert span_loss(Output, batch["labels"], wider["allowed"]).item() == pytest.approx(
        found.item(), rel=1e-6
    ), "padding is no choice"


@pytest.mark.parametrize("tune", ["lora", "full"])
def test_a_span_head_that_moves_the_backbone(passages, tmp_path, tune):
    model, tokenizer = al.load("demo", head="base")
    names = [name for name, _ in model.named_parameters()]
    before = model.layers[1].mlp.up_proj.weight.clone()
    recipe = HeadRecipe(tune=tune, epochs=1, batch_size=8, learning_rate=1e-3)
    found = train_head(model, tokenizer, passages, test=passages, recipe=recipe, progress=False)
    assert not torch.equal(before, model.layers[1].mlp.up_proj.weight)
    assert [name for name, _ in model.named_parameters()] == names, "nothing of LoRA is left"
    assert [one.metric for one in found.scores] == ["em", "f1"]
    loaded, own = al.load(found.save(tmp_path / "checkpoint"), head="qa")
    assert torch.equal(loaded.qa_outputs.weight, found.model.qa_outputs.weight)
    question, context = passages.questions[0], passages.contexts[0]
    assert al.answer(loaded, own, question, context) == al.answer(
        found.model, tokenizer, question, context
    )
    assert "24 questions; the most common answer" in found.headline


def test_scores_of_no_question_are_null(base, passages, tmp_path):
    """Questions that may have no answer, all of which have one."""
    data = replace(passages, may_be_empty=True)
    recipe = HeadRecipe(epochs=2, patience=1)
    given = {"validation": data, "test": data, "out": tmp_path / "run"}
    found = train_head(*base, data, recipe=recipe, progress=False, **given)
    assert math.isnan({one.metric: one.value for one in found.scores}["em_none"])
    told = json.loads((tmp_path / "run" / "checkpoint" / "scores.json").read_text())
    assert {row["metric"]: row["value"] for row in told["scores"]}["em_none"] is None
    assert told["held_out"][0]["em_none"] is None
    out = tmp_path / "scores"
    result = evaluate_head(found.model, base[1], data=data, out=out, progress=False)
    assert math.isnan(result.score("labelled", "em_none").value)
    assert (out / "results.json").is_file()


@pytest.mark.slow
def test_the_shipped_backbone_answers_as_its_card_says(base):
    """A new head on the frozen backbone, on 4,000 questions: half a minute of one core."""
    train = read_labelled("demo:train", head="qa")
    test = read_labelled("demo:test", head="qa")
    recipe = HeadRecipe(learning_rate=0.03)
    began = time.process_time()
    found = train_head(*base, train, test=test, recipe=recipe, progress=False)
    assert time.process_time() - began < 600
    em = {one.metric: one.value for one in found.scores}["em"]
    shipped, _ = al.load("demo", head="qa")
    own = items_of(shipped, base[1], test, 16)["em"]
    assert em == pytest.approx(sum(own) / len(own), abs=0.01), "the head that the demo came with"
    card = json.loads((DEMO / "scores.json").read_text())["scores"]
    (score,) = [row for row in card if row["skill"] == "qa head"]
    assert em == pytest.approx(score["right"] / score["n"], abs=0.01)


def test_rows_of_every_form(tmp_path):
    forms = (
        {"text": ["barn", "the barn"], "answer_start": [18, 14]},
        [{"text": "barn", "answer_start": 18}, {"text": "the barn", "answer_start": 14}],
        " barn ",
        {"text": ["barn"]},
    )
    file = tmp_path / "a.jsonl"
    context = "Zavim visited the barn ."
    rows = [{"question": " Where? ", "context": context, "answers": one} for one in forms]
    rows.append(rows[0] | {"answers": []})
    file.write_text("\n".join(map(json.dumps, rows)))
    data = read_labelled(file, head="qa")
    assert data.questions == ("Where?",) * 5
    assert data.answers == (("barn", "the barn"), ("barn", "the barn"), ("barn",), ("barn",), ())
    for answers, starts in zip(data.answers, data.starts, strict=True):
        for text, start in zip(answers, starts, strict=True):
            assert context[start:].startswith(text)
    assert data.starts == ((18, 14), (18, 14), (18,), (18,), ())
    assert data.may_be_empty
    assert data.majority == 4 / 5, "`the` does not count"
    assert not read_labelled(file, head="qa", limit=4).may_be_empty


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"question": None}, "line 1: 'question' is NoneType; expected a text"),
        ({"context": " "}, "line 1: 'context' is blank"),
        ({"answers": 3}, "line 1: 'answers' is no list of answers"),
        ({"answers": {"text": ["a"], "answer_start": []}}, "of equal length"),
        ({"answers": "b"}, "the answer 'b' occurs 0 times in its context; expected answer_start"),
        ({"answers": "a"}, "the answer 'a' occurs 2 times"),
        ({"answers": {"text": ["c"], "answer_start": [1]}}, "'c' does not begin at character 1"),
        ({"answers": {"text": ["c"], "answer_start": [-1]}}, "does not begin at character -1"),
        ({"answers": {"text": ["c"], "answer_start": ["2"]}}, "does not begin at character 2"),
        ({"answers": {"text": [""], "answer_start": [0]}}, "line 1: an answer is blank"),
        ({"answers": {"text": [5], "answer_start": [0]}}, "line 1: an answer is int"),
        ({"question": "\ud800"}, "'question' holds half of a surrogate pair"),
    ],
)
def test_bad_questions(tmp_path, changed, said):
    file = tmp_path / "a.jsonl"
    row = {"question": "Which?", "context": "a c a", "answers": "c"} | changed
    file.write_text(json.dumps(row))
    with pytest.raises(ValueError, match=said) as error:
        read_labelled(file, head="qa")
    assert str(file) in str(error.value)


def test_a_question_without_an_answer_is_none_of_v1(tmp_path):
    asked = {"question": "Who?", "answers": [], "is_impossible": True}
    content = {"data": [{"paragraphs": [{"context": "Zavim left.", "qas": [asked]}]}]}
    file = tmp_path / "dev.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"row 0 has no answer; .* use arcee_squad_v2"):
        read_labelled(f"arcee_squad:{file}", head="qa")
    assert read_labelled(f"arcee_squad_v2:{file}", head="qa").may_be_empty
    assert read_labelled(file, head="qa").may_be_empty


def test_what_has_no_effect_on_spans(base, passages):
    for recipe, said in (
        (HeadRecipe(class_weights="balanced"), "class_weights='balanced' has no effect on a QA"),
        (HeadRecipe(patience=1, metric="nll"), "metric='nll' is no score .*expected one of em, f1"),
    ):
        with pytest.raises(ValueError, match=said):
            train_head(*base, passages, recipe=recipe, progress=False)
    with pytest.raises(ValueError, match="Questions have the columns question, context and answ"):
        read_labelled("demo", head="qa", text_column="context")
