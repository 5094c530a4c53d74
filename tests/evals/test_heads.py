"""Heads in batches against one unpadded text at a time, and against spans by brute force."""

import pytest
import torch

import arcee_lab as al
from arcee_lab.evals.tasks import demo_documents
from arcee_lab.heads.qa import find_spans
from arcee_lab.heads.sequence import score_sequence
from arcee_lab.heads.token import label_words, last_tokens, place_words


@pytest.fixture(scope="module")
def sequence():
    return al.load("demo", head="sequence")


@pytest.fixture(scope="module")
def token():
    return al.load("demo", head="token")


@pytest.fixture(scope="module")
def qa():
    return al.load("demo", head="qa")


def test_sequence_scores_are_those_of_single_texts(sequence):
    model, tokenizer = sequence
    texts = demo_documents.sentiment(n=13)["test"]["text"]
    assert len({len(text.split()) for text in texts}) > 3, "unequal lengths are the point"
    scores = score_sequence(model, tokenizer, [*texts, texts[0]], batch_size=5)
    with torch.no_grad():
        single = [model(**tokenizer(t, return_tensors="pt")).logits[0] for t in texts]
    torch.testing.assert_close(scores[:13], torch.stack(single).log_softmax(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(scores[13], scores[0])
    torch.testing.assert_close(scores.exp().sum(-1), torch.ones(14))


def test_sequence_labels_in_the_order_asked(sequence):
    model, tokenizer = sequence
    text = ["Review: The soup was very good. Verdict:"]
    ours = score_sequence(model, tokenizer, text)
    turned = score_sequence(model, tokenizer, text, labels=["GOOD", "bad"])
    torch.testing.assert_close(turned, ours.flip(-1))


def test_a_text_that_comes_twice_is_read_once(sequence):
    model, tokenizer = sequence
    seen = []
    handle = model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    try:
        score_sequence(model, tokenizer, ["Review: The soup was good."] * 6)
    finally:
        handle.remove()
    assert seen == [1]


def test_sequence_errors(sequence, token, tiny):
    model, tokenizer = sequence
    with pytest.raises(ValueError, match="no label 'great'; it knows bad, good"):
        score_sequence(model, tokenizer, ["x"], labels=["great"])
    with pytest.raises(ValueError, match="expected a model with the sequence head"):
        score_sequence(*token, ["x"])
    with pytest.raises(ValueError, match="Text 1 has 142 tokens, the model reads 1 to 128"):
        score_sequence(model, tokenizer, ["soup", "soup " * 140])
    with pytest.raises(ValueError, match="one number per text"):
        score_sequence(tiny("sequence", num_labels=1), tokenizer, ["x"])


def test_words_get_the_label_of_their_last_token(token):
    model, tokenizer = token
    rows = demo_documents.names(n=9)["test"]
    found = label_words(model, tokenizer, rows["words"], texts=rows["text"], batch_size=4)
    for text, words, labels in zip(rows["text"], rows["words"], found, strict=True):
        encoded = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
        offsets = encoded.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            best = model(**encoded).logits[0].argmax(-1).tolist()
        at, expected = 0, []
        for word in words:
            at = text.index(word, at) + len(word)
            expected.append(model.config.id2label[best[[end for _, end in offsets].index(at)]])
        assert labels == expected


def test_a_word_of_several_tokens(token):
    model, tokenizer = token
    words = ["Xylophonia", "waited"]
    pieces = tokenizer("Xylophonia waited", return_offsets_mapping=True)["offset_mapping"]
    assert sum(end <= 10 for _, end in pieces) > 3, "the first word has several tokens"
    _, spans = place_words(words)
    assert last_tokens(pieces, spans) == [len(pieces) - 2, len(pieces) - 1]
    assert len(label_words(model, tokenizer, [words])[0]) == 2


def test_last_tokens_where_tokens_and_words_cross():
    # "ab cd.": tokens <s>, "a", "b c", "d.", words "ab", "cd", "."
    offsets = [(0, 0), (0, 1), (1, 4), (4, 6)]
    assert last_tokens(offsets, [(0, 2), (3, 5), (5, 6)]) == [2, 3, 3]
    with pytest.raises(ValueError, match="no token of word 1"):
        last_tokens([(0, 2), (5, 6)], [(0, 2), (3, 5), (5, 6)])


def test_token_errors(token, sequence):
    model, tokenizer = token
    with pytest.raises(ValueError, match="Word 1, 'b', is blank, or the text does not hold it"):
        label_words(model, tokenizer, [["a", "b"]], texts=["b a"])
    with pytest.raises(ValueError, match="no label 'B-MISC'; it knows O, B-PER"):
        label_words(model, tokenizer, [["a"]], expected=["O", "B-MISC"])
    with pytest.raises(ValueError, match="expected a model with the token head"):
        label_words(*sequence, [["a"]])
    with pytest.raises(ValueError, match="the model reads 1 to 128"):
        label_words(model, tokenizer, [["the"] * 130])


def brute_force(model, tokenizer, question, context, longest=30) -> str:
    """Every span of an unpadded window, by two loops."""
    encoded = tokenizer(question, context, return_tensors="pt", return_offsets_mapping=True)
    offsets = encoded.pop("offset_mapping")[0].tolist()
    inside = [i for i, part in enumerate(encoded.sequence_ids(0)) if part == 1]
    with torch.no_grad():
        output = model(**encoded)
    start, end = output.start_logits[0].tolist(), output.end_logits[0].tolist()
    pairs = [(i, j) for i in inside for j in inside if i <= j < i + longest]
    i, j = max(pairs, key=lambda pair: start[pair[0]] + end[pair[1]])
    return context[offsets[i][0] : offsets[j][1]].strip()


def test_spans_are_those_of_brute_force(qa):
    model, tokenizer = qa
    rows = demo_documents.passages(n=15)["test"]
    found = find_spans(model, tokenizer, rows["question"], rows["context"], batch_size=4)
    expected = [
        brute_force(model, tokenizer, question, context)
        for question, context in zip(rows["question"], rows["context"], strict=True)
    ]
    assert found == expected


def test_long_contexts_are_read_in_windows(qa):
    model, tokenizer = qa
    (row,) = demo_documents.passages(n=1)["test"]
    others = [r["context"] for r in demo_documents.passages(n=40)["test"]]
    asked = row["question"].split()[2]
    far = [context for context in others if asked not in context]
    long = " ".join([*far[:9], row["context"]])
    found = find_spans(
        model, tokenizer, [row["question"]] * 2, [long, row["context"]], max_length=64, batch_size=3
    )
    assert (
        found[0]
        == found[1]
        == al.answer(model, tokenizer, row["question"], long, max_length=64)[0].text
    )


def test_an_answer_may_be_empty(tiny):
    _, tokenizer = al.load("demo", head="qa")
    model = tiny("qa", vocab_size=1384, max_position_embeddings=128)
    ask = ["Where did Jozi go?"], ["Jozi visited Tetam."]
    spans = {}
    for bias, free in [(9.0, True), (9.0, False), (-9.0, True)]:
        model.qa_outputs.bias.data.zero_()
        hook = model.hook_logits.register_forward_hook(
            lambda module, args, logits, bias=bias: torch.cat(
                [logits[:, :1] + bias, logits[:, 1:]], dim=1
            )
        )
        spans[bias, free] = find_spans(model, tokenizer, *ask, may_be_empty=free)[0]
        hook.remove()
    assert spans[9.0, True] == ""
    assert spans[9.0, False] == spans[-9.0, True] != ""


def test_span_errors(qa, token):
    with pytest.raises(ValueError, match="expected a model with the qa head"):
        find_spans(*token, ["a"], ["b"])
    with pytest.raises(ValueError, match="must hold text"):
        find_spans(*qa, ["a"], [" "])
    with pytest.raises(ValueError, match="A window of 12 tokens leaves"):
        find_spans(*qa, ["Where did Jozi go?"], ["Jozi ran."], max_length=12)
