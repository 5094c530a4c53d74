"""What is kept of a layer against plain Python: random shapes, dtypes, batches, orders, merges."""

import pytest
import torch
from plain_exemplars import octave, plain

from arcee_lab.neurons.reading import hashing, on_cpu, state
from arcee_lab.neurons.reading.state import Places, Rows, State

LAYER, N_WINDOWS, POOL = 2, 40, 5
CPU = torch.device("cpu")


def activations(trial: int, shape: tuple[int, int, int], draw: torch.Generator) -> torch.Tensor:
    """Window maxima over more octaves than there are bins; in some trials a few values only."""
    if trial % 3 == 0:
        return torch.randint(0, 3, shape, generator=draw).float()
    n_windows, _, width = shape
    sizes = torch.exp2(torch.randint(-16, 14, (n_windows, 1, width), generator=draw).float())
    silent = torch.rand(n_windows, 1, width, generator=draw) < 0.3
    x = torch.randn(shape, generator=draw).relu().square() * sizes
    return torch.where(silent, -0.0 if trial % 2 else 0.0, x)


def check(kept: State, places: Places, windows: dict, seed: int) -> None:
    width = len(kept["fired"])
    for unit in range(width):
        neuron = LAYER * width + unit
        want = plain(windows, unit, neuron, top=places.top, per=places.per_stratum, seed=seed)
        listed = [
            one
            for one in zip(*(kept[f"top_{p}"][unit].tolist() for p in state.PARTS), strict=True)
            if one[1] >= 0
        ]
        assert listed == want.top
        assert kept["histogram"][unit].tolist() == want.histogram
        assert int(kept["fired"][unit]) == want.fired
        parts = (kept[f"drawn_{p}"][unit].tolist() for p in state.PARTS)
        drawn = [one for one in zip(*parts, strict=True) if one[1] >= 0]
        highest = max(want.drawn, default=0)
        for o in range(highest - places.strata + 1, highest + 1):
            assert [one for one in drawn if octave(one[0]) == o] == want.drawn.get(o, [])
        bits = kept["silent"][:, unit // 8] >> (unit % 8) & 1
        assert {slot for slot in range(POOL) if bits[slot]} == want.silent & set(range(POOL))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("trial", range(8))
def test_batches_in_any_order_keep_what_plain_python_keeps(dtype, trial):
    draw = torch.Generator().manual_seed(trial)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=draw))

    width = between(1, 20)
    places = Places(between(1, 6), between(1, 12), between(1, 4), POOL, 200, dtype)
    keys = hashing.neuron_keys(LAYER, width, trial)
    neurons = torch.from_numpy(keys)
    dense, quick = (state.new_state(places, width, CPU) for _ in range(2))
    parts = [state.new_state(places, width, CPU) for _ in range(3)]
    lists = on_cpu.Lists(quick, places, keys) if dtype != torch.float64 else None
    windows, order = {}, torch.randperm(N_WINDOWS, generator=draw)
    while len(windows) < N_WINDOWS:
        numbers = order[len(windows) : len(windows) + between(1, 9)]
        length = between(1, 90)
        x = activations(trial, (len(numbers), length, width), draw).to(dtype)
        counted = torch.rand(len(numbers), length, generator=draw) > (0.2 if trial % 2 else -1)
        if trial % 4 == 1:
            x[0, length // 2], counted[-1] = -1, False
        x[~counted] = torch.nan  # where nothing counts
        pooled = [row for row, w in enumerate(numbers.tolist()) if w < POOL]
        slots = tuple(int(numbers[row]) for row in pooled)
        rows = Rows(numbers, counted, int(counted.sum()), tuple(pooled), slots)
        state.add(dense, places, x, rows, neurons)
        state.add(parts[len(windows) % 3], places, x, rows, neurons)
        if lists is not None:
            lists.add(x, rows)
        windows |= {
            int(w): (x[row].float(), counted[row]) for row, w in enumerate(numbers.tolist())
        }
    check(dense, places, windows, trial)
    assert int(dense["tokens"]) == sum(int(counts.sum()) for _, counts in windows.values())
    assert int(dense["windows"]) == N_WINDOWS
    assert int(dense["nan"]) == 0
    a, b, c = parts
    for first, second, third in ((a, b, c), (c, a, b)):
        whole = state.merge(state.merge(first, second, places, neurons), third, places, neurons)
        assert all(torch.equal(whole[name], dense[name]) for name in dense)
    if lists is not None:
        ordered = state.ordered(quick, places, neurons)
        assert all(torch.equal(ordered[name], dense[name]) for name in dense)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lists_that_are_taken_up_go_on_as_if_nothing_happened(dtype):
    places, draw = Places(3, 4, 2, 1, 64, dtype), torch.Generator().manual_seed(1)
    keys = hashing.neuron_keys(0, 6, 0)
    once, twice = (state.new_state(places, 6, CPU) for _ in range(2))
    lists = on_cpu.Lists(once, places, keys)
    for step in range(6):
        x = activations(step, (4, 30, 6), draw).to(dtype)
        rows = Rows(torch.arange(4) + 4 * step, torch.ones(4, 30, dtype=torch.bool), 120, (), ())
        lists.add(x, rows)
        on_cpu.Lists(twice, places, keys).add(x, rows)  # its bars are read off the state
    assert all(torch.equal(once[name], twice[name]) for name in once)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_nan_is_counted_whatever_its_sign(dtype, sign):
    places, keys = Places(2, 2, 2, 1, 64, dtype), hashing.neuron_keys(0, 3, 0)
    x = torch.ones(2, 5, 3, dtype=dtype)
    x[1, 2, 0] = torch.tensor(torch.nan).copysign(torch.tensor(sign)).to(dtype)
    rows = Rows(torch.arange(2), torch.ones(2, 5, dtype=torch.bool), 10, (), ())
    dense, quick = (state.new_state(places, 3, CPU) for _ in range(2))
    state.add(dense, places, x, rows, torch.from_numpy(keys))
    on_cpu.Lists(quick, places, keys).add(x, rows)
    assert int(dense["nan"]) == int(quick["nan"]) == 1


def test_nothing_is_read_from_the_device():
    meta = torch.device("meta")
    places = Places(20, 10, 5, 16, 128, torch.bfloat16)
    kept = state.new_state(places, 64, meta)
    rows = Rows(
        torch.zeros(8, dtype=torch.int64, device=meta),
        torch.zeros(8, 32, dtype=torch.bool, device=meta),
        200, (3,), (1,),
    )  # fmt: skip
    post = torch.zeros(8, 32, 64, dtype=torch.bfloat16, device=meta)
    neurons = torch.zeros(64, dtype=torch.int64, device=meta)
    state.add(kept, places, post, rows, neurons)
    merged = state.merge(kept, kept, places, neurons)
    assert {name: x.shape for name, x in merged.items()} == {n: x.shape for n, x in kept.items()}


def test_what_afm_takes_stays_below_its_limit():
    places = Places(20, 10, 5, 512, 1024, torch.bfloat16)
    one = state.new_state(places, 18432, torch.device("meta"))
    assert 36 * sum(x.nbytes for x in one.values()) <= 560e6


def test_the_octaves_are_those_of_the_edges():
    edges = state.edges()
    values = torch.cat([edges[1:-1].float(), edges[1:-1].float() * 1.999])
    for value, found in zip(values.tolist(), state.octaves(values).tolist(), strict=True):
        assert edges[found] <= value < edges[found + 1]
    assert state.octaves(torch.tensor([0.0, 1e-30, torch.inf])).tolist() == [0, 0, state.BINS - 1]
