"""How much memory the statistics of heads take at 8,192 tokens.

    python3 run.py bench pattern_memory [--processes N] [--out FILE]

One layer with the attention of AFM-4.5B (20 heads over 4 kv heads, d_head 128), whose whole pattern
would take 5 GiB. Each number is the peak of a process of its own.
"""

import argparse
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from results import RESULTS, write_section

import arcee_lab as al
from arcee_lab.attention import Distance, Entropy, FirstMass, Offset, TopKeys
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

ASKED = [Entropy(), FirstMass(), Offset(1), TopKeys(4), Distance()]
LENGTH, HEADS, MOST_MEGABYTES = 8192, 20, 200
SHAPE = {
    "hidden_size": 2560,
    "intermediate_size": 2560,  # small, so that the MLP's own peak hides nothing
    "num_hidden_layers": 1,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 512,
    "max_position_embeddings": LENGTH,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
PLAIN, STATISTICS = "the plain forward", "five head statistics of the layer"
LAST = "pattern of one head, last token"


def peak(what: str) -> float:
    """Runs one forward in this process and tells its peak memory, in MB (10^6 bytes)."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = ArceeForCausalLM(ArceeConfig(**SHAPE)).eval()
    ids = torch.randint(3, 512, (1, LENGTH))
    with torch.no_grad():
        if what == STATISTICS:
            with al.attention.heads(model, ASKED) as stats:
                model(ids, use_cache=False, logits_to_keep=1)
            assert int(stats["entropy"].n.min()) == LENGTH - 1
        elif what == LAST:
            with al.capture(model, "*hook_pattern", heads=0, positions=-1):
                model(ids, use_cache=False, logits_to_keep=1)
        else:
            model(ids, use_cache=False, logits_to_keep=1)
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    high = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(high.split()[1]) * 1024 / 1e6


def measure(what: str) -> float:
    """The same in a fresh process."""
    command = [sys.executable, __file__, "--peak", what]
    child = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(child.stdout)


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where the target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What patterns hold.")
    parser.add_argument("--processes", type=int, default=3, metavar="N", help="default: 3 a row")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--peak", choices=(PLAIN, STATISTICS, LAST), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.peak:
        print(peak(args.peak))
        return 0
    names = [what for what in (PLAIN, STATISTICS, LAST) for _ in range(args.processes)]
    with ThreadPoolExecutor(3) as pool:  # peaks do not depend on how fast a process runs
        found = list(zip(names, pool.map(measure, names), strict=True))
    peaks = {what: [peak for name, peak in found if name == what] for what in names}
    plain = statistics.median(peaks[PLAIN])
    table = [
        "### 1 layer, 20 heads over 4 kv heads, d_head 128, 1 x 8,192 tokens, fp32",
        "",
        "| what | peak, MB | over the plain forward, MB | lowest to highest | target | |",
        "|---|---:|---:|---|---:|---|",
    ]
    fits = statistics.median(peaks[STATISTICS]) - plain <= MOST_MEGABYTES
    for what, megabytes in peaks.items():
        over = [one - plain for one in megabytes]
        target = f"<= {MOST_MEGABYTES}" if what == STATISTICS else ""
        verdict = ("pass" if fits else "MISS") if target else ""
        table.append(
            f"| {what} | {statistics.median(megabytes):.0f} | {statistics.median(over):+.1f} "
            f"| {min(over):+.1f} to {max(over):+.1f} | {target} | {verdict} |"
        )
    whole = HEADS * LENGTH * LENGTH * 4 / 1e6
    table += ["", f"The whole pattern of this layer would be {whole:,.0f} MB."]
    print("\n".join(table))
    write_section(
        "How much memory head statistics take",
        ["\n".join(table)],
        command="python3 run.py bench pattern_memory",
        method="the largest resident set of a fresh process that runs one forward, median of "
        f"{args.processes} processes per row. Statistics: entropy, first-token mass, mass one "
        "back, four strongest keys, distance, with the values of every token.",
        path=args.out,
    )
    print(args.out)
    return int(not fits)


if __name__ == "__main__":
    sys.exit(main())
