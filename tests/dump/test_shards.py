"""Shard files: whole, the same bytes for the same content, readable by safetensors itself."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stores import known_acts, known_tokens, make_store, rewrite

from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.format import shard_files
from arcee_lab.dump.format.layouts import LAYOUTS, encode
from arcee_lab.dump.format.manifest import shard_path
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.runs import storage

NEURONS = "layers.0.mlp.hook_relu"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize(("n", "density"), [(0, 0.1), (9, 0.0), (40, 0.03), (33, 0.3), (8, 1.0)])
def test_round_trip_through_a_file(tmp_path, layout, dtype, n, density):
    site = StoredSite(NEURONS, (37,), dtype, layout)
    x = known_acts(n, 37, density, site.torch_dtype)
    block = encode(x, layout)
    file = shard_files.write(tmp_path, shard_path(NEURONS, 3), block)
    assert file.path == f"{NEURONS}/00003.safetensors"
    assert file.sha256 == storage.sha256(tmp_path / file.path)
    read = shard_files.read_block(tmp_path, file, site, length=n)
    assert torch.equal(read.dense(), block.dense())
    if layout != "int8":
        assert torch.equal(read.dense(), x)
    assert read.encoding == block.encoding
    assert load_file(tmp_path / file.path).keys() == block.tensors.keys()


def test_same_content_same_bytes(tmp_path):
    x = known_acts(30, 20, 0.2, torch.float16)
    files = [
        shard_files.write(tmp_path / name, "a/0.safetensors", encode(x, "both")) for name in "ab"
    ]
    assert files[0] == files[1]
    assert sorted(path.name for path in (tmp_path / "a").rglob("*")) == ["0.safetensors", "a"]


def test_tokens_come_back(tmp_path):
    tokens = known_tokens(25)
    file = shard_files.write(tmp_path, "tokens/00000.safetensors", tokens)
    read = shard_files.read_tokens(tmp_path, file, length=25, tags=["topic"])
    for name, tensor in tokens.tensors().items():
        assert torch.equal(read.tensors()[name], tensor)


def test_a_number_that_does_not_fit_is_refused(tmp_path):
    tokens = known_tokens(2)
    object.__setattr__(tokens, "ids", torch.tensor([1, 2**31]))
    with pytest.raises(ValueError, match=r"ids has 2 values .* fits torch.int32"):
        shard_files.write(tmp_path, "t.safetensors", tokens)
    assert not (tmp_path / "t.safetensors").exists()


# ---------------------------------------------------------------------- damaged and hostile files


def open_all(folder):
    from arcee_lab.dump.format.manifest import Manifest

    manifest = Manifest.load(folder)
    for shard in manifest.shards:
        shard_files.read_tokens(folder, shard.tokens, length=len(shard), tags=manifest.tags)
        for site in manifest.sites:
            block = shard_files.read_block(folder, shard.sites[site.name], site, length=len(shard))
            block.dense()
            block.units(slice(None))
            block.span(0, len(shard))


def test_a_sound_store_opens(tmp_path):
    make_store(tmp_path)
    open_all(tmp_path)


def test_missing_truncated_and_overwritten_files(tmp_path):
    known = make_store(tmp_path)
    path = tmp_path / known.manifest.shards[1].sites[NEURONS].path
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"00001.safetensors is damaged: it has \d+ bytes"):
        open_all(tmp_path)
    path.write_bytes(b"\xff" * len(whole))
    with pytest.raises(ValueError, match=r"damaged: .*header"):
        open_all(tmp_path)
    # A header that promises more than the file holds.
    path.write_bytes(whole.replace(b'"shape":[24]', b'"shape":[99]'))
    with pytest.raises(ValueError, match="is damaged"):
        open_all(tmp_path)
    path.unlink()
    with pytest.raises(ValueError, match="damaged: it is missing"):
        open_all(tmp_path)


BOTH = "layers.1.mlp.hook_relu"
HOSTILE = {
    "offsets beyond the values": (BOTH, "by_unit.offsets", lambda t: t + 1),
    "offsets that fall": (BOTH, "by_unit.offsets", lambda t: t.flip(0)),
    "negative offsets": (BOTH, "by_unit.offsets", lambda t: t - 5),
    "offsets of another type": (BOTH, "by_unit.offsets", lambda t: t.int()),
    "too few offsets": (BOTH, "by_token.offsets", lambda t: t[1:]),
    "an index out of range": (BOTH, "by_unit.index", lambda t: torch.full_like(t, 65535)),
    "indices that do not rise": (BOTH, "by_token.index", lambda t: torch.zeros_like(t)),
    "fewer values than offsets say": (BOTH, "by_token.values", lambda t: t[:-1]),
    "a half that is missing": (BOTH, "by_token.values", lambda t: None),
    "values of another type": (NEURONS, "by_unit.values", lambda t: t.float()),
    "bits that disagree": (NEURONS, "by_unit.bits", lambda t: ~t),
    "bits beyond the last column": (NEURONS, "by_unit.bits", lambda t: t | 128),
    "bits of another shape": (NEURONS, "by_unit.bits", lambda t: t[:, :-1].contiguous()),
    "ids of another length": (None, "ids", lambda t: t[:-1]),
    "ids of another type": (None, "ids", lambda t: t.long()),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_strangers_shard_is_checked(tmp_path, what):
    """The manifest vouches for each of these files, so its checksum alone proves nothing."""
    site, name, change = HOSTILE[what]
    known = make_store(tmp_path)
    shard = known.manifest.shards[0]
    file = shard.sites[site] if site else shard.tokens
    rewrite(tmp_path, 0, site, **{name: change(load_file(tmp_path / file.path)[name])})
    with pytest.raises(ValueError, match=r"is damaged|index|indices|bitmap|bits"):
        open_all(tmp_path)


def test_one_more_tensor_is_refused(tmp_path):
    make_store(tmp_path)
    rewrite(tmp_path, 0, BOTH, more=torch.zeros(3))
    with pytest.raises(ValueError, match="its more is"):
        open_all(tmp_path)


def test_unsorted_columns_never_read_out_of_bounds():
    """A binary search over indices that do not rise ends, and what it finds is refused."""
    x = known_acts(64, 300, 0.05, torch.float16)
    block = encode(x)
    assert block.encoding == "index"
    generator = np.random.default_rng(0)
    for _ in range(20):
        index = torch.from_numpy(generator.integers(0, 2**16, block.nonzeros, dtype=np.uint16))
        hostile = type(block)(
            {**block.tensors, "by_unit.index": index}, 64, 300, torch.float16, block.nonzeros
        )
        with pytest.raises(ValueError, match=r"index|indices"):
            hostile.units(slice(None))
        try:
            assert hostile.span(10, 50).index.max(initial=0) < 300
        except ValueError:
            continue


def test_a_link_out_of_the_store_is_refused(tmp_path):
    known = make_store(tmp_path / "store")
    file = known.manifest.shards[0].tokens
    outside = tmp_path / "outside.safetensors"
    (tmp_path / "store" / file.path).rename(outside)
    (tmp_path / "store" / file.path).symlink_to(outside)
    with pytest.raises(ValueError, match="is a symbolic link"):
        open_all(tmp_path / "store")
    with pytest.raises(ValueError, match="leads out of the store"):
        LocalFolder(tmp_path / "store").local("../outside.safetensors")
