"""The kept index of lm-eval's own tasks against the one that lm-eval builds."""

import json
import random

import pytest
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import TaskIndex

from arcee_lab.evals.tasks import default_index as kept
from arcee_lab.evals.tasks.find import check_names, task_folder


@pytest.fixture
def small(tmp_path, monkeypatch):
    """lm-eval with four task files and an empty cache; counts how often the index is built."""
    root = tmp_path / "tasks"
    (root / "family").mkdir(parents=True)
    (root / "one.yaml").write_text("task: one\ntag: short\n")
    (root / "two.yaml").write_text("task: two\ntag: [short, odd]\ninclude: one.yaml\n")
    (root / "family" / "all.yaml").write_text("group: all\ntask: [one, two]\n")
    (root / "family" / "class.yaml").write_text("task: coded\nclass: other.Task\n")
    monkeypatch.setattr(kept, "_ROOT", root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builds = []
    build = TaskIndex.build

    def counting(paths, **settings):
        builds.append(paths)
        return build(paths, **settings)

    monkeypatch.setattr(TaskIndex, "build", staticmethod(counting))
    return root, tmp_path / "cache" / "arcee_lab" / "lm_eval_tasks.json", builds


def facts(index):
    return {
        name: (entry.name, entry.kind, entry.yaml_path, entry.tags, entry.cfg)
        for name, entry in index.items()
    }


def test_a_kept_index_equals_a_built_one(small):
    _, file, builds = small
    built = facts(kept.default_index())
    assert file.is_file()
    assert len(builds) == 1
    assert facts(kept.default_index()) == built
    assert len(builds) == 1
    assert set(built) == {"one", "two", "all", "coded", "short", "odd"}


def test_a_change_of_any_task_file_is_noticed(small):
    root, _, builds = small
    kept.default_index()
    (root / "one.yaml").write_text("task: three\ntag: short\n")
    assert "three" in kept.default_index()
    (root / "new.yaml").write_text("task: four\n")
    assert "four" in kept.default_index()
    (root / "new.yaml").unlink()
    assert "four" not in kept.default_index()
    assert len(builds) == 4


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: "[" * 100_000,
        lambda value: "[]",
        lambda value: json.dumps(value)[:-5],
        lambda value: json.dumps(value | {"entries": [["one", "TASK", "../../evil.yaml", []]]}),
        lambda value: json.dumps(value | {"entries": [["one", "TASK", "/etc/evil.yaml", []]]}),
        lambda value: json.dumps(value | {"entries": [["one", "TASK", None, []]]}),
        lambda value: json.dumps(value | {"entries": [["one", "WHAT", "one.yaml", []]]}),
        lambda value: json.dumps(value | {"entries": [[1, "TASK", "one.yaml", []]]}),
        lambda value: json.dumps(value | {"entries": [["one", "TASK", 7, []]]}),
        lambda value: json.dumps(value | {"entries": 5}),
    ],
)
def test_a_damaged_file_is_built_anew(small, damage):
    _, file, builds = small
    good = facts(kept.default_index())
    file.write_text(damage(json.loads(file.read_text())))
    assert facts(kept.default_index()) == good
    assert len(builds) == 2


def test_a_cache_that_cannot_be_written_costs_only_time(small, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert facts(kept.default_index()) == facts(kept.default_index())


@pytest.mark.slow  # reads 14,000 task files twice
def test_the_real_index_and_what_a_manager_finds(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = TaskManager(include_path=str(task_folder()))
    kept.default_index()
    manager = TaskManager(include_path=str(task_folder()), include_defaults=False)
    kept.add_default_tasks(manager)
    for lists in ("all_tasks", "all_subtasks", "all_groups", "all_tags"):
        assert getattr(manager, lists) == getattr(expected, lists)
    names = random.Random(0).sample(manager.all_tasks, 200)
    own, theirs = manager.task_index, expected.task_index
    assert facts({n: own[n] for n in names}) == facts({n: theirs[n] for n in names})
    assert not check_names(["hellaswag"])
