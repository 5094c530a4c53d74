"""Caches of evaluations: nothing in them runs, and nothing stale is answered from them."""

import json
import os
import pickle
import random
import sqlite3

import lm_eval.api.task
import lm_eval.caching.cache as lm_eval_cache
import pytest
from flagged import FILES, FOR_HEADS, HEADED, WAYS, by_lm_evals_command, write_tasks
from lm_eval.api.model import CachingLM
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

from arcee_lab.errors import FileError, OtherRun, SavedDamaged, SettingError
from arcee_lab.evals import ArceeLab, run
from arcee_lab.evals.options import answer_cache, prompt_cache

TASKS = ["choice", "pages"]


@pytest.fixture(scope="module")
def lm():
    return ArceeLab("demo", device="cpu")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "tasks"
    folder.mkdir()
    write_tasks(folder)
    write_tasks(folder, {"headed": HEADED}, {"headed": FOR_HEADS})
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def ask(lm, folder, **settings):
    return run(lm, tasks=settings.pop("tasks", TASKS), include=[folder], progress=False, **settings)


class Runs:
    """A pickle that makes a file when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def stored(path, key, value):
    with sqlite3.connect(path) as opened:
        opened.execute("REPLACE INTO unnamed (key, value) VALUES (?, ?)", (key, value))
    opened.close()


def test_a_second_run_asks_the_model_nothing(lm, folder, tmp_path, monkeypatch):
    file = tmp_path / "deep" / "answers"
    first = ask(lm, folder, use_cache=file)
    assert answer_cache.cache_file(file).is_file()

    def refuse(*args, **settings):
        raise AssertionError("asked again")

    monkeypatch.setattr(lm, "loglikelihood", refuse)
    monkeypatch.setattr(lm, "loglikelihood_rolling", refuse)
    again = ask(lm, folder, use_cache=file)
    assert again.scores == first.scores
    for task in TASKS:
        for one, other in zip(first.samples[task], again.samples[task], strict=True):
            assert one["resps"] == other["resps"]
    assert lm.cache_hook.dbdict is None  # the next run without a cache has none


def test_the_file_serves_lm_evals_command_too(lm, folder, tmp_path):
    file = tmp_path / "answers"
    ask(lm, folder, tasks=["choice"], use_cache=file)
    before = answer_cache.cache_file(file).read_bytes()
    by_lm_evals_command("demo", folder, ["choice"], {"use_cache": str(file)}, tmp_path / "out")
    assert answer_cache.cache_file(file).read_bytes() == before  # nothing new was asked


def test_a_pickle_in_the_file_is_not_read(lm, folder, tmp_path):
    file = tmp_path / "answers"
    ask(lm, folder, tasks=["choice"], use_cache=file)
    path, made = answer_cache.cache_file(file), tmp_path / "made"
    with sqlite3.connect(path) as opened:
        keys = [key for (key,) in opened.execute("SELECT key FROM unnamed")]
    opened.close()
    for key in keys:
        stored(path, key, sqlite3.Binary(pickle.dumps(Runs(str(made)))))
    with pytest.raises(SavedDamaged, match="pickled answers"):
        ask(lm, folder, tasks=["choice"], use_cache=file)
    assert not made.exists()
    pickle.loads(pickle.dumps(Runs(str(made))))  # it would have
    assert made.exists()


@pytest.mark.parametrize(
    "value", ["[1, 2, 3]", "{}", '["a", true]', "nonsense", "null", "[" * 9999]
)
def test_an_answer_that_is_none_is_refused(lm, folder, tmp_path, value):
    file = tmp_path / "answers"
    ask(lm, folder, tasks=["choice"], use_cache=file)
    path = answer_cache.cache_file(file)
    with sqlite3.connect(path) as opened:
        opened.execute("UPDATE unnamed SET value = ? WHERE key NOT LIKE 'arcee%'", (value,))
    opened.close()
    with pytest.raises(ValueError, match="use_cache file"):
        ask(lm, folder, tasks=["choice"], use_cache=file)


def test_what_is_no_cache_is_refused_and_left_alone(lm, folder, tmp_path):
    path = answer_cache.cache_file(tmp_path / "answers")
    path.write_text("a text")
    with pytest.raises(FileError, match="is not SQLite"):
        ask(lm, folder, use_cache=tmp_path / "answers")
    assert path.read_text() == "a text"
    path.unlink()
    with sqlite3.connect(path) as opened:
        opened.execute("CREATE TABLE customers (name TEXT)")
    opened.close()
    before = path.read_bytes()
    with pytest.raises(FileError, match="database of another program"):
        ask(lm, folder, use_cache=tmp_path / "answers")
    assert path.read_bytes() == before
    path.write_bytes(before[:40] + b"\xff" * 200)
    with pytest.raises(FileError, match="is no use_cache file"):
        ask(lm, folder, use_cache=tmp_path / "answers")


def test_answers_of_another_model_are_refused(lm, folder, tmp_path):
    ask(lm, folder, use_cache=tmp_path / "answers")
    other = ArceeLab("demo", device="cpu", dtype="bfloat16")
    with pytest.raises(OtherRun, match="another run"):
        ask(other, folder, use_cache=tmp_path / "answers")
    with pytest.raises(SettingError, match=r"leave it out for tasks of heads \(headed\)"):
        ask(lm, folder, tasks="headed", use_cache=tmp_path / "answers", limit=1)


def test_owners_that_are_no_object_are_refused(tmp_path):
    class Answers(dict):
        def commit(self):
            pass

    for owner in ("[]", "5", "nonsense"):
        answers = Answers({answer_cache._OWNER: owner})
        with pytest.raises(ValueError, match="use_cache file"):
            answer_cache.require_own_cache(answers, {"model": "a"})
    assert CachingLM  # the class whose dictionary this stands for


# ---------------------------------------------------------------------- built prompts


def kept():
    return sorted(prompt_cache.cache_folder().glob("*.json"))


@pytest.fixture
def built(monkeypatch):
    """How often lm-eval built a prompt."""
    from lm_eval.api.task import ConfigurableTask

    count = []
    own = ConfigurableTask.fewshot_context

    def context(self, *args, **settings):
        count.append(1)
        return own(self, *args, **settings)

    monkeypatch.setattr(ConfigurableTask, "fewshot_context", context)
    return count


def test_prompts_are_built_once(lm, folder, built):
    settings = {"tasks": ["choice"], "num_fewshot": 1, "cache_requests": True}
    first = ask(lm, folder, **settings)
    (file,) = kept()
    assert len(built) == len(FILES["choice"])
    again = ask(lm, folder, **settings)
    assert len(built) == len(FILES["choice"])
    assert again.scores == first.scores
    for one, other in zip(first.samples["choice"], again.samples["choice"], strict=True):
        assert one["arguments"] == other["arguments"]
    ask(lm, folder, **settings | {"cache_requests": "refresh"})
    assert len(built) == 2 * len(FILES["choice"])
    assert kept() == [file]
    ask(lm, folder, **settings | {"cache_requests": "delete"})
    assert kept() == []


def test_whatever_makes_a_prompt_makes_another_file(lm, folder, built):
    settings = {"tasks": ["choice"], "num_fewshot": 1, "cache_requests": True}
    ask(lm, folder, **settings)
    random.seed(0)
    changes = [
        {"system_instruction": "Be brief."},
        {"num_fewshot": 2},
        {"seed": 5},
        {"limit": 2},
        {"samples": {"choice": [1]}},
    ]
    for number, change in enumerate(changes, 2):
        ask(lm, folder, **settings | change)
        assert len(kept()) == number, change
    rows = [dict(row, question=f"Now {row['question']}") for row in FILES["choice"]]
    (folder / "choice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = ask(lm, folder, **settings)
    assert changed.samples["choice"][0]["arguments"][0][0].endswith("Now The dogs near the tree")
    reader = (folder / "reader.py").read_text()
    before = len(kept())
    (folder / "reader.py").write_text(reader.replace("found[::-1]", "found[::-1][:2]"))
    ask(lm, folder, **settings)
    assert len(kept()) == before + 1  # the examples are others


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"requests": 5}', "kinds", "documents"])
def test_a_damaged_file_is_built_again(lm, folder, built, damage):
    settings = {"tasks": ["choice"], "cache_requests": True}
    first = ask(lm, folder, **settings)
    (file,) = kept()
    value = json.loads(file.read_text())
    if damage == "kinds":
        value["requests"][0][0] = "shell"
        file.write_text(json.dumps(value))
    elif damage == "documents":
        value["requests"][0][1] = 99
        file.write_text(json.dumps(value))
    else:
        file.write_text(damage)
    assert ask(lm, folder, **settings).scores == first.scores
    assert len(built) == 2 * len(FILES["choice"])


def test_our_ways_in_never_use_lm_evals_pickles(folder, tmp_path, monkeypatch):
    asked = []
    for name in ("load_from_cache", "save_to_cache"):
        own = getattr(lm_eval.api.task, name)

        def seen(*args, own=own, **settings):
            if settings.get("cache", True):  # lm-eval calls it with False where nothing is cached
                asked.append((args, settings))
            return own(*args, **settings)

        monkeypatch.setattr(lm_eval.api.task, name, seen)
    for way in WAYS:
        prompt_cache.delete_prompts()
        for wanted in ("true", "refresh"):
            out = tmp_path / f"{way.__name__}-{wanted}"
            way("demo", folder, ["choice"], {"cache_requests": wanted}, out)
            assert len(kept()) == 1, way
            assert not asked, way


def test_pickles_that_others_can_write_are_not_read(folder, tmp_path, monkeypatch):
    """Under plain lm-eval, whose cache is its own."""
    pickles, made = tmp_path / "pickles", tmp_path / "made"
    pickles.mkdir(mode=0o700)
    monkeypatch.setattr(lm_eval_cache, "PATH", str(pickles))
    manager = TaskManager(include_path=str(folder), include_defaults=False)

    def ask():
        model = {"model": "arcee-lab", "model_args": "pretrained=demo", "device": "cpu"}
        settings = {"tasks": ["choice"], "task_manager": manager, "bootstrap_iters": 0}
        return simple_evaluate(**model, **settings, cache_requests=True)

    ask()
    (file,) = pickles.glob("*.pickle")
    file.chmod(0o600)
    file.write_bytes(pickle.dumps(Runs(str(made))))
    for path, mode in ((pickles, 0o777), (pickles, 0o770), (file, 0o666)):
        usual = path.stat().st_mode & 0o777
        path.chmod(mode)
        with pytest.raises(FileError, match=f"others can write {path};"):
            ask()
        path.chmod(usual)
    monkeypatch.setattr(prompt_cache.os, "getuid", lambda: os.stat(file).st_uid + 1)
    if os.stat(file).st_uid:  # root's files count as one's own
        with pytest.raises(FileError, match="others can write"):
            ask()
    assert not made.exists()
