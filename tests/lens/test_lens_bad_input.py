"""What the calls of al.lens refuse, each in one sentence of our tree."""

import copy

import pytest
import torch
from lens_cases import SHAPES, batch_for, model_of

import arcee_lab as al

PROMPT = "The dogs near the door"
IDS = batch_for("none")


def tokenizer_with_unknown(tokenizer):
    """The demo's tokenizer, in which one word is what it says of unknown ones."""
    other = copy.deepcopy(tokenizer)
    other.unk_token = "Ġdogs"
    return other


LOGIT_LENS = {
    "several tokens": (PROMPT, {"answers": " sleepzzz"}, "expected an answer of one token"),
    "no token": (PROMPT, {"answers": ""}, "is 0 tokens"),
    "id too large": (PROMPT, {"answers": 1384}, "expected 0 to 1383"),
    "id below 0": (PROMPT, {"answers": -1}, "expected 0 to 1383"),
    "no answers": (PROMPT, {"answers": []}, "got \\[\\]"),
    "tensor of another shape": (PROMPT, {"answers": torch.zeros(3, 3).long()}, "expected|must be"),
    "tensor out of range": (PROMPT, {"answers": torch.full((1, 1), 5000)}, "run from 5000"),
    "tensor of floats": (PROMPT, {"answers": torch.zeros(1, 1)}, "must be whole numbers"),
    "empty prompt": ("", {}, "Prompt 0 is empty"),
    "blank prompt": (["The dogs", "  "], {}, "Prompt 1 is empty"),
    "no prompts": ([], {}, "prompts are a text"),
    "batch without ids": ({"attention_mask": torch.ones(1, 2)}, {}, "must hold input_ids"),
    "batch of lists": ({"input_ids": [[1, 2]]}, {}, "must hold tensors"),
    "batch of one axis": ({"input_ids": torch.ones(3).long()}, {}, r"\[batch, pos\]"),
    "batch without a token": ({"input_ids": torch.ones(1, 0).long()}, {}, "is empty"),
    "a masked row": (
        {"input_ids": torch.ones(1, 2).long(), "attention_mask": torch.zeros(1, 2)},
        {},
        "is empty",
    ),
    "foreign ids": ({"input_ids": torch.full((1, 2), 9999)}, {}, "model's own tokenizer"),
    "too long": ({"input_ids": torch.ones(1, 200).long()}, {}, "model reads 128"),
    "position": (PROMPT, {"positions": 9}, r"positions \[9\] out of range"),
    "top": (PROMPT, {"top": -1}, "top is how many"),
    "site": (PROMPT, {"sites": "layers.*.mlp.hook_post"}, "is no residual stream"),
    "unknown site": (PROMPT, {"sites": "layers.9.hook_resid_post"}, "matches no hook point"),
    "part": (PROMPT, {"sites": "layers.0.hook_attn_out"}, "is no residual stream"),
}
ATTRIBUTE = {
    "several tokens": (PROMPT, (" sleepzzz",), {}, "expected an answer of one token"),
    "versus of several": (PROMPT, (" sleep",), {"versus": " sleepzzz"}, "versus=' sleepzzz' is"),
    "by": (PROMPT, (3,), {"by": "layer"}, "expected 'head' or 'neuron'"),
    "answers for others": (PROMPT, ([3, 4],), {}, "2 prompts, and there are 1"),
    "empty": ("", (3,), {}, "is empty"),
    "position": (PROMPT, (3,), {"positions": 40}, "out of range"),
}
DECOMPOSE = {
    "site": (PROMPT, {"site": "layers.0.hook_mlp_out"}, "is no residual stream"),
    "several sites": (PROMPT, {"site": "layers.*.hook_resid_post"}, "names 4 sites"),
    "by": (PROMPT, {"by": "neuron"}, "expected 'part' or 'head'"),
    "empty": ("", {}, "is empty"),
}
TUNE = {
    "one document": (["The dogs sleep."], {}, "needs two documents"),
    "no texts": ([], {}, "hold no token"),
    "steps": (["The dogs.", "The kings."], {"steps": 0}, "at least 1 step"),
    "rate": (["The dogs.", "The kings."], {"learning_rate": 0.0}, "a rate above 0"),
    "held out": (["The dogs.", "The kings."], {"held_out": 1.0}, "between 0 and 1"),
    "last site": (
        ["The dogs.", "The kings."],
        {"sites": "layers.3.hook_resid_post"},
        "name an earlier site",
    ),
}


def refused(call, match):
    with pytest.raises(al.errors.ArceeLabError, match=match) as error:
        call()
    said = str(error.value)
    assert said.endswith(".")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("case", LOGIT_LENS)
def test_logit_lens_refuses(demo, case):
    prompts, settings, match = LOGIT_LENS[case]
    refused(lambda: al.lens.logit_lens(*demo, prompts, **settings), match)


@pytest.mark.parametrize("case", ATTRIBUTE)
def test_attribute_refuses(demo, case):
    prompts, target, settings, match = ATTRIBUTE[case]
    refused(lambda: al.lens.attribute(*demo, prompts, *target, **settings), match)


@pytest.mark.parametrize("case", DECOMPOSE)
def test_decompose_refuses(demo, case):
    prompts, settings, match = DECOMPOSE[case]
    refused(lambda: al.lens.decompose(*demo, prompts, **settings), match)


@pytest.mark.parametrize("case", TUNE)
def test_tune_refuses(demo, case):
    texts, settings, match = TUNE[case]
    refused(lambda: al.lens.tune(*demo, texts, **settings), match)


def test_models_that_do_not_fit(tiny):
    base = model_of(tiny, SHAPES[0], "base")
    refused(lambda: al.lens.logit_lens(base, None, IDS), "has no head")
    refused(lambda: al.lens.attribute(base, None, IDS, 3), "has no head")
    assert al.lens.decompose(base, None, IDS).labels[0] == "embed"  # needs none
    labels = model_of(tiny, SHAPES[0], "sequence")
    refused(lambda: al.lens.tune(labels, None, ["a", "b"]), "needs an LM head")
    refused(lambda: al.lens.logit_lens(labels, None, IDS, answers="strange"), "no label of this")
    refused(lambda: al.lens.attribute(labels, None, IDS, 0, positions=0), "last token only")
    span = model_of(tiny, SHAPES[0], "qa")
    for positions in (-1, None, (1,), (1, 2, 3)):
        refused(
            lambda p=positions: al.lens.attribute(span, None, IDS, "span", positions=p),
            r"two tokens; give positions=\(first, last\)",
        )
    refused(lambda: al.lens.logit_lens(span, None, IDS, answers="span"), "start and end")
    refused(lambda: al.lens.logit_lens(torch.nn.Linear(2, 2), None, IDS), "a model of arcee_lab")


def test_without_a_tokenizer(demo):
    model, _ = demo
    refused(lambda: al.lens.logit_lens(model, None, PROMPT), "there is no tokenizer")
    refused(lambda: al.lens.attribute(model, None, IDS, " sleep"), "there is no tokenizer")


def test_a_word_that_the_tokenizer_does_not_know(demo):
    model, tokenizer = demo[0], tokenizer_with_unknown(demo[1])
    known = tokenizer.unk_token_id
    word = tokenizer.decode([known])
    refused(lambda: al.lens.logit_lens(model, tokenizer, PROMPT, answers=word), "does not know")
    refused(lambda: al.lens.attribute(model, tokenizer, PROMPT, word), "does not know")


def test_first_tokens_are_the_explicit_choice(demo):
    model, tokenizer = demo
    (first,) = al.lens.first_tokens(tokenizer, " sleepzzz")
    found = al.lens.logit_lens(model, tokenizer, PROMPT, answers=first, positions=-1)
    assert found.answers.unique().tolist() == [first]
    refused(lambda: al.lens.first_tokens(tokenizer, ["a", ""]), "has no token")


def test_views_without_strongest_tokens(demo):
    found = al.lens.logit_lens(*demo, PROMPT, top=0)
    refused(lambda: found.figure(), "top=1 or more")
    refused(found.strongest, "top=1 or more")
    refused(lambda: found.probabilities, "top=1 or more")
    refused(lambda: al.lens.logit_lens(*demo, PROMPT).figure(sequence=1), "expected 0 to 0")
    parts = al.lens.attribute(*demo, PROMPT, 3)
    refused(lambda: parts.top_neurons(), "by='neuron'")
    refused(lambda: parts.figure(what="all"), "expected 'heads' or 'parts'")


def test_arguments_of_another_type(run_clean):
    """In a process of its own: here types are checked before our code sees them."""
    run_clean(
        """
        import arcee_lab as al
        model, tokenizer = al.load("demo")
        text = "The dogs near the door"
        calls = {
            "is 1.5 (float)": lambda: al.lens.logit_lens(model, tokenizer, text, answers=1.5),
            "prompts are a text": lambda: al.lens.logit_lens(model, tokenizer, [3]),
            "positions of logit_lens": lambda: al.lens.logit_lens(
                model, tokenizer, text, positions="x"
            ),
            "attribute is None": lambda: al.lens.attribute(model, tokenizer, text, None),
            "kind='x'": lambda: al.attention.composition(model, "x"),
            "expected 'zero' or 'mean'": lambda: al.attention.ablate_heads(
                model, tokenizer(text, return_tensors="pt"), len, value="x"
            ),
        }
        for words, call in calls.items():
            try:
                call()
            except al.errors.ArceeLabError as error:
                assert words in str(error) and str(error).endswith("."), error
            else:
                raise AssertionError(words)
        """
    )
