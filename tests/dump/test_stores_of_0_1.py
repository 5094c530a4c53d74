"""Stores that arcee_lab 0.1 wrote still open and give what was written.

`al.dump.write` of 0.1 wrote both from a model of one layer whose two hook points held the numbers
of `relu` and `residual` below, so what they must give back follows from the token ids alone.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import arcee_lab as al

STORES = Path(__file__).parent / "stores_0_1"
NEURONS, RESIDUAL = "layers.0.mlp.hook_post", "layers.0.hook_resid_post"
TEXTS = ([5, 9, 12, 7, 30, 31], [8], [4, 4, 17, 3, 22, 41, 6], [11, 10, 9, 8])
BOS = 1
IDS = torch.tensor([token for text in TEXTS for token in (BOS, *text)])
POSITIONS = torch.tensor([at for text in TEXTS for at in range(1 + len(text))])
DOCUMENTS = torch.tensor([n for n, text in enumerate(TEXTS) for _ in range(1 + len(text))])


def relu():
    """Of 12 neurons at each token; exact in bfloat16."""
    position, unit = POSITIONS[:, None], torch.arange(12)
    fires = (5 * position + 3 * unit + IDS[:, None]) % 7 == 0
    return torch.where(fires, 1 + (position + unit) / 16, 0.0)


def residual():
    """Eight values at each token; exact in float32."""
    return POSITIONS[:, None] - torch.arange(8) / 4


@pytest.fixture(params=["neuron-int8", "both-dense"])
def store(request):
    return al.dump.open(STORES / request.param)


def test_it_was_written_by_0_1_and_every_checksum_holds(store):
    assert store.manifest.versions["arcee_lab"].startswith("0.1")
    found = al.dump.verify(store.folder, progress=False)
    assert found.intact
    assert found.n_files == 9


def test_tokens(store):
    known = store.token_data()
    assert torch.equal(known.ids.long(), IDS)
    assert torch.equal(known.positions.long(), POSITIONS)
    assert torch.equal(known.documents.long(), DOCUMENTS)
    assert torch.equal(known.first, POSITIONS == 0)
    assert known.attended.all()


def test_neurons(store):
    dtype = store.find(0)[0].torch_dtype
    assert torch.equal(store.tokens(slice(None), "layers.0.mlp.hook_relu"), relu().to(dtype))
    squares = relu().to(dtype).square()
    assert torch.equal(store.tokens(slice(None), NEURONS), squares)
    for unit in range(12):
        firings = store.neuron(0, unit)
        assert firings.tokens.tolist() == relu()[:, unit].nonzero()[:, 0].tolist()
        assert torch.equal(firings.dense()[:, 0], squares[:, unit])


def test_the_residual_stream(store):
    x, expected = store.tokens(slice(None), RESIDUAL), residual()
    if store.find(RESIDUAL)[0].layout == "dense":
        assert torch.equal(x, expected)
        return
    # Half a scale, max |x| / 127, and the rounding of float32.
    scale = expected.abs().amax(dim=1, keepdim=True) / 127
    assert ((x - expected).abs() <= scale / 2 + 1e-6).all()


def test_an_export(store, tmp_path):
    done = store.export("parquet", tmp_path / "out")
    rows = pd.read_parquet(tmp_path / "out" / "nonzeros" / "layers.0.mlp.hook_relu.parquet")
    dense = np.zeros((len(IDS), 12), dtype=np.float32)
    dense[rows["token"], rows["unit"]] = rows["relu"]
    assert np.array_equal(dense, relu().numpy())
    assert done.entries == int((relu() != 0).sum())
    assert done.lost == {}
