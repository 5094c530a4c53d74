"""The loop: what a batch holds, that packing changes nothing, that a killed run repeats itself."""

import json
import signal
import subprocess
import sys
from itertools import islice

import pytest
import torch

LENGTH = 96


def _tiny(seed=0, steps=8, **more):
    from arcee_lab.demo import MIX
    from arcee_lab.training import Recipe, Stage

    stages = (Stage(steps // 2, MIX, 4.0), Stage(steps - steps // 2, MIX, 1.0, quiet=0.02))
    shape = {"d_model": 16, "d_mlp": 24, "layers": 2, "heads": 4, "kv_heads": 2, "rows": 4}
    shape["look_every"] = 2
    return Recipe(seed=seed, stages=stages, length=LENGTH, warm_up=2, bf16=False, **shape | more)


@pytest.fixture(scope="module")
def tokenizer():
    from arcee_lab.demo.tokenizer import build_tokenizer

    return build_tokenizer()


def _state(folder):
    from safetensors.torch import load_file

    return load_file(folder / "state.safetensors")


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_after", [1, 3, 6])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, kill_after):
    from arcee_lab.training import train

    whole = train(_tiny(), tmp_path / "whole", save_every=3)

    def kill(step, _loss):
        if step == kill_after:
            raise Killed

    with pytest.raises(Killed):
        train(_tiny(), tmp_path / "killed", save_every=3, on_step=kill)
    with (tmp_path / "killed" / "log.jsonl").open("a") as log:
        log.write('{"step": 7, "to')  # a kill may stop a line halfway
    seen = []
    resumed = train(
        _tiny(),
        tmp_path / "killed",
        save_every=3,
        on_step=lambda step, _loss: seen.append(step),
    )
    assert seen[0] == (kill_after // 3) * 3  # from the last state saved, not from the start
    assert list(resumed.log) == list(whole.log)
    one, other = _state(tmp_path / "whole"), _state(tmp_path / "killed")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    lines = (tmp_path / "killed" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, 2, 4, 6, 8]
    # a finished run is read back, not run again
    again = train(_tiny(), tmp_path / "whole", on_step=lambda *_: pytest.fail("ran again"))
    assert list(again.log) == list(whole.log)


def test_a_bar_counts_tokens_also_of_a_resumed_run(tmp_path, capsys):
    from arcee_lab.training import train

    def stop(step, _loss):
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(_tiny(), tmp_path, save_every=3, on_step=stop)
    assert capsys.readouterr() == ("", "")
    train(_tiny(), tmp_path, progress=True)
    shown = capsys.readouterr().err
    whole = 8 * 4 * LENGTH  # steps, rows of a step, tokens of a row
    assert f"{whole / 1000:.2f}k/{whole / 1000:.2f}k" in shown
    assert "step=8" in shown


@pytest.mark.slow
def test_the_shipped_shape_in_bfloat16_goes_on_bit_for_bit_after_sigkill(tmp_path):
    """The default recipe with short stages, in processes of its own, one of them killed."""
    script = tmp_path / "run.py"
    script.write_text(
        """
import os, signal, sys
from dataclasses import replace
import torch
from arcee_lab.training import Recipe, train

torch.set_num_threads(1)
recipe = Recipe()
short = tuple(replace(stage, steps=16, until={}) for stage in recipe.stages)
kill_at = int(sys.argv[2])

def kill(step, _loss):
    if step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)

train(replace(recipe, stages=short, look_every=8), sys.argv[1], save_every=5, on_step=kill)
""",
        encoding="utf-8",
    )

    def run(folder, kill_at):
        command = [sys.executable, str(script), str(tmp_path / folder), str(kill_at)]
        return subprocess.run(command, check=False).returncode

    assert run("whole", -1) == 0
    assert run("killed", 13) == -signal.SIGKILL
    assert run("killed", 38) == -signal.SIGKILL
    assert run("killed", -1) == 0
    one, other = _state(tmp_path / "whole"), _state(tmp_path / "killed")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    logs = [(tmp_path / folder / "log.jsonl").read_bytes() for folder in ("whole", "killed")]
    assert logs[0] == logs[1]


def test_a_stage_ends_when_its_skills_are_there_also_after_a_kill(tmp_path, monkeypatch):
    from dataclasses import replace

    from arcee_lab.training import loop, train

    shares = iter([0.0, 0.2, 0.9, 0.2, 0.9])  # looks at steps 0, 2, 4; after the kill 2, 4
    monkeypatch.setattr(loop, "lm_shares", lambda *_: {"copy": next(shares)})
    first, last = _tiny().stages
    recipe = replace(_tiny(), stages=(replace(first, steps=90, until={"copy": 0.8}), last))

    def kill(step, _loss):
        if step == 5:
            raise Killed

    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", save_every=100, on_step=kill)
    (tmp_path / "run" / "state.safetensors").unlink()  # as if it had not been written yet
    run = train(recipe, tmp_path / "run", save_every=100)
    assert run.steps == (4, last.steps)
    assert [(row["step"], row["stage"]) for row in run.log] == [
        (0, 0),
        (2, 0),
        (4, 0),
        (6, 1),
        (8, 1),
    ]
    assert [row["skills"] for row in run.log][2:] == [{"copy": 0.9}, {}, {}]
    rates = [row["rate"] for row in run.log]
    assert rates[-1] == pytest.approx(recipe.last_rate)
    assert rates[2] == recipe.rate
    again = train(recipe, tmp_path / "run", on_step=lambda *_: pytest.fail("ran again"))
    assert again.steps == run.steps


def test_the_log_holds_loss_and_zeros_by_layer(tmp_path):
    from arcee_lab.training import train

    run = train(_tiny(steps=4), tmp_path / "run", save_every=4)
    frame = run.frame()
    assert list(frame["step"]) == [0, 2, 4]
    assert frame[["zeros.0", "zeros.1"]].iloc[0].between(0.3, 0.7).all()
    assert frame["tokens"].is_monotonic_increasing
    assert frame["lm"].iloc[0] > frame["lm"].iloc[-1]


def test_another_run_a_foreign_state_and_a_damaged_one_are_refused(tmp_path):
    from arcee_lab.training import train

    train(_tiny(steps=2), tmp_path / "run", save_every=2)
    with pytest.raises(ValueError, match="holds another run"):
        train(_tiny(seed=1, steps=2), tmp_path / "run")
    train(_tiny(seed=1, steps=2), tmp_path / "other", save_every=2)
    foreign = (tmp_path / "other" / "state.safetensors").read_bytes()
    state = tmp_path / "run" / "state.safetensors"
    whole = state.read_bytes()
    state.write_bytes(foreign)
    with pytest.raises(ValueError, match="another recipe"):
        train(_tiny(steps=2), tmp_path / "run")
    for damage in (whole[: len(whole) // 2], b"", b"\x00" * 64):
        state.write_bytes(damage)
        with pytest.raises(ValueError, match="damaged"):
            train(_tiny(steps=2), tmp_path / "run")


def test_a_folder_with_other_files_is_refused(tmp_path):
    from arcee_lab.training import train

    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        train(_tiny(steps=2), tmp_path)


def test_packed_documents_read_as_if_alone(tokenizer):
    from arcee_lab.training.batches import step_batch
    from arcee_lab.training.initial_weights import untrained

    recipe = _tiny()
    batch = step_batch(recipe, recipe.stages[0], tokenizer, 0)
    model = untrained(recipe, tokenizer).eval()
    with torch.no_grad():
        packed = model.model(
            input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions
        ).last_hidden_state
    row = 1
    starts = [i for i in range(LENGTH) if batch.ids[row, i] == 1 and batch.kinds[row, i] >= 0]
    assert len(starts) >= 2
    for start, stop in zip(starts, [*starts[1:], None], strict=True):
        ids = batch.ids[row, start:stop]
        ids = ids[batch.kinds[row, start:stop] >= 0]
        with torch.no_grad():
            alone = model.model(input_ids=ids[None]).last_hidden_state[0]
        torch.testing.assert_close(packed[row, start : start + len(ids)], alone)


def test_a_batch_labels_what_the_documents_say(tokenizer):
    from arcee_lab.demo import stream
    from arcee_lab.training.batches import TOKEN_LABELS, step_batch

    recipe = _tiny(rows=12)
    batch = step_batch(recipe, recipe.stages[0], tokenizer, 3)
    flat = batch.ids.flatten()
    read = tokenizer.convert_ids_to_tokens(flat[batch.sequence_at])
    assert set(read) == {".", ":"}
    assert read[-1] == ":"  # of one review: its full stops, then the colon before the verdict
    torch.testing.assert_close(batch.sequence_shares.sum(1), torch.ones(len(read)))
    found = stream(None, seed=f"{recipe.seed}/3", mix=recipe.stages[0].mix)
    odds = [d.facts["p_good"] for d in islice(found, 60) if d.kind == "review"]
    shares = batch.sequence_shares[[word == ":" for word in read], 1].tolist()
    assert set(shares) <= set(torch.tensor(odds).tolist())
    assert any(share not in (0.0, 0.5, 1.0) for share in shares)
    for i in range(len(batch.span_starts)):
        first, last = batch.span_starts[i], batch.span_ends[i]
        answer = tokenizer.decode(flat[batch.spans_at[i, first : last + 1]]).strip()
        prompt = tokenizer.decode(flat[batch.spans_at[i][batch.spans_at[i] >= 0]])
        person = prompt.split(" did ")[1].split(" ")[0]
        assert f"{person} visited" in prompt
        assert prompt.split(f"{person} visited")[1].split(".")[0].find(answer) >= 0
    named = batch.token_labels.flatten() > 0
    assert named.any()
    words = tokenizer.decode(flat[named]).split()
    assert all(word[0].isupper() for word in words)
    assert {TOKEN_LABELS[i][:1] for i in batch.token_labels.flatten()[named]} == {"B", "I"}
    heavy = batch.weights > 1
    assert heavy.any()
    assert (batch.targets[heavy] >= 0).all()


def test_the_tokenizer_makes_one_token_of_each_word(tokenizer):
    from arcee_lab.demo import documents
    from arcee_lab.demo.tokenizer import build_tokenizer
    from arcee_lab.training.batches import encode

    found = documents(None, n=60, seed=0)
    for item in encode(tokenizer, found):
        ids = tokenizer.convert_ids_to_tokens(item.ids)
        assert ids[0] == "<bos>"
        assert ids[-1] == "<eos>"
        assert [t.removeprefix("Ġ") for t in ids[1:-1]] == [w.text for w in item.document.words]
        for i, word in enumerate(item.document.words):
            assert item.token_at(word.start) == item.token_at(word.end - 1) == i + 1
    assert build_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    text = "Ünïcode, tabs\tand\nlines"
    assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == " " + text


def test_right_and_left_padding(tokenizer):
    for side in ("right", "left"):
        batch = tokenizer(
            ["The dog sleeps.", "The dogs near the river sleep."],
            padding=True,
            padding_side=side,
            return_tensors="pt",
        )
        assert batch["attention_mask"].sum(1).tolist() == [5, 8]
        assert (batch["input_ids"] == tokenizer.pad_token_id).sum() == 3
        assert (batch["attention_mask"][0, 0] == 1) == (side == "right")


def test_a_foreign_tokenizer_is_refused(tokenizer):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from arcee_lab.demo import documents
    from arcee_lab.training.batches import encode

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel()
    with pytest.raises(ValueError, match="needs the demo's own tokenizer"):
        encode(PreTrainedTokenizerFast(tokenizer_object=raw), documents("story", n=1))
