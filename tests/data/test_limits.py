"""Limits that a text or a model cannot meet are refused, in every command and call alike."""

import re

import pytest

import arcee_lab as al
from arcee_lab.data.limits import windows_of
from arcee_lab.data.windows import cut
from arcee_lab.dump import DumpConfig

TEXTS = [" The dogs near the barn sleep .", " The lamp finds the red king ."]


@pytest.fixture(scope="module")
def demo():
    return al.load("demo")


def calls(model, tokenizer, tmp_path):
    """Every call that reads texts up to a context and a number of tokens."""

    def dump(texts, **limits):
        return al.dump.write(model, tokenizer, texts, tmp_path / "acts", DumpConfig(**limits))

    def plan(texts, **limits):
        return al.dump.plan(model, tokenizer, texts, DumpConfig(**limits))

    def measure(texts, **limits):
        return al.sparsity.measure(model, tokenizer, texts, analyses=["core"], **limits)

    return dump, plan, measure


def test_more_tokens_than_the_text_holds(demo, tmp_path):
    n = cut(demo[1], TEXTS, context=64).n_tokens
    said = (
        f"the texts hold {n} tokens; max_tokens asks for {n + 1}. Give more text, or leave "
        "max_tokens out to take what there is."
    )
    for call in calls(*demo, tmp_path):
        with pytest.raises(ValueError, match=re.escape(said)):
            call(TEXTS, max_tokens=n + 1)
        call(TEXTS, max_tokens=n)
    with pytest.raises(ValueError, match=f"sample_tokens asks for {n + 1}. Give more text"):
        al.sparsity.cett(*demo, TEXTS, sample_tokens=n + 1)


def test_repeated_tokens_do_not_count(demo):
    model, tokenizer = demo
    texts = [" ".join(TEXTS)]
    plain = cut(tokenizer, texts, context=8)
    windows = windows_of(
        model, tokenizer, texts, context=8, overlap=3, max_tokens=len(texts[0].split())
    )
    assert windows.n_tokens - windows.repeated.sum() == len(texts[0].split())
    new = cut(tokenizer, texts, context=8, overlap=3)
    total = new.n_tokens - int(new.repeated.sum())
    assert total >= plain.n_tokens
    with pytest.raises(ValueError, match=f"hold {total} tokens; max_tokens asks for {total + 1}"):
        windows_of(model, tokenizer, texts, context=8, overlap=3, max_tokens=total + 1)


def test_a_longer_context_than_the_model_reads(demo, tmp_path):
    model, tokenizer = demo
    most = model.config.max_position_embeddings
    said = re.escape(f"is {most + 1} tokens; the model reads {most} at most. Give {most} or less.")
    for call in calls(*demo, tmp_path):
        with pytest.raises(ValueError, match=f"context {said}"):
            call(TEXTS, context=most + 1)
        with pytest.raises(ValueError, match=f"the longest window {said}"):
            call(cut(tokenizer, [TEXTS[0] * 200], context=most + 1))
        call(TEXTS, context=most)
    with pytest.raises(ValueError, match=f"context {said}"):
        al.sparsity.cett(*demo, TEXTS, sample_tokens=10, context=most + 1)
    qa, _ = al.load("demo", head="qa")
    with pytest.raises(ValueError, match=f"max_length {said}"):
        al.answer(qa, tokenizer, " Where ?", TEXTS[0], max_length=most + 1)
    from arcee_lab.evals.model import ArceeLab

    with pytest.raises(ValueError, match=f"max_length.*{most + 1}.*the model reads {most}"):
        ArceeLab(model, tokenizer, max_length=most + 1)


def test_limits_that_come_with_windows(demo, tmp_path):
    windows = cut(demo[1], TEXTS, context=64)
    for call in calls(*demo, tmp_path):
        with pytest.raises(ValueError, match="context=32 came with windows that are cut already"):
            call(windows, context=32)
        with pytest.raises(ValueError, match="context=32 and max_tokens=9 came with windows"):
            call(windows, context=32, max_tokens=9)
    with pytest.raises(ValueError, match="overlap=2 came with windows"):
        al.dump.plan(*demo, windows, DumpConfig(overlap=2))
    # Here the context says how many windows share a row.
    al.dump.plan(*demo, windows, DumpConfig(packed=True, context=32))


@pytest.mark.parametrize("command", ["dump", "sparsity"])
@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (["--max-tokens", "100000"], "max_tokens asks for 100,000"),
        (["--context", "100000"], "context is 100,000 tokens; the model reads"),
    ],
)
def test_commands_refuse_them(tmp_path, capsys, command, limits, said):
    file = tmp_path / "a.txt"
    file.write_text(TEXTS[0])
    words = [command, "demo", "--text", str(file), "--out", str(tmp_path / "out"), *limits]
    from arcee_lab.cli import main

    assert main(words) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()
