"""A checkpoint from a stranger: no code of it runs, no path leaves it, no number of it hangs."""

import ast
import json
import os
import select
import shutil
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import arcee_lab as al
from arcee_lab.model import ArceeConfig
from arcee_lab.model.checks.options import OPTIONS
from arcee_lab.model.loading import DEMO

PACKAGE = Path(__file__).parents[2] / "arcee_lab"


@pytest.fixture
def folder(tmp_path):
    """A copy of the demo with nothing but its model and tokenizer."""
    path = tmp_path / "checkpoint"
    path.mkdir()
    for file in DEMO.iterdir():
        if file.suffix in (".json", ".safetensors", ".jinja"):
            shutil.copy(file, path)
    return path


def edit(folder, file="config.json", **fields):
    content = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(content | fields))


def info(folder, capsys):
    """The exit code and stderr of `arcee-lab info`."""
    from arcee_lab.cli import main

    code = main(["info", str(folder)])
    return code, capsys.readouterr().err


# ------------------------------------------------------------------ paths


def shard(folder, name="shard.safetensors"):
    """Makes the weights a shard of an index, which names it so."""
    weights = folder / "model.safetensors"
    keys = list(load_file(weights))
    weights.rename(folder / "shard.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(keys, name)}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_shard_loads(folder):
    shard(folder)
    assert al.load(folder)[0] is not None


@pytest.mark.parametrize(
    "name",
    [
        "../outside.safetensors",
        "{parent}/outside.safetensors",
        "sub/../../outside.safetensors",
        "sub/shard.safetensors",
        "..\\outside.safetensors",
        "C:outside.safetensors",
        "shard.bin",
    ],
)
def test_a_shard_lies_in_the_folder(folder, name):
    shard(folder, name.format(parent=folder.parent))
    shutil.copy(folder / "shard.safetensors", folder.parent / "outside.safetensors")
    with pytest.raises(ValueError, match="without a folder"):
        al.load(folder)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer.json", "heads/token.safetensors"]
)
def test_a_link_out_of_the_folder_is_refused(folder, name, capsys):
    inside, outside = folder / name, folder.parent / "outside"
    inside.parent.mkdir(exist_ok=True)
    if not inside.exists():
        save_file({"score.weight": torch.zeros(2, 128)}, inside)
    inside.rename(outside)
    inside.symlink_to(outside)
    with pytest.raises(ValueError, match="leads out of the checkpoint"):
        al.load(folder)
    code, said = info(folder, capsys)
    assert code == 2
    assert "leads out of the checkpoint" in said


def test_a_linked_shard_and_a_linked_folder_of_heads(folder):
    shard(folder)
    (folder / "shard.safetensors").rename(folder.parent / "shard.safetensors")
    (folder / "shard.safetensors").symlink_to("../shard.safetensors")
    with pytest.raises(ValueError, match="leads out of the checkpoint"):
        al.load(folder)
    (folder / "shard.safetensors").unlink()
    (folder.parent / "shard.safetensors").rename(folder / "shard.safetensors")
    (folder.parent / "elsewhere").mkdir()
    (folder / "heads").symlink_to(folder.parent / "elsewhere")
    with pytest.raises(ValueError, match="leads out of the checkpoint"):
        al.load(folder)


def test_the_hubs_cache_and_links_inside_are_no_way_out(folder, tmp_path):
    """models--o--m/snapshots/REVISION/FILE -> ../../blobs/DIGEST"""
    cache = tmp_path / "hub" / "models--o--m"
    snapshot, blobs = cache / "snapshots" / "0123", cache / "blobs"
    blobs.mkdir(parents=True)
    shutil.copytree(folder, snapshot)
    for number, file in enumerate(sorted(snapshot.iterdir())):
        file.rename(blobs / f"{number:064x}")
        file.symlink_to(f"../../blobs/{number:064x}")
    assert al.load(snapshot)[0] is not None
    (folder / "model.safetensors").rename(folder / "weights.bin")
    (folder / "model.safetensors").symlink_to("weights.bin")
    (tmp_path / "link").symlink_to(folder)
    assert al.load(tmp_path / "link")[0] is not None
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to(folder / "config.json")
    with pytest.raises(ValueError, match="leads out of the checkpoint"):
        al.load(snapshot)


def test_an_adapter_beside_a_model_is_not_loaded_unseen(folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"PeftModel\.from_pretrained"):
        al.load(folder)


# ------------------------------------------------------------------ code


def plant_code(folder):
    """Files that say that they ran, and all that makes transformers think of them."""
    mark = f"open({str(folder.parent / 'ran')!r}, 'a').close()\n"
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(mark + "class C:\n    pass\ndef generate(model): pass\n")
    autos = ("AutoConfig", "AutoModel", "AutoModelForCausalLM", "AutoTokenizer")
    edit(folder, auto_map=dict.fromkeys(autos, "evil.C"))
    tokenizer = {"AutoTokenizer": ["evil.C", "evil.C"]}
    edit(folder, "tokenizer_config.json", auto_map=tokenizer)


def on_a_terminal(*words, limit=120.0):
    """Runs Python on a pseudo-terminal and types y to every question; gives what it showed."""
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.execv(sys.executable, [sys.executable, "-P", *words])
    shown, end = b"", time.monotonic() + limit
    while time.monotonic() < end:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # the other side is closed
            break
        if not piece:
            break
        shown += piece
        if b"[y/N]" in piece:
            os.write(terminal, b"y\n")
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("runs", ["loading", pytest.param("all", marks=pytest.mark.slow)])
def test_no_code_runs_and_nothing_is_asked_on_a_terminal(folder, tmp_path, runs):
    plant_code(folder)
    text = tmp_path / "text.txt"
    text.write_text("The dogs near the gate bark .\n")
    code = f"""
import sys
import arcee_lab as al
from arcee_lab.cli import main
folder = {str(folder)!r}
for words in (
    ["info", folder],
    ["dump", folder, "--text", {str(text)!r}, "--out", {str(tmp_path / "s")!r}, "--dry-run"],
):
    print(words[0], main(words))
al.load(folder, head="base")
"""
    rest = f"""
main(["sparsity", folder, "--text", {str(text)!r}, "--out", {str(tmp_path / "out")!r}])
main(["eval", folder, "--tasks", "arcee_demo_agreement_0", "--limit", "1",
      "--out", {str(tmp_path / "scores")!r}])
import arcee_lab.evals
from lm_eval.api.registry import get_model
get_model("arcee-lab").create_from_arg_string("pretrained=" + folder)
"""
    code += (rest if runs == "all" else "") + "print('end')\n"
    status, shown = on_a_terminal("-c", code)
    assert "[y/N]" not in shown
    assert "end" in shown.split()
    assert status == 0
    assert not (tmp_path / "ran").exists()


def test_every_load_of_transformers_says_that_no_code_is_trusted():
    """Calls of from_pretrained on an Auto class, a config, a model class or one chosen by name."""
    wrong = []
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr not in ("from_pretrained", "get_config_dict", "pipeline"):
                continue
            owner = ast.unparse(node.func.value)
            if owner == "super()":  # passes on what it was given
                continue
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if said.get("trust_remote_code") != "False":
                wrong.append(f"{file.name}:{node.lineno} {owner}.{node.func.attr}")
    assert not wrong


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation"])
@pytest.mark.parametrize("kernel", ["kernels-community/flash-attn", "flash_attention_2", {"": 1}])
def test_a_kernel_of_the_config_is_refused(folder, field, kernel, capsys):
    edit(folder, **{field: kernel})
    with pytest.raises(ValueError, match="asks for the attention kernel"):
        al.load(folder)
    code, said = info(folder, capsys)
    assert code == 2
    assert "asks for the attention kernel" in said
    model, _ = al.load(folder, attn="sdpa")
    assert model.config._attn_implementation == "sdpa"


def test_a_plain_kernel_of_the_config_is_taken(folder):
    edit(folder, attn_implementation="eager")
    assert al.load(folder)[0].config._attn_implementation == "eager"


# ------------------------------------------------------------------ numbers

HUGE = 10**5000
ROPE = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"num_hidden_layers": 1e9}, "num_hidden_layers"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers"),
        ({"num_hidden_layers": True}, "num_hidden_layers"),
        ({"num_labels": 10**12}, "num_labels"),
        ({"num_labels": 0}, "num_labels"),
        ({"vocab_size": 10**12}, "vocab_size"),
        ({"vocab_size": -5}, "vocab_size"),
        ({"hidden_size": 10**9}, "hidden_size"),
        ({"intermediate_size": 10**12}, "intermediate_size"),
        ({"num_attention_heads": 10**9}, "num_attention_heads"),
        ({"num_key_value_heads": 10**9}, "num_key_value_heads"),
        ({"head_dim": 10**9}, "head_dim"),
        ({"max_position_embeddings": 10**18}, "max_position_embeddings"),
        ({"max_position_embeddings": "many"}, "max_position_embeddings"),
        ({"id2label": [1, 2]}, "id2label"),
        ({"pad_token_id": 10**6}, "pad_token_id"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps"),
        ({"rope_theta": float("inf")}, "rope_theta"),
        ({"rope_parameters": ROPE | {"factor": 0}}, "rope_parameters.factor"),
        ({"rope_parameters": ROPE | {"factor": 1e300}}, "rope_parameters.factor"),
        (
            {"rope_scaling": ROPE | {"original_max_position_embeddings": -1}},
            "rope_scaling.original_max_position_embeddings",
        ),
        (
            {"rope_parameters": ROPE | {"partial_rotary_factor": 1e12}},
            "rope_parameters.partial_rotary_factor",
        ),
        ({"rope_parameters": ROPE | {"long_factor": [1.0] * 10**5}}, "rope_parameters.long_factor"),
    ],
)
def test_a_number_out_of_bounds_is_named_at_once(folder, fields, named, capsys):
    edit(folder, **fields)
    began = time.process_time()
    with pytest.raises(ValueError, match=f"does not describe a model: {named}"):
        al.load(folder)
    code, said = info(folder, capsys)
    assert code == 2
    assert named in said
    assert time.process_time() - began < 5  # it hung for a minute, and without bound


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"num_hidden_layers": 4000}, "num_hidden_layers=4,000.*layers 0 to 3"),
        ({"vocab_size": 10**7}, r"embed_tokens\.weight is \[1384, 128\].*vocab_size"),
        ({"intermediate_size": 10**6}, r"up_proj.*intermediate_size"),
        ({"hidden_size": 2**18}, "hidden_size"),
        ({"head_dim": 2**12}, r"[qk]_proj.*head_dim"),
        ({"num_key_value_heads": 1}, "num_key_value_heads"),
    ],
)
def test_a_config_is_compared_with_the_weights_before_anything_is_made(folder, fields, said):
    edit(folder, **fields)
    began = time.process_time()
    with pytest.raises(ValueError, match=said):
        al.load(folder)
    assert time.process_time() - began < 5


def test_missing_weights_are_not_made_in_full_size(folder):
    """Layers that only seem to be there, of names that nothing is compared with."""
    tensors = {f"model.layers.{n}.self_attn.o_proj.weight": torch.zeros(1) for n in range(4000)}
    save_file(tensors, folder / "model.safetensors")
    edit(folder, num_hidden_layers=4000, hidden_size=2**14, num_attention_heads=128)
    with pytest.raises(ValueError, match="lacks backbone parameters"):
        al.load(folder)


def test_json_that_no_program_reads_is_an_error(folder):
    config = folder / "config.json"
    for text in (f'{{"vocab_size": {"9" * 5000}}}', '{"a":' * 10**5):
        config.write_text(text)
        with pytest.raises(ValueError, match="is not JSON"):
            al.load(folder)


def test_bounds_hold_every_real_shape():
    from arcee_lab.model.checks.limits import check_numbers

    check_numbers(ArceeConfig.afm_4_5b().to_dict(), "AFM-4.5B")
    check_numbers(ArceeConfig(num_hidden_layers=126, hidden_size=16384).to_dict(), "405B")


# ------------------------------------------------------------------ options


def test_either_spelling_of_the_dtype():
    for option in ({"dtype": "bfloat16"}, {"torch_dtype": "bfloat16"}):
        assert al.load("demo", **option)[0].dtype == torch.bfloat16
    both = {"dtype": torch.bfloat16, "torch_dtype": "bfloat16"}
    assert al.load("demo", **both)[0].dtype == torch.bfloat16
    with pytest.raises(ValueError, match="two names of one option"):
        al.load("demo", dtype="float32", torch_dtype="bfloat16")


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("atn", "no option 'atn'; expected head, dtype.*quantization_config"),
        ("load_in_8bit", "no option 'load_in_8bit'"),
        ("trust_remote_code", "runs no code of a checkpoint"),
        ("attn_implementation", "give attn="),
        ("config", "give a folder"),
    ],
)
def test_an_unknown_option_fails_before_anything_is_read(option, said):
    with pytest.raises(ValueError, match=said):
        al.load("./no-such-folder", **{option: True})


def test_known_options_are_transformers_own():
    """Each is taken by from_pretrained: its source pops it, or names it."""
    import inspect

    from transformers import PreTrainedModel

    source = inspect.getsource(PreTrainedModel.from_pretrained)
    assert [name for name in OPTIONS if name not in source] == []


def test_a_number_of_labels_has_a_bound():
    with pytest.raises(ValueError, match="num_labels=1000000000000"):
        al.load("demo", head="sequence", num_labels=10**12)
