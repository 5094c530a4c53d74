"""What exemplars cost next to the forward of one MLP of AFM-4.5B's shape.

    python3 run.py bench neurons [--rounds N] [--out FILE]

Windows of 128 tokens, eight per batch, go through one MLP with random weights of which about one
activation in ten is not 0. The lists of a layer are full after some batches, and then change less
and less, so the cost is given for the first batch, for batches 10 to 20, and for 100 to 110.
"""

import argparse
import gc
import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from paired import Paired
from results import RESULTS, keep_pages, ratio_table, write_section

import arcee_lab as al
from arcee_lab.model import ArceeConfig
from arcee_lab.model.layers import ArceeMLP
from arcee_lab.neurons.reading import hashing, on_cpu, state
from arcee_lab.neurons.reading.negatives import POOL
from arcee_lab.neurons.reading.state import Places, Rows

# Runs of any size, which the tests read too.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "neurons"))
import page_runs

TITLE = "What exemplars cost"
D_MODEL, D_MLP, LAYERS = 2560, 18432, 36
WINDOWS, LENGTH = 8, 128
DENSITY = 0.1
FULL, LATE, LAST = 20, 100, 110
BATCHES = {
    "first batch": range(1),
    "batches 10 to 20": range(9, FULL),
    "batches 100 to 110": range(LATE, LAST),
}
STATE = 560e6  # bytes, at the most
PAGE = 50  # ms, at the most
TARGETS = {"batches 10 to 20": 1.15}
PLACES = Places(longest=LENGTH, dtype=torch.bfloat16)


def layer() -> ArceeMLP:
    """One MLP whose neurons fire at about one token in ten, some often and some seldom."""
    torch.manual_seed(0)
    mlp = ArceeMLP(ArceeConfig(hidden_size=D_MODEL, intermediate_size=D_MLP))
    mlp.requires_grad_(False)
    weight = mlp.up_proj.weight
    # The first input is always 1: its weight is a threshold, in standard deviations of the rest.
    rare = torch.distributions.Normal(0.0, 1.0).icdf(1 - torch.rand(D_MLP) ** 2 * 3 * DENSITY)
    weight[:, 0] = -rare * weight[:, 1:].norm(dim=1)
    return mlp.to(torch.bfloat16).eval()


def state_bytes() -> int:
    """Bytes that AFM's neurons take."""
    one = state.new_state(PLACES, D_MLP, torch.device("meta"))
    return LAYERS * sum(x.nbytes for x in one.values())


def passes(mlp: ArceeMLP, rounds: int) -> tuple[dict[str, Paired], float]:
    """Times batches of several passes; gives the share of activations that are not 0 too."""
    keys = hashing.neuron_keys(0, D_MLP, 0)
    counted = torch.ones(WINDOWS, LENGTH, dtype=torch.bool)
    counted[:, 0] = False
    found: list[torch.Tensor] = []
    mlp.hook_post.register_forward_hook(lambda module, args, post: found.append(post))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in BATCHES}
    density = []
    draw = torch.Generator().manual_seed(0)
    for turn in range(rounds):
        lists = on_cpu.Lists(state.new_state(PLACES, D_MLP, torch.device("cpu")), PLACES, keys)
        post = torch.zeros(())
        for batch in range(LAST if turn == 0 else FULL):
            numbers = torch.arange(WINDOWS) + batch * WINDOWS
            rows = Rows(numbers, counted, int(counted.sum()), (0,), (batch,))
            if FULL <= batch < LATE:
                # Not timed: what the last forward gave, with other sizes and in other windows.
                sizes = torch.rand(WINDOWS, 1, D_MLP, generator=draw).to(torch.bfloat16) + 0.5
                lists.add(post[torch.randperm(WINDOWS, generator=draw)] * sizes, rows)
                continue
            x = torch.randn(WINDOWS, LENGTH, D_MODEL, generator=draw)
            x[..., 0] = 1.0
            x = x.to(torch.bfloat16)
            gc.collect()
            began = time.process_time()
            mlp(x)
            forward = time.process_time() - began
            post = found.pop()
            began = time.process_time()
            lists.add(post, rows)
            cost = time.process_time() - began
            for name, which in BATCHES.items():
                if batch in which:
                    times[name].append((forward, cost))
        density.append(float((post > 0).float().mean()))
    return {
        name: Paired(
            1000 * statistics.median(cost for _, cost in spent),
            tuple((forward + cost) / forward for forward, cost in spent),
        )
        for name, spent in times.items()
    }, statistics.mean(density)


def page_times(pages: int = 60) -> list[float]:
    """Milliseconds of CPU time of single pages of a run of AFM's size, without values per token."""
    run, tokenizer = page_runs.large_run(), page_runs.Plain()
    random = np.random.default_rng(1)
    spent = []
    for _ in range(pages):
        layer, unit = int(random.integers(LAYERS)), int(random.integers(D_MLP))
        began = time.process_time()
        al.neurons.page(run, layer, unit, tokenizer=tokenizer).html()
        spent.append(1000 * (time.process_time() - began))
    return spent


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where the target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What exemplars cost.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="default: 3, at least 2")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = keep_pages()
    with torch.no_grad():
        results, density = passes(layer(), args.rounds)
    size = state_bytes()
    title = (
        f"{D_MODEL} x {D_MLP}, bf16, {WINDOWS} x {LENGTH} tokens, {density:.0%} of activations "
        "not 0"
    )
    table = ratio_table(title, results, TARGETS)
    page = statistics.median(page_times())
    one = f"One page of {LAYERS * D_MLP:,} neurons: {page:.1f} ms, of at most {PAGE} ms."
    held = f"State of {LAYERS} layers: {size / 1e6:,.0f} MB, of at most {STATE / 1e6:.0f} MB."
    print(f"{table}\n\n{held}\n\n{one}\n", flush=True)
    write_section(
        TITLE,
        [table, held, one],
        command="python3 run.py bench neurons",
        method=f"CPU time of the process, over {args.rounds} passes; the milliseconds are those of "
        "the exemplars alone, the ratio is (forward of the MLP + exemplars) / forward, batch by "
        "batch. The inputs of each batch are new, so that no window comes twice. The state is that "
        "of the default settings, 20 top windows, 10 x 5 drawn ones and a pool of "
        f"{POOL}. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages.",
        path=args.out,
    )
    print(args.out)
    missed = any(results[name].median > limit for name, limit in TARGETS.items())
    return int(missed or size > STATE or page > PAGE)


if __name__ == "__main__":
    sys.exit(main())
