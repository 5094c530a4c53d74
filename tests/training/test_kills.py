"""Killed at random moments, a call resumes and ends with the files of an undisturbed one."""

import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from children import ended, forked
from full_disk import files_of

import arcee_lab as al
from arcee_lab.demo import MIX
from arcee_lab.evals.tasks.find import find_tasks
from arcee_lab.training import Recipe, Stage, train
from arcee_lab.training.heads import HeadRecipe, fitting, read_labelled, resuming, train_head

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here"),
]
KILLS = 20
TASKS = ["arcee_demo_agreement_0", "arcee_demo_facts", "arcee_demo_sentiment", "arcee_demo_copy"]


def evaluation(_):
    lm = al.evals.ArceeLab("demo", device="cpu", batch_size=8)
    tasks = find_tasks(TASKS)
    al.evals.run(lm, tasks=tasks, limit=1, progress=False)  # warm, so that a child begins at once

    def run(out):
        lm.intervene(None)  # its counters begin anew, as in a process of its own
        al.evals.run(lm, tasks=tasks, limit=12, progress=False, out=out)

    return run


def demo_training(_):
    from arcee_lab.training.export import export

    shape = {"d_model": 16, "d_mlp": 24, "layers": 2, "heads": 4, "kv_heads": 2, "rows": 2}
    recipe = Recipe(
        stages=(Stage(20, MIX, 1.0),), length=96, warm_up=2, look_every=5, bf16=False, **shape
    )

    def run(out):
        done = train(recipe, out, save_every=2)
        parts = {"model": done.model, "heads": done.heads, "tokenizer": done.tokenizer}
        export(out / "checkpoint", **parts, log=done.log)

    return run


def head_training(monkeypatch):
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    monkeypatch.setattr(fitting, "_LOG_EVERY", 2)
    texts = read_labelled("demo:train", head="token", limit=16)
    model, tokenizer = al.load("demo", head="base")

    def run(out):
        recipe = HeadRecipe(epochs=5, batch_size=4)
        train_head(model, tokenizer, texts, test=texts, recipe=recipe, progress=False, out=out)

    return run


def question_training(monkeypatch):
    monkeypatch.setattr(resuming, "SECONDS", 0.0)
    monkeypatch.setattr(fitting, "_LOG_EVERY", 2)
    texts = read_labelled("demo:train", head="qa", limit=16)
    model, tokenizer = al.load("demo", head="base")

    def run(out):
        recipe = HeadRecipe(epochs=6, batch_size=4, learning_rate=0.1, patience=3)
        data = {"validation": texts, "test": texts}
        train_head(model, tokenizer, texts, recipe=recipe, progress=False, out=out, **data)

    return run


@pytest.mark.parametrize("made", [evaluation, demo_training, head_training, question_training])
def test_twenty_random_kills(tmp_path, monkeypatch, made):
    run = made(monkeypatch)
    assert ended(forked(lambda: run(tmp_path / "whole"))) == 0
    whole = files_of(tmp_path / "whole")
    began = time.monotonic()
    assert ended(forked(lambda: run(tmp_path / "again"))) == 0
    seconds = time.monotonic() - began
    assert files_of(tmp_path / "again") == whole, "two undisturbed runs are equal"
    out = tmp_path / "out"
    moments, killed, begun = random.Random(0), 0, 0
    while killed < KILLS:
        child = forked(lambda: run(out))
        time.sleep(moments.uniform(0, 0.6 * seconds))
        os.kill(child, signal.SIGKILL)
        code = ended(child)
        assert code in (0, -signal.SIGKILL), "it failed by itself"
        killed += code != 0
        begun += code != 0 and out.is_dir() and len(list(out.iterdir())) > 0
        if code == 0:
            check(out, whole)
            shutil.rmtree(out)
    assert ended(forked(lambda: run(out))) == 0
    check(out, whole)
    assert begun > KILLS // 2, "most kills hit a run that had written something"


def check(out: Path, whole: dict) -> None:
    found = files_of(out)
    assert found.keys() == whole.keys()
    assert [name for name in whole if found[name] != whole[name]] == []
