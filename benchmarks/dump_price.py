"""What a dump costs compared with plain forwards, on the demo and at one AFM layer's shape.

python3 run.py bench dump_price [--quick] [--out FILE]
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from results import RESULTS, keep_pages, write_section
from targets import Verdicts

import arcee_lab as al
from arcee_lab.data.windows import Windows
from arcee_lab.demo import documents
from arcee_lab.dump import DumpConfig
from arcee_lab.dump.folders.local import LocalFolder
from arcee_lab.dump.writing.job import DumpJob
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

DEMO, AFM = 1.5, 1.15
# With the last site of the backbone, since a dump ends each forward at the last site it wants.
SITES = ("layers.*.mlp.hook_post", "norm.hook_normalized")


def price(job: DumpJob, *, rounds: int) -> tuple[float, float, float]:
    """CPU time of the main thread under a dump over that of plain forwards; and the writer's."""
    backbone = job._anatomy.backbone
    batches = [rows for shard in job.plan.shards for rows in shard.batches]

    def plain() -> None:
        with torch.no_grad():
            for rows in batches:
                backbone(**job.plan.inputs(rows).to(torch.device("cpu")), use_cache=False)

    def dump() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            job.compute(LocalFolder(scratch), job.plan.shards)

    plain()
    ratios, noise, writer = [], [], []
    for turned in range(rounds):
        calls = [plain, dump, plain] if turned % 2 else [plain, plain, dump]
        spent = []
        for call in calls:
            began = time.thread_time()
            call()
            spent.append(time.thread_time() - began)
        plains = [s for s, call in zip(spent, calls, strict=True) if call is plain]
        ratios.append(spent[calls.index(dump)] / statistics.mean(plains))
        noise.append(plains[1] / plains[0])
        writer.append(job.writer_seconds / statistics.mean(plains))
    return statistics.median(ratios), statistics.median(noise), statistics.median(writer)


def price_table(verdicts: Verdicts, *, rounds: int, tokens: int) -> str:
    """Both shapes."""
    lines = [
        "### What a dump of every layer's neurons costs: CPU time over that of plain forwards",
        "",
        "| what | measured | target | |",
        "|---|---:|---:|---|",
    ]
    model, tokenizer = al.load("demo")
    texts = [document.text for document in documents(n=tokens // 25, seed=1, split="test")]
    job = DumpJob(
        model, tokenizer, texts, DumpConfig(sites=SITES, batch_size=32, max_tokens=tokens)
    )
    one = ArceeConfig.afm_4_5b()
    one.num_hidden_layers, one.vocab_size = 1, 512
    with torch.device("meta"):
        layer = ArceeForCausalLM(one)
    layer = layer.to(torch.bfloat16).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        layer.model.rotary_emb = type(layer.model.rotary_emb)(one)
    ids = np.random.default_rng(0).integers(5, 512, size=256).astype(np.int32)
    windows = Windows(ids, np.array([0, 128, 256]), np.arange(2), None, 0)
    big = DumpJob(layer, tokenizer, windows, DumpConfig(sites=SITES, batch_size=2))
    for what, one_job, limit in (("the demo", job, DEMO), ("one AFM layer, bfloat16", big, AFM)):
        ratio, noise, writer = price(one_job, rounds=rounds if one_job is job else 3)
        lines.append(verdicts.row(f"{what}: main thread", ratio, limit))
        lines.append(f"| {what}: plain against plain (A/A) | {noise:.3g} | | |")
        lines.append(f"| {what}: the writer's thread, at the same time | {writer:.3g} | | |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What a dump costs.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = keep_pages()
    rounds, tokens = (5, 2000) if args.quick else (9, 6000)
    verdicts = Verdicts()
    body = [price_table(verdicts, rounds=rounds, tokens=tokens)]
    print("\n\n".join(body), flush=True)
    write_section(
        "What a dump costs",
        body,
        command="python3 run.py bench dump_price" + (" --quick" if args.quick else ""),
        method="CPU time of the main thread; all neurons and the last norm are dumped, so that no "
        f"forward is cut short. Median of {rounds} rounds (3 of the AFM layer), each next to "
        "two plain passes over the same batches; the A/A rows are those two against each other. Of "
        "the writer's thread its own CPU time over that of a plain pass. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages.",
        packages=("torch", "numpy", "safetensors"),
        path=args.out,
    )
    return int(verdicts.missed)


if __name__ == "__main__":
    sys.exit(main())
