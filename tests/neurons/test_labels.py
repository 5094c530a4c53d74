"""Labels of texts and tokens, against plain loops over characters and the demo's own tags."""

import gzip
import random

import numpy as np
import pytest
import torch
from neuron_texts import Letters

import arcee_lab as al
from arcee_lab.demo.concepts import CONCEPTS, concept_labels
from arcee_lab.errors import SettingError, TextError, WrongType
from arcee_lab.neurons import labels as sources
from arcee_lab.neurons.labels import Labels


@pytest.fixture(scope="module")
def tokenizer():
    return al.load("demo")[1]


def by_characters(tokenizer, text: str, spans) -> list[bool]:
    """Each token of a text: whether a character of its own, no space before it, is in a span."""
    encoded = tokenizer(text, return_offsets_mapping=True)
    marked = {c for start, end in spans for c in range(start, end)}
    found = []
    for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True):
        own = list(range(start, end))
        while own and text[own[0]].isspace():
            own.pop(0)
        own = own or list(range(start, end))
        found.append(token not in tokenizer.all_special_ids and bool(marked & set(own)))
    return found


def test_tokens_have_the_label_of_their_characters(tokenizer):
    draw = random.Random(0)
    texts = [document.text for document in al.demo.documents(n=12, seed=3)]
    spans = []
    for text in texts:
        starts = [draw.randrange(len(text)) for _ in range(4)]
        spans.append([(s, min(len(text), s + draw.randint(1, 9))) for s in starts])
    labels = sources.spans(texts, {"any": spans})
    for text, row, found in zip(texts, spans, labels.tokens(tokenizer, "any"), strict=True):
        assert found.tolist() == by_characters(tokenizer, text, row)


def test_every_concept_of_the_demo_is_as_its_words_are_tagged(tokenizer):
    labels = sources.demo(n=6, seed=5)
    assert labels.names == tuple(CONCEPTS)
    cut = labels.cut(tokenizer, context=512)
    for column, name in enumerate(labels.names):
        truth = concept_labels(name, part="search", n=6, seed=5)
        rows = [i for i, kind in enumerate(labels.domains) if kind == truth.concept.kind]
        for row, document, known in zip(rows, truth.documents, truth.labels, strict=True):
            assert labels.texts[row] == document.text
            here = cut.token_documents == row  # every word of the world is one token, after BOS
            assert cut.truth[here, column].tolist() == [False, *(k is True for k in known)]
            assert cut.asked[here, column].tolist() == [False, *(k is not None for k in known)]
        others = ~np.isin(cut.token_documents, rows)
        assert not cut.asked[others, column].any()


def test_the_parts_of_the_demo_share_no_text():
    search, confirm = (
        set(sources.demo("copy", part=p, n=50).texts) for p in ("search", "confirmation")
    )
    assert not search & confirm


@pytest.mark.parametrize("context", [2, 3, 5, 64])
def test_windows_carry_the_labels_of_the_whole_text(tokenizer, context):
    texts = [document.text for document in al.demo.documents(n=8, seed=1)]
    labels = sources.regex([texts[0], " ", *texts[1:]], {"e": r"\w*e\w*", "mark": "[.,:]"})
    cut = labels.cut(tokenizer, context=context)
    for column, name in enumerate(cut.names):
        whole = labels.tokens(tokenizer, name)
        for document, tokens in enumerate(whole):
            found = []
            for window in np.flatnonzero(cut.windows.documents == document):
                at = slice(cut.windows.bounds[window], cut.windows.bounds[window + 1])
                assert not cut.truth[at.start, column], "BOS has no label"
                assert not cut.asked[at.start, column]
                found += cut.truth[at.start + 1 : at.stop, column].tolist()
            # An empty text gives no window.
            assert found == (tokens[1:].tolist() if labels.texts[document].strip() else [])


def test_a_tokenizer_without_bos_and_with_spaces_of_their_own():
    letters = Letters.tokenizer()
    text = "ab  cd"
    labels = sources.spans([text], {"c": [[(4, 5)]], "gap": [[(2, 3)]]})
    assert labels.tokens(letters, "c")[0].tolist() == by_characters(letters, text, [(4, 5)])
    cut = labels.cut(letters, context=4)
    joined = [cut.truth[:, i].tolist() for i in range(2)]
    assert joined[0] == labels.tokens(letters, "c")[0].tolist()
    assert joined[1] == labels.tokens(letters, "gap")[0].tolist()
    assert sum(joined[1]) == 1


def test_bio_files(tmp_path, tokenizer):
    file = tmp_path / "a.conll"
    file.write_text(
        "-DOCSTART- O\n\nAnn NNP B-PER\nLee NNP I-PER\nslept V O\n\nOslo N\tS-LOC\n\n"
        "-DOCSTART- O\n\nit P O\r\nrained V VERB\n",
        encoding="utf-8",
    )
    labels = sources.bio(file)
    assert labels.texts == ("Ann Lee slept", "Oslo", "it rained")
    assert labels.names == ("LOC", "PER", "VERB")
    assert labels.documents == (1, 1, 2)
    assert labels.spans["PER"] == (((0, 3), (4, 7)), (), ())
    assert labels.spans["VERB"] == ((), (), ((3, 9),))
    file.write_text("a A\n\nb O\n", encoding="utf-8")
    assert sources.bio(file).documents == (0, 1)
    zipped = tmp_path / "a.conll.gz"
    zipped.write_bytes(gzip.compress(file.read_bytes()))
    assert sources.bio(zipped) == sources.bio(file)
    universal = tmp_path / "a.conllu"
    universal.write_text("1\tAnn\tAnn\tPROPN\t_\t_\t0\troot\t_\t_\n")
    with pytest.raises(TextError, match="is in CoNLL-U, whose labels are in several columns"):
        sources.bio(universal)


def test_patterns_and_functions():
    texts = ["in 1950 or 12", "none"]
    assert sources.regex(texts, {"year": r"\d{4}|x*"}).spans["year"] == (((3, 7),), ())
    labels = sources.function(texts, {"first": lambda text: [(0, 2)]}, documents=[7, 9])
    assert labels.spans["first"] == (((0, 2),), ((0, 2),))
    assert labels.of([9]).texts == ("none",)
    assert labels.of([9]).spans == {"first": (((0, 2),),)}
    assert "1 label" in labels.headline
    assert labels.frame()["spans"].tolist() == [2]


BAD = {
    "one string": (WrongType, lambda: sources.spans("abc", {"a": [[]]})),
    "one string for a pattern": (WrongType, lambda: sources.regex("abc", {"a": "b"})),
    "no text": (TextError, lambda: sources.spans([], {"a": []})),
    "no label": (TextError, lambda: sources.spans(["abc"], {})),
    "spans are no mapping": (WrongType, lambda: sources.spans(["abc"], [[(0, 1)]])),
    "a text that is no text": (TextError, lambda: sources.function([3], {"a": str})),
    "a lone surrogate": (TextError, lambda: sources.spans(["\ud800"], {"a": [[]]})),
    "past the end": (TextError, lambda: sources.spans(["abc"], {"a": [[(1, 4)]]})),
    "empty span": (TextError, lambda: sources.spans(["abc"], {"a": [[(1, 1)]]})),
    "no pair": (TextError, lambda: sources.spans(["abc"], {"a": [[(1, 2, 3)]]})),
    "too few rows": (TextError, lambda: sources.spans(["abc", "d"], {"a": [[]]})),
    "label without a name": (TextError, lambda: sources.spans(["abc"], {"": [[]]})),
    "asked of another label": (
        TextError,
        lambda: sources.spans(["abc"], {"a": [[]]}, asked={"b": [[]]}),
    ),
    "documents of other texts": (
        TextError,
        lambda: sources.spans(["abc"], {"a": [[]]}, documents=[1, 2]),
    ),
    "no pattern": (SettingError, lambda: sources.regex(["abc"], {"a": "("})),
    "no function": (WrongType, lambda: sources.function(["abc"], {"a": "b"})),
    "unknown kind": (SettingError, lambda: sources.demo("storie")),
    "kind without concepts": (SettingError, lambda: sources.demo("facts")),
    "unknown part": (SettingError, lambda: sources.demo("story", part="train")),
    "no document": (SettingError, lambda: sources.demo("story", n=0)),
    "no such label": (SettingError, lambda: sources.demo("story", n=1).require("plural nouns")),
    "no such document": (SettingError, lambda: sources.demo("story", n=1).of([7])),
    "slow tokenizer": (
        TextError,
        lambda: sources.demo("story", n=1).tokens(object(), "plural noun"),
    ),
    "missing file": (TextError, lambda: sources.bio("nowhere.conll")),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_labels_are_one_sentence(what):
    error, work = BAD[what]
    with pytest.raises(error) as caught:
        work()
    message = str(caught.value)
    assert message.endswith(".")
    assert "\n" not in message


def test_an_unknown_label_names_the_nearest():
    with pytest.raises(SettingError, match="nearest: plural noun"):
        sources.demo("story", n=1).require("plural nouns")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("word\n", "a.conll line 1: 'word' has one column"),
        ("a O\n", "no word with a label"),
        ("a x O\n\nb B-PER\n", "a.conll line 3 has 2 columns, and there are 3 on the first line"),
        (b"a O\n\xff\xfe a", "a.conll line 2 is not UTF-8"),
    ],
)
def test_bad_bio_files(tmp_path, text, message):
    file = tmp_path / "a.conll"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(TextError, match=message):
        sources.bio(file)


def test_labels_are_frozen():
    labels = Labels(("abc",), {"a": (((0, 1),),)})
    with pytest.raises(AttributeError):
        labels.texts = ()  # type: ignore[misc]


# ---------------------------------------------------------------- attribution to neurons


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
def test_attribution_is_a_loop_over_neurons(shape, dtype):
    draw = torch.Generator().manual_seed(len(shape))
    post = torch.randn(*shape, 7, generator=draw, dtype=torch.float64).relu().square().to(dtype)
    down = torch.randn(4, 7, generator=draw, dtype=torch.float64).to(dtype)
    for direction in (torch.randn(4, generator=draw), torch.randn(*shape, 4, generator=draw)):
        found = al.neurons.attribute_neurons(post, down, direction)
        along = direction.double().expand(*shape, 4)
        wanted = torch.stack(
            [post[..., i].double() * (down[:, i].double() * along).sum(-1) for i in range(7)], -1
        )
        # Four products and their sum in fp32: each rounds by at most 2^-24 of the largest part.
        size = (post.double()[..., None, :] * (along[..., :, None] * down.double()).abs()).sum(-2)
        assert ((found - wanted).abs() <= 5 * 2**-24 * size).all()
        assert not found[post == 0].any(), "a neuron that is off adds exactly nothing"


@pytest.mark.parametrize(
    ("post", "down", "direction"),
    [((6,), (4, 7), (4,)), ((7,), (4, 7), (5,)), ((7,), (4, 7), (2, 4))],
)
def test_attribution_refuses_other_shapes(post, down, direction):
    with pytest.raises(SettingError):
        al.neurons.attribute_neurons(torch.ones(post), torch.ones(down), torch.ones(direction))
