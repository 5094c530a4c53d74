"""The manifest: what is written is read, and nothing else is believed."""

import copy
import json
import time

import pytest
from stores import known_acts, make_store

from arcee_lab.dump.format.layouts import encode, least_bytes
from arcee_lab.dump.format.manifest import MANIFEST, Manifest
from arcee_lab.dump.format.stored_site import DTYPES, MOST_LAYERS, stored_as
from arcee_lab.dump.reading.store import open as open_store

BAD = {
    "another format": (lambda m: m.update(format="zarr"), "format is 'zarr'"),
    "a later version": (lambda m: m.update(version=3), "version is 3; this arcee_lab reads"),
    "a version that is a word": (lambda m: m.update(version="1"), "version is '1'; expected int"),
    "no model": (lambda m: m.pop("model"), "model is None; expected dict"),
    "no fingerprint": (lambda m: m["model"].pop("fingerprint"), "model: fingerprint is None"),
    "no config": (lambda m: m["model"].pop("config"), "model.config is missing"),
    "an unknown field": (lambda m: m.update(extra=1), r"unknown fields \['extra'\]"),
    "an unknown field of a file": (
        lambda m: m["shards"][0]["tokens"].update(url="x"),
        "shard 0: tokens has unknown fields",
    ),
    "an unknown dtype": (lambda m: m["sites"][0].update(dtype="float64"), "dtype is 'float64'"),
    "an unknown layout": (lambda m: m["sites"][0].update(layout="csr"), "layout is 'csr'"),
    "a negative width": (lambda m: m["sites"][0].update(shape=[-3]), r"shape is \[-3\]"),
    "a width that overflows": (lambda m: m["sites"][0].update(shape=[2**20, 2**20]), "too many"),
    "a true width": (lambda m: m["sites"][0].update(shape=[True]), r"shape is \[True\]"),
    "too many axes": (lambda m: m["sites"][0].update(shape=[1] * 9), r"shape is \[1, 1, 1"),
    "no axis": (lambda m: m["sites"][0].update(shape=[]), r"shape is \[\]"),
    "more values than bytes": (
        lambda m: m["sites"][0].update(shape=[2**31 - 1]),
        r"bytes is \d+; expected at least 17179869",
    ),
    "more tokens than bytes": (
        lambda m: (m["shards"][2].update(stop=65_577), m.update(n_tokens=65_577)),
        "shard 2: tokens: bytes is",
    ),
    "a site twice": (lambda m: m["sites"].append(m["sites"][0]), "two sites have one name"),
    "a site that is a path": (lambda m: m["sites"][0].update(name="../x"), "no hook point's name"),
    "a site without files": (
        lambda m: m["shards"][1]["sites"].pop("layers.0.mlp.hook_relu"),
        "shard 1 has files of",
    ),
    "a gap": (lambda m: m["shards"][1].update(start=21), "stored not at all"),
    "an overlap": (lambda m: m["shards"][1].update(start=19), "stored twice"),
    "a shard that runs backwards": (lambda m: m["shards"][1].update(stop=20), "tokens 20 to 20"),
    "a shard too long": (lambda m: m["shards"][2].update(stop=10**6), "expected 1 to 65536"),
    "a lost shard": (lambda m: m["shards"].pop(), "end at token 41; expected n_tokens, 47"),
    "one file twice": (
        lambda m: m["shards"][1].update(tokens=m["shards"][0]["tokens"]),
        "two shards or indexes name one file",
    ),
    "a checksum that is none": (
        lambda m: m["shards"][0]["tokens"].update(sha256="no"),
        "sha256 is 'no'",
    ),
    "a negative size": (lambda m: m["shards"][0]["tokens"].update(bytes=-1), "bytes is -1"),
    "more nonzeros than cells": (
        lambda m: m["shards"][0]["sites"]["layers.0.mlp.hook_relu"].update(nonzeros=20 * 23 + 1),
        "nonzeros is 461; expected 0 to 460",
    ),
    "a true start": (lambda m: m["shards"][1].update(start=True), "start is True; expected int"),
    "a stop that is a word": (lambda m: m["shards"][1].update(stop="41"), "stop is .41.; expected"),
    "a negative start": (lambda m: m["shards"][0].update(start=-1), "start is -1; expected 0"),
    "a shard beyond all numbers": (
        lambda m: m["shards"][2].update(start=2**62, stop=2**62 + 1),
        "stop is 4611686018427387905",
    ),
    "an unknown field of a shard": (lambda m: m["shards"][1].update(url=""), "shard 1 has unknown"),
    "files that are a list": (lambda m: m["shards"][1].update(sites=[1]), r"sites is \[1\]"),
    "tokens that are a list": (lambda m: m["shards"][1].update(tokens=[1]), r"tokens is \[1\]"),
    "fewer bytes than nonzeros": (
        lambda m: m["shards"][1]["sites"]["layers.0.mlp.hook_relu"].update(bytes=40),
        "shard 1: layers.0.mlp.hook_relu: bytes is 40; expected at least",
    ),
    "a list for an object": (lambda m: m.update(shards=[3]), "shard 0 is int; expected an object"),
    "tags without words": (lambda m: m.update(tags={"a": [1]}), "expected a list of words"),
}
BAD |= {
    f"the layer {layer[:12]}": (
        lambda m, layer=layer: m["sites"][0].update(name=f"layers.{layer}.mlp.hook_relu"),
        "is of no layer; expected 0 to 1023",
    )
    for layer in ("9" * 20, "9" * 200, "1024", "-1", "x", "1e3")
}
BAD |= {
    f"{count!r} layers": (
        lambda m, count=count: m["model"]["config"].update(num_hidden_layers=count),
        "num_hidden_layers is",
    )
    for count in (10**9, 1025, -1, "3", 3.0, None, True)
}
BAD |= {
    f"the path {path}": (
        lambda m, path=path: m["shards"][0]["tokens"].update(path=path),
        "is not a .safetensors file",
    )
    for path in (
        "../tokens.safetensors",
        "a/../../t.safetensors",
        "/etc/t.safetensors",
        "C:\\t.safetensors",
        "a\\t.safetensors",
        "./t.safetensors",
        "a//t.safetensors",
        "t.pkl",
        "~/t.safetensors",
        "t.safetensors\n",
        "t" * 300 + ".safetensors",
        "",
    )
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"))


def test_what_is_written_is_read(written):
    assert Manifest.load(written.folder) == written.manifest
    assert written.manifest.n_tokens == 47
    files = [path for path in written.folder.rglob("*.safetensors") if path.parent.name != "index"]
    assert written.manifest.bytes == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize("what", BAD)
def test_a_strangers_manifest_is_checked(written, what):
    change, message = BAD[what]
    value = copy.deepcopy(written.manifest.to_json())
    change(value)
    with pytest.raises(ValueError, match=message):
        Manifest.parse(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ('{"format": NaN}', "NaN is no number of JSON"),
        ("[" * 100_000, "is damaged"),
        ("\xff", "is damaged"),
        ("[]", "the manifest is list"),
    ],
)
def test_a_damaged_manifest(tmp_path, text, message):
    (tmp_path / MANIFEST).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        Manifest.load(tmp_path)


@pytest.mark.parametrize("layout", ["neuron", "both", "dense", "int8"])
@pytest.mark.parametrize("density", [0.0, 0.01, 0.5, 1.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_least_bytes_are_those_of_the_tensors(layout, density, dtype):
    """So that no file of ours is refused, and none that is smaller is believed."""
    x = known_acts(40, 23, density, DTYPES[dtype])
    block = encode(x, layout)
    assert block.bytes == least_bytes(
        layout,
        tokens=40,
        width=23,
        itemsize=x.element_size(),
        nonzeros=block.nonzeros or 0,
    )


def test_wrong_questions_are_answered_at_once(tmp_path):
    """As many layers as a manifest may name, and questions as long as anyone likes."""
    sites = {f"layers.{MOST_LAYERS - 1}.mlp.hook_relu": ("neuron", 0.1)}
    store = open_store(make_store(tmp_path, sites=sites).folder)
    assert len(store.neuron(MOST_LAYERS - 1, 3)) >= 0
    with pytest.raises(ValueError, match="matches no hook point"):
        store.find("layers.0.mlp.hook_pots")  # all names are made once
    began = time.process_time()
    for question in ("layers.0.mlp.hook_pots", "x" * 10**5, f"layers.{'9' * 4000}.mlp.hook_post"):
        with pytest.raises(ValueError, match="matches no hook point") as error:
            store.find(question)
        assert len(str(error.value)) < 600
    # Measured .2 s; without the bounds one such question takes 8 s and more.
    assert time.process_time() - began < 4


def test_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"holds no manifest.json.* repeat its command"):
        Manifest.load(tmp_path)
    with pytest.raises(ValueError, match="is no folder"):
        Manifest.load(tmp_path / "nothing")


def test_what_cannot_be_read_is_not_written(written, tmp_path):
    import dataclasses

    bad = dataclasses.replace(written.manifest, model={})
    with pytest.raises(ValueError, match="name is None"):
        bad.save(tmp_path)
    assert not (tmp_path / MANIFEST).exists()


def test_json_has_no_surprises(written):
    text = (written.folder / MANIFEST).read_text(encoding="utf-8")
    assert json.loads(text) == written.manifest.to_json()


def test_squares_are_stored_as_their_roots():
    assert stored_as("layers.3.mlp.hook_post") == "layers.3.mlp.hook_relu"
    assert stored_as("layers.3.mlp.hook_pre") == "layers.3.mlp.hook_pre"
    assert stored_as("layers.3.hook_resid_post") == "layers.3.hook_resid_post"
