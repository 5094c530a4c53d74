"""nnsight traces, in two processes of their own: nnsight replaces Tensor.backward for good."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "how-to" / "nnsight.md").read_text(encoding="utf-8")
TRACES = (HERE / "traces.py").read_text(encoding="utf-8")
PARTS = (
    ("every_site", "heads", "texts_and_padding", "generation", "edits", "patterns", "gradients"),
    ("stock_paths", "errors", "page", "compiling"),
)


@pytest.mark.parametrize("parts", PARTS, ids=["reading", "around"])
def test_traces(parts, tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    page = tmp_path / "page.py"
    page.write_text("\n".join(blocks), encoding="utf-8")
    child = subprocess.run(
        [sys.executable, str(HERE / "traces.py"), *parts],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NNSIGHT_PAGE": str(page)},
        check=False,
    )
    assert child.returncode == 0, child.stderr


def test_every_part_runs():
    written = re.findall(r"^def (\w+)\(\):", TRACES, flags=re.MULTILINE)
    assert sorted(written) == sorted(part for parts in PARTS for part in parts)


def test_a_process_that_never_traced_keeps_its_backward(run_clean):
    run_clean(
        """
        import torch
        before = torch.Tensor.backward
        import arcee_lab as al
        al.load("demo")
        assert torch.Tensor.backward is before
        al.trace.to_nnsight
        assert torch.Tensor.backward is not before
        """
    )
