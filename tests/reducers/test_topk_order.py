"""TopK against a sort of all tokens: larger values, then smaller rows, then smaller positions."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor

from arcee_lab.reducers import TopK
from arcee_lab.reducers.running import largest_on_cpu

SITES = ("sparse", "few values", "negative", "constant", "zeros", "NaN", "infinite", "rising")


def site(kind: str, shape: tuple[int, int, int], draw: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=draw)
    if kind == "sparse":
        return normal.clamp(min=1.2).sub(1.2).square()
    if kind == "few values":
        return torch.randint(-2, 3, shape, generator=draw).float()
    if kind == "negative":
        return -normal.abs() - 0.5
    if kind == "constant":
        return torch.full(shape, -1.5)
    if kind == "zeros":
        # Of both signs, which are equal; one unit in eight fires now and then.
        fires = torch.rand(shape, generator=draw) > 0.98
        return torch.where(fires, normal.abs(), 0.0).copysign(normal)
    if kind == "NaN":
        return torch.where(torch.rand(shape, generator=draw) > 0.95, torch.nan, normal.relu())
    if kind == "infinite":
        x = torch.where(torch.rand(shape, generator=draw) > 0.4, -torch.inf, normal)
        return torch.where(torch.rand(shape, generator=draw) > 0.99, torch.inf, x)
    return torch.arange(shape[0] * shape[1]).float().view(*shape[:2], 1).expand(shape).clone()


@dataclass
class Plain:
    """All tokens seen, of which the best are sorted out at the end."""

    k: int
    read: list[tuple[np.ndarray, int, int]] = field(default_factory=list)

    def add(self, x: Tensor, mask: Tensor, rows: list[int], positions: Tensor) -> None:
        for b, row in enumerate(rows):
            for t in range(mask.shape[1]):
                if mask[b, t]:
                    self.read.append((x[b, t].float().numpy(), row, int(positions[b, t])))

    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        width = len(self.read[0][0])
        values = np.full((width, self.k), -np.inf, np.float32)
        rows, positions = np.full((2, width, self.k), -1)
        for unit in range(width):
            # NaN is the largest, and the sign of zero does not count.
            tokens = sorted(
                (not np.isnan(v[unit]), -v[unit] if not np.isnan(v[unit]) else 0.0, row, at, i)
                for i, (v, row, at) in enumerate(self.read)
            )
            for place, (_, _, row, at, i) in enumerate(tokens[: self.k]):
                values[unit, place] = self.read[i][0][unit]
                rows[unit, place], positions[unit, place] = row, at
        return values, rows, positions


def masked(shape: tuple[int, int], side: str, draw: torch.Generator) -> Tensor:
    mask = torch.ones(shape, dtype=torch.bool)
    for row in mask:
        n = int(torch.randint(0, shape[1], (), generator=draw))
        if side == "left":
            row[:n] = False
        elif side == "right":
            row[shape[1] - n :] = False
        elif side == "holes":
            row &= torch.rand(shape[1], generator=draw) > 0.3
    return mask


def same(found: dict[str, Tensor], plain: Plain) -> None:
    values, rows, positions = plain.best()
    # Bits, so that the sign of zero counts; which NaN it is depends on how torch widens it.
    mine, theirs = (
        np.where(np.isnan(x), np.float32(np.nan), x) for x in (found["values"].numpy(), values)
    )
    assert (mine.view(np.int32) == theirs.view(np.int32)).all()
    assert (found["rows"].numpy() == rows).all()
    assert (found["positions"].numpy() == positions).all()


@pytest.mark.parametrize("kind", SITES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_lists_are_those_of_a_sort(kind, dtype, monkeypatch):
    draw = torch.Generator().manual_seed(SITES.index(kind))
    taken = []
    quick = largest_on_cpu.add_largest

    def counting(*args: object) -> bool:
        taken.append(quick(*args))
        return taken[-1]

    monkeypatch.setattr(largest_on_cpu, "add_largest", counting)
    for side in ("none", "left", "right", "holes"):
        k, width = int(torch.randint(1, 6, (), generator=draw)), 7
        plain, reducer = Plain(k), TopK(k)
        state = reducer.init((width,), torch.device("cpu"))
        n_rows = 0
        for call in range(4):
            batch, length = (int(n) for n in torch.randint(1, 70, (2,), generator=draw))
            batch = 1 + batch % 4
            x = site(kind, (batch, length, width), draw).to(dtype)
            mask = masked((batch, length), side, draw)
            if not mask.any():
                continue
            x[~mask] = torch.nan if call % 2 else 9e4 if dtype != torch.float16 else 6e4
            positions = mask.cumsum(1) - 1
            reducer.update(state, x, mask, positions=positions, seen=0)
            plain.add(x, mask, list(range(n_rows, n_rows + batch)), positions)
            n_rows += batch
        same(state, plain)
    assert kind == "infinite" or any(taken)  # else only the slow way was tested


def test_a_cache_that_goes_on_with_earlier_rows_keeps_the_order():
    """A later token of an earlier row comes before an equal one of a later row."""
    draw = torch.Generator().manual_seed(3)
    for k in (1, 3, 8):
        plain, reducer = Plain(k), TopK(k)
        state = reducer.init((5,), torch.device("cpu"))
        before = torch.zeros(3, 1, dtype=torch.long)
        for step in range(6):
            length = 40 if step == 0 else 1 + step % 3
            x = torch.randint(0, 3, (3, length, 5), generator=draw).float()
            mask = masked((3, length), "left" if step == 0 else "none", draw)
            positions = mask.cumsum(1) - 1 + before
            reducer.update(state, x, mask, positions=positions, seen=0 if step == 0 else 40)
            plain.add(x, mask, [0, 1, 2], positions)
            before = before + mask.sum(1, keepdim=True)
        same(state, plain)


def test_units_in_two_axes_and_activations_that_are_no_block_of_memory():
    draw = torch.Generator().manual_seed(5)
    x = site("few values", (2, 50, 24), draw)
    mask = torch.ones(2, 50, dtype=torch.bool)
    positions, reducer = mask.cumsum(1) - 1, TopK(3)
    plain = Plain(3)
    plain.add(x, mask, [0, 1], positions)
    heads = reducer.init((4, 6), torch.device("cpu"))
    reducer.update(heads, x.view(2, 50, 4, 6), mask, positions=positions, seen=0)
    same({name: tensor.flatten(0, 1) for name, tensor in heads.items() if tensor.dim()}, plain)
    turned = reducer.init((24,), torch.device("cpu"))
    strided = x.transpose(0, 1).contiguous().transpose(0, 1)
    reducer.update(turned, strided, mask, positions=positions, seen=0)
    same(turned, plain)


def test_merging_in_any_grouping_gives_the_lists_of_one_pass():
    draw = torch.Generator().manual_seed(7)
    reducer, whole = TopK(4), TopK(4).init((6,), torch.device("cpu"))
    parts = []
    for _ in range(4):
        x = torch.randint(0, 2, (2, 30, 6), generator=draw).float()
        mask = masked((2, 30), "left", draw)
        positions, part = mask.cumsum(1) - 1, reducer.init((6,), torch.device("cpu"))
        for state in (whole, part):
            reducer.update(state, x, mask, positions=positions, seen=0)
        parts.append(part)
    a, b, c, d = parts
    for merged in (
        reducer.merge(reducer.merge(reducer.merge(a, b), c), d),
        reducer.merge(reducer.merge(a, b), reducer.merge(c, d)),
    ):
        assert all(torch.equal(merged[name], whole[name]) for name in whole)
