"""Chat templates of evaluations: chosen, also by name, and missing ones told before any loading."""

from functools import partialmethod

import pytest
from flagged import FOR_HEADS, HEADED, TEMPLATES, write_checkpoint, write_tasks
from lm_eval._cli import HarnessCLI
from lm_eval.evaluator import simple_evaluate
from lm_eval.tasks import TaskManager

import arcee_lab as al
import arcee_lab.evals.__main__ as command
import arcee_lab.evals.loading
from arcee_lab.cli import main
from arcee_lab.errors import SettingError, TaskError
from arcee_lab.evals import ArceeLab, run
from arcee_lab.evals.options.chat_templates import chosen_template
from arcee_lab.evals.options.lm_eval_call import lm_eval_call
from arcee_lab.evals.options.read import read_options


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("chats")
    (place / "tasks").mkdir()
    write_tasks(place / "tasks")
    write_tasks(place / "tasks", {"headed": HEADED}, {"headed": FOR_HEADS})
    return write_checkpoint(place / "checkpoint"), place / "tasks"


@pytest.fixture
def unloaded(monkeypatch):
    """Fails the test where a model is loaded."""

    def refuse(*args, **settings):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(arcee_lab.evals.loading, "load", refuse)


class Tokenizer:
    name_or_path = "some/model"

    def __init__(self, template):
        self.chat_template = template


def test_which_template_is_chosen():
    assert chosen_template(Tokenizer("one"), True) == "one"
    assert chosen_template(Tokenizer(TEMPLATES), True) == TEMPLATES["default"]
    assert chosen_template(Tokenizer(TEMPLATES), "short") == TEMPLATES["short"]
    for template, wanted, said in (
        (None, True, "has no chat template; expected a checkpoint with one"),
        (None, "short", "has no chat template"),
        ("one", "short", "has one chat template, without a name"),
        ({"short": "a"}, True, "has no chat template 'default'; expected one of short"),
        (TEMPLATES, "long", "has no chat template 'long'; expected one of default, short"),
    ):
        with pytest.raises(SettingError, match=said):
            chosen_template(Tokenizer(template), wanted)


@pytest.mark.parametrize("wanted", [True, "tools"])
def test_a_missing_template_is_told_before_the_model_is_loaded(place, unloaded, capsys, wanted):
    checkpoint, folder = place
    source = "demo" if wanted is True else str(checkpoint)
    settings = {"tasks": "choice", "include": [folder], "progress": False}
    with pytest.raises(SettingError, match="has no chat template"):
        run(source, apply_chat_template=wanted, **settings)
    flag = ["--apply-chat-template"] + ([] if wanted is True else [wanted])
    words = ["eval", source, "--tasks", "choice", "--include", str(folder), "--out", "none"]
    assert main([*words, *flag]) == 2
    assert "has no chat template" in capsys.readouterr().err
    flag = ["--apply_chat_template"] + ([] if wanted is True else [wanted])
    words = ["run", "--model_args", f"pretrained={source}", "--tasks", "choice", "--include_path"]
    assert command.main([*words, str(folder), *flag]) == 2
    assert "has no chat template" in capsys.readouterr().err


@pytest.mark.parametrize("wanted", [True, "tools"])
def test_plain_lm_eval_tells_it_too(place, unloaded, monkeypatch, wanted):
    """Its command and its Python call give our model neither the template nor its name."""
    checkpoint, folder = place
    source = "demo" if wanted is True else str(checkpoint)
    settings = {"tasks": ["choice"], "apply_chat_template": wanted, "device": "cpu"}
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    for given in ({"pretrained": source}, f"pretrained={source}"):
        with pytest.raises(SettingError, match="has no chat template"):
            simple_evaluate("arcee-lab", model_args=given, task_manager=manager, **settings)
    own = TaskManager.__init__  # without lm-eval's own tasks, whose index takes seconds
    bare = partialmethod(own, include_defaults=False)
    monkeypatch.setattr(TaskManager, "__init__", bare)
    words = ["lm-eval", "run", "--model", "arcee-lab", "--model_args", f"pretrained={source}"]
    words += ["--tasks", str(folder / "choice.yaml"), "--apply_chat_template"]
    monkeypatch.setattr("sys.argv", words + ([] if wanted is True else [wanted]))
    cli = HarnessCLI()
    with pytest.raises(SettingError, match="has no chat template"):
        cli.execute(cli.parse_args())


def test_a_template_that_is_there_is_no_error_of_plain_lm_eval(place, unloaded):
    checkpoint, folder = place
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    settings = {"tasks": ["choice"], "task_manager": manager, "device": "cpu"}
    for wanted in (True, "short", False):
        with pytest.raises(AssertionError, match="the model was loaded"):
            simple_evaluate(
                "arcee-lab",
                model_args={"pretrained": str(checkpoint)},
                apply_chat_template=wanted,
                **settings,
            )
    assert lm_eval_call() == {}, "no call waits for a model here"


def test_a_model_in_memory_is_told_too(place):
    model, tokenizer = al.load("demo")
    settings = {"tasks": "choice", "include": [place[1]], "progress": False}
    with pytest.raises(SettingError, match="has no chat template"):
        run(model, tokenizer, apply_chat_template=True, **settings)
    with pytest.raises(SettingError, match="has no chat template"):
        run(ArceeLab(model, tokenizer), apply_chat_template=True, **settings)


def test_the_named_template_renders_and_the_next_run_has_its_own(place):
    checkpoint, folder = place
    lm = ArceeLab(str(checkpoint), device="cpu")
    settings = {"tasks": "choice", "include": [folder], "progress": False, "limit": 1}

    def prompt(**more):
        return run(lm, **settings, **more).samples["choice"][0]["arguments"][0][0]

    question = "Choose an ending.\nThe dogs near the tree"
    assert prompt(apply_chat_template="short").endswith("The dogs near the tree | ")
    assert prompt(apply_chat_template=True).startswith("[system] Choose an ending.")
    assert prompt() == question
    told = run(lm, apply_chat_template="short", **settings)
    assert told.to_lm_eval()["chat_template"] == TEMPLATES["short"]
    assert len(told.settings["chat_template_sha"]) == 64


def test_heads_are_asked_without_a_chat(place):
    settings = {"tasks": "headed", "include": [place[1]], "progress": False}
    assert run("demo", **settings).score("headed", "acc").n == 2
    with pytest.raises(TaskError, match=r"'headed' asks the sequence head"):
        run(str(place[0]), apply_chat_template=True, **settings)
    with pytest.raises(TaskError, match="leave system_instruction out"):
        run("demo", system_instruction="Be brief.", **settings)


def test_options_that_exclude_each_other():
    with pytest.raises(SettingError, match="makes turns of a chat"):
        read_options(fewshot_as_multiturn=True)
    assert not read_options().multiturn
    assert read_options(apply_chat_template=True).multiturn
    assert not read_options(apply_chat_template=True, fewshot_as_multiturn=False).multiturn
    with pytest.raises(SettingError, match="both say which documents"):
        read_options(limit=3, samples={"a": [1]})
    assert read_options(samples={"a": [3, 1, 3]}).samples == {"a": [1, 3]}
    assert read_options(samples='{"a": [2]}').samples == {"a": [2]}
    assert read_options(gen_kwargs='stop=["a,b"],max_gen_toks=3').gen_kwargs == {
        "stop": ["a,b"],
        "max_gen_toks": 3,
    }
    for limit in (0, -1, 1.0, 2.5, True, float("nan")):
        with pytest.raises(SettingError, match="expected at least 1"):
            read_options(limit=limit)


def test_the_command_prints_first_prompts_on_request(place, tmp_path, capsys):
    checkpoint, folder = place
    words = ["eval", str(checkpoint), "--tasks", "choice", "--include", str(folder)]
    words += ["--apply-chat-template", "short", "--limit", "1"]
    assert main([*words, "--out", str(tmp_path / "one"), "--write-out"]) == 0
    printed = capsys.readouterr().out
    assert "Task 'choice', document 0, prompt:\nChoose an ending." in printed
    assert "The dogs near the tree | \n" in printed
    assert main([*words, "--out", str(tmp_path / "two")]) == 0
    assert "prompt:" not in capsys.readouterr().out
