"""What an export holds is what the store holds, and what is lost is stated."""

import errno
import json

import numpy as np
import pandas as pd
import pytest
import torch
from jobs import Numbers, digest, numbers
from safetensors import safe_open
from safetensors.torch import load_file
from stores import TAG, make_store, rewrite

import arcee_lab as al
from arcee_lab.dump.format.stored_site import DTYPES

SPARSE = "layers.0.mlp.hook_relu"
BOTH = "layers.1.mlp.hook_relu"
RESID = "layers.1.hook_resid_post"


@pytest.fixture(scope="module", params=DTYPES)
def known(request, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"), dtype=DTYPES[request.param])


@pytest.fixture
def store(known):
    return al.dump.open(known.folder)


def statement(folder):
    return json.loads((folder / "export.json").read_text())


def test_parquet_is_exact(known, store, tmp_path):
    done = store.export("parquet", tmp_path / "out")
    for name in (SPARSE, BOTH):
        rows = pd.read_parquet(tmp_path / "out" / "nonzeros" / f"{name}.parquet")
        assert (rows["site"] == name).all()
        dense = torch.zeros(47, 23)
        dense[rows["token"].to_list(), rows["unit"].to_list()] = torch.tensor(
            rows["relu"].to_list()
        )
        assert torch.equal(dense, known.acts[name].float())
        assert len(rows) == int((known.acts[name] != 0).sum())
        pairs = list(zip(rows["unit"], rows["token"], strict=True))
        assert pairs == sorted(pairs)
    tokens = pd.read_parquet(tmp_path / "out" / "tokens")
    assert np.array_equal(tokens["id"], known.tokens.ids)
    assert tokens[TAG].tolist() == store.frame()[TAG].tolist()
    assert done.lost == {} == statement(tmp_path / "out")["lost"]
    assert done.entries == statement(tmp_path / "out")["entries"]
    assert "lost: nothing" in repr(done)
    assert done.frame()["bytes"].sum() == done.bytes
    assert "<table" in done._repr_html_()


def test_parquet_keeps_row_groups_apart(store, tmp_path, monkeypatch):
    """Rows stay sorted where units are decoded a few at a time, and statistics say which."""
    from pyarrow import parquet

    monkeypatch.setattr("arcee_lab.dump.reading.exports._CELLS", 47 * 5)
    monkeypatch.setattr("arcee_lab.dump.reading.exports.parquet._GROUP", 9)
    store.export("parquet", tmp_path / "out", sites=0)
    file = parquet.ParquetFile(tmp_path / "out" / "nonzeros" / f"{SPARSE}.parquet")
    units = file.read().column("unit").to_numpy()
    assert (np.diff(units) >= 0).all()
    groups = [file.metadata.row_group(n).column(1) for n in range(file.num_row_groups)]
    assert len(groups) > 5
    assert all(g.statistics.min <= g.statistics.max and g.statistics.has_min_max for g in groups)
    assert all(group.compression == "ZSTD" for group in groups)


def test_parquet_loads_as_a_data_set(known, store, tmp_path):
    """`datasets.load_dataset` on the folder and on each of the two in it: one schema each."""
    import datasets
    from pyarrow import parquet

    store.export("parquet", tmp_path / "out")
    for folder in ("nonzeros", "tokens"):
        files = sorted((tmp_path / "out" / folder).iterdir())
        schemas = {parquet.read_schema(path).remove_metadata() for path in files}
        assert len(schemas) == 1, folder
        assert {path.suffix for path in files} == {".parquet"}
    nonzeros = sum(int((known.acts[name] != 0).sum()) for name in (SPARSE, BOTH))
    cache = str(tmp_path / "cache")
    for args, expected in (
        ([tmp_path / "out"], ["site", "unit", "token", "relu"]),
        ([tmp_path / "out" / "nonzeros"], ["site", "unit", "token", "relu"]),
        ([tmp_path / "out", "tokens"], ["token", *store.frame().columns]),
        ([tmp_path / "out" / "tokens"], ["token", *store.frame().columns]),
    ):
        loaded = datasets.load_dataset(*map(str, args), cache_dir=cache)
        assert list(loaded) == ["train"]
        assert loaded["train"].column_names == expected
        assert len(loaded["train"]) == (47 if expected[0] == "token" else nonzeros)
        assert loaded["train"][0] == loaded["train"].to_pandas().iloc[0].to_dict()
    one = datasets.load_dataset(str(tmp_path / "out"), cache_dir=cache)["train"]
    rows = one.filter(lambda row: row["site"] == BOTH).to_pandas()
    dense = torch.zeros(47, 23)
    dense[rows["token"].to_list(), rows["unit"].to_list()] = torch.tensor(rows["relu"].to_list())
    assert torch.equal(dense, known.acts[BOTH].float())


def test_duckdb_asks_it(known, store, tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    store.export("parquet", tmp_path / "out")
    rows = duckdb.sql(
        f"""
        select unit, count(*), max(relu) from read_parquet('{tmp_path}/out/nonzeros/*.parquet')
        where site = '{SPARSE}' group by unit order by unit
        """
    ).fetchall()
    acts = known.acts[SPARSE].float()
    expected = [
        (unit, int((acts[:, unit] > 0).sum()), float(acts[:, unit].max()))
        for unit in range(23)
        if (acts[:, unit] > 0).any()
    ]
    assert rows == expected


def test_coo_is_exact(known, store, tmp_path):
    store.export("coo", tmp_path / "out")
    for name in (SPARSE, BOTH):
        whole = torch.zeros(47, 23, dtype=known.acts[name].dtype)
        for path in sorted((tmp_path / "out" / name).iterdir()):
            part = load_file(path)
            matrix = torch.sparse_coo_tensor(
                part["indices"], part["values"], tuple(part["shape"]), check_invariants=True
            )
            flat = part["indices"][0] * 23 + part["indices"][1]
            assert (flat.diff() > 0).all()
            whole += matrix.to_dense()
        assert torch.equal(whole, known.acts[name])


def delphi_latents(folder):
    """What delphi's TensorBuffer makes of a folder: {latent: (rows, positions, activations)}."""
    found = {}
    for path in folder.glob("*.safetensors"):
        first, last = (int(word) for word in path.stem.split("_"))
        with safe_open(path, framework="np") as file:
            where = file.get_tensor("locations").astype(np.int64)
            values = file.get_tensor("activations")
            tokens = file.get_tensor("tokens")
        assert values.dtype == np.float16
        for latent in np.unique(where[:, 2]):
            mine = where[:, 2] == latent
            assert first <= latent + first <= last
            found[int(latent + first)] = (where[mine, 0], where[mine, 1], values[mine])
    return found, tokens


def packed(known, context):
    """Numbers of the tokens in full rows: all but padding, one behind the other."""
    real = known.tokens.attended.nonzero()[:, 0]
    n_rows = len(real) // context
    return real[: n_rows * context].reshape(n_rows, context), len(real) - n_rows * context


def test_delphi_gets_its_layout(known, store, tmp_path):
    done = store.export("delphi", tmp_path / "out", splits=4, context=8, example=4)
    raw = tmp_path / "out" / "latents"
    assert sorted(path.name for path in raw.iterdir()) == [SPARSE, BOTH]
    config = json.loads((raw / BOTH / "config.json").read_text())
    rows, left_out = packed(known, 8)
    assert (config["cache_ctx_len"], config["n_tokens"]) == (8, rows.numel())
    names = sorted(path.name for path in (raw / SPARSE).glob("*.safetensors"))
    assert names == sorted(f"{a}_{b}.safetensors" for a, b in ((0, 4), (5, 10), (11, 16), (17, 22)))
    rounded, kept = 0, 0
    for name in (SPARSE, BOTH):
        found, tokens = delphi_latents(raw / name)
        # What delphi's constructor relies on: full rows, which examples divide, without padding.
        assert tokens.shape == tuple(rows.shape)
        assert np.array_equal(tokens, known.tokens.ids[rows])
        dense = torch.zeros(*rows.shape, 23, dtype=torch.float16)
        for latent, (row, position, values) in found.items():
            assert (np.diff(row.astype(np.int64) * 8 + position) > 0).all()
            dense[row, position, latent] = torch.from_numpy(values)
        acts = known.acts[name][rows].double()
        expected = torch.where(acts > 1e-5, acts, 0.0)
        assert torch.equal(dense, expected.half())
        rounded += int((expected.half().double() != expected).sum())
        kept += int((expected > 0).sum())
    entries = sum(int((known.acts[name] != 0).sum()) for name in (SPARSE, BOTH))
    pieces = known.tokens.windows[rows].reshape(-1, 4)
    assert dict(done.lost) == {
        "tokens after the last full row": left_out,
        "values up to 1e-5, at padding or after the last full row": entries - kept,
        "values rounded to float16": rounded,
        "examples of 4 tokens that span two windows": sum(len(set(p.tolist())) > 1 for p in pieces),
    }
    assert left_out == 4
    assert (rounded > 0) is (known.acts[SPARSE].dtype == torch.float32)


def test_delphi_gets_a_tokenizer_of_its_own(demo, store, tmp_path, monkeypatch):
    """Its config names a folder, so that nothing is looked up on the Hub."""
    from transformers import AutoTokenizer

    store.tokenizer = demo[1]
    done = store.export("delphi", tmp_path / "with", context=8, example=8)
    named = json.loads((tmp_path / "with" / "latents" / SPARSE / "config.json").read_text())
    assert named["model_name"] == str(tmp_path / "with" / "tokenizer")
    again = AutoTokenizer.from_pretrained(named["model_name"])
    text = "The lamp above the doors."
    assert again(text)["input_ids"] == demo[1](text)["input_ids"]
    assert all(path.is_file() for path in done.files)
    on_disk = {path for path in (tmp_path / "with").rglob("*") if path.is_file()}
    assert on_disk - set(done.files) == {tmp_path / "with" / "export.json"}

    import socket

    def refuse(*args, **options):
        raise AssertionError("a name was looked up")

    store.tokenizer = None
    store.export("delphi", tmp_path / "without", context=8, example=8)
    named = json.loads((tmp_path / "without" / "latents" / SPARSE / "config.json").read_text())
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises((OSError, ValueError)):
        AutoTokenizer.from_pretrained(named["model_name"])


def test_delphi_keeps_large_values_finite(tmp_path):
    known = make_store(tmp_path / "s", dtype=torch.float32)
    rewrite(
        tmp_path / "s",
        0,
        SPARSE,
        **{
            "by_unit.values": torch.full_like(
                load_file(tmp_path / "s" / known.manifest.shards[0].sites[SPARSE].path)[
                    "by_unit.values"
                ],
                1e6,
            )
        },
    )
    al.dump.open(tmp_path / "s").export("delphi", tmp_path / "out", context=8, example=8)
    found, _ = delphi_latents(tmp_path / "out" / "latents" / SPARSE)
    values = np.concatenate([part[2] for part in found.values()])
    assert np.isfinite(values).all()
    assert values.max() == np.finfo(np.float16).max


def test_saelens_gets_its_layout(known, store, tmp_path):
    import datasets

    post = "layers.0.mlp.hook_post"
    done = store.export(
        "saelens",
        tmp_path / "out",
        sites=[post, RESID],
        names={post: "blocks.0.mlp.hook_post"},
        context=5,
    )
    whole, left_out = packed(known, 5)
    for name, column in ((post, "blocks.0.mlp.hook_post"), (RESID, RESID)):
        rows = datasets.load_from_disk(str(tmp_path / "out" / name))
        assert rows.features[column].shape == (5, 23)
        rows.set_format("torch")
        acts = known.acts[SPARSE].square() if name == post else known.acts[RESID]
        expected = acts[whole]
        assert torch.equal(torch.as_tensor(rows[column][:]).to(acts.dtype), expected)
        ids = known.tokens.ids[whole]
        assert torch.equal(torch.as_tensor(rows["token_ids"][:]).int(), ids)
    assert dict(done.lost) == {"tokens after the last full row": left_out}
    assert left_out == 44 % 5
    assert not list((tmp_path / "out").glob(".*"))
    assert statement(tmp_path / "out")["entries"] == 2 * whole.numel() * 23


def test_default_rows_keep_almost_every_token(tiny, tmp_path):
    """Many short documents and one long one: no row is lost but the last, incomplete one."""
    import datasets

    texts = [*numbers(150, longest=12), *numbers(1, longest=400, seed=1)]
    config = al.dump.DumpConfig(sites=("layers.1.mlp.hook_post",))
    store = al.dump.write(tiny(), Numbers(), texts, tmp_path / "s", config)
    for kind, context in (("saelens", 128), ("delphi", 256)):
        done = store.export(kind, tmp_path / kind)
        assert done.lost["tokens after the last full row"] == len(store) % context
    rows = datasets.load_from_disk(str(tmp_path / "saelens" / BOTH)).with_format("torch")
    expected = store.tokens(slice(0, len(store) // 128 * 128), BOTH).reshape(-1, 128, 72)
    assert torch.equal(torch.as_tensor(rows[BOTH][:]), expected)
    with safe_open(next((tmp_path / "delphi" / "latents" / BOTH).glob("*_*")), "pt") as file:
        assert file.get_slice("tokens").get_shape() == [len(store) // 256, 256]


@pytest.mark.parametrize("kind", ["delphi", "saelens"])
def test_a_store_that_fills_no_row(store, tmp_path, kind):
    with pytest.raises(ValueError, match=r"but the store has 44 tokens; .* shorter context="):
        store.export(kind, tmp_path / "out")
    with pytest.raises(ValueError, match=r"context is 0"):
        store.export(kind, tmp_path / "out", context=0)
    assert not list((tmp_path / "out").glob("*"))


@pytest.mark.parametrize("kind", ["parquet", "coo", "delphi", "saelens"])
def test_an_export_that_fails_leaves_nothing(store, tmp_path, kind, monkeypatch):
    from arcee_lab.runs import storage

    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    more = {"context": 4} if kind in ("delphi", "saelens") else {}
    more |= {"example": 4} if kind == "delphi" else {}
    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_json", full)  # the last file of all
        with pytest.raises(ValueError, match=r"cannot be written: .*No space.* repeat the same"):
            store.export(kind, tmp_path / "out", **more)
    assert not list((tmp_path / "out").iterdir())
    store.export(kind, tmp_path / "out", **more)
    store.export(kind, tmp_path / "again", **more)
    assert set(digest(tmp_path / "out")) == set(digest(tmp_path / "again"))


def test_bad_exports(store, tmp_path):
    with pytest.raises(ValueError, match="expected one of parquet, coo, delphi, saelens"):
        store.export("csv", tmp_path / "out")
    with pytest.raises(ValueError, match="is stored dense and coo holds nonzeros"):
        store.export("coo", tmp_path / "out", sites=RESID)
    with pytest.raises(ValueError, match="splits is 0"):
        store.export("delphi", tmp_path / "out", splits=0)
    for example in (0, 7):
        with pytest.raises(ValueError, match="expected a context that is a multiple"):
            store.export("delphi", tmp_path / "out", context=16, example=example)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ValueError, match="holds other files"):
        store.export("coo", tmp_path / "used")


def test_nothing_sparse_to_export(tmp_path):
    make_store(tmp_path, sites={RESID: ("dense", 1.0)})
    with pytest.raises(ValueError, match="no site that parquet can hold"):
        al.dump.open(tmp_path).export("parquet", tmp_path / "out")
