"""Saved, loaded and gone on with; and what is not our file is refused before it is used."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch

import arcee_lab as al
from arcee_lab.reducers import (
    ActiveCount,
    CoActivation,
    FiringRate,
    Grouped,
    Histogram,
    MeanCovariance,
    Moments,
    Quantile,
    Reducer,
    TopK,
)

SITE = "layers.1.mlp.hook_post"
ASKED = {
    "layers.*.mlp.hook_post": [
        FiringRate(), Moments(first="exclude"), ActiveCount(keep=5), Histogram(-8, 4),
        Quantile(), TopK(2), CoActivation([1, 5]), Grouped(TopK(2), 2, names=["a", "b"]),
    ],
    "hook_embed": MeanCovariance(),
    "layers.0.self_attn.hook_q": FiringRate(first="only"),
}  # fmt: skip


@pytest.fixture
def model(tiny):
    return tiny()


def reduced(model, seed=0, asked=None):
    ids = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad(), al.capture(model, asked or ASKED) as stats:
        stats.set_labels(torch.tensor([[0], [1]]).expand(2, 6))
        model(ids)
    return stats


def same(a, b):
    assert list(a) == list(b)
    assert a.requests == b.requests
    for site in a:
        for mine, theirs in zip(a.states[site], b.states[site], strict=True):
            assert all(torch.equal(mine[name], theirs[name]) for name in theirs)
            assert all(mine[name].dtype == theirs[name].dtype for name in theirs)


def test_a_saved_run_goes_on_as_if_it_had_not_stopped(model, tmp_path):
    """Two halves through a file are the whole, up to the last bit."""
    first, second = reduced(model, 0), reduced(model, 1)
    path = first.save(tmp_path / "run", progress={"texts": 2, "file": "a.txt"})
    assert path == tmp_path / "run" / "statistics.json"
    loaded = al.reducers.load(tmp_path / "run")
    assert loaded.progress == {"texts": 2, "file": "a.txt"}
    same(loaded, first)
    same(loaded.merge(second), first.merge(second))
    assert repr(loaded) == repr(first.merge())
    loaded.merge(second).save(tmp_path / "run")  # in its place
    same(al.reducers.load(tmp_path / "run"), first.merge(second))
    assert len(list((tmp_path / "run").iterdir())) == 2


def test_a_block_saves_while_it_runs(model, tmp_path):
    ids = torch.arange(3, 12)[None]
    with torch.no_grad(), al.capture(model, {SITE: FiringRate()}) as stats:
        stats.save(tmp_path / "run")  # before the first forward
        assert not al.reducers.load(tmp_path / "run").states
        for step in (1, 2, 3):
            model(ids)
            stats.save(tmp_path / "run", progress={"steps": step})
            loaded = al.reducers.load(tmp_path / "run")
            assert loaded[SITE].tokens == 9 * loaded.progress["steps"] == 9 * step


def test_a_crash_while_saving_leaves_the_former_state(model, tmp_path, monkeypatch):
    reduced(model).save(tmp_path / "run", progress={"texts": 1})
    from arcee_lab.reducers.running import files

    def fails(*args):
        raise OSError("no space left on device")

    monkeypatch.setattr(files, "write_json", fails)
    with pytest.raises(OSError, match="no space"):
        reduced(model, 1).save(tmp_path / "run", progress={"texts": 2})
    loaded = al.reducers.load(tmp_path / "run")
    assert loaded.progress == {"texts": 1}
    same(loaded, reduced(model))


def test_no_other_run_is_overwritten(model, tiny, tmp_path):
    stats, other = reduced(model), tiny(initializer_range=0.2)
    stats.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"another run \(its sites or reducers differ\)"):
        reduced(model, asked={SITE: FiringRate()}).save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"another run \(its model differ"):
        reduced(other).save(tmp_path / "run")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("text")
    with pytest.raises(ValueError, match="holds other files"):
        stats.save(tmp_path / "notes")
    with pytest.raises(ValueError, match="is a file"):
        stats.save(tmp_path / "notes" / "mine.txt")
    (tmp_path / "run" / "statistics.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        stats.save(tmp_path / "run")


@dataclass(frozen=True)
class Largest(Reducer):
    """A user's own."""

    floor: float = 0.0

    def init(self, shape, device):
        return {"largest": torch.full(shape, self.floor, device=device)}

    def update(self, state, x, token_mask, **asked):
        there = x.masked_fill(~token_mask[..., None], self.floor)
        state["largest"] = torch.maximum(state["largest"], there.amax((0, 1)))

    def merge(self, a, b):
        return {"largest": torch.maximum(a["largest"], b["largest"])}


def test_reducers_of_a_user_are_read_where_they_are_named(model, tmp_path):
    stats = reduced(model, asked={SITE: Largest(0.5)})
    stats.save(tmp_path / "run")
    with pytest.raises(ValueError, match=r"no reducer is called 'Largest'.*reducers=\[\.\.\.\]"):
        al.reducers.load(tmp_path / "run")
    loaded = al.reducers.load(tmp_path / "run", reducers=[Largest])
    assert torch.equal(loaded[SITE]["largest"], stats[SITE]["largest"])
    assert loaded.requests[SITE] == Largest(0.5)


# ------------------------------------------------------------------ what is refused


def edit(*keys, value):
    def change(found, tensors):
        for key in keys[:-1]:
            found = found[key]
        found[keys[-1]] = value

    return change


def tensor(name, make):
    def change(found, tensors):
        tensors[f"{SITE}/{name}"] = make(tensors[f"{SITE}/{name}"])

    return change


def put(x, index, value):
    x = x.clone()
    x[index] = value
    return x


DAMAGES = {
    "no version": (lambda f, t: f.pop("version"), "expected the keys"),
    "a later version": (edit("version", value=2), "version 2; expected"),
    "another format": (edit("format", value="x"), "'x' version 1"),
    "no layers": (edit("model", "layers", value=0), "0 layers"),
    "a huge model": (edit("model", "layers", value=10**9), "layers"),
    "a strange head": (edit("model", "head", value="x"), "the head 'x'"),
    "no fingerprint": (edit("model", "fingerprint", value="x"), "64 hexadecimal"),
    "no sites": (edit("sites", value={}), "at least one site"),
    "a site the model lacks": (
        lambda f, t: f["sites"].update({"layers.9.mlp.hook_post": f["sites"][SITE]}),
        "matches no hook point",
    ),
    "another spelling": (
        lambda f, t: f["sites"].update({"blocks.0.mlp.hook_post": f["sites"][SITE]}),
        "no canonical name",
    ),
    "a shape of words": (edit("sites", SITE, "shape", value=["72"]), "expected lengths"),
    "a negative shape": (edit("sites", SITE, "shape", value=[-1]), "expected lengths"),
    "a huge shape": (edit("sites", SITE, "shape", value=[2**62]), "cannot be used"),
    "a smaller shape": (edit("sites", SITE, "shape", value=[71]), r"expected I64 \[71\]"),
    "a large shape": (edit("sites", SITE, "shape", value=[2**40]), r"expected I64 \[1099"),
    "an unknown reducer": (
        edit("sites", SITE, "reducers", 0, "type", value="eval"),
        "no reducer is called 'eval'",
    ),
    "an unknown setting": (
        edit("sites", SITE, "reducers", 0, "code", value="x"),
        "FiringRate does not take",
    ),
    "a bad setting": (edit("sites", SITE, "reducers", 2, "keep", value=-1), "keep=-1"),
    "a setting of another type": (
        edit("sites", SITE, "reducers", 3, "low", value="x"),
        "cannot be used",
    ),
    "a unit out of range": (
        edit("sites", SITE, "reducers", 6, "units", value=[1, 72]),
        "out of range",
    ),
    "more groups": (edit("sites", SITE, "reducers", 7, "groups", value=10**12), "expected"),
    "no reducer": (edit("sites", SITE, "reducers", value="x"), "describes no reducer"),
    "a path out of the folder": (
        edit("states", "path", value="../states-0123456789abcdef.safetensors"),
        "states are in",
    ),
    "a missing file": (
        edit("states", "path", value="states-0123456789abcdef.safetensors"),
        "is missing",
    ),
    "another length": (edit("states", "bytes", value=3), "not 3 bytes long"),
    "another checksum": (edit("states", "sha256", value="0" * 64), "was changed"),
    "a missing tensor": (lambda f, t: t.pop(f"{SITE}/0/tokens"), "tokens"),
    "missing states": (
        lambda f, t: [t.pop(name) for name in list(t) if name.startswith(f"{SITE}/1/")],
        "lacks the states of some",
    ),
    "a further tensor": (lambda f, t: t.update(more=torch.zeros(1)), "'more', which no"),
    "another dtype": (tensor("0/fired", torch.Tensor.int), r"I32 \[72\]; expected I64"),
    "another shape": (tensor("0/fired", lambda x: x[:9].clone()), r"I64 \[9\]; expected"),
    "negative counts": (tensor("0/fired", lambda x: -1 - x), "fired holds counts below 0"),
    "more than all": (tensor("0/fired", lambda x: x + 100), "more than tokens"),
    "negative squares": (tensor("1/squares", lambda x: -1 - x), "negative sums of squares"),
    "counts that do not add up": (tensor("2/counts", lambda x: x + 1), "do not add up"),
    "too many active": (tensor("2/kept", lambda x: x + 99), "more active units than"),
    "bins that do not add up": (tensor("3/counts", lambda x: x + 1), "do not add up"),
    "quantiles that do not add up": (
        tensor("4/counts", lambda x: put(x, 0, x[0] + 1)), "do not add up"
    ),
    "quantiles of nothing": (tensor("4/tokens", lambda x: x * 0), "do not add up"),
    "rows never read": (tensor("5/rows", lambda x: x + 7), "point outside"),
    "values that rise": (tensor("5/values", lambda x: x.flip(-1) + torch.arange(2)), "fall"),
    "no place but a value": (
        tensor("5/rows", lambda x: put(x, (0, 1), -1)), "do not fit each other"
    ),
    "pairs that are none": (tensor("6/both", lambda x: put(x, (0, 1), 9)), "table of pairs"),
    "pairs of more than all": (tensor("6/both", lambda x: x + 99), "both is more than tokens"),
    "negative tokens": (tensor("7/tokens_by_group", lambda x: -1 - x), "counts below 0"),
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model = tiny()
    reduced(model).save(folder)
    found = json.loads((folder / "statistics.json").read_text())
    return found, safetensors.torch.load_file(folder / found["states"]["path"])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_with_a_reason(saved, damage, tmp_path):
    change, said = DAMAGES[damage]
    found, tensors = json.loads(json.dumps(saved[0])), dict(saved[1])
    change(found, tensors)
    content = safetensors.torch.save(tensors)
    if found.get("states") == saved[0]["states"]:
        digest = hashlib.sha256(content).hexdigest()
        path = f"states-{digest[:16]}.safetensors"
        found["states"] = {"path": path, "bytes": len(content), "sha256": digest}
        (tmp_path / path).write_bytes(content)
    else:
        (tmp_path / saved[0]["states"]["path"]).write_bytes(content)
    (tmp_path / "statistics.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=said) as error:
        al.reducers.load(tmp_path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_none_is_refused(saved, tmp_path):
    with pytest.raises(ValueError, match="holds no statistics"):
        al.reducers.load(tmp_path / "nothing")
    for text in ("{", "[]", "NaN", '{"format": Infinity}', "\x00"):
        (tmp_path / "statistics.json").write_text(text)
        with pytest.raises(ValueError, match="cannot be used"):
            al.reducers.load(tmp_path)
    found = dict(saved[0])
    content = b"\xff" * 64
    digest = hashlib.sha256(content).hexdigest()
    path = f"states-{digest[:16]}.safetensors"
    found["states"] = {"path": path, "bytes": 64, "sha256": digest}
    (tmp_path / path).write_bytes(content)
    (tmp_path / "statistics.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="cannot be used"):
        al.reducers.load(tmp_path)
    (tmp_path / path).unlink()
    (tmp_path / path).symlink_to(Path(__file__))
    with pytest.raises(ValueError, match="is missing"):
        al.reducers.load(tmp_path)
