"""One BOS for every reader of texts, whatever the tokenizer and however the text begins."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from arcee_lab.data.tokenization import render, token_ids, token_offsets, written_bos

TEXT = " The dogs near the barn sleep ."
BODY = "the dogs sleep"


def tokenizer_of(kind):
    """Tokenizers of words; ids: <unk> 0, <s> 1, </s> 2, then words."""
    words = [
        "<unk>",
        "<s>",
        "</s>",
        "the",
        "dogs",
        "sleep",
        "▁the",
        "▁dogs",
        "▁sleep",
        "<",
        "s",
        ">",
    ]
    inner = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = (
        pre_tokenizers.Metaspace(prepend_scheme="first")
        if kind == "metaspace"
        else pre_tokenizers.Whitespace()
    )
    special = [("<s>", 1), ("</s>", 2)]
    templates = {"sets": ("<s> $A", "<s> $A $B"), "metaspace": ("<s> $A", "<s> $A $B")}
    templates["also eos"] = ("<s> $A </s>", "<s> $A $B </s>")
    templates["plain"] = templates["sets"]
    if kind in templates:
        single, pair = templates[kind]
        inner.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=special
        )
    bos = {} if kind == "none" else {"bos_token": "<s>"}
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="<unk>",
        eos_token="</s>",
        split_special_tokens=kind == "plain",
        **bos,
    )


@pytest.mark.parametrize("kind", ["sets", "metaspace", "also eos"])
@pytest.mark.parametrize("before", ["<s>", "<s> ", " <s>"])
def test_a_tokenizer_that_sets_bos_sets_one(kind, before):
    tokenizer = tokenizer_of(kind)
    expected = tokenizer(BODY)["input_ids"]
    assert tokenizer(f"<s>{BODY}")["input_ids"].count(1) == 2  # what would happen
    (bare, written) = token_ids(tokenizer, [BODY, before + BODY])
    assert bare == expected
    if before == " <s>":
        # A blank before BOS is a text before BOS, except where the tokenizer reads it as none.
        assert written_bos(tokenizer, before + BODY) in (0, len(before))
    else:
        assert written.count(1) == 1
        assert written == token_ids(tokenizer, [(before + BODY)[3:]])[0]


@pytest.mark.parametrize("kind", ["does not set", "none"])
def test_a_tokenizer_that_sets_none_keeps_what_is_written(kind):
    tokenizer = tokenizer_of(kind)
    written = [1] if kind == "does not set" else [9, 10, 11]  # "<", "s", ">"
    assert token_ids(tokenizer, [f"<s> {BODY}", BODY]) == [[*written, 3, 4, 5], [3, 4, 5]]
    assert written_bos(tokenizer, f"<s> {BODY}") == 0


def test_the_name_of_bos_read_as_plain_text_is_text():
    tokenizer = tokenizer_of("plain")
    expected = tokenizer(f"<s> {BODY}")["input_ids"]
    assert expected[:2] != [1, 1]
    assert token_ids(tokenizer, [f"<s> {BODY}"]) == [expected]


def test_two_that_are_written_are_two():
    tokenizer = tokenizer_of("sets")
    assert token_ids(tokenizer, [f"<s><s> {BODY}"]) == [[1, 1, 3, 4, 5]]


def test_offsets_are_those_of_the_written_text():
    tokenizer = tokenizer_of("sets")
    text = f"<s> {BODY}"
    ids, offsets = token_offsets(tokenizer, text)
    assert ids == [1, 3, 4, 5]
    assert [text[a:b] for a, b in offsets] == ["<s>", "the", "dogs", "sleep"]
    ids, offsets = token_offsets(tokenizer, BODY)
    assert [BODY[a:b] for a, b in offsets] == ["", "the", "dogs", "sleep"]


# ---------------------------------------------------------------- every reader


@pytest.fixture(scope="module")
def loaded():
    import arcee_lab as al

    return {head: al.load("demo", head=head) for head in ("causal", "sequence", "token", "qa")}


WRITTEN = "<bos>" + TEXT


def test_windows_stores_and_counts(loaded, tmp_path):
    import arcee_lab as al
    from arcee_lab.data.windows import cut

    model, tokenizer = loaded["causal"]
    expected = tokenizer(TEXT)["input_ids"]
    assert expected.count(1) == 1
    windows = cut(tokenizer, [WRITTEN, TEXT], context=64)
    assert [windows[0].tolist(), windows[1].tolist()] == [expected, expected]
    store = al.dump.write(model, tokenizer, [WRITTEN], tmp_path / "store")
    assert store.frame()["id"].tolist() == expected
    one, two = (al.sparsity.measure(model, tokenizer, [text]) for text in (WRITTEN, TEXT))
    assert one.n_tokens == two.n_tokens == len(expected) - 1
    assert torch.equal(one.fired, two.fired)
    passages = [al.sparsity.read_passage(model, tokenizer, text, two) for text in (WRITTEN, TEXT)]
    assert passages[0].tokens == passages[1].tokens
    assert passages[0].tokens.count("<bos>") == 1
    assert torch.equal(passages[0].values, passages[1].values)


def test_the_sequence_and_the_token_head(loaded):
    from arcee_lab.heads.sequence import score_sequence
    from arcee_lab.heads.token import label_words

    model, tokenizer = loaded["sequence"]
    review = " Review : The soup was very good . Verdict :"
    one, two = score_sequence(model, tokenizer, ["<bos>" + review, review])
    assert torch.allclose(one, two, atol=1e-6)  # rows of one batch

    with torch.no_grad():
        plain = model(**tokenizer(review, return_tensors="pt")).logits.log_softmax(-1)
    torch.testing.assert_close(two[None], plain, rtol=1e-5, atol=1e-5)

    model, tokenizer = loaded["token"]
    words = TEXT.split()
    texts = ["<bos>" + TEXT, TEXT]
    one, two = label_words(model, tokenizer, [words, words], texts=texts)
    assert one == two
    (with_bos,) = label_words(model, tokenizer, [["<bos>", *words]])
    assert with_bos[1:] == two  # BOS as a word of its own is asked at the one BOS there is


def test_what_a_head_is_fitted_on(loaded):
    from arcee_lab.model.anatomy import anatomy_of
    from arcee_lab.training.heads.encoding import encode
    from arcee_lab.training.heads.labelled import LabelledTexts

    model, tokenizer = loaded["causal"]
    anatomy = anatomy_of(model)
    expected = tokenizer(TEXT)["input_ids"]
    texts = LabelledTexts("sequence", (WRITTEN, TEXT), None, (0, 1), ("a", "b"))
    rows = encode(anatomy, tokenizer, texts)
    assert [row.ids for row in rows] == [expected, expected]
    words = tuple(TEXT.split())
    labels = (0,) * len(words)
    some = LabelledTexts("token", (WRITTEN, TEXT), (words, words), (labels, labels), ("a", "b"))
    one, two = encode(anatomy, tokenizer, some)
    assert (one.ids, one.at) == (two.ids, two.at)
    assert one.ids == expected
    for word, at in zip(words, one.at, strict=True):
        assert tokenizer.decode(expected[: at + 1]).endswith(word)


def test_answers(loaded):
    import arcee_lab as al
    from arcee_lab.heads.qa import find_spans

    model, tokenizer = loaded["qa"]
    question, context = " Where is the cat ?", " The cat is in the barn . The dog is in the shed ."
    plain = al.answer(model, tokenizer, question, context, top_k=3)
    for asked, given in (
        ("<bos>" + question, context),
        (question, "<bos>" + context),
        ("<bos>" + question, "<bos>" + context),
    ):
        found = al.answer(model, tokenizer, asked, given, top_k=3)
        assert [(span.text, span.score) for span in found] == [(s.text, s.score) for s in plain]
        assert all(given[span.start : span.end] == span.text for span in found)
        assert find_spans(model, tokenizer, [asked], [given]) == [plain[0].text]
    with pytest.raises(ValueError, match="got an empty one"):
        al.answer(model, tokenizer, "<bos>", context)
    with pytest.raises(ValueError, match="got an empty one"):
        al.answer(model, tokenizer, question, "<bos> ")


def test_the_language_model_in_evaluations_agrees(loaded):
    from arcee_lab.evals.scoring.tokenization import Encoder

    _, tokenizer = loaded["causal"]
    found = Encoder(tokenizer, tokenizer.bos_token_id).texts([WRITTEN, TEXT])
    assert [found[WRITTEN], found[TEXT]] == token_ids(tokenizer, [WRITTEN, TEXT])


# ---------------------------------------------------------------- conversations

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'odd' %}"
    "{{ raise_exception('no such role') }}{% endif %}{{ m.role }} : {{ m.content }} "
    "{% if m.name is defined %}( {{ m.name }} ) {% endif %}{% endfor %}"
)


def test_a_conversation_becomes_text_with_one_bos():
    tokenizer = tokenizer_of("sets")
    tokenizer.chat_template = TEMPLATE
    text = render(tokenizer, [{"role": "the", "content": "dogs", "name": None}], where="row 3")
    assert text == "<s>the : dogs "
    assert token_ids(tokenizer, [text])[0].count(1) == 1


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([{"role": "user"}], "row 3, message 0: 'content' is NoneType; expected a string"),
        ([{"role": 3, "content": "a"}], "row 3, message 0: 'role' is int; expected a string"),
        ([{"role": "odd", "content": "a"}], "template refuses the conversation: no such role"),
    ],
)
def test_a_conversation_that_cannot_be_rendered(messages, said):
    tokenizer = tokenizer_of("sets")
    tokenizer.chat_template = TEMPLATE
    with pytest.raises(ValueError, match=said):
        render(tokenizer, messages, where="row 3")


def test_a_conversation_without_a_template():
    message = [{"role": "user", "content": "a"}]
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        render(tokenizer_of("sets"), message, where="row 3")
    with pytest.raises(ValueError, match="give tokenizer="):
        render(None, message, where="row 3")


def test_conversations_of_a_file_reach_the_model_with_one_bos(loaded, tmp_path):
    import copy
    import json

    import arcee_lab as al
    from arcee_lab.data.documents import read_files

    model, tokenizer = loaded["causal"]
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = TEMPLATE
    path = tmp_path / "a.jsonl"
    chat = [{"role": "The dogs", "content": "near the barn ."}]
    path.write_text(json.dumps({"messages": chat}))
    texts = read_files([path], column="messages", tokenizer=tokenizer)
    store = al.dump.write(model, tokenizer, texts, tmp_path / "store")
    expected = tokenizer("The dogs : near the barn . ")["input_ids"]
    assert store.frame()["id"].tolist() == expected
    assert expected.count(tokenizer.bos_token_id) == 1


def test_the_demo_has_no_template(tmp_path, capsys):
    from arcee_lab.cli import main

    path = tmp_path / "a.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "The dogs sleep ."}]}')
    words = ["demo", "--text", str(path), "--text-column", "messages", "--out", str(tmp_path / "o")]
    for command in ("dump", "sparsity"):
        assert main([command, *words]) == 2
        err = capsys.readouterr().err
        assert "line 1, 'messages', is a conversation, and the tokenizer has no chat templ" in err
        assert not (tmp_path / "o").exists()
