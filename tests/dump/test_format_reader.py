"""The reader of docs/reference/formats.md, which knows nothing of this package."""

import re
from pathlib import Path

import numpy as np
import pytest
from stores import make_store

from arcee_lab.dump.format.stored_site import DTYPES

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "formats.md"


@pytest.fixture(scope="module")
def reader():
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(code.splitlines()) <= 40
    assert "arcee_lab" not in code
    assert set(re.findall(r"^import (.*)$", code, re.M)) == {"json, pathlib", "numpy as np"}
    space = {}
    exec(code, space)
    return space


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["neuron", "both"])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.3, 1.0])
def test_it_reads_what_was_written(reader, tmp_path, dtype, layout, density):
    name = "layers.2.mlp.hook_relu"
    known = make_store(tmp_path, dtype=DTYPES[dtype], sites={name: (layout, density)})
    for unit in (0, 7, 22):
        line = reader["neuron"](tmp_path, 2, unit)
        assert np.array_equal(line, known.acts[name][:, unit].float().numpy())
    tokens = reader["load"](tmp_path / known.manifest.shards[1].tokens.path)
    assert np.array_equal(tokens["ids"], known.tokens.ids[20:41].numpy())
    assert np.array_equal(tokens["first"], known.tokens.first[20:41].numpy())
