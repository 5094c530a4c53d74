"""`arcee-lab dump` and `arcee-lab verify`: what they print, write and return."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import fields

import pytest

from arcee_lab.cli import build_parser, main
from arcee_lab.dump.config import DumpConfig
from arcee_lab.runs import bounds

SMALL = ["--world", "story", "--max-tokens", "600", "--batch-size", "8", "--shard-tokens", "256"]
SITES = ["--sites", "layers.0:2.mlp.hook_post"]
NAMED = ["--model", "demo", "--world", "story"]


def dump(folder, *more):
    return main(["dump", "demo", *SMALL, *SITES, "--out", str(folder), *more])


def test_flags_are_the_fields_of_the_config():
    parser = build_parser(["dump"])
    args = parser.parse_args(["dump", "demo", "--world", "all", "--out", "x"])
    from arcee_lab.cli import flags

    assert flags.read_fields(args, DumpConfig) == DumpConfig()
    given = {
        "sites": ["layers.0.hook_mlp_out", "hook_embed"],
        "layout": "both",
        "others": "int8",
        "store_dtype": "float16",
        "batch_size": 3,
        "context": 64,
        "overlap": 7,
        "packed": True,
        "shard_tokens": 512,
        "max_tokens": 99,
        "seed": 5,
        "threads": 2,
        "queue_mib": 8,
    }
    assert set(given) == {field.name for field in fields(DumpConfig)}, "a field lacks its test"
    words = []
    for name, value in given.items():
        words.append("--" + name.replace("_", "-"))
        words += [] if value is True else list(map(str, value if type(value) is list else [value]))
    args = parser.parse_args(["dump", "demo", "--world", "all", "--out", "x", *words])
    assert flags.read_fields(args, DumpConfig) == DumpConfig(**given)


@pytest.mark.parametrize("command", ["dump", "sparsity"])
def test_a_seed_that_draws_nothing_is_refused(tmp_path, capsys, command):
    (tmp_path / "a.txt").write_text("The dogs sleep.")
    words = [command, "demo", "--text", str(tmp_path / "a.txt"), "--out", str(tmp_path / "out")]
    assert main([*words, "--seed", "3"]) == 2
    assert "--seed 3 has no effect: only the documents of --world" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_prints_an_estimate_and_writes_nothing(tmp_path, capsys):
    assert dump(tmp_path / "s", "--dry-run") == 0
    said = capsys.readouterr().out
    assert "600 tokens from" in said
    assert "of dense" in said
    assert "nothing was written" in said
    assert not (tmp_path / "s").exists()


def test_a_dump_is_verified_damaged_and_repaired(tmp_path, capsys):
    folder = tmp_path / "s"
    assert dump(folder) == 0
    said = capsys.readouterr()
    assert "Store of 600 tokens, 2 sites" in said.out
    assert "tok/s" in said.err
    assert dump(folder) == 0  # the same command again: it is done already
    assert main(["verify", str(folder)]) == 0
    assert capsys.readouterr().out.strip().endswith("intact")

    path = folder / "layers.1.mlp.hook_relu" / "00001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\0\0\0\1")
    assert main(["verify", str(folder)]) == 2
    assert "shard 1, layers.1.mlp.hook_relu/00001.safetensors" in capsys.readouterr().err
    assert main(["verify", str(folder), "--repair", *NAMED]) == 0
    assert path.read_bytes() == content
    assert main(["verify", str(folder)]) == 0


def test_bad_input_is_one_line_and_leaves_no_folder(tmp_path, capsys):
    lines = tmp_path / "text.jsonl"
    lines.write_text('{"text": "The dogs bark."}\n{"text": \n')
    words = ["dump", "demo", "--text", str(lines), "--out", str(tmp_path / "s")]
    assert main(words) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith(f"arcee-lab: error: {lines} line 2 is not JSON")
    assert not (tmp_path / "s").exists()
    assert main(["verify", str(tmp_path)]) == 2
    assert "holds no manifest.json" in capsys.readouterr().err


def retold(folder, **changes):
    """Changes what the manifest says, and takes a file away."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for name, value in changes.items():
        manifest[name] |= value
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "tokens" / "00000.safetensors").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written") / "s"
    assert dump(folder) == 0
    return folder


@pytest.fixture
def damaged(written, tmp_path):
    """A copy of a store that lacks a file."""
    shutil.copytree(written, tmp_path / "s")
    retold(tmp_path / "s")
    return tmp_path / "s"


@pytest.mark.parametrize(
    ("told", "given", "suggested"),
    [
        ({}, [], "`--model demo --world story`"),
        ({}, ["--model", "demo"], "`--world story`"),
        ({}, ["--world", "story"], "`--model demo`"),
        ({"model": {"name": "some body/model"}}, NAMED[2:], "`--model 'some body/model'`"),
        ({"model": {"name": "a\x1b[31m"}}, NAMED[2:], "`--model MODEL`"),
        ({"model": {"name": "m" * 5000}}, NAMED[2:], "`--model MODEL`"),
        ({"data": {"world": None, "dataset": "a/b:test"}}, NAMED[:2], "`--dataset a/b:test`"),
        ({"data": {"world": None, "text": ["/etc/hosts"]}}, NAMED[:2], "`--text /etc/hosts`"),
        ({"data": {"world": None, "text": [{"a": 1}, 3]}}, NAMED[:2], "`--text FILE FILE`"),
        ({"data": {"world": None, "text": "x"}}, NAMED[:2], "`--text FILE`"),
        ({"data": {"world": None}}, NAMED[:2], "`--text FILE`"),
    ],
)
def test_repair_opens_only_what_is_named(
    damaged, capsys, monkeypatch, tmp_path, told, given, suggested
):
    from arcee_lab.data import documents
    from arcee_lab.model import loading

    def opened(*args, **options):
        raise AssertionError(f"{args} was opened, which nobody named")

    retold(damaged, **told)
    before = {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file()}
    for owner, name in ((documents, "read_files"), (documents, "read_dataset"), (loading, "load")):
        monkeypatch.setattr(owner, name, opened)
    assert main(["verify", str(damaged), "--repair", *given]) == 2
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert "--repair opens only what you name" in said
    assert suggested in said
    assert "\x1b" not in said
    assert {path: path.read_bytes() for path in damaged.rglob("*") if path.is_file()} == before


def test_repair_from_named_sources(written, damaged, capsys, tmp_path):
    """Whatever the manifest says of its sources; their fingerprints decide."""
    canary = tmp_path / "canary.jsonl"
    os.mkfifo(canary)  # whoever opens it waits for ever
    lies = {"world": None, "dataset": "somebody/data", "text": [str(canary)]}
    retold(damaged, model={"name": str(tmp_path)}, data=lies)
    other = tmp_path / "other.txt"
    other.write_text("The dogs bark.")
    for texts in (["--text", str(other)], ["--world", "facts"]):
        assert main(["verify", str(damaged), "--repair", "--model", "demo", *texts]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        told = ("the store is of another data", "the texts hold")
        assert said.removeprefix("arcee-lab: error: ").startswith(told)
    assert main(["verify", str(damaged), "--repair", *NAMED]) == 0
    name = "tokens/00000.safetensors"
    assert (damaged / name).read_bytes() == (written / name).read_bytes()


def test_repair_reads_no_more_than_the_store_holds(damaged, capsys):
    """The texts of --world have no end, and the manifest asks for a million million tokens."""
    retold(damaged, settings={"max_tokens": 10**12}, data={"max_tokens": 10**12})
    assert main(["verify", str(damaged), "--repair", *NAMED]) == 0
    assert capsys.readouterr().out.strip().endswith("intact")


@pytest.mark.parametrize(
    ("told", "match"),
    [
        ({"settings": {"threads": 10**9}}, "threads is 1000000000; expected at most"),
        ({"settings": {"max_tokens": "all"}}, "max_tokens is 'all'; expected a whole number"),
        ({"settings": {"batch_size": None}}, "batch_size is None"),
        ({"settings": {"sites": [["x"]]}}, "sites are"),
        ({"settings": {"sites": 3}}, "are not those of a dump"),
        ({"settings": {"sites": ["hook_embed"]}}, "sites are not those that its settings give"),
        ({"settings": {"device": "meta"}}, "Name it with --device"),
        ({"settings": {"device": ["cpu"]}}, "Name it with --device"),
        ({"model": {"dtype": "float64"}}, "its model computed in 'float64'"),
    ],
)
def test_settings_of_a_stranger(damaged, capsys, told, match):
    retold(damaged, **told)
    assert main(["verify", str(damaged), "--repair", *NAMED]) == 2
    assert match in capsys.readouterr().err.strip().splitlines()[-1]


def test_sources_without_repair(damaged, capsys):
    assert main(["verify", str(damaged), *NAMED]) == 2
    assert "expected --repair with them" in capsys.readouterr().err


@pytest.mark.parametrize("word", ["999999999", str(bounds.THREADS + 1), "0", "-1", "two"])
def test_threads_have_a_bound(tmp_path, capsys, word):
    try:
        code = dump(tmp_path / "s", "--threads", word)
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2
    assert "threads" in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


@pytest.mark.slow
def test_torchrun_writes_the_same_bytes(tmp_path):
    assert dump(tmp_path / "one") == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = ["--nproc-per-node", "2", "-m", "arcee_lab", "dump", "demo", *SMALL, *SITES]
    done = subprocess.run(
        [*launcher, *command, "--out", str(tmp_path / "two")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Store of 600 tokens") == 1, "one rank speaks"

    def content(folder):
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    assert content(tmp_path / "one") == content(tmp_path / "two")
