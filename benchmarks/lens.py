"""What the lens costs next to the products that it needs, and what attribution by head holds.

    python3 run.py bench lens [--rounds N] [--out FILE]

The reference of a time is the backbone's forward and one product with the unembedding per site; the
lens ranks one answer per token next to that. Peaks are those of processes of their own. What
attribution by head holds is measured at three lengths and two numbers of heads of one width, so
that the plain forward needs the same and a vector per head and token would show.
"""

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
FEW = 32
WHOLE, LOGITS = "lens of three sites", "the plain forward with its logits"
LENGTHS, HEADS = (512, 1024, 2048), (20, 80)
MOST_HELD = 1  # vector of d_model per token, whatever the number of heads


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
    model = random_model()
    draws = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 512, (1, FEW), generator=draws)
    if what == WHOLE:
        al.lens.logit_lens(model, None, {"input_ids": ids}, top=0)
    else:
        model(ids, use_cache=False)
    return resident("VmHWM")


@torch.no_grad()
def growth(heads: int) -> list[tuple[float, float]]:
    """What the plain forward and attribution by head need at each length, in MB of this process."""
    # Whatever is freed goes back to the system, so that a call's peak is its own.
    mmap_threshold = -3
    ctypes.CDLL(None).mallopt(mmap_threshold, 2**16)
    split = {
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 5,
        "head_dim": AFM["hidden_size"] // heads,
    }
    model = random_model(**NARROW, **split)
    draws = torch.Generator().manual_seed(0)
    found = []
    for length in (16, *LENGTHS):  # the first loads code and buffers that stay
        ids = torch.randint(3, 512, (1, length), generator=draws)
        plain = partial(model, ids, use_cache=False, logits_to_keep=1)
        ours = partial(al.lens.attribute, model, None, {"input_ids": ids}, 7, positions=None)
        found.append((needed(plain), needed(ours)))
    return found[1:]


def needed(call: Callable[[], object]) -> float:
    """The peak of a call over what the process held before it, in MB."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the highest begins anew at what is held
    before = resident("VmRSS")
    call()
    return resident("VmHWM") - before


def resident(what: str) -> float:
    """The memory of this process in MB (10^6 bytes): VmRSS now, VmHWM at most."""
    # Not ru_maxrss: that begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(what))
    return int(line.split()[1]) * 1024 / 1e6


def child(*flags: str) -> Any:
    """What this file prints in a process of its own."""
    command = [sys.executable, __file__, *flags]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def growths() -> tuple[str, bool]:
    """A table of what attribution holds by length and heads, and whether it passes."""
    table = [
        "### Attribution by head of all tokens, one layer of width 2560, fp32",
        "",
        "| heads x d_head | tokens | plain forward needs, MB | attribution over it, MB "
        "| vectors of d_model per token | a vector per head and token, MB |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    held: list[float] = []
    for heads in HEADS:
        pairs = child("--growth", str(heads))
        for length, (plain, ours) in zip(LENGTHS, pairs, strict=True):
            vector = length * AFM["hidden_size"] * 4 / 1e6
            held.append((ours - plain) / vector)
            table.append(
                f"| {heads} x {AFM['hidden_size'] // heads} | {length:,} | {plain:.1f} "
                f"| {ours - plain:+.1f} | {held[-1]:+.2f} | {heads * vector:.0f} |"
            )
    fits = max(held) <= MOST_HELD
    table += [
        "",
        f"Aim: at most {MOST_HELD} vector of d_model per token over the plain forward, whatever "
        f"the number of heads; got {max(held):+.2f} at most: {'pass' if fits else 'MISS'}.",
    ]
    return "\n".join(table), fits


def peaks() -> str:
    """A table of the lens's peak."""
    ours, plain = (child("--peak", what) for what in (WHOLE, LOGITS))
    return "\n".join(
        [
            "### Peak of the lens, one layer, fp32",
            "",
            "| what | at | peak, MB | over the plain forward, MB |",
            "|---|---|---:|---:|",
            f"| {WHOLE} | {FEW} tokens, width 2560, vocabulary 128,005 | {ours:.0f} "
            f"| {ours - plain:+.1f} |",
        ]
    )


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What lenses cost.")
    parser.add_argument("--rounds", type=int, metavar="N", help="pairs per setting")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    parser.add_argument("--growth", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.peak or args.growth:
        print(json.dumps(peak(args.peak) if args.peak else growth(args.growth)))
        return 0
    kept = keep_pages()
    held, good = growths()
    tables = [held, peaks()]
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
        "without the model's own logits. What attribution needs is the largest resident set during "
        "the call, minus that before it, in a process whose freed memory goes back to the system. "
        "The lens's peak is the largest resident set of a fresh process."
        + (" Freed pages are kept." if kept else ""),
        path=args.out,
    )
    print(args.out)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
