"""`verify` finds what is damaged, `repair` makes just that again."""

import os

import pytest
import torch
from jobs import NEURONS, Numbers, digest, numbers
from stores import make_store, rewrite

import arcee_lab as al
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.writing.job import DumpJob

TEXTS = numbers(16, seed=7)
CONFIG = DumpConfig(
    sites=(NEURONS, "layers.1.hook_resid_post"), layout="both", batch_size=4, shard_tokens=96
)


@pytest.fixture(scope="module")
def model(tiny):
    torch.manual_seed(11)
    return tiny()


@pytest.fixture
def folder(model, tmp_path):
    al.dump.write(model, Numbers(), TEXTS, tmp_path / "s", CONFIG)
    return tmp_path / "s"


def flip(path, at=-3):
    content = bytearray(path.read_bytes())
    content[at] ^= 0x10
    path.write_bytes(content)


def test_a_whole_store(folder):
    found = al.dump.verify(folder)
    assert found.intact
    assert found.n_files == len(digest(folder)) - 2  # all but the manifest and run.json
    assert found.frame().empty
    assert repr(found).endswith(": intact")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (flip, "its checksum is not the manifest's"),
        (lambda path: path.unlink(), "it is missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"it has \d+ bytes, not \d+"),
    ],
)
def test_each_damage_is_named_and_repaired(model, folder, damage, why, monkeypatch):
    before = digest(folder)
    damage(folder / "layers.2.mlp.hook_relu" / "00001.safetensors")
    damage(folder / "tokens" / "00002.safetensors")
    found = al.dump.verify(folder)
    assert [(d.shard, d.site) for d in found.damages] == [
        (1, "layers.2.mlp.hook_relu"),
        (2, "tokens"),
    ]
    assert found.frame()["why"].str.fullmatch(why).all()
    assert "layers.2.mlp.hook_relu/00001.safetensors" in repr(found)

    computed = []
    compute = DumpJob.compute

    def watched(self, target, shards, **options):
        computed.extend(shard.number for shard in shards)
        compute(self, target, shards, **options)

    monkeypatch.setattr(DumpJob, "compute", watched)
    untouched = folder / "layers.0.mlp.hook_relu" / "00001.safetensors"
    time = untouched.stat().st_mtime_ns
    assert al.dump.repair(folder, model, Numbers(), TEXTS).intact
    assert computed == [1, 2]
    assert digest(folder) == before
    assert untouched.stat().st_mtime_ns == time


def test_a_whole_store_is_not_computed_again(model, folder, monkeypatch):
    monkeypatch.setattr(DumpJob, "compute", None)
    assert al.dump.repair(folder, model, Numbers(), TEXTS).intact


def test_repair_wants_the_same_model_and_text(tiny, model, folder):
    path = folder / "tokens" / "00000.safetensors"
    flip(path)
    with pytest.raises(ValueError, match="the store is of another data"):
        al.dump.repair(folder, model, Numbers(), [*TEXTS, "5"])
    with pytest.raises(ValueError, match="the store is of another model"):
        al.dump.repair(folder, tiny(), Numbers(), TEXTS)
    assert not al.dump.verify(folder).intact


def test_other_bits_are_not_put_in_place(model, folder, monkeypatch):
    path = folder / "layers.1.mlp.hook_relu" / "00000.safetensors"
    flip(path)
    damaged = path.read_bytes()
    with (
        al.intervene(model, [al.Scale("layers.0.hook_resid_pre", 1.0 + 1e-6)]),
        pytest.raises(ValueError, match="the recomputed file does not match the checksum"),
    ):
        al.dump.repair(folder, model, Numbers(), TEXTS)
    assert path.read_bytes() == damaged


# ---------------------------------------------------------------------- a stranger's store


SPARSE, BOTH = "layers.0.mlp.hook_relu", "layers.1.mlp.hook_relu"


def hostile(change, site):
    """A store whose manifest vouches for a file that does not hold together."""

    def make(folder):
        from safetensors.torch import load_file

        known = make_store(folder)
        path = known.manifest.shards[1].sites[site].path
        rewrite(folder, 1, site, **change(load_file(folder / path)))

    return make


def swapped(tensors):
    index = tensors["by_unit.index"].clone()
    index[[0, 1]] = index[[1, 0]]
    return {"by_unit.index": index}


def beyond(tensors):
    index = tensors["by_unit.index"].clone().int()
    index[-1] = 60_000
    return {"by_unit.index": index.to(torch.uint16)}


def falling(tensors):
    offsets = tensors["by_unit.offsets"].clone()
    offsets[3] = offsets[-1] + 5
    return {"by_unit.offsets": offsets}


def zeroed(tensors):
    values = tensors["by_unit.values"].clone()
    values[2] = 0
    return {"by_unit.values": values}


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (beyond, "index of 60000"),
        (falling, "offsets do not rise"),
        (zeroed, "nonzeros; expected"),
    ],
)
def test_checksums_of_a_stranger_are_not_enough(tmp_path, change, why):
    hostile(change, BOTH)(tmp_path)
    (damage,) = al.dump.verify(tmp_path).damages
    assert (damage.shard, damage.site) == (1, BOTH)
    assert why in damage.why


def test_two_halves_that_disagree(tmp_path):
    from safetensors.torch import load_file

    known = make_store(tmp_path)
    tensors = load_file(tmp_path / known.manifest.shards[1].sites[BOTH].path)
    index = tensors["by_token.index"].clone().int()
    offsets = tensors["by_token.offsets"]
    row = int((offsets.diff() > 0).nonzero()[0])
    free = [u for u in range(23) if u not in index[offsets[row] : offsets[row + 1]].tolist()]
    last = int(offsets[row + 1]) - 1
    index[last] = (
        max(u for u in free if u > int(index[last])) if free[-1] > index[last] else free[0]
    )
    inside = index[offsets[row] : offsets[row + 1]].sort().values
    index[offsets[row] : offsets[row + 1]] = inside
    rewrite(tmp_path, 1, BOTH, **{"by_token.index": index.to(torch.uint16)})
    (damage,) = al.dump.verify(tmp_path).damages
    assert "count other nonzeros" in damage.why


def test_no_store(tmp_path):
    with pytest.raises(ValueError, match=r"holds no manifest\.json"):
        al.dump.verify(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        al.dump.verify(tmp_path)
    assert os.listdir(tmp_path) == ["manifest.json"]
