"""A store does not depend on the pad token: `al.load` gives one to a tokenizer that names none."""

import signal

import pytest
from jobs import digest
from notebook_runs import foreign_checkpoint
from transformers import AutoTokenizer

import arcee_lab as al
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.writing.job import DumpJob
from arcee_lab.errors import Interrupted, OtherRun
from arcee_lab.lesson import english

TEXTS = [one.text for one in english.documents("story", n=8, seed=3)]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """A model, its tokenizer as `al.load` gives it, and the same one as it is on disk."""
    folder = foreign_checkpoint(tmp_path_factory.mktemp("bare"), num_hidden_layers=1)
    model, padded = al.load(folder)
    bare = AutoTokenizer.from_pretrained(folder)
    assert bare.pad_token is None
    assert padded.pad_token == bare.eos_token
    return model, padded, bare


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_what_was_begun_without_a_pad_token_goes_on_with_one(loaded, tmp_path, packed):
    model, padded, bare = loaded
    config = DumpConfig(
        sites=("layers.0.mlp.hook_post",), batch_size=3, shard_tokens=96, packed=packed
    )
    job = DumpJob(model, bare, TEXTS, config)
    job.run(tmp_path / "whole")
    assert len(job.plan.shards) > 2
    pressed = []

    def press(module, args, output):
        pressed.append(1)
        if len(pressed) == len(job.plan.shards[0].batches) + 1:  # the second shard has begun
            signal.raise_signal(signal.SIGINT)

    handle = model.get_input_embeddings().register_forward_hook(press)
    with pytest.raises(Interrupted):
        job.run(tmp_path / "half")
    handle.remove()
    assert not (tmp_path / "half" / "manifest.json").exists()
    al.dump.write(model, padded, TEXTS, tmp_path / "half", config)
    assert digest(tmp_path / "half") == digest(tmp_path / "whole")

    path = sorted((tmp_path / "half").glob("layers.*/*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert al.dump.repair(tmp_path / "half", model, padded, TEXTS).intact
    assert digest(tmp_path / "half") == digest(tmp_path / "whole")


def test_another_tokenizer_is_still_refused(loaded, tmp_path):
    model, padded, bare = loaded
    al.dump.write(model, bare, TEXTS, tmp_path / "s", DumpConfig(sites=("hook_embed",)))
    padded.add_tokens(["quux"])
    (path,) = (tmp_path / "s").glob("hook_embed/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(OtherRun, match="another tokenizer"):
        al.dump.repair(tmp_path / "s", model, padded, TEXTS)
