"""A store answers with what was written, whichever way it is asked."""

import numpy as np
import pandas as pd
import pytest
import torch
from stores import TAG, known_acts, make_store, rewrite
from torch.utils.data import DataLoader

import arcee_lab as al
from arcee_lab.dump.format.stored_site import DTYPES
from arcee_lab.results import Result

SPARSE = "layers.0.mlp.hook_relu"
BOTH = "layers.1.mlp.hook_relu"
RESID = "layers.1.hook_resid_post"
HEADS = "layers.1.self_attn.hook_z"
SPANS = [(0, 47), (0, 0), (3, 18), (19, 22), (20, 41), (40, 47), (46, 47)]


@pytest.fixture(scope="module", params=DTYPES)
def known(request, tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store"), dtype=DTYPES[request.param])


@pytest.fixture
def store(known):
    return al.dump.open(known.folder)


# ---------------------------------------------------------------------- by unit


@pytest.mark.parametrize("site", [SPARSE, BOTH])
def test_a_neuron_is_its_column(known, store, site):
    layer = int(site.split(".")[1])
    acts = known.acts[site]
    for unit in range(acts.shape[1]):
        firings = store.neuron(layer, unit)
        assert torch.equal(firings.tokens, acts[:, unit].nonzero()[:, 0])
        assert torch.equal(firings.relu, acts[:, unit][acts[:, unit] != 0])
        assert torch.equal(firings.values, firings.relu.square())
        assert torch.equal(firings.dense()[:, 0], acts[:, unit].square())


def test_several_neurons_in_any_order(known, store):
    units = [5, 0, 22, 5]
    firings = store.neurons(0, units)
    acts = known.acts[SPARSE][:, units]
    assert torch.equal(firings.dense(), acts.square())
    assert torch.equal(firings[0].tokens, acts[:, 1].nonzero()[:, 0])
    frame = firings.frame()
    assert list(frame.columns) == ["unit", "token", "relu", "value"]
    assert frame["unit"].tolist() == np.repeat(units, firings.offsets.diff()).tolist()
    assert np.array_equal(frame["relu"].to_numpy(), firings.relu.float().numpy())
    assert len(store.neurons(0, [])) == 0
    with pytest.raises(ValueError, match="unit 7 is not among these firings"):
        firings[7]


def test_a_missing_unit_or_layer(store):
    with pytest.raises(ValueError, match=r"has no unit 23; expected 0 to 22"):
        store.neuron(0, 23)
    with pytest.raises(ValueError, match=r"has no unit -1"):
        store.neuron(0, -1)
    with pytest.raises(ValueError, match="matches no hook point"):
        store.neuron(7, 0)


def test_results_have_a_face(store):
    firings = store.neuron(0, 3)
    assert repr(firings).startswith("Firings(L0/N3: ")
    assert "<table" in firings._repr_html_()
    assert repr(store).startswith("Store of 47 tokens, 4 sites, 3 shards, ")
    assert "<table" in store._repr_html_()
    assert store.sites()["layout"].tolist() == ["neuron", "int8", "both", "dense"]


# ---------------------------------------------------------------------- by token


@pytest.mark.parametrize(("start", "stop"), SPANS)
@pytest.mark.parametrize("site", [SPARSE, BOTH, RESID])
def test_tokens_are_rows(known, store, site, start, stop):
    expected = known.acts[site][start:stop]
    which = slice(start, stop)
    assert torch.equal(store.tokens(which, site), expected)
    sparse = store.tokens(which, site, form="sparse")
    assert sparse.layout == torch.sparse_csr
    assert sparse.shape == expected.shape
    rows = torch.repeat_interleave(torch.arange(stop - start), sparse.crow_indices().diff())
    dense = torch.zeros_like(expected)
    dense[rows, sparse.col_indices()] = sparse.values()
    assert torch.equal(dense, expected)
    table = store.tokens(which, site, form="scipy")
    assert np.array_equal(table.toarray().astype(np.float32), expected.float().numpy())
    array = store.tokens(which, site, form="numpy")
    assert array.dtype == (np.float16 if expected.dtype == torch.float16 else np.float32)
    assert np.array_equal(array.astype(np.float32), expected.float().numpy())


def test_squares_are_the_models_squares(known, store):
    for name in ("layers.0.mlp.hook_post", "blocks.0.mlp.hook_post", 0):
        x = store.tokens(slice(None), name)
        assert torch.equal(x, torch.square(known.acts[SPARSE]))
    squares = store.tokens(slice(None), 0, form="scipy").toarray()
    assert np.array_equal(squares.astype(np.float32), known.acts[SPARSE].square().float().numpy())


def test_one_token(known, store):
    for token in (0, 20, 40, 46, -1, -47):
        assert torch.equal(store.token(token, RESID), known.acts[RESID][token])
    with pytest.raises(ValueError, match="expected 0 to 46"):
        store.token(47, RESID)


def test_int8_and_several_axes(known, store):
    x = store.tokens(slice(18, 25), HEADS)
    assert x.shape == (7, 2, 8)
    assert x.dtype == torch.float32
    expected = known.acts[HEADS][18:25].float()
    bound = expected.abs().amax(dim=1, keepdim=True) / 254
    assert ((x.flatten(1) - expected).abs() <= 1.0001 * bound).all()
    assert store.tokens(slice(0, 0), HEADS, form="numpy").shape == (0, 2, 8)


def test_wrong_questions(store):
    with pytest.raises(ValueError, match="form is 'csv'; expected one of torch, numpy"):
        store.tokens(slice(None), 0, form="csv")
    with pytest.raises(ValueError, match="step 2; expected one without a step"):
        store.tokens(slice(0, 9, 2), 0)
    with pytest.raises(ValueError, match=r"has no layers.0.hook_resid_post; it holds layers.0.mlp"):
        store.tokens(slice(None), "layers.0.hook_resid_post")
    with pytest.raises(ValueError, match="matches no hook point"):
        store.tokens(slice(None), "layers.0.nothing")


# ---------------------------------------------------------------------- tokens and text


@pytest.mark.parametrize(("start", "stop"), SPANS)
def test_token_data(known, start, stop):
    data = al.dump.open(known.folder).token_data(slice(start, stop))
    for name, tensor in known.tokens[start:stop].tensors().items():
        assert torch.equal(data.tensors()[name], tensor)


def test_the_top_firings_are_the_largest(known, store):
    counted = known.tokens.attended & ~known.tokens.first
    for unit in (0, 7, 22):
        column = known.acts[SPARSE][:, unit].square().float()
        top = store.topk(0, unit, k=3)
        ranked = sorted(
            (token for token in range(47) if counted[token] and column[token] > 0),
            key=lambda token: (-column[token], token),
        )
        assert top.tokens.tolist() == ranked[:3]
        assert (top.n_tokens, top.n_fired) == (int(counted.sum()), len(ranked))
        assert torch.equal(top.values.float(), column[ranked[:3]])
        for row, token in enumerate(ranked[:3]):
            window = known.tokens.windows == known.tokens.windows[token]
            window = (window & known.tokens.attended).nonzero()[:, 0].tolist()
            shown = [t for t in window if token - 16 <= t <= token + 4]
            assert top.around[row] == tuple(f"{int(known.tokens.ids[t])} " for t in shown)
            assert torch.equal(top.around_values[row].float(), column[shown])
            assert shown[top.places[row]] == token
        assert list(top.frame().columns) == [
            "token",
            "document",
            "position",
            "value",
            "text",
            "around",
        ]
    with_first = store.topk(0, 0, k=47, first=True)
    assert with_first.n_tokens == int(known.tokens.attended.sum())


def test_text_of_a_stranger_is_escaped(known):
    class Tokenizer:
        def decode(self, ids):
            return f"<script>{ids[0]}"

    top = al.dump.open(known.folder, tokenizer=Tokenizer()).topk(0, 1, k=2)
    assert top.frame()["text"].str.startswith("<script>").all()
    assert "<script>" not in top._repr_html_()
    assert "&lt;script&gt;" in top._repr_html_()


# ---------------------------------------------------------------------- frames


def test_frames(known, store):
    tokens = store.frame()
    assert tokens.index.name == "token"
    assert np.array_equal(tokens["id"], known.tokens.ids)
    assert tokens[TAG].tolist() == [["one", "two", "three"][i] for i in known.tokens.tags[TAG]]

    nonzeros = store.frame(SPARSE, which=slice(5, 30))
    expected = known.acts[SPARSE][5:30].float()
    where = expected.nonzero()
    assert np.array_equal(nonzeros["token"], where[:, 0] + 5)
    assert np.array_equal(nonzeros["unit"], where[:, 1])
    assert np.array_equal(nonzeros["value"].astype(np.float32), expected[expected != 0])

    dense = store.frame(RESID, which=slice(5, 30))
    assert dense.index.tolist() == list(range(5, 30))
    assert np.array_equal(dense.to_numpy().astype(np.float32), known.acts[RESID][5:30].float())


def test_a_dense_frame_is_no_copy(tmp_path):
    make_store(tmp_path, sites={RESID: ("dense", 1.0)}, dtype=torch.float32, bounds=(0, 30))
    store = al.dump.open(tmp_path)
    values = store.frame(RESID).to_numpy()
    assert np.shares_memory(values, store.block(RESID, 0).tensors["by_token.values"].numpy())
    with pytest.raises(ValueError, match="read-only"):
        values[0, 0] = 3
    store.tokens(slice(None), RESID).zero_()  # a copy
    assert store.token(0, RESID).any()


def test_scipy_is_asked_for_by_name(store, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    with pytest.raises(ValueError, match="form='scipy' needs scipy"):
        store.tokens(slice(None), 0, form="scipy")
    assert isinstance(store.frame(SPARSE), pd.DataFrame)


# ---------------------------------------------------------------------- statistics


def test_stats_equal_plain_counts(known, store):
    stats = store.stats()
    counted = known.tokens.attended & ~known.tokens.first
    first = known.tokens.attended & known.tokens.first
    assert stats.layers == (0, 1)
    assert (stats.n_tokens, stats.n_first) == (int(counted.sum()), int(first.sum()))
    for row, site in enumerate((SPARSE, BOTH)):
        fires = known.acts[site].square() > 0
        assert torch.equal(stats.fired[row], fires[counted].sum(0))
        assert torch.equal(stats.fired_first[row], fires[first].sum(0))
        active = torch.bincount(fires[counted].sum(1), minlength=24)
        assert torch.equal(stats.active[row], active)
    assert stats.frame()["fired"].sum() == int(stats.fired.sum())
    assert "exact zeros by layer" in repr(stats)


def test_a_square_that_underflows_is_no_firing(tmp_path, monkeypatch):
    """In float16 relu(u) = 1e-4 has the square 0, and down_proj gets nothing from it."""
    x = torch.full((7, 2), 1e-4, dtype=torch.float16)
    x[3, 0] = 1
    monkeypatch.setattr("stores.known_acts", lambda *_, **__: x)
    sites = {SPARSE: ("neuron", 1)}
    make_store(tmp_path, bounds=(0, 7), width=2, dtype=torch.float16, sites=sites)
    store = al.dump.open(tmp_path)
    assert store.stats().fired.tolist() == [[1, 0]]
    assert len(store.neuron(0, 1)) == 7
    assert len(store.topk(0, 1)) == 0


def test_stats_need_neurons(tmp_path):
    make_store(tmp_path, sites={RESID: ("dense", 1.0)})
    with pytest.raises(ValueError, match="holds no neurons"):
        al.dump.open(tmp_path).stats()


# ---------------------------------------------------------------------- batches for training


@pytest.fixture
def small_spans(monkeypatch):
    monkeypatch.setattr("arcee_lab.dump.reading.dataset._SPAN", 6)
    monkeypatch.setattr("arcee_lab.dump.reading.dataset._MIXED", 2)


def gather(dataset, **loader):
    batches = list(DataLoader(dataset, batch_size=None, **loader))
    return batches, {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}


@pytest.mark.usefixtures("small_spans")
@pytest.mark.parametrize("shuffle", [False, True])
def test_every_token_once_with_its_own_values(known, store, shuffle):
    dataset = store.torch_dataset([0, BOTH, RESID], batch_size=5, shuffle=shuffle)
    batches, all_of = gather(dataset)
    counted = (known.tokens.attended & ~known.tokens.first).nonzero()[:, 0]
    token = all_of["token"]
    assert torch.equal(token.sort().values, counted)
    assert torch.equal(token, counted) is not shuffle
    assert max(len(batch["token"]) for batch in batches) == 5
    assert torch.equal(all_of["0"], known.acts[SPARSE][token].square())
    assert torch.equal(all_of[BOTH], known.acts[BOTH][token])
    assert torch.equal(all_of[RESID], known.acts[RESID][token])
    assert torch.equal(all_of["ids"], known.tokens.ids[token])
    assert torch.equal(all_of[f"tag.{TAG}"], known.tokens.tags[TAG][token])


@pytest.mark.usefixtures("small_spans")
def test_order_is_seed_and_epoch(store):
    def order(seed=0, epoch=0):
        dataset = store.torch_dataset(RESID, seed=seed)
        dataset.epoch = epoch
        return gather(dataset)[1]["token"].tolist()

    assert order() == order()
    assert order() != order(seed=1)
    assert order() != order(epoch=1)


@pytest.mark.usefixtures("small_spans")
def test_workers_share_the_tokens(tmp_path):
    known = make_store(tmp_path)
    dataset = al.dump.open(tmp_path).torch_dataset(SPARSE, first=True)
    _, all_of = gather(dataset, num_workers=2)
    attended = known.tokens.attended.nonzero()[:, 0]
    assert torch.equal(all_of["token"].sort().values, attended)
    assert torch.equal(all_of[SPARSE], known.acts[SPARSE][all_of["token"]])


def test_bad_batches(store):
    with pytest.raises(ValueError, match="batch_size is 0"):
        store.torch_dataset(RESID, batch_size=0)
    with pytest.raises(ValueError, match=r"has no layers.0.hook_resid_pre"):
        store.torch_dataset("layers.0.hook_resid_pre")


# ---------------------------------------------------------------------- damage is named when met


def test_a_damaged_shard_is_named(tmp_path):
    make_store(tmp_path)
    store = al.dump.open(tmp_path)  # believes the manifest, so far
    index = torch.full((store.block(BOTH, 1).nonzeros,), 65535, dtype=torch.uint16)
    rewrite(tmp_path, 1, BOTH, **{"by_unit.index": index, "by_token.index": index.clone()})
    store = al.dump.open(tmp_path)
    with pytest.raises(ValueError, match=r"00001.safetensors is damaged: it has an index of"):
        store.neurons(1, range(23))
    with pytest.raises(ValueError, match=r"arcee-lab verify"):
        store.tokens(slice(None), BOTH)
    assert torch.equal(
        store.tokens(slice(0, 20), BOTH), known_acts(47, 23, 0.04, torch.bfloat16, seed=2)[:20]
    )


def test_an_empty_store(tmp_path):
    make_store(tmp_path, bounds=(0,))
    store = al.dump.open(tmp_path)
    assert len(store) == 0
    assert len(store.neuron(0, 1)) == 0
    assert store.tokens(slice(None), RESID).shape == (0, 23)
    assert store.frame().empty
    assert len(store.topk(0, 1)) == 0
    assert list(store.torch_dataset(RESID)) == []


def test_what_a_store_finds_is_a_result(store):
    firings = store.neurons(0, [3, 7])
    assert firings._ipython_key_completions_() == [3, 7]
    for found in (firings, store.topk(0, 3), store.stats()):
        assert isinstance(found, Result)
        assert repr(found) == f"{type(found).__name__}({found.headline})"
    assert firings.headline.startswith("layer 0, 2 units: ")
    assert store.topk(0, 3).headline.startswith("L0/N3: the top ")
    with pytest.raises(al.errors.UnknownName, match=r"unit 5 is not among .* one of 3, 7\."):
        firings[5]
