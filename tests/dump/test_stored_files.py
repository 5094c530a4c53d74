"""Records that are checked together are accepted exactly where each of them alone is."""

import random

import pytest
from stores import make_store

from arcee_lab.dump.format import manifest as format_manifest
from arcee_lab.dump.format.layouts import LAYOUTS, MOST_TOKENS, enough_bytes, least_bytes
from arcee_lab.dump.format.manifest import Manifest
from arcee_lab.dump.format.stored_file import StoredFile, read_file, read_files
from arcee_lab.errors import StoreDamaged

MOST = 1000
VALUES = {
    "path": (
        *("a.safetensors", "a/b-c_D.9/e.safetensors", "..safetensors", ".safetensors", "a/.b"),
        *("a//b.safetensors", "/a.safetensors", "a/.b.safetensors", "a/../b.safetensors", ""),
        *("a.safetensors\n", "a.safetensors\nb.safetensors", "a\n.safetensors", "a.safetensors/"),
        *("a.pkl", "a\0.safetensors", "ä.safetensors", "a" * 243 + ".safetensors"),
        *("a" * 244 + ".safetensors", b"a.safetensors", None, 3, ["a.safetensors"]),
    ),
    "bytes": (0, 1, 2**62, 2**62 + 1, 2**70, -1, True, 1.0, "1", None, [1]),
    "sha256": (
        *("0" * 64, "f" * 64, "A" * 64, "g" * 64, "0" * 63, "0" * 65, "0" * 63 + "\n"),
        *("٠" * 64, "", None, 64, ["0"] * 64),
    ),
    "nonzeros": (0, MOST, -1, True, 1.0, "1", None, [1]),
}


def record(number, *, counted):
    value = {"path": f"s/{number:05d}.safetensors", "bytes": number, "sha256": f"{number:064x}"}
    return value | {"nonzeros": number} if counted else value


def changed():
    """Records with one thing changed, and whether they state their nonzeros."""
    for counted in (False, True):
        for name, values in VALUES.items():
            for value in values:
                yield counted, record(7, counted=counted) | {name: value}
        for name in record(7, counted=counted):
            less = record(7, counted=counted)
            del less[name]
            yield counted, less
            yield counted, less | {"url": 1}
        yield counted, record(7, counted=counted) | {"url": 1}
        for value in (None, 3, "path", [], list(record(7, counted=counted)), {}, True):
            yield counted, value


def alone(value, *, counted):
    try:
        return read_file(value, "a file", most=MOST if counted else None)
    except StoreDamaged:
        return None


def test_together_as_alone():
    others = {kind: [record(n, counted=kind) for n in (20, 21, 22)] for kind in (False, True)}
    refused = 0
    for counted, value in changed():
        given = {kind: list(rows) for kind, rows in others.items()}
        given[counted].insert(1, value)
        found, expected = read_files(given[False], given[True]), alone(value, counted=counted)
        refused += expected is None
        if expected is None:
            assert found is None, value
        else:
            assert found is not None, value
            assert found[1 if not counted else len(given[False]) + 1] == expected
            assert all(isinstance(file, StoredFile) for file in found)
            assert [file.to_json() for file in found] == given[False] + given[True]
    assert refused > 80
    assert read_files([], []) == []


@pytest.mark.parametrize("layout", LAYOUTS)
def test_enough_is_never_less_than_the_least(layout):
    numbers = random.Random(5)
    for _ in range(500):
        width, itemsize = numbers.choice([1, 7, 900, 65_536, 70_000]), numbers.choice([2, 4])
        tokens = numbers.choice([1, 8, 511, MOST_TOKENS])
        nonzeros = int(width * tokens * numbers.choice([0, 0.001, 0.05, 0.3, 0.95, 1]))
        each, per_token, fixed = enough_bytes(layout, width=width, itemsize=itemsize)
        least = least_bytes(
            layout, tokens=tokens, width=width, itemsize=itemsize, nonzeros=nonzeros
        )
        assert least <= each * nonzeros + per_token * tokens + fixed


def test_an_intact_manifest_takes_the_short_way(tmp_path, monkeypatch):
    """Each kind of layout and encoding; a damaged one goes the long way, to its error."""
    sites = {
        f"layers.{number}.{name}": (layout, density)
        for number, (name, layout, density) in enumerate(
            (
                ("mlp.hook_relu", "neuron", 0.0),
                ("mlp.hook_relu", "neuron", 0.03),
                ("mlp.hook_relu", "both", 0.5),
                ("mlp.hook_relu", "both", 1.0),
                ("hook_resid_post", "dense", 1.0),
                ("self_attn.hook_z", "int8", 1.0),
            )
        )
    }
    known = make_store(tmp_path, sites=sites)

    def refuse(*_):
        raise AssertionError("a shard was read field by field")

    monkeypatch.setattr(format_manifest, "_shard", refuse)
    loaded = Manifest.load(tmp_path)
    assert loaded == known.manifest
    assert [list(shard.sites) for shard in loaded.shards] == [list(sites)] * 3
    value = known.manifest.to_json()
    value["shards"][1]["sites"]["layers.1.mlp.hook_relu"]["bytes"] = 8
    with pytest.raises(AssertionError, match="field by field"):
        Manifest.parse(value)
