"""The command line's frame: which commands there are, and how errors become exit codes."""

import argparse
import shlex
import subprocess
import sys
from importlib import import_module
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import pytest

from arcee_lab.errors import Interrupted
from arcee_lab.runs import bounds


@pytest.fixture
def cli(monkeypatch):
    """The command line with one command, `probe`, whose `run` a test sets."""
    from arcee_lab import cli

    module = SimpleNamespace(
        HELP="Probe.", EXAMPLE="arcee-lab probe", add_arguments=lambda parser: None, run=None
    )
    monkeypatch.setattr(cli, "COMMANDS", ("probe",))
    monkeypatch.setattr(cli, "import_module", lambda name: module)
    cli.probe = module
    return cli


def raises(error):
    def run(args):
        raise error

    return run


def test_every_command_has_help_and_an_example(capsys):
    from arcee_lab import cli

    assert "lab" in cli.COMMANDS
    for name in cli.COMMANDS:
        example = import_module(f"arcee_lab.cli.{name.replace('-', '_')}").EXAMPLE
        assert example.startswith(f"arcee-lab {name}")
        cli.build_parser([name]).parse_args(shlex.split(example)[1:])
        with pytest.raises(SystemExit) as stop:
            cli.main([name, "--help"])
        assert stop.value.code == 0
        assert example in capsys.readouterr().out


def test_runs_and_returns(cli):
    cli.probe.run = lambda args: 7
    assert cli.main(["probe"]) == 7


@pytest.mark.parametrize(
    "error", [ValueError("no such\n  layer: 9"), FileNotFoundError(2, "No such file", "x.txt")]
)
def test_bad_input_is_one_line_and_2(cli, capsys, error):
    cli.probe.run = raises(error)
    assert cli.main(["probe"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("arcee-lab: error: ")
    assert captured.err.count("\n") == 1


def test_a_fault_of_ours_keeps_its_traceback(cli):
    cli.probe.run = raises(KeyError("x"))
    with pytest.raises(KeyError):
        cli.main(["probe"])


def test_interrupt_is_130_and_one_line(cli, capsys):
    cli.probe.run = raises(KeyboardInterrupt())
    assert cli.main(["probe"]) == 130
    error = capsys.readouterr().err
    assert error.startswith("arcee-lab: interrupted; finished files are complete")
    assert error.count("\n") == 1
    cli.probe.run = raises(Interrupted("two of three are\nkept in out"))
    assert cli.main(["probe"]) == 130
    assert capsys.readouterr().err == "arcee-lab: two of three are kept in out\n"


BIG = [
    ("train-demo --threads 100000", bounds.THREADS),
    (f"train-demo --seed {2**32}", bounds.SEED),
    ("train-head demo --head token --train demo --epochs 9000000000", bounds.EPOCHS),
    ("train-head demo --head token --train demo --batch-size 70000", bounds.ROWS),
    ("train-head demo --head token --train demo --lora-rank 5000", bounds.RANK),
    (f"train-head demo --head token --train demo --limit {10**13}", bounds.ANY),
    ("dump demo --world all --threads 999999999", bounds.THREADS),
    ("dump demo --world all --queue-mib 999999999", bounds.MIB),
    ("dump demo --world all --context 99999999999", bounds.CONTEXT),
    ("dump demo --world all --shard-tokens 65537", 65_536),
    ("sparsity demo --world all --batch-size 999999999", bounds.ROWS),
    (f"sparsity demo --world all --max-tokens {10**13}", bounds.ANY),
    ("eval demo --tasks x --num-fewshot 99999", bounds.SHOTS),
    ("eval demo --tasks x --batch-size 99999", bounds.ROWS),
    ("world story --n 999999999", bounds.DOCUMENTS),
    ("lab --port 70000", bounds.PORT),
]


@pytest.mark.parametrize(("words", "most"), BIG, ids=[words for words, _ in BIG])
def test_numbers_that_would_hang_or_break_the_machine_are_refused(tmp_path, capsys, words, most):
    from arcee_lab.cli import main

    command, *more = words.split()
    out = [] if command in ("world", "lab") else ["--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main([command, *more, *out])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert f"expected at most {most}, got '{more[-1]}'; give a smaller number" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_number_of_every_command_has_bounds():
    from arcee_lab import cli

    parser = cli.build_parser()
    (commands,) = [one for one in parser._actions if isinstance(one.choices, dict)]
    numbers = {}
    for name, command in commands.choices.items():
        for one in command._actions:
            if one.type not in (None, Path):
                numbers[f"{name} {one.option_strings[0]}"] = one.type
    assert len(numbers) > 20
    unbounded = {name for name, kind in numbers.items() if not hasattr(kind, "most")}
    # Those of train-head are between 0 and 1, or a name, which the recipe checks; then four
    # numbers, a number or a share, and true or false; the last is a neuron, which the run checks.
    own = {"train-head --learning-rate", "train-head --held-out", "train-head --metric"}
    own |= {"eval --seed", "eval --limit", "eval --fewshot-as-multiturn"}
    assert unbounded == own | {"neurons --unit"}
    with pytest.raises(argparse.ArgumentTypeError, match="expected at most"):
        numbers["eval --limit"](str(10**13))
    with pytest.raises(argparse.ArgumentTypeError, match="4294967295"):
        numbers["eval --seed"](str(2**40))


def test_a_recipe_made_in_python_has_the_same_bounds():
    from arcee_lab.dump import DumpConfig
    from arcee_lab.training.heads import HeadRecipe

    for settings in ({"epochs": 9 * 10**9}, {"batch_size": 0}, {"lora_rank": 10**9}, {"seed": -1}):
        with pytest.raises(ValueError, match=r"expected from \d to \d+"):
            HeadRecipe(**settings)
    for settings in ({"threads": 999999999}, {"queue_mib": 10**12}, {"seed": 2**32}):
        with pytest.raises(ValueError, match="expected at most"):
            DumpConfig(**settings)


@pytest.mark.parametrize("words", [[], ["prob"], ["probe", "--nope"]])
def test_wrong_usage_is_one_line_and_2(cli, capsys, words):
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("arcee-lab: error: ")
    assert error.count("\n") == 1
    assert "--help" in error


def test_module_runs_as_a_command():
    child = subprocess.run(
        [sys.executable, "-m", "arcee_lab", "lab", "--folder", "/no/such/folder"],
        capture_output=True,
        text=True,
    )
    assert child.returncode == 2
    assert child.stderr == (
        "arcee-lab: error: --folder /no/such/folder is a file or its parent folder does not exist; "
        "name a folder that exists, or a new one in a folder that exists.\n"
    )


def test_a_reader_that_leaves_is_no_error():
    code = (
        "import sys\nfrom types import SimpleNamespace as N\nfrom arcee_lab import cli\n"
        "def run(args):\n    while True: print('x' * 99)\n"
        "cli.COMMANDS = ('probe',)\n"
        "cli.import_module = lambda n: N(HELP='', EXAMPLE='', add_arguments=lambda p: 0, run=run)\n"
        "sys.exit(cli.main(['probe']))"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdout.read(10)
    child.stdout.close()
    assert child.wait(60) == 141
    assert child.stderr.read() == b""


def parse(add, words, **options):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add(parser, **options)
    return parser.parse_args(words)


def test_shared_flags():
    from arcee_lab.cli import flags

    args = parse(flags.add_compute, ["--batch-size", "3", "--dtype", "bfloat16"], max_tokens=100)
    assert vars(args) == {
        "device": "cpu",
        "dtype": "bfloat16",
        "batch_size": 3,
        "max_tokens": 100,
        "seed": 0,
    }
    assert parse(flags.add_model, ["demo"]).model == "demo"
    assert parse(flags.add_model, [], optional=True).model is None
    for word in ("0", "-1", "1.5", "many"):
        with pytest.raises(argparse.ArgumentError, match="whole number above 0"):
            parse(flags.add_compute, ["--batch-size", word])
    for word in ("-1", "1.5", "many"):
        with pytest.raises(argparse.ArgumentError, match="whole number from 0 up"):
            parse(flags.add_compute, ["--seed", word])


def test_one_source_of_text(tmp_path):
    from arcee_lab.cli import flags

    file = tmp_path / "a.txt"
    file.write_text("The cat sat.")
    args = parse(flags.add_texts, ["--text", str(file)])
    assert list(flags.read_texts(args)) == ["The cat sat."]
    with pytest.raises(argparse.ArgumentError, match="not allowed with"):
        parse(flags.add_texts, ["--text", str(file), "--world", "story"])


def read_world(kind, max_tokens, seed=0):
    from arcee_lab.cli import flags

    return flags.read_texts(
        argparse.Namespace(
            text=None, text_column=None, dataset=None, world=kind, max_tokens=max_tokens, seed=seed
        )
    )


def test_world_is_held_out_and_seeded(monkeypatch):
    from arcee_lab.cli import flags
    from arcee_lab.demo import documents

    monkeypatch.setattr(flags, "WORLD_DOCUMENTS", 4)
    expected = [document.text for document in documents("copy", n=6, seed=3, split="test")]
    assert list(read_world("copy", max_tokens=None, seed=3)) == expected[:4]
    assert list(islice(read_world("copy", max_tokens=1000, seed=3), 6)) == expected
    assert len(list(read_world("all", max_tokens=None))) == 4
    with pytest.raises(ValueError, match=r"no kind of document 'stroy'.*nearest: story"):
        next(read_world("stroy", max_tokens=None))


def test_lab_stays_on_this_machine_and_keeps_the_token(tmp_path):
    from arcee_lab.cli import build_parser, lab

    args = build_parser(["lab"]).parse_args(["lab", "--folder", str(tmp_path), "--port", "8890"])
    words = lab.command(args)
    assert words[:3] == [sys.executable, "-m", "jupyterlab"]
    assert "--ServerApp.ip=127.0.0.1" in words
    assert f"--ServerApp.root_dir={tmp_path.resolve()}" in words
    assert "--ServerApp.port=8890" in words
    assert not any("token" in word or "password" in word for word in words)


def test_lab_brings_the_notebooks_along(tmp_path, monkeypatch, capsys):
    from arcee_lab.cli import lab

    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "own.ipynb").write_text("{}")
    assert lab.start_folder(tmp_path / "mine") == (tmp_path / "mine").resolve()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["own.ipynb"]
    assert capsys.readouterr().out == ""

    new = lab.start_folder(None)
    assert new == (tmp_path / "arcee_lab_notebooks").resolve()
    names = sorted(path.name for path in new.iterdir())
    assert "01_first_look.ipynb" in names
    assert names == [path.name for path in lab.packaged_notebooks()]
    assert capsys.readouterr().out == f"arcee-lab: copied the notebooks to {new}\n"

    (new / "01_first_look.ipynb").write_text("edited")
    assert lab.start_folder(None) == new
    assert (new / "01_first_look.ipynb").read_text() == "edited"  # a copy is the user's

    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "x.ipynb").write_text("{}")
    assert lab.start_folder(None) == (tmp_path / "notebooks").resolve()


def test_lab_takes_the_notebooks_of_an_installed_package(tmp_path, monkeypatch):
    from arcee_lab.cli import lab

    (tmp_path / "installed").mkdir()
    (tmp_path / "installed" / "01_only.ipynb").write_text("{}")
    monkeypatch.setattr(lab, "_PACKAGED", tmp_path / "installed")
    folder = lab.start_folder(tmp_path / "new")
    assert [path.name for path in folder.iterdir()] == ["01_only.ipynb"]
