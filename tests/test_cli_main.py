"""The command line's frame: which commands there are, and how errors become exit codes."""

import argparse
import shlex
import subprocess
import sys
from importlib import import_module
from itertools import islice
from types import SimpleNamespace

import pytest


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


def test_interrupt_is_130(cli):
    cli.probe.run = raises(KeyboardInterrupt())
    assert cli.main(["probe"]) == 130


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
        "arcee-lab: error: --folder /no/such/folder is no folder; name one that exists\n"
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
    with pytest.raises(ValueError, match=r"no kind of document is called 'stroy'.*nearest: story"):
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
