"""What a dump holds is what the model computed, and what cannot be dumped is said in one line."""

import json
import logging
import signal
import threading

import numpy as np
import pytest
import torch
from jobs import NEURONS, Numbers, digest, numbers

import arcee_lab as al
from arcee_lab.data.windows import cut
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.format.stored_site import DTYPES
from arcee_lab.dump.writing.job import DumpJob
from arcee_lab.dump.writing.shard_writer import ShardWriter, SiteBatch
from arcee_lab.dump.writing.tags import Tag
from arcee_lab.errors import Interrupted
from arcee_lab.model.attention import edits_of
from arcee_lab.runs import bounds

SITES = (
    NEURONS,
    "layers.1.hook_resid_post",
    "layers.0.self_attn.hook_rot_k",
    "layers.2.input_layernorm.hook_scale",
)
TEXTS = numbers(20)


def config(**fields):
    return DumpConfig(**({"sites": SITES, "batch_size": 4, "shard_tokens": 96} | fields))


def plainly(model, texts=TEXTS, *, sites=SITES, context=64, overlap=0):
    """Windows and what a plain forward computes in each, without any batch."""
    windows = cut(Numbers(), texts, context=context, overlap=overlap)
    acts = []
    for window in range(len(windows)):
        ids = torch.from_numpy(windows[window].astype(np.int64))[None]
        with al.capture(model, list(sites)) as seen, torch.no_grad():
            model(ids, attention_mask=torch.ones_like(ids), use_cache=False)
        new = torch.from_numpy(windows.new(window))
        acts.append({name: seen[name][0][new] for name in seen})
    return windows, {name: torch.cat([part[name] for part in acts]) for name in acts[0]}


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_store_holds_what_the_model_computes(tiny, tmp_path, dtype, packed):
    model = tiny(dtype=DTYPES[dtype])
    store = al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config(packed=packed))
    windows, acts = plainly(model)
    known = store.token_data()
    assert len(store.manifest.shards) > 2
    assert torch.equal(known.ids, torch.from_numpy(windows.ids))
    for name, plain in acts.items():
        stored = store.tokens(slice(None), name)
        assert stored.dtype == plain.dtype, name
        # Another batch shape rounds otherwise; the bits are held below.
        tolerance = {"float32": 1e-5, "float16": 0.02, "bfloat16": 0.15}[dtype]
        assert torch.allclose(stored, plain, rtol=tolerance, atol=tolerance), name


@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_store_holds_the_bits_of_its_own_batches(tiny, tmp_path, device, packed):
    model = tiny().to(device)
    job = DumpJob(model, Numbers(), TEXTS, config(packed=packed, layout="both", others="dense"))
    store = job.run(tmp_path / "s")
    shard = job.plan.shards[1]
    for rows in shard.batches:
        with al.capture(model, list(SITES)) as acts, torch.no_grad():
            model(**job.plan.inputs(rows).to(model.device), use_cache=False)
        for piece in job.plan.pieces(shard, rows):
            source = slice(piece.source, piece.source + piece.length)
            at = shard.start + piece.at
            for name in acts:
                plain = acts[name].flatten(0, 1)[source].cpu()
                stored = store.tokens(slice(at, at + piece.length), name)
                assert torch.equal(stored, plain), name


def test_overlapping_windows_give_each_token_once_with_more_before_it(tiny, tmp_path):
    model = tiny()
    texts = numbers(3, longest=60, seed=4)
    settings = config(context=12, overlap=5)
    store = al.dump.write(model, Numbers(), texts, tmp_path / "s", settings)
    _, acts = plainly(model, texts, context=12, overlap=5)
    name = "layers.1.hook_resid_post"
    assert torch.allclose(store.tokens(slice(None), name), acts[name], atol=1e-5)
    words = [int(word) for text in texts for word in text.split()]
    known = store.token_data()
    assert known.ids[known.ids != 1].tolist() == words
    later = known.positions[(known.windows == 1) & ~known.first]
    assert later.min() == 1 + 5


def test_counts_equal_the_streamed_statistics(demo, tmp_path):
    from arcee_lab.demo import documents

    model, tokenizer = demo
    texts = [document.text for document in documents(n=12, seed=2, split="test")]
    store = al.dump.write(
        model, tokenizer, texts, tmp_path / "s", DumpConfig(batch_size=6, shard_tokens=65_536)
    )
    # One shard, so that the batches are those of the measurement, to the last bit.
    report = al.sparsity.measure(model, tokenizer, texts, batch_size=6, analyses=(), sample_every=1)
    stats = store.stats()
    assert torch.equal(stats.fired, report.fired)
    assert torch.equal(stats.fired_first, report.fired_first)
    most = report.active.shape[1]
    assert torch.equal(stats.active[:, :most], report.active)
    assert not stats.active[:, most:].any()
    assert (stats.n_tokens, stats.n_first) == (report.n_tokens, report.n_first)
    top = store.topk(1, int(stats.fired[1].argmax()), 3)
    assert len(top.frame()) == 3


def test_threads_and_queue_do_not_change_a_byte(tiny, tmp_path):
    model = tiny()
    one = al.dump.write(model, Numbers(), TEXTS, tmp_path / "a", config())
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "b", config(threads=3, queue_mib=1))
    assert digest(tmp_path / "a") == digest(tmp_path / "b")
    assert {path.split("/")[0] for path in digest(tmp_path / "a")} == {
        "manifest.json",
        "run.json",
        "tokens",
        *one.sites()["site"],
    }


def test_a_finished_store_is_left_alone(tiny, tmp_path, monkeypatch):
    model = tiny()
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    before = digest(tmp_path / "s")
    monkeypatch.setattr(DumpJob, "compute", None)
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    assert digest(tmp_path / "s") == before


def test_what_a_manifest_says(tiny, tmp_path):
    source = {"name": "by hand"}
    store = al.dump.write(tiny(), Numbers(), TEXTS, tmp_path / "s", config(), source=source)
    manifest = store.manifest
    assert manifest.data["name"] == "by hand"
    assert manifest.data["n_documents"] == len(TEXTS)
    assert manifest.settings["batch_size"] == 4
    assert manifest.settings["seed"] == 0
    assert manifest.model["dtype"] == "float32"
    assert manifest.model["config"]["intermediate_size"] == 72
    assert set(manifest.versions) >= {"arcee_lab", "torch", "transformers"}
    assert str(tmp_path) not in (tmp_path / "s" / "manifest.json").read_text()


def test_tags_are_cut_like_the_text(tiny, tmp_path):
    texts = numbers(6, longest=30, seed=5)
    values = [[0, *(int(word) % 3 for word in text.split())] for text in texts]
    tags = {"rest": Tag(values, labels=("none", "one", "two"))}
    store = al.dump.write(
        tiny(), Numbers(), texts, tmp_path / "s", config(context=10, overlap=3), tags=tags
    )
    known = store.token_data()
    words = known.ids != 1
    assert torch.equal(known.tags["rest"][words], known.ids[words] % 3)
    assert (known.tags["rest"][~words] == 0).all()
    assert set(store.frame()["rest"]) <= {"none", "one", "two"}
    with pytest.raises(ValueError, match="too few numbers for document 2"):
        al.dump.plan(tiny(), Numbers(), texts, config(), tags={"rest": Tag(values[:2])})
    with pytest.raises(ValueError, match="numbers from 0 to 2, and labels for 0 to 0"):
        al.dump.plan(tiny(), Numbers(), texts, config(), tags={"rest": Tag(values, labels=("a",))})


# ---------------------------------------------------------------------- before it starts


def test_an_estimate_is_near_the_truth(tiny, tmp_path):
    model = tiny()
    said = al.dump.plan(model, Numbers(), TEXTS, config(layout="both", others="int8"))
    store = al.dump.write(
        model, Numbers(), TEXTS, tmp_path / "s", config(layout="both", others="int8")
    )
    assert said.n_tokens == len(store)
    assert said.n_shards == len(store.manifest.shards)
    headers = 600 * len(digest(tmp_path / "s"))  # which little files consist of
    assert 0.8 * store.manifest.bytes - headers < said.bytes < 1.2 * store.manifest.bytes
    assert said.seconds > 0
    assert list(said.frame()["site"]) == list(store.sites()["site"])
    assert "in 5 shards" in repr(said) or f"in {said.n_shards} shards" in repr(said)


def test_a_disk_that_is_too_small_is_refused(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(LocalFolder, "free_bytes", lambda self: 1000)
    with pytest.raises(ValueError, match=r"needs up to .* has 1 kB free"):
        al.dump.write(tiny(), Numbers(), TEXTS, tmp_path / "s", config())
    assert not list((tmp_path / "s").glob("tokens"))


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"sites": "layers.*.self_attn.hook_pattern"}, "so it has no value per token"),
        ({"sites": "layers.9.mlp.hook_post"}, "matches no hook point"),
        ({"context": 60, "shard_tokens": 20}, "shard_tokens is 20, but a window has"),
        ({"overlap": 90}, "overlap is 90 tokens"),
    ],
)
def test_bad_settings_leave_no_folder(tiny, tmp_path, fields, match):
    with pytest.raises(ValueError, match=match):
        al.dump.write(tiny(), Numbers(), TEXTS, tmp_path / "s", config(**fields))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"layout": "csr"}, "layout is 'csr'; expected one of neuron, both, dense"),
        ({"others": "int4"}, "others is 'int4'"),
        ({"store_dtype": "float64"}, "store_dtype is 'float64'"),
        ({"batch_size": 0}, "batch_size is 0; expected at least 1"),
        ({"shard_tokens": 65_537}, "expected at most 65536"),
        ({"sites": ()}, "sites is empty"),
        ({"sites": (3,)}, "expected names of hook points"),
        ({"threads": 999_999_999}, f"threads is 999999999; expected at most {bounds.THREADS}"),
        ({"threads": True}, "threads is True; expected a whole number"),
        ({"queue_mib": 2**40}, "queue_mib is 1099511627776; expected at most"),
        ({"context": 0}, "context is 0; expected at least 1"),
        ({"context": "64"}, "context is '64'; expected a whole number"),
        ({"max_tokens": 0}, "max_tokens is 0; expected at least 1"),
        ({"overlap": -1}, "overlap is -1; expected at least 0"),
        ({"seed": 1.0}, "seed is 1.0; expected a whole number"),
        ({"packed": "no"}, "packed is 'no'; expected True or False"),
    ],
)
def test_bad_fields(fields, match):
    with pytest.raises(ValueError, match=match):
        DumpConfig(**fields)


def test_a_change_of_the_square_would_be_lost(tiny, tmp_path):
    model = tiny()
    ablation = al.Ablate("layers.1.mlp.hook_post", units=[3])
    with (
        pytest.raises(ValueError, match=r"Change layers\.1\.mlp\.hook_relu instead"),
        al.intervene(model, [ablation]),
    ):
        al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    with al.intervene(model, [al.Ablate("layers.1.mlp.hook_relu", units=[3])]):
        store = al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    assert len(store.neuron(1, 3)) == 0
    assert len(store.neuron(1, 4)) > 0


# ---------------------------------------------------------------------- while it runs


def test_nan_names_its_site_and_keeps_what_was_finished(tiny, tmp_path):
    model = tiny()
    whole = al.dump.write(model, Numbers(), TEXTS, tmp_path / "whole", config())
    last = len(whole.manifest.shards) - 1
    job = DumpJob(model, Numbers(), TEXTS, config())
    number = int(job.plan.shards[last].windows.start)
    seen = []

    def spoil(module, args, output):
        # Only the batches of the last shard are spoilt, as by a bad document.
        seen.append(1)
        if len(seen) > calls:
            output = output.clone()
            output[0, 0, 5] = torch.nan
        return output

    job.estimate()
    calls = sum(len(shard.batches) for shard in job.plan.shards[:last])
    handle = model.model.layers[2].mlp.hook_relu.register_forward_hook(spoil)
    with pytest.raises(ValueError, match=r"layers\.2\.mlp\.hook_relu holds 1 NaN in windows") as e:
        job.run(tmp_path / "s")
    handle.remove()
    assert "the same command continues" in str(e.value)
    assert int(str(e.value).split("windows ")[1].split(" ")[0]) >= number
    assert len(list((tmp_path / "s" / "progress").iterdir())) == last
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    assert digest(tmp_path / "s") == digest(tmp_path / "whole")


def test_values_that_become_infinite_are_named(tiny, tmp_path):
    model = tiny()

    def spoil(module, args, output):
        output = output.clone()
        output[0, 0, 5] = 1e30  # more than float16 holds
        return output

    handle = model.model.layers[1].mlp.hook_relu.register_forward_hook(spoil)
    with pytest.raises(ValueError, match=r"layers\.1\.mlp\.hook_relu holds 1 infinite values in"):
        al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config(store_dtype="float16"))
    handle.remove()


def test_a_full_disk_loses_nothing(tiny, tmp_path, monkeypatch):
    from safetensors import SafetensorError

    from arcee_lab.dump.format import shard_files

    model = tiny()
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "whole", config())
    save, written = shard_files.save_file, []

    def full(tensors, path):
        written.append(path)
        if len(written) > 15:
            raise SafetensorError("Error while serializing: I/O error: No space left on device")
        return save(tensors, path)

    monkeypatch.setattr(shard_files, "save_file", full)
    with pytest.raises(ValueError, match=r"cannot be written: .*No space left.*repeat the same"):
        al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    monkeypatch.setattr(shard_files, "save_file", save)
    assert len(list((tmp_path / "s" / "progress").iterdir())) >= 1
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    assert digest(tmp_path / "s") == digest(tmp_path / "whole")


def test_control_c_finishes_the_shard_and_says_how_to_go_on(tiny, tmp_path, caplog):
    model = tiny()
    job = DumpJob(model, Numbers(), TEXTS, config())
    job.run(tmp_path / "whole")
    pressed = []

    def press(module, args, output):
        pressed.append(1)
        if len(pressed) == len(job.plan.shards[0].batches) + 1:  # the second shard has begun
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    handle = model.model.layers[0].register_forward_hook(press)
    with (
        caplog.at_level(logging.WARNING, "arcee_lab"),
        pytest.raises(Interrupted, match=r"stopped after shard 2 of \d+, .* repeat the same"),
    ):
        job.run(tmp_path / "s")
    handle.remove()
    assert "finishing the current shard" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before
    assert len(list((tmp_path / "s" / "progress").iterdir())) == 2
    files = digest(tmp_path / "s")
    assert sum(path.startswith("tokens/") for path in files) == 2, "half a shard was left"
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    assert digest(tmp_path / "s") == digest(tmp_path / "whole")


def test_a_second_control_c_stops_at_once():
    from arcee_lab.runs.interrupt import GracefulInterrupt

    with GracefulInterrupt() as interrupt:
        signal.raise_signal(signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_another_thread_may_dump(tiny, tmp_path):
    model, stores = tiny(), []
    thread = threading.Thread(
        target=lambda: stores.append(
            al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
        )
    )
    thread.start()
    thread.join()
    assert len(stores[0]) > 0


def test_a_tensor_that_is_changed_while_it_waits_is_noticed(tiny, tmp_path):
    job = DumpJob(tiny(), Numbers(), TEXTS, config(sites="layers.1.hook_resid_post"))
    shard = job.plan.shards[0]
    folder = LocalFolder(tmp_path)
    shard_writer = ShardWriter(folder, shard, job.sites, job.plan.tokens(shard), lambda *_: None)
    x = torch.zeros(4 * 64, 32)
    batch = SiteBatch(x, job.plan.pieces(shard, shard.batches[0]), edits_of(x))
    x.add_(1)  # as a hook does at a later site that holds the same tensor
    with pytest.raises(ValueError, match="was changed in place after it was recorded"):
        shard_writer.add("layers.1.hook_resid_post", batch)


# ---------------------------------------------------------------------- another run's folder


def changed(model):
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1e-3
    return model


@pytest.mark.parametrize(
    ("texts", "fields", "match"),
    [
        (TEXTS, None, r"model\.fingerprint differs"),
        ([*TEXTS, "7 8 9"], {}, r"data\.n_documents is \d+, not \d+, .* more"),
        (TEXTS, {"batch_size": 5}, "batch_size is 4, not 5"),
        (TEXTS, {"layout": "both"}, "layout is 'neuron', not 'both'"),
        (TEXTS, {"seed": 3}, "seed is 0, not 3"),
    ],
)
def test_a_changed_run_is_refused_and_nothing_is_lost(tiny, tmp_path, texts, fields, match):
    model = tiny()
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", config())
    before = digest(tmp_path / "s")
    if fields is None:
        changed(model)
    with pytest.raises(ValueError, match=f"holds another run .*{match}"):
        al.dump.write(model, Numbers(), texts, tmp_path / "s", config(**(fields or {})))
    assert digest(tmp_path / "s") == before


def test_a_damaged_record_does_not_count(tiny, tmp_path):
    model = tiny()
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "whole", config())
    job = DumpJob(model, Numbers(), TEXTS, config())
    folder = LocalFolder(tmp_path / "s")
    folder.claim(job.provenance.settings)
    job.compute(folder, job.plan.shards[:3])
    progress = sorted((tmp_path / "s" / "progress").iterdir())
    progress[0].write_text("{")
    record = json.loads(progress[1].read_text())
    (tmp_path / "s" / record["tokens"]["path"]).unlink()
    job.run(tmp_path / "s")
    assert digest(tmp_path / "s") == digest(tmp_path / "whole")
