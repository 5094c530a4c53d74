"""Roles of tokens against segments that the test writes itself, under templates of its own."""

import random
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import arcee_lab as al
from arcee_lab.data import roles
from arcee_lab.data.limits import windows_of

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
)
DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif %}"
    + CHATML
)
# The system message is inside the first of the user, as Llama 2 wrote it; roles have to alternate.
INSIDE = (
    "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else none %}"
    "{% set rest = messages[1:] if system is not none else messages %}"
    "{% for m in rest %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m['role'] == 'user' %}<s>[INST] {% if loop.first and system is not none %}<<SYS>>\n"
    "{{ system }}\n<</SYS>>\n\n{% endif %}{{ m['content'] | trim }} [/INST]"
    "{% else %} {{ m['content'] | trim }} </s>{% endif %}{% endfor %}"
)
# Without a role for system messages, which it refuses.
PLAIN = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}"
    "{% endif %}{{ m['role'].upper() }}: {{ m['content'] }}\n{% endfor %}"
)


def chatml(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    parts = []
    for role, content in messages:
        parts += [("", f"<|im_start|>{role}\n"), (role, content), ("", "<|im_end|>\n")]
    return parts


def default(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return chatml(messages if messages[0][0] == "system" else [("system", "Be kind."), *messages])


def inside(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    parts: list[tuple[str, str]] = []
    system = ""
    for role, content in messages:
        if role == "system":
            system = content
        elif role == "user":
            parts.append(("", "<s>[INST] "))
            if system:
                parts += [("", "<<SYS>>\n"), ("system", system), ("", "\n<</SYS>>\n\n")]
                system = ""
            parts += [("user", content), ("", " [/INST]")]
        else:
            parts += [("", " "), ("assistant", content), ("", " </s>")]
    return parts


def plain(messages: list[tuple[str, str]]) -> list[tuple[str, str]]:
    parts = []
    for role, content in messages:
        parts += [("", f"{role.upper()}: "), (role, content), ("", "\n")]
    return parts


TEMPLATES = {"chatml": (CHATML, chatml), "default": (DEFAULT, default)}
TEMPLATES |= {"inside": (INSIDE, inside), "plain": (PLAIN, plain)}


def tokenizer_of(kind: str, template: str | None, *, bos: bool) -> Any:
    """One token per character, or per word with the marks next to it."""
    words = {"<s>": 0, "[unk]": 1}
    words |= {chr(i): i for i in range(2, 128)}
    inner = Tokenizer(models.WordLevel(words, unk_token="[unk]"))
    if kind == "characters":
        inner.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    else:
        inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        inner.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 0)]
        )
    made = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>" if bos else None)
    made.chat_template = template
    return made


def conversations(name: str, n: int) -> list[list[tuple[str, str]]]:
    draw = random.Random(name)
    words = ["a", "bee", "sees", "two?", "x\ny", "user", "[fig]", "assistant:", "1 2"]
    found = []
    for _ in range(n):
        turns = []
        if name != "plain" and draw.random() < 0.5:
            turns.append(("system", " ".join(draw.choices(words, k=3))))
        for turn in range(draw.randint(1, 5)):
            role = ("user", "assistant")[turn % 2]
            turns.append((role, " ".join(draw.choices(words, k=draw.randint(1, 6)))))
        found.append(turns)
    return found


@pytest.mark.parametrize("kind", ["characters", "words"])
@pytest.mark.parametrize("name", list(TEMPLATES))
@pytest.mark.parametrize("bos", [False, True])
def test_tokens_are_those_of_a_search_for_the_segments(name, kind, bos):
    template, parts_of = TEMPLATES[name]
    tokenizer = tokenizer_of(kind, template, bos=bos)
    marks = roles.marks_of(tokenizer)
    for turns in conversations(name, 40):
        messages = [{"role": role, "content": content} for role, content in turns]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        parts = parts_of(turns)
        assert text == "".join(content for _, content in parts)
        for role in roles.ROLES:
            wanted = np.concatenate([np.full(len(t), r == role) for r, t in parts])
            bare = text.removeprefix("<s>") if bos and text.startswith("<s>") else text
            cut = len(text) - len(bare)
            encoded = tokenizer(bare, return_offsets_mapping=True)
            expected = [bool(wanted[a + cut : b + cut].any()) for a, b in encoded["offset_mapping"]]
            for asked, right in ((role, expected), (f"not {role}", [not x for x in expected])):
                ids, found = roles.chosen_tokens(tokenizer, marks, text, asked, where="it")
                assert ids == encoded["input_ids"]
                assert found.tolist() == right


def test_windows_count_the_tokens_of_a_role_and_no_first_ones():
    tokenizer = tokenizer_of("characters", CHATML, bos=True)
    texts = [
        tokenizer.apply_chat_template([{"role": r, "content": c} for r, c in turns], tokenize=False)
        for turns in conversations("chatml", 6)
    ]
    every = al.data.cut(tokenizer, texts, context=16)
    mine = al.data.cut(tokenizer, texts, context=16, role="assistant")
    assert (mine.ids == every.ids).all()
    assert (mine.bounds == every.bounds).all()
    marks = roles.marks_of(tokenizer)
    whole = [
        roles.chosen_tokens(tokenizer, marks, text, "assistant", where="")[1] for text in texts
    ]
    assert mine.chosen is not None
    # Each later window of a document begins with a BOS of its own.
    kept = [mine.chosen[mine.documents.repeat(np.diff(mine.bounds)) == n] for n in range(6)]
    for number, expected in enumerate(whole):
        here = mine.documents.repeat(np.diff(mine.bounds)) == number
        body = kept[number][mine.ids[here] != 0]
        assert (body == expected[1:]).all()
    assert (mine.counted() == (mine.chosen & every.counted())).all()
    others = al.data.cut(tokenizer, texts, context=16, role="not assistant")
    limited = al.data.cut(tokenizer, texts, context=16, role="not assistant", max_tokens=40)
    assert others.chosen is not None
    assert (limited.chosen == others.chosen[:40]).all()


@pytest.mark.parametrize(
    ("template", "texts", "role", "match"),
    [
        (None, ["<|im_start|>user\nHi<|im_end|>\n"], "user", "needs the tokenizer's chat template"),
        (CHATML, ["Hi."], "user", "document 0 does not begin as the tokenizer's chat template"),
        (CHATML, ["<|im_start|>user\nHi<|im_end|>\n"], "tool", "role is 'tool'; expected 'system'"),
        (CHATML, ["<|im_start|>user\nHi<|im_end|>\n"], "system", "no token of the texts is of"),
        ("{% for m in messages %}{{ m['content'] }} {% endfor %}", ["Hi "], "user", "told apart"),
        ("{{ raise_exception('never') }}", ["Hi "], "user", "told apart"),
    ],
)
def test_what_shows_no_role_is_refused(template, texts, role, match):
    tokenizer = tokenizer_of("characters", template, bos=False)
    with pytest.raises(al.errors.ArceeLabError, match=match) as refused:
        al.data.cut(tokenizer, texts, context=16, role=role)
    assert str(refused.value).endswith(".")


def test_a_role_does_not_fit_windows_that_are_cut():
    model, tokenizer = al.load("demo")
    windows = al.data.cut(tokenizer, ["The dogs sleep ."], context=8)
    with pytest.raises(al.errors.SettingError, match="role=user came with windows"):
        windows_of(model, tokenizer, windows, role="user")
