"""`arcee-lab dump` and `arcee-lab verify`: what they print, write and return."""

import subprocess
import sys
from dataclasses import fields

import pytest

from arcee_lab.cli import build_parser, main
from arcee_lab.dump.config import DumpConfig

SMALL = ["--world", "story", "--max-tokens", "600", "--batch-size", "8", "--shard-tokens", "256"]
SITES = ["--sites", "layers.0:2.mlp.hook_post"]


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
    assert "600 tokens of" in said
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
    assert capsys.readouterr().out.strip().endswith("whole")

    path = folder / "layers.1.mlp.hook_relu" / "00001.safetensors"
    content = path.read_bytes()
    path.write_bytes(content[:-4] + b"\0\0\0\1")
    assert main(["verify", str(folder)]) == 2
    assert "shard 1, layers.1.mlp.hook_relu/00001.safetensors" in capsys.readouterr().err
    assert main(["verify", str(folder), "--repair"]) == 0
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


def test_repair_asks_where_a_model_comes_from(tmp_path, capsys):
    import json

    folder = tmp_path / "s"
    assert dump(folder) == 0
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["model"]["name"] = "somebody/model"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "tokens" / "00000.safetensors").unlink()
    assert main(["verify", str(folder), "--repair"]) == 2
    assert "Repeat the command with --model" in capsys.readouterr().err
    assert main(["verify", str(folder), "--repair", "--model", "demo"]) == 0


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
