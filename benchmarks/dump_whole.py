"""Whole dumps, a process each: time, memory, bytes, next to delphi's cache and nnsight with numpy.

    python3 run.py bench dump_whole [--quick] [--no-peers] [--out FILE]

The cache of delphi gathers the nonzeros above 1e-5 of all tokens in memory and saves them by latent
range; nnsight saves dense tensors, which end in one numpy file per layer.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from results import RESULTS, write_section
from safetensors.torch import load_file, save_file
from targets import Verdicts, cpu

import arcee_lab as al
from arcee_lab.data.windows import cut
from arcee_lab.demo import documents
from arcee_lab.dump import DumpConfig

FLAT = 1.05
PEER = "delphi's cache"
FIRST, NEXT = 0.9, 0.4  # ms
ROUNDS = 99  # of a question; they take .1 s, and nine would all fall into one slow moment


def asked(opened: Callable[[], Any], ask: Callable[[Any], object]) -> dict[str, float]:
    """Milliseconds of a question to files that nobody has opened yet, and of the next one."""
    began = time.process_time()
    first = cpu(lambda: ask(opened()), rounds=ROUNDS)
    files = opened()
    ask(files)
    again = cpu(lambda: ask(files), rounds=ROUNDS)
    spent = time.process_time() - began  # which is no part of the dump
    return {"first": 1e3 * first, "next": 1e3 * again, "asking": spent}


def ours(model, tokenizer, texts, folder: Path) -> dict[str, float]:
    """`al.dump.write` of all neurons."""
    # What waits for the writer is memory too: how much depends on who else runs, not on the tokens.
    config = DumpConfig(batch_size=32, shard_tokens=4096, queue_mib=16)
    al.dump.write(model, tokenizer, texts, folder, config)
    return asked(lambda: al.dump.open(folder), lambda store: store.neuron(2, 17))


def padded(model, tokenizer, texts):
    """The same windows in the same padded batches, as a peer would make them."""
    windows = cut(tokenizer, texts, context=model.config.max_position_embeddings)
    yield from windows.batches(32)


def delphi(model, tokenizer, texts, folder: Path) -> dict[str, float]:
    """The cache of delphi: hooks, nonzeros in memory, files at the end."""
    folder.mkdir()
    held: dict[int, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    n_rows = 0
    hooks = []
    for number, layer in enumerate(model.model.layers):

        def keep(module, args, output, number=number):
            x = output * mask[:, :, None]
            where = (x.abs() > 1e-5).nonzero()
            values = x[tuple(where.T)].half()
            where[:, 0] += n_rows
            held.setdefault(number, []).append((where, values))

        hooks.append(layer.mlp.hook_post.register_forward_hook(keep))
    with torch.no_grad():
        for batch in padded(model, tokenizer, texts):
            mask = batch.attention_mask
            model.model(batch.input_ids, attention_mask=mask, use_cache=False)
            n_rows += len(mask)
    for hook in hooks:
        hook.remove()
    width = model.config.intermediate_size
    bounds = torch.linspace(0, width, 6).long().tolist()
    for number, parts in held.items():
        where, values = (torch.cat(column) for column in zip(*parts, strict=True))
        (folder / str(number)).mkdir()
        for low, high in itertools.pairwise(bounds):
            kept = (where[:, 2] >= low) & (where[:, 2] < high)
            locations = where[kept].clone()
            locations[:, 2] -= low
            tensors = {"locations": locations.to(torch.uint16), "activations": values[kept]}
            save_file(tensors, folder / str(number) / f"{low}_{high - 1}.safetensors")

    def ask(file: dict[str, torch.Tensor]) -> object:
        kept = file["locations"][:, 2].to(torch.int32) == 17
        return file["locations"][kept], file["activations"][kept]

    first = folder / "2" / f"{bounds[0]}_{bounds[1] - 1}.safetensors"
    return asked(lambda: load_file(first), ask)


def nnsight(model, tokenizer, texts, folder: Path) -> dict[str, float]:
    """An nnsight trace per batch, saved tensors to one dense numpy file per layer."""
    import nnsight as library

    folder.mkdir()
    wrapped = library.NNsight(model)
    held: list[list[np.ndarray]] = [[] for _ in model.model.layers]
    for batch in padded(model, tokenizer, texts):
        mask = batch.attention_mask
        with torch.no_grad(), wrapped.trace(batch.input_ids, attention_mask=mask, use_cache=False):
            kept = library.save([])
            for layer in wrapped.model.layers:
                kept.append(layer.mlp.hook_post.output)
        for number, x in enumerate(kept):
            held[number].append(x[mask.bool()].numpy())
    for number, parts in enumerate(held):
        np.save(folder / f"{number}.npy", np.concatenate(parts))

    return asked(
        lambda: np.load(folder / "2.npy", mmap_mode="r"),
        lambda x: np.ascontiguousarray(x[:, 17]),
    )


WAYS = {"arcee_lab": ours, "delphi's cache": delphi, "nnsight + numpy": nnsight}


def write_texts(tokens: int, file: Path) -> None:
    """Texts of this length; no process that dumps them holds the world that they come from."""
    model, tokenizer = al.load("demo")
    texts = [document.text for document in documents(n=tokens // 20, seed=1, split="test")]
    windows = cut(tokenizer, texts, context=model.config.max_position_embeddings, max_tokens=tokens)
    texts = [tokenizer.decode(windows[w], skip_special_tokens=True) for w in range(len(windows))]
    file.write_text(json.dumps(texts))


def child(way: str, file: Path) -> None:
    """One dump in this process; prints what it took."""
    torch.set_num_threads(1)
    model, tokenizer = al.load("demo")
    texts = json.loads(file.read_text())
    with tempfile.TemporaryDirectory() as scratch:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        took = WAYS[way](model, tokenizer, texts, Path(scratch) / "s")
        took["cpu"] = time.process_time() - began - took["asking"]
        took["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        took["more"] = took["peak"] - before / 1024
        took["bytes"] = sum(f.stat().st_size for f in Path(scratch).rglob("*") if f.is_file())
    print(json.dumps(took))


def measured(way: str, tokens: int) -> dict[str, float]:
    """`child` in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.json"
        command = [sys.executable, __file__, "--texts", str(texts), "--tokens", str(tokens)]
        subprocess.run(command, check=True)
        command = [sys.executable, __file__, "--child", way, "--texts", str(texts)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def whole_table(verdicts: Verdicts, *, steady: int, tokens: int, peers: bool) -> list[str]:
    """The same activations dumped in three ways, and memory at ten times the tokens."""
    few, many = measured("arcee_lab", steady), measured("arcee_lab", 10 * steady)
    flat = [
        "### Memory",
        "",
        "| what | measured | target | |",
        "|---|---:|---:|---|",
        f"| peak of the process at {steady:,} tokens | {few['peak']:.0f} MiB | | |",
        verdicts.row(f"at {10 * steady:,} tokens, over that", many["peak"] / few["peak"], FLAT),
    ]
    lines = [
        f"### The same activations in three ways: the demo, all layers, {tokens:,} tokens",
        "",
        "| what | CPU s | memory, MiB more | bytes | one neuron, CPU ms | the next, CPU ms |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    spent: dict[str, float] = {}
    asked: list[str] = []
    for way in WAYS if peers else ["arcee_lab"]:
        took = measured(way, tokens)
        spent[way] = took["cpu"]
        if way == "arcee_lab":
            asked = [
                verdicts.row("one neuron, from opening the store, ms", took["first"], FIRST),
                verdicts.row("one more, from the open store, ms", took["next"], NEXT),
            ]
        if way == PEER:
            ratio = spent["arcee_lab"] / spent[PEER]
            asked.append(verdicts.row(f"CPU time over that of {PEER}", ratio, 1))
        lines.append(
            f"| {way} | {took['cpu']:.1f} | {took['more']:.0f} | {took['bytes']:,.0f} | "
            f"{took['first']:.2f} | {took['next']:.2f} |"
        )
    ms = ["| what | measured | target | |", "|---|---:|---:|---|", *asked]
    return ["\n".join(flat), "\n".join(lines), "\n".join(ms)]


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(
        prog="run.py bench", description="Whole dumps, compared with other tools."
    )
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens")
    parser.add_argument("--no-peers", action="store_true", help="measure arcee_lab alone")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--child", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=6000, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, args.texts)
        return 0
    if args.texts:
        write_texts(args.tokens, args.texts)
        return 0
    torch.set_num_threads(1)
    verdicts = Verdicts()
    # A process takes its memory in the first ten shards or so; from there on it has to stay.
    steady, tokens = (6000, 60_000) if args.quick else (40_000, 120_000)
    body = whole_table(verdicts, steady=steady, tokens=tokens, peers=not args.no_peers)
    print("\n\n".join(body), flush=True)
    write_section(
        "Whole dumps",
        body,
        command="python3 run.py bench dump_whole" + (" --quick" if args.quick else ""),
        method="a process each; CPU time of the process without loading the model, peak memory as "
        "the system counts it; one neuron from opening the files, and the next from files that "
        f"are open, median of {ROUNDS}. arcee_lab opens and checks a file for each 4,096 tokens, "
        "the others one. delphi's cache leaves values up to 1e-5 out and rounds to float16; "
        "arcee_lab and nnsight keep every bit.",
        packages=("torch", "numpy", "safetensors", "nnsight"),
        path=args.out,
    )
    return int(verdicts.missed)


if __name__ == "__main__":
    sys.exit(main())
