"""Seeds: the same draws under one seed, others under another, the caller's generators kept."""

import json
import random
from dataclasses import astuple

import numpy as np
import pytest
import torch
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from transformers import ArceeForCausalLM as Reference

import arcee_lab as al
from arcee_lab.cli import main
from arcee_lab.evals import ArceeLab, run
from arcee_lab.evals.sweep_levels import Level
from arcee_lab.evals.tasks.find import find_tasks
from arcee_lab.model.loading import DEMO
from arcee_lab.runs import seeds as generators
from arcee_lab.runs.seeds import DEFAULT, Seeds

UTILS = """
import random

import datasets
import numpy as np
import torch

WORDS = ["sleep", "bark", "run", "find", "see", "open", "close", "like"]
ROWS = {"q": [f"The dogs near gate {n}" for n in range(8)], "right": ["sleep"] * 8}


def in_memory(**settings):
    return {"test": datasets.Dataset.from_dict(ROWS)}


def asked(row, order):
    choices = [WORDS[int(place)] for place in order]
    return row | {"choices": choices, "gold": choices.index("sleep")}


def by_random(split):
    def draw(row):
        order = list(range(len(WORDS)))
        random.shuffle(order)
        return asked(row, order)

    return split.map(draw)


def by_numpy(split):
    return split.map(lambda row: asked(row, np.random.permutation(len(WORDS))))


def by_torch(split):
    return split.map(lambda row: asked(row, torch.randperm(len(WORDS))))
"""
CHOICE = """
task: {name}
{data}
output_type: multiple_choice
test_split: test
process_docs: !function utils.by_{by}
doc_to_text: q
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}]
"""
SAMPLED = """
task: sampled
custom_dataset: !function utils.in_memory
output_type: generate_until
test_split: test
doc_to_text: q
doc_to_target: right
repeats: 3
generation_kwargs: {do_sample: true, temperature: 1.0, max_gen_toks: 4, until: ["."]}
filter_list: [{name: first, filter: [{function: take_first}]}]
metric_list: [{metric: exact_match}]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tasks that draw: choices by each generator, in memory and on disk, and sampled texts."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "utils.py").write_text(UTILS)
    memory = "custom_dataset: !function utils.in_memory"
    for by in ("random", "numpy", "torch"):
        (folder / f"{by}.yaml").write_text(CHOICE.format(name=f"by_{by}", by=by, data=memory))
    rows = [{"q": f"The dogs near gate {n}", "right": "sleep"} for n in range(8)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    disk = f"dataset_path: json\ndataset_kwargs: {{data_files: {{test: {folder}/rows.jsonl}}}}"
    (folder / "disk.yaml").write_text(CHOICE.format(name="on_disk", by="random", data=disk))
    (folder / "sampled.yaml").write_text(SAMPLED)
    (folder / "both.yaml").write_text("group: both\ntask: [by_random, by_torch]\n")
    return folder


@pytest.fixture(scope="module")
def lm():
    return ArceeLab("demo", device="cpu")


@pytest.fixture
def brief(monkeypatch):
    """Has lm-eval leave out what it says of the machine, which takes a minute to find."""
    monkeypatch.setattr("lm_eval.evaluator.add_env_info", lambda storage: None)
    monkeypatch.setattr("lm_eval.evaluator.get_git_commit_hash", lambda: None)


@pytest.fixture
def ask(lm, folder):
    def ask(*names, **settings):
        return run(lm, tasks=list(names), include=[folder], progress=False, **settings)

    return ask


def orders(result, task):
    return [sample["doc"]["choices"] for sample in result.samples[task]]


def texts(result, task="sampled"):
    return [sample["resps"] for sample in result.samples[task]]


def states():
    kind, keys, *place = np.random.get_state()
    return random.getstate(), kind, keys.tolist(), place, torch.get_rng_state().tolist()


# ------------------------------------------------------------------ the values


def test_one_number_or_four():
    assert astuple(DEFAULT) == (0, 1234, 1234, 1234)
    assert str(DEFAULT) == "0,1234,1234,1234"
    assert astuple(Seeds.read(7)) == astuple(Seeds.read("7")) == (7, 7, 7, 7)
    assert astuple(Seeds.read((1, None, 3, 4))) == (1, None, 3, 4)
    assert Seeds.read("1, None,3,none") == Seeds.read([1, None, np.int64(3), None])
    assert astuple(Seeds.read(None)) == astuple(Seeds.read("None")) == (None,) * 4
    assert Seeds.read(DEFAULT) is DEFAULT


@pytest.mark.parametrize(
    "wrong", [-1, 2**32, True, "", "1,2", "1,2,3,", "1.5", "many", (1, 2, 3), "9" * 5000, "-1", "²"]
)
def test_what_is_no_seed_is_refused(wrong):
    with pytest.raises(ValueError, match=r"seed=.*; expected one whole number from 0 to 429496729"):
        Seeds.read(wrong)


def draw():
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_are_seeded_inside_and_put_back_also_after_an_error():
    random.seed(5)
    np.random.seed(6)
    torch.manual_seed(7)
    np.random.standard_normal()  # leaves half a pair in numpy's state
    before = states()
    with Seeds.read("1,2,3,4").acting():
        inside = draw()
    assert states() == before
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    assert draw() == inside
    before = states()
    with pytest.raises(ZeroDivisionError), Seeds.read(9).acting():
        assert 1 / (draw()[0] * 0)
    assert states() == before


def test_none_leaves_a_generator_to_its_owner():
    random.seed(5)
    expected = [random.random() for _ in range(2)]
    random.seed(5)
    with Seeds.read("None,2,3,4").acting():
        assert draw()[0] == expected[0]
    assert random.random() == expected[1]  # it went on from there


class Device:
    """An accelerator's module, as far as states of generators go."""

    def __init__(self):
        self.states = [torch.tensor([1]), torch.tensor([2])]

    def get_rng_state_all(self):
        return [state.clone() for state in self.states]

    def set_rng_state_all(self, states):
        self.states = states


def test_generators_of_accelerators_are_put_back(monkeypatch):
    device = Device()
    monkeypatch.setattr(generators, "_accelerator", lambda: device)
    with DEFAULT.acting():
        device.states = [torch.tensor([8]), torch.tensor([9])]
    assert [int(state) for state in device.states] == [1, 2]
    with Seeds.read("1,2,None,4").acting():
        device.states = [torch.tensor([8]), torch.tensor([9])]
    assert [int(state) for state in device.states] == [8, 9]


@pytest.mark.gpu
def test_cuda_is_seeded_and_put_back():
    torch.cuda.manual_seed_all(3)
    before = torch.cuda.get_rng_state_all()
    drawn = []
    for _ in range(2):
        with DEFAULT.acting():
            drawn.append(torch.rand(3, device="cuda").tolist())
    assert drawn[0] == drawn[1]
    after = torch.cuda.get_rng_state_all()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_what_is_settled_stays():
    given = Seeds.read("1,None,None,None")
    one, other = given.settled(), given.settled()
    assert one.random == other.random == 1
    assert None not in astuple(one)
    assert astuple(one)[1:] != astuple(other)[1:]


# ------------------------------------------------------------------ evaluations


def test_the_same_questions_under_one_seed(ask):
    names = ("by_random", "by_numpy", "by_torch", "on_disk")
    one, again, other = ask(*names), ask(*names, seed="0,1234,1234,1234"), ask(*names, seed=7)
    changed = ask(*names, interventions=al.Scale("layers.*.mlp.hook_post", 1.0))
    ask(*names, interventions=())
    assert one.scores == again.scores == changed.scores
    for name in names:
        assert orders(one, name) == orders(again, name) == orders(changed, name)
        assert orders(one, name) != orders(other, name)
        assert len({tuple(order) for order in orders(one, name)}) > 1  # a shuffle a document
    assert one.settings["seeds"] == dict(random=0, numpy=1234, torch=1234, fewshot=1234)
    assert other.settings["seeds"] == dict.fromkeys(("random", "numpy", "torch", "fewshot"), 7)


def test_each_generator_has_its_own_seed(ask):
    names = ("by_random", "by_numpy", "by_torch")
    one, other = ask(*names), ask(*names, seed=(0, 5, 1234, 1234))
    assert orders(one, "by_random") == orders(other, "by_random")
    assert orders(one, "by_torch") == orders(other, "by_torch")
    assert orders(one, "by_numpy") != orders(other, "by_numpy")


def test_questions_are_those_of_the_seed(ask):
    random.seed(0)
    expected = []
    words = ["sleep", "bark", "run", "find", "see", "open", "close", "like"]
    for _ in range(8):
        order = list(range(8))
        random.shuffle(order)
        expected.append([words[place] for place in order])
    result = ask("by_random", "on_disk")
    assert orders(result, "by_random") == orders(result, "on_disk") == expected


@pytest.mark.parametrize("name", ["by_random", "on_disk"])
def test_answers_are_scored_by_the_order_that_was_asked(ask, name):
    for sample in ask(name).samples[name]:
        asked = [continuation.strip() for _, continuation in sample["arguments"]]
        assert asked == sample["doc"]["choices"]
        assert asked[sample["target"]] == "sleep"
        scores = [score for score, _ in sample["filtered_resps"]]
        assert sample["acc"] == (asked[int(np.argmax(scores))] == "sleep")


def test_a_task_does_not_depend_on_those_before_it(ask):
    together = ask("by_random", "sampled", "by_torch", "both", seed=3)
    for name in ("sampled", "by_torch"):
        (score,) = ask(name, seed=3).scores
        assert score in together.scores
    assert orders(together, "by_torch") == orders(ask("by_torch", seed=3), "by_torch")
    assert texts(together) == texts(ask("sampled", seed=3))
    assert orders(ask("both", seed=3), "by_torch") == orders(together, "by_torch")


def test_sampled_texts_are_those_of_lm_eval_and_of_the_seed(ask, demo, folder, brief):
    one, again, other = ask("sampled"), ask("sampled"), ask("sampled", seed=(0, 1234, 5, 1234))
    assert texts(one) == texts(again)
    assert texts(one) != texts(other)
    assert len({text for (several,) in texts(one) for text in several}) > 8  # repeats are drawn
    reference = HFLM(
        pretrained=Reference.from_pretrained(DEMO, dtype=torch.float32), tokenizer=demo[1]
    )
    (task,) = find_tasks("sampled", include=[folder])["tasks"].values()
    for seed, expected in ((1234, one), (5, other)):
        theirs = simple_evaluate(reference, tasks=[task], torch_random_seed=seed, bootstrap_iters=0)
        assert [sample["resps"] for sample in theirs["samples"]["sampled"]] == texts(expected)
        task._instances = None


def test_levels_of_a_sweep_agree(lm, folder):
    same = Level("mine", "all of it", (al.Scale("layers.*.mlp.hook_post", 1.0),))
    names = ["by_random", "on_disk", "sampled"]
    for seed in (DEFAULT, None):
        swept = al.evals.sweep(
            lm, tasks=names, include=[folder], levels=[same, same], seed=seed, progress=False
        )
        clean, *others = [step.evaluation for step in swept.steps]
        for other in others:
            assert other.scores == clean.scores
            assert other.settings["seeds"] == clean.settings["seeds"]
            assert texts(other) == texts(clean)
            for name in names[:2]:
                assert orders(other, name) == orders(clean, name)
        assert None not in clean.settings["seeds"].values()


def test_unseeded_runs_differ_and_none_is_the_callers(ask):
    random.seed(11)
    one = ask("by_random", seed=(None, 1, 1, 1))
    two = ask("by_random", seed=(None, 1, 1, 1))
    random.seed(11)
    again = ask("by_random", seed=(None, 1, 1, 1))
    assert orders(one, "by_random") == orders(again, "by_random") != orders(two, "by_random")
    assert one.settings["seeds"]["random"] is None


def test_the_command_takes_one_seed_or_four(folder, tmp_path, capsys):
    words = ["eval", "demo", "--tasks", "by_random", "--include", str(folder), "--seed", "1,2,3,4"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    told = json.loads((tmp_path / "out" / "results.json").read_text())
    assert told["settings"]["seeds"] == dict(random=1, numpy=2, torch=3, fewshot=4)
    with pytest.raises(SystemExit, match="2"):
        main([*words[:-1], "1,2", "--out", str(tmp_path / "other")])
    assert "expected one whole number from 0 to" in capsys.readouterr().err
    assert main([*words[:-1], "5", "--out", str(tmp_path / "out")]) == 2
    assert "holds another run" in capsys.readouterr().err


def test_every_way_keeps_the_generators_and_draws_alike(run_forked, folder, tmp_path):
    """In a process without beartype, which draws from `random` to check sequences."""
    run_forked(
        f"""
        import contextlib, glob, io, json, os, random
        import numpy as np
        import torch
        import arcee_lab as al
        from arcee_lab.cli import main
        from arcee_lab.evals.__main__ import main as own_flags
        from arcee_lab.evals.tasks.find import find_tasks
        from lm_eval import evaluator

        os.chdir({str(tmp_path)!r})
        folder = {str(folder)!r}
        lm = al.evals.ArceeLab("demo", device="cpu")

        def states():
            kind, keys, *place = np.random.get_state()
            return random.getstate(), keys.tolist(), place, torch.get_rng_state().tolist()

        def same(what):
            assert states() == before, what

        random.seed(5), np.random.seed(6), torch.manual_seed(7), np.random.standard_normal()
        before = states()
        told = dict(include=[folder], limit=2, progress=False)
        al.evals.run(lm, tasks="by_torch", seed=3, **told)
        same("run")
        mine = al.evals.run(lm, tasks=["by_random", "sampled"], seed=3, **told)
        find_tasks(["by_numpy", "by_torch"], include=[folder], seed=4)
        same("find_tasks")
        names = ["by_random", "sampled"]
        al.evals.sweep(lm, tasks=names, levels=[], **told)
        same("sweep")
        never = al.Scale("layers.0.mlp.hook_post", 0.5, positions=[100])
        for settings in (dict(tasks="absent"), dict(tasks=names, interventions=never)):
            try:
                al.evals.run(lm, **settings, **told)
            except ValueError:
                same(f"run of {{settings}}")
            else:
                raise AssertionError(f"{{settings}} did not fail")
        evaluator.add_env_info = lambda storage: None  # it takes a minute
        words = ["--tasks", "by_random", "--limit", "2", "--seed", "3"]
        more = ["--include_path", folder, "--model_args", "pretrained=demo", "--log_samples"]
        with contextlib.redirect_stdout(io.StringIO()):
            code = main(["eval", "demo", *words, "--include", folder, "--out", "a"])
            same("arcee-lab eval")
            for name in names:  # lm-eval seeds once for all tasks, so each alone
                words[1] = name
                code += own_flags(["run", *words, *more, "--output_path", name])
                same("python -m arcee_lab.evals")
        assert code == 0
        for name in names:
            (file,) = glob.glob(f"{{name}}/**/samples_*.jsonl", recursive=True)
            rows = [json.loads(line) for line in open(file)]
            kept = "resps" if name == "sampled" else "doc"
            assert [row[kept] for row in rows] == [row[kept] for row in mine.samples[name]], name
        """
    )


def test_tasks_that_are_loaded_keep_their_seeds(lm, folder):
    loaded = find_tasks(["by_random", "sampled"], include=[folder], seed=7)
    found = run(lm, tasks=loaded, seed=7, progress=False)
    assert orders(found, "by_random") == orders(
        run(lm, tasks="by_random", include=[folder], seed=7, progress=False), "by_random"
    )
    with pytest.raises(ValueError, match=r"Task 'by_random' drew its documents .* 7,7,7,7; got"):
        run(lm, tasks=loaded, seed=8, progress=False)
    with pytest.raises(ValueError, match="Task 'by_random' drew its documents"):
        al.evals.sweep(lm, tasks=loaded, levels=[], progress=False)
    # What drew nothing when it was loaded can be sampled under any seed.
    drawn = {"tasks": {"sampled": loaded["tasks"]["sampled"]}}
    one, other = (run(lm, tasks=drawn, seed=seed, progress=False) for seed in (8, 9))
    assert texts(one) != texts(other)
    free = find_tasks("by_random", include=[folder], seed=None)
    steps = al.evals.sweep(lm, tasks=free, levels=[], seed=None, progress=False).steps
    assert len(steps) == 1


def test_tasks_that_lm_eval_loaded_are_scored_as_asked(lm, folder):
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(["by_random"])
    one, two = (run(lm, tasks=loaded, seed=seed, progress=False) for seed in (1, 2))
    assert orders(one, "by_random") == orders(two, "by_random")  # those of its loading
    for sample in one.samples["by_random"]:
        asked = [continuation.strip() for _, continuation in sample["arguments"]]
        assert asked[sample["target"]] == "sleep"
