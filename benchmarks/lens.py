"""What the lens costs next to the products that it needs, and what attribution by head holds.

    python3 run.py bench lens [--rounds N] [--out FILE]

The reference of a time is the backbone's forward and one product with the unembedding per site; the
lens ranks one answer per token next to that. Peaks are those of processes of their own.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from paired import measure
from results import RESULTS, keep_pages, ratio_table, write_section

import arcee_lab as al
from arcee_lab.lens.readout import normalised
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

MOST = 1.15  # times the reference
LENS = "lens, one answer per token"
NAMED = "lens, with the five strongest tokens"
WITH_LOGITS = "the same with the model's own logits"
AFM = {
    "hidden_size": 2560,
    "intermediate_size": 18432,
    "num_hidden_layers": 1,
    "num_attention_heads": 20,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "vocab_size": 128005,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NARROW = {
    "intermediate_size": 2560,
    "vocab_size": 512,
}  # so that the MLP and the logits hide nothing
LENGTH, FEW = 2048, 32
PLAIN, HEADS, WHOLE = "the plain forward", "attribution by head, all tokens", "lens of three sites"
LOGITS = "the plain forward with its logits"


@dataclass(frozen=True)
class Setting:
    """A model, what it reads, and how often the two calls are timed."""

    title: str
    model: Callable[[], Any]
    rows: int
    length: int
    rounds: int
    calls: int


def random_model(**changes: int) -> ArceeForCausalLM:
    """A model of AFM-4.5B's width with random weights, one layer deep."""
    torch.manual_seed(0)
    return ArceeForCausalLM(ArceeConfig(**(AFM | changes))).eval()


SETTINGS = (
    Setting(
        "AFM-4.5B's width and vocabulary: 1 layer, 3 sites, 1 x 32 tokens, fp32",
        random_model,
        1,
        FEW,
        5,
        1,
    ),
    Setting(
        "the demo: 4 layers, 9 sites, 8 x 64 tokens, fp32",
        lambda: al.load("demo")[0],
        8,
        64,
        40,
        2,
    ),
)


@torch.no_grad()
def ratios(setting: Setting, rounds: int | None) -> dict[str, Any]:
    """Times of the lens over forward and products."""
    model = setting.model()
    draws = torch.Generator().manual_seed(0)
    shape = (setting.rows, setting.length)
    ids = torch.randint(3, model.config.vocab_size, shape, generator=draws)
    batch = {"input_ids": ids}
    sites = 1 + 2 * model.config.num_hidden_layers
    stream = model.model(ids, use_cache=False).last_hidden_state

    def reference() -> None:
        model.model(**batch, use_cache=False)
        for _ in range(sites):
            model.lm_head(normalised(model.model.norm, stream))

    def lens(top: int) -> Callable[[], object]:
        return lambda: al.lens.logit_lens(model, None, batch, top=top)

    assert lens(0)().ranks.shape[0] == sites  # type: ignore[attr-defined]
    few = rounds or setting.rounds

    def with_logits() -> None:
        model(**batch, use_cache=False)
        for _ in range(sites):
            model.lm_head(normalised(model.model.norm, stream))

    contestants = {LENS: lens(0), WITH_LOGITS: with_logits} | (
        {NAMED: lens(5)} if setting.calls > 1 else {}
    )
    return measure(reference, contestants, rounds=few, calls=setting.calls, warm=1)


@torch.no_grad()
def peak(what: str) -> float:
    """Runs one call in this process and tells its peak memory, in MB (10^6 bytes)."""
    torch.set_num_threads(1)
    wide = what in (WHOLE, LOGITS)
    model = random_model() if wide else random_model(**NARROW)
    length = FEW if wide else LENGTH
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 512, (1, length), generator=draws)
    if what == HEADS:
        al.lens.attribute(model, None, {"input_ids": ids}, 7, positions=None)
    elif what == WHOLE:
        al.lens.logit_lens(model, None, {"input_ids": ids}, top=0)
    else:
        model(ids, use_cache=False, logits_to_keep=0 if wide else 1)
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    high = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(high.split()[1]) * 1024 / 1e6


def peaks() -> tuple[str, bool]:
    """A table of peaks, and whether attribution stays below one vector per head and token."""
    found = {}
    for what in (PLAIN, HEADS, LOGITS, WHOLE):
        command = [sys.executable, __file__, "--peak", what]
        child = subprocess.run(command, capture_output=True, text=True, check=True)
        found[what] = float(child.stdout)
    vectors = 20 * LENGTH * 2560 * 4 / 1e6
    fits = found[HEADS] - found[PLAIN] <= vectors / 4
    rows = [
        (HEADS, PLAIN, f"{LENGTH:,} tokens, 20 heads, width 2560, vocabulary 512"),
        (WHOLE, LOGITS, f"{FEW} tokens, width 2560, vocabulary 128,005"),
    ]
    table = [
        "### Peaks of one call, one layer, fp32",
        "",
        "| what | at | peak, MB | over the plain forward, MB |",
        "|---|---|---:|---:|",
        *(
            f"| {what} | {at} | {found[what]:.0f} | {found[what] - found[base]:+.1f} |"
            for what, base, at in rows
        ),
        "",
        f"A vector of the stream per head and token would be {vectors:.0f} MB; the aim is a "
        f"quarter of that at most: {'pass' if fits else 'MISS'}.",
    ]
    return "\n".join(table), fits


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What lenses cost.")
    parser.add_argument("--rounds", type=int, metavar="N", help="pairs per setting")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.peak:
        print(peak(args.peak))
        return 0
    kept = keep_pages()
    held, fits = peaks()
    tables, good = [held], fits
    for setting in SETTINGS:
        found = ratios(setting, args.rounds)
        tables.append(ratio_table(setting.title, found, {LENS: MOST}))
        good = good and found[LENS].median <= MOST
    print("\n\n".join(tables))
    write_section(
        "What lenses cost",
        tables,
        command="python3 run.py bench lens",
        method="paired CPU time of one thread, median over pairs in random order. The reference is "
        "the backbone's forward and one product of all tokens with the unembedding per site, so "
        "without the model's own logits. Peaks: the largest resident set of a fresh process."
        + (" Freed pages are kept." if kept else ""),
        path=args.out,
    )
    print(args.out)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
