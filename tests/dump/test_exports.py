"""What an export holds is what the store holds, and what is lost is stated."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from stores import TAG, make_store

import arcee_lab as al
from arcee_lab.dump.manifest import DTYPES

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
        rows = pd.read_parquet(tmp_path / "out" / "nonzeros" / f"site={name}")
        dense = torch.zeros(47, 23)
        dense[rows["token"].to_list(), rows["unit"].to_list()] = torch.tensor(
            rows["relu"].to_list()
        )
        assert torch.equal(dense, known.acts[name].float())
        assert len(rows) == int((known.acts[name] != 0).sum())
        pairs = list(zip(rows["unit"], rows["token"], strict=True))
        assert pairs == sorted(pairs)
    tokens = pd.read_parquet(tmp_path / "out" / "tokens.parquet")
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

    monkeypatch.setattr("arcee_lab.dump.exports._CELLS", 47 * 5)
    monkeypatch.setattr("arcee_lab.dump.exports.parquet._GROUP", 9)
    store.export("parquet", tmp_path / "out", sites=0)
    file = parquet.ParquetFile(
        tmp_path / "out" / "nonzeros" / f"site={SPARSE}" / "nonzeros.parquet"
    )
    units = file.read().column("unit").to_numpy()
    assert (np.diff(units) >= 0).all()
    groups = [file.metadata.row_group(n).column(0) for n in range(file.num_row_groups)]
    assert len(groups) > 5
    assert all(g.statistics.min <= g.statistics.max and g.statistics.has_min_max for g in groups)
    assert all(group.compression == "ZSTD" for group in groups)


def test_duckdb_asks_it(known, store, tmp_path):
    duckdb = pytest.importorskip("duckdb", reason="DuckDB is not installed")
    store.export("parquet", tmp_path / "out")
    rows = duckdb.sql(
        f"""
        select unit, count(*), max(relu) from read_parquet('{tmp_path}/out/nonzeros/*/*.parquet',
            hive_partitioning = true)
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


def test_delphi_gets_its_layout(known, store, tmp_path):
    done = store.export("delphi", tmp_path / "out", splits=4)
    raw = tmp_path / "out" / "latents"
    assert sorted(path.name for path in raw.iterdir()) == [SPARSE, BOTH]
    assert json.loads((raw / BOTH / "config.json").read_text())["cache_ctx_len"] == 7
    names = sorted(path.name for path in (raw / SPARSE).glob("*.safetensors"))
    assert names == sorted(f"{a}_{b}.safetensors" for a, b in ((0, 4), (5, 10), (11, 16), (17, 22)))
    rounded = 0
    for name in (SPARSE, BOTH):
        found, tokens = delphi_latents(raw / name)
        assert tokens.shape == (7, 7)  # 47 tokens in windows of 7, the last one short
        assert np.array_equal(tokens.flatten()[:47], known.tokens.ids)
        assert not tokens.flatten()[47:].any()
        dense = torch.zeros(7, 7, 23, dtype=torch.float16)
        for latent, (row, position, values) in found.items():
            dense[row, position, latent] = torch.from_numpy(values)
        acts = known.acts[name] * known.tokens.attended[:, None]
        expected = torch.where(acts.double() > 1e-5, acts.double(), 0.0)
        assert torch.equal(dense.flatten(0, 1)[:47], expected.half())
        rounded += int((expected.half().double() != expected).sum())
    assert done.lost["values rounded to float16"] == rounded
    padded = sum(
        int((known.acts[name][~known.tokens.attended] != 0).sum()) for name in (SPARSE, BOTH)
    )
    assert done.lost["values up to 1e-5, or at padding, left out"] == padded
    assert (rounded > 0) is (known.acts[SPARSE].dtype == torch.float32)


def test_saelens_gets_its_layout(known, store, tmp_path):
    import datasets

    post = "layers.0.mlp.hook_post"
    done = store.export(
        "saelens", tmp_path / "out", sites=[post, RESID], names={post: "blocks.0.mlp.hook_post"}
    )
    # Of seven windows the last is short and every other one has padding at its end.
    whole = [0, 2, 4]
    for name, column in ((post, "blocks.0.mlp.hook_post"), (RESID, RESID)):
        rows = datasets.load_from_disk(str(tmp_path / "out" / name))
        assert rows.features[column].shape == (7, 23)
        rows.set_format("torch")
        acts = known.acts[SPARSE].square() if name == post else known.acts[RESID]
        expected = torch.stack([acts[7 * w : 7 * w + 7] for w in whole])
        assert torch.equal(torch.as_tensor(rows[column][:]).to(acts.dtype), expected)
        ids = torch.stack([known.tokens.ids[7 * w : 7 * w + 7] for w in whole])
        assert torch.equal(torch.as_tensor(rows["token_ids"][:]).int(), ids)
    attended = int(known.tokens.attended.sum())
    assert list(done.lost.values()) == [attended - 21]
    assert not list((tmp_path / "out").glob(".*"))
    assert statement(tmp_path / "out")["entries"] == 2 * 3 * 7 * 23


def test_saelens_context_cuts_windows(known, store, tmp_path):
    import datasets

    store.export("saelens", tmp_path / "out", sites=RESID, context=5)
    rows = datasets.load_from_disk(str(tmp_path / "out" / RESID)).with_format("torch")
    assert len(rows) == 7
    assert torch.equal(torch.as_tensor(rows["token_ids"][-1]).int(), known.tokens.ids[42:47])
    with pytest.raises(ValueError, match="no window has 8 tokens"):
        store.export("saelens", tmp_path / "more", context=8)


def test_bad_exports(store, tmp_path):
    with pytest.raises(ValueError, match="expected one of parquet, coo, delphi, saelens"):
        store.export("csv", tmp_path / "out")
    with pytest.raises(ValueError, match="lies dense and coo holds nonzeros"):
        store.export("coo", tmp_path / "out", sites=RESID)
    with pytest.raises(ValueError, match="splits is 0"):
        store.export("delphi", tmp_path / "out", splits=0)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    with pytest.raises(ValueError, match="holds other files"):
        store.export("coo", tmp_path / "used")


def test_nothing_sparse_to_export(tmp_path):
    make_store(tmp_path, sites={RESID: ("dense", 1.0)})
    with pytest.raises(ValueError, match="no site that parquet can hold"):
        al.dump.open(tmp_path).export("parquet", tmp_path / "out")
