"""al.answer: spans in characters, against a brute-force search over all of them."""

import pytest
import torch

import arcee_lab as al


@pytest.fixture(scope="module")
def words():
    """A word tokenizer over the tiny model's vocabulary."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {t: i for i, t in enumerate(["<pad>", "<s>", "</s>", *(f"w{i}" for i in range(47))])}
    core = Tokenizer(models.WordLevel(vocab, unk_token="<s>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", bos_token="<s>")


def test_equals_brute_force(tiny, words):
    model, question = tiny("qa"), "w1 w2"
    context = " ".join(f"w{i}" for i in [5, 9, 30, 7, 8, 11, 40])
    ids = torch.tensor([[4, 5, 8, 12, 33, 10, 11, 14, 43]])
    output = model(input_ids=ids)
    start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
    pieces = context.split(" ")
    expected = []
    for i in range(7):
        for j in range(i, min(i + 3, 7)):
            text = " ".join(pieces[i : j + 1])
            expected.append((start[i + 2] + end[j + 2], text))
    expected.sort(reverse=True)
    found = al.answer(model, words, question, context, top_k=5, max_answer_tokens=3)
    assert [a.text for a in found] == [text for _, text in expected[:5]]
    assert [a.score for a in found] == pytest.approx([s for s, _ in expected[:5]], abs=1e-5)
    assert all(context[a.start : a.end] == a.text for a in found)


def test_long_contexts_are_read_in_overlapping_windows(tiny, words):
    model, question = tiny("qa"), "w1"
    numbers = torch.randint(0, 47, (150,)).tolist()
    context = " ".join(f"w{i}" for i in numbers)
    best = al.answer(model, words, question, context, max_answer_tokens=1, max_length=21, stride=5)
    scores = []
    for at in range(0, 150, 15):
        window = numbers[at : at + 20]
        output = model(input_ids=torch.tensor([[4, *(n + 3 for n in window)]]))
        both = (output.start_logits + output.end_logits)[0, 1:]
        scores.append(both.max().item())
        if at + 20 >= 150:
            break
    assert best[0].score == pytest.approx(max(scores), abs=1e-5)


@pytest.mark.parametrize(
    ("question", "context", "arguments", "said"),
    [
        (" ", "w1", {}, "must hold text"),
        ("w1", "", {}, "must hold text"),
        ("w1", "w2", {"top_k": 0}, "expected 1 or more"),
        ("w1 w2 w3", "w2", {"max_length": 5}, "leaves 2 for the context"),
        ("w1", "w2", {"max_length": 20, "stride": 19}, "stride is 19 tokens; expected 0 to 18"),
        ("w1", "w2", {"stride": -1}, "stride is -1 tokens; expected 0 to"),
    ],
)
def test_bad_questions(tiny, words, question, context, arguments, said):
    with pytest.raises(ValueError, match=said):
        al.answer(tiny("qa"), words, question, context, **arguments)


def test_another_head_is_an_error(tiny, words):
    with pytest.raises(ValueError, match="head='qa'"):
        al.answer(tiny("causal"), words, "w1", "w2")
