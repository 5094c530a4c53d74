"""How cost grows: with tokens, layers, units, sites and processes, each with its exponent.

    python3 run.py bench growth [--rounds N] [--out FILE]

Each row measures one task at sizes that double. The exponent is the slope of a line through the
logarithms of size and CPU time: 1 is proportional, 0 is constant. A small exponent at small sizes
says that a fixed cost is paid first, so the exponent of the last doubling stands next to it.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from results import RESULTS, keep_pages, write_section

import arcee_lab as al
from arcee_lab.data.windows import Windows, cut
from arcee_lab.demo import documents
from arcee_lab.dump import DumpConfig
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

TITLE = "How cost grows"
STEPS = 4
TOKENS = 4_000  # at the smallest size
POST = "layers.*.mlp.hook_post"
Task = Callable[[], object]


def cpu(call: Task, *, rounds: int) -> float:
    """Median CPU seconds of all threads of this process."""
    spent = []
    for _ in range(rounds):
        began = time.process_time()
        call()
        spent.append(time.process_time() - began)
    return statistics.median(spent)


def exponents(sizes: Sequence[int], seconds: Sequence[float]) -> tuple[float, float]:
    """The slope of log time over log size: over all sizes, and between the last two."""
    x, y = np.log(sizes), np.log(seconds)
    return float(np.polyfit(x, y, 1)[0]), float((y[-1] - y[-2]) / (x[-1] - x[-2]))


def row(what: str, sizes: Sequence[int], seconds: Sequence[float]) -> str:
    """One line of the table."""
    whole, last = exponents(sizes, seconds)
    shown = ", ".join(f"{1000 * one:.3g}" for one in seconds)
    return f"| {what} | {', '.join(f'{n:,}' for n in sizes)} | {shown} | {whole:.2f} | {last:.2f} |"


def doublings(first: int) -> list[int]:
    """The sizes of one row."""
    return [first * 2**step for step in range(STEPS)]


def times(calls: Sequence[Task], rounds: int) -> list[float]:
    """CPU seconds of each call, after one that warms up."""
    for call in calls:
        call()
    return [cpu(call, rounds=rounds) for call in calls]


def with_tokens(rounds: int) -> list[str]:
    """Dump, sparsity and evaluation of the demo over ever more tokens."""
    model, tokenizer = al.load("demo")
    sizes, counts = doublings(TOKENS), doublings(32)
    texts = [one.text for one in documents(n=sizes[-1] // 12, seed=1, split="test")]

    def windows(n: int) -> Windows:
        return cut(tokenizer, texts, context=256, max_tokens=n)

    def dump(n: int) -> Task:
        some, config = windows(n), DumpConfig(batch_size=32, shard_tokens=4096)

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                al.dump.write(model, tokenizer, some, Path(folder) / "s", config)

        return run

    def sparsity(n: int) -> Task:
        some = windows(n)
        return lambda: al.sparsity.measure(model, tokenizer, some, analyses=())

    def evaluation(n: int) -> Task:
        return lambda: al.evals.run(
            model, tokenizer=tokenizer, tasks=["arcee_demo_agreement_0"], limit=n
        )

    return [
        row("tokens, whole dump", sizes, times([dump(n) for n in sizes], rounds)),
        row("tokens, sparsity (core)", sizes, times([sparsity(n) for n in sizes], rounds)),
        row("documents, evaluation", counts, times([evaluation(n) for n in counts], rounds)),
    ]


def random_model(**shape: int) -> ArceeForCausalLM:
    """A model with random weights, of a given shape."""
    torch.manual_seed(0)
    base = {
        "vocab_size": 512,
        "hidden_size": 128,
        "intermediate_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    return ArceeForCausalLM(ArceeConfig(**(base | shape))).eval()


def with_shape(rounds: int) -> list[str]:
    """Capture and sparsity of models with ever more layers, units, and captured sites."""
    ids = torch.randint(3, 512, (4, 128), generator=torch.Generator().manual_seed(0))
    cuts = Windows(
        ids=ids.numpy().reshape(-1).astype(np.int32),
        bounds=np.arange(0, 513, 128),
        documents=np.arange(4),
        bos_id=None,
        pad_id=0,
    )

    def captured(model: ArceeForCausalLM, sites: Any) -> Task:
        def run() -> None:
            with torch.no_grad(), al.capture(model, sites):
                model(ids, use_cache=False)

        return run

    def measured(model: ArceeForCausalLM) -> Task:
        return lambda: al.sparsity.measure(model, None, cuts, analyses=())

    layers, units, sites = doublings(2), doublings(1024), doublings(4)
    deep = random_model(num_hidden_layers=sites[-1])
    rows: list[str] = []
    for what, sizes, name in (
        ("layers", layers, "num_hidden_layers"),
        ("units", units, "intermediate_size"),
    ):
        models = [random_model(**{name: n}) for n in sizes]
        calls = {
            f"{what}, capture": [captured(model, POST) for model in models],
            f"{what}, sparsity (core)": [measured(model) for model in models],
        }
        rows += [row(title, sizes, times(some, rounds)) for title, some in calls.items()]
    some = times([captured(deep, f"layers.:{n}.mlp.hook_post") for n in sites], rounds)
    rows.append(row(f"captured sites of {sites[-1]} layers, forward included", sites, some))
    return rows


def rank(out: Path) -> None:
    """One process of a dump; writes its CPU time."""
    torch.set_num_threads(1)
    model, tokenizer = al.load("demo")
    texts = [one.text for one in documents(n=32_000 // 20, seed=1, split="test")]
    config = DumpConfig(batch_size=32, shard_tokens=2048)
    spent = cpu(lambda: al.dump.write(model, tokenizer, texts, out / "store", config), rounds=1)
    (out / f"{os.environ.get('RANK', '0')}.json").write_text(json.dumps(spent))


def with_ranks() -> list[str]:
    """CPU time of the busiest of 1, 2 and 4 processes that share one dump, and of all together."""
    sizes, busiest, total = [1, 2, 4], [], []
    for n in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc-per-node={n}", __file__, "--rank", folder]
            subprocess.run(command, check=True, capture_output=True, timeout=600)
            spent = [json.loads(file.read_text()) for file in Path(folder).glob("[0-9]*.json")]
        assert len(spent) == n
        busiest.append(max(spent))
        total.append(sum(spent))
    return [
        row("processes, dump, the busiest one", sizes, busiest),
        row("processes, dump, all together", sizes, total),
    ]


def main(argv: list[str] | None = None) -> int:
    """Measures and writes the report."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="How cost grows.")
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="default: 5")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--rank", type=Path, metavar="DIR", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.rank is not None:
        rank(args.rank)
        return 0
    torch.set_num_threads(1)
    kept = keep_pages()
    head = ["| with | sizes | CPU ms | exponent | last doubling |", "|---|---|---|---:|---:|"]
    rows = [*with_tokens(args.rounds), *with_shape(args.rounds), *with_ranks()]
    table = "\n".join(head + rows)
    print(table, flush=True)
    write_section(
        TITLE,
        [table],
        command="python3 run.py bench growth",
        method=f"CPU time of the process, median of {args.rounds} calls after one that warms up; "
        "rows of processes: one call. The exponent is the slope of log time "
        "over log size, over all sizes and between the last two. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages.",
        path=args.out,
    )
    print(args.out)
    return 0 if all(math.isfinite(float(one.split("|")[-3])) for one in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
