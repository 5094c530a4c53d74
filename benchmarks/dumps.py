"""How activations are stored: bytes, writing and reading, next to zarr and delphi's layout.

    python3 run.py bench dumps [--quick] [--no-peers] [--out FILE]

The package of delphi brings a serving stack, so its layout is written by the few lines of its own
scheme: three 16-bit indices and a float16 a nonzero above 1e-5, in five files by latent range.
"""

import argparse
import importlib
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from results import RESULTS, keep_pages, write_section
from safetensors.torch import load_file, save_file
from targets import Verdicts, cpu

import arcee_lab as al
from arcee_lab.dump.format import shard_files
from arcee_lab.dump.format.block import Block
from arcee_lab.dump.format.layouts import Builder
from arcee_lab.dump.format.manifest import Manifest, StoredShard, shard_path
from arcee_lab.dump.format.stored_site import StoredSite
from arcee_lab.dump.format.token_table import TokenTable

TOKENS, WIDTH, BATCH = 4096, 18_432, 1024
SIZES = {0.80: (0.41, 0.25), 0.90: (0.21, 0.14), 0.97: (0.07, 0.05)}
WRITE, READ = 0.4, 15.0  # GB/s a core at 90 %; ms for 64 neurons
SITE = "layers.0.mlp.hook_relu"


def activations(zeros: float) -> torch.Tensor:
    """relu(u) of unlike neurons: each has its own rate, and each token its own strength."""
    generator = torch.Generator().manual_seed(round(100 * zeros))
    spread = torch.randn(WIDTH, generator=generator)
    gain = 1 + 0.2 * torch.randn(TOKENS, 1, generator=generator)
    low, high = -8.0, 8.0
    x = torch.randn(TOKENS, WIDTH, generator=generator)
    for _ in range(30):  # the shift at which that share is zero
        shift = (low + high) / 2
        share = float((x[:256] + spread + shift <= 0).float().mean())
        low, high = (shift, high) if share > zeros else (low, shift)
    return ((x + spread + shift).relu() * gain.abs()).half()


def layout_store(x: torch.Tensor, folder: Path) -> al.dump.Store:
    """One shard of one layer."""
    builder = Builder("neuron", width=WIDTH, dtype=x.dtype)
    for rows in x.split(BATCH):
        builder.add(rows)
    return one_shard(folder, builder.finish())


def write_shard(x: torch.Tensor, folder: Path) -> None:
    """From the activations to the checked file."""
    builder = Builder("neuron", width=WIDTH, dtype=x.dtype)
    for rows in x.split(BATCH):
        builder.add(rows)
    shard_files.write(folder, "again.safetensors", builder.finish())


def ask_store(folder: Path, units: list[int]) -> None:
    """A question to a store that nobody has opened yet."""
    al.dump.open(folder).neurons(0, units)


def one_shard(folder: Path, block: Block) -> al.dump.Store:
    """A store of one block."""
    site = StoredSite(SITE, (WIDTH,), "float16", "neuron")
    number = torch.arange(TOKENS, dtype=torch.int32)
    yes = torch.ones(TOKENS, dtype=torch.bool)
    tokens = TokenTable(
        number % 50, number % 512, number // 512, number // 512, yes, number % 512 == 0
    )
    file = shard_files.write(folder, shard_path(SITE, 0), block)
    known = shard_files.write(folder, shard_path("tokens", 0), tokens)
    Manifest(
        model={"name": "x", "fingerprint": "x", "dtype": "float16", "config": {}},
        tokenizer={"name": "x", "fingerprint": "x"},
        data={"fingerprint": "x"},
        settings={"seed": 0},
        versions={},
        sites=(site,),
        shards=(StoredShard(0, TOKENS, known, {SITE: file}),),
    ).save(folder)
    return al.dump.open(folder)


def layout_table(verdicts: Verdicts, *, rounds: int, peers: bool) -> list[str]:
    """Bytes, writing and reading of one layer at 4,096 tokens."""
    lines = [
        f"### One layer of {WIDTH:,} neurons at {TOKENS:,} tokens, float16",
        "",
        "| what | measured | target | |",
        "|---|---:|---:|---|",
    ]
    others = ["", "| others, at 90 % zeros | of dense | write, CPU s | 64 neurons, CPU ms |"]
    others += ["|---|---:|---:|---:|"]
    units = np.random.default_rng(0).choice(WIDTH, size=64, replace=False).tolist()
    for zeros, (most, parquet) in SIZES.items():
        x = activations(zeros)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            store = layout_store(x, folder / "s")
            dense = x.nbytes
            share = store.manifest.shards[0].sites[SITE].bytes / dense
            lines.append(verdicts.row(f"bytes of dense, {zeros:.0%} zeros", share, most))
            export = store.export("parquet", folder / "parquet")
            lines.append(
                verdicts.row(f"Parquet of dense, {zeros:.0%} zeros", export.bytes / dense, parquet)
            )
            if zeros != 0.90:
                continue

            spent = cpu(partial(write_shard, x, folder), rounds=rounds)
            lines.append(
                verdicts.row(
                    "write with checksum, dense-equivalent", dense / 1e9 / spent, WRITE, least=True,
                    unit=" GB/s",
                )
            )  # fmt: skip
            read = 1e3 * cpu(partial(ask_store, folder / "s", units), rounds=rounds)
            lines.append(verdicts.row("64 neurons, from opening the store", read, READ, unit=" ms"))
            expected = x[:, units].nonzero().shape[0]
            assert len(al.dump.open(folder / "s").neurons(0, units)) == expected
            others.append(f"| arcee_lab | {share:.3f} | {spent:.2f} | {read:.1f} |")
            for name, peer in {"delphi's layout": delphi_layout, "zarr, zstd 3": zarr}.items():
                if peers:
                    size, spent, read = peer(x, units, folder / name, rounds)
                    others.append(f"| {name} | {size / dense:.3f} | {spent:.2f} | {read:.1f} |")
    return ["\n".join(lines), "\n".join(others)]


def delphi_layout(
    x: torch.Tensor, units: list[int], folder: Path, rounds: int
) -> tuple[int, float, float]:
    """Three uint16 and a float16 a nonzero, five files by latent range; read whole files."""
    folder.mkdir()
    bounds = torch.linspace(0, WIDTH, 6).long().tolist()

    def write() -> None:
        where = (x > 1e-5).nonzero()
        values = x[where[:, 0], where[:, 1]]
        for low, high in itertools.pairwise(bounds):
            kept = (where[:, 1] >= low) & (where[:, 1] < high)
            token, latent = where[kept].T
            locations = torch.stack([token // 512, token % 512, latent - low], dim=1)
            tensors = {"locations": locations.to(torch.uint16), "activations": values[kept]}
            save_file(tensors, folder / f"{low}_{high - 1}.safetensors")

    def read() -> None:
        for low, high in itertools.pairwise(bounds):
            file = load_file(folder / f"{low}_{high - 1}.safetensors")
            mine = torch.tensor([unit - low for unit in units if low <= unit < high])
            kept = torch.isin(file["locations"][:, 2].to(torch.int32), mine.to(torch.int32))
            _ = file["locations"][kept], file["activations"][kept]

    spent = cpu(write, rounds=rounds)
    return sum(f.stat().st_size for f in folder.iterdir()), spent, 1e3 * cpu(read, rounds=rounds)


def zarr(x: torch.Tensor, units: list[int], folder: Path, rounds: int) -> tuple[int, float, float]:
    """Dense chunks of 256 tokens under zstd; its threads' CPU time counts."""
    import zarr as library

    codec = library.codecs.ZstdCodec(level=3)
    dense = x.numpy()

    def write() -> None:
        array = library.create_array(
            store=str(folder), shape=dense.shape, chunks=(256, WIDTH), dtype="f2",
            compressors=[codec], overwrite=True,
        )  # fmt: skip
        array[:] = dense

    def process(call: Callable[[], object]) -> float:
        began = time.process_time()
        call()
        return time.process_time() - began

    spent = statistics.median(process(write) for _ in range(rounds))
    read = statistics.median(
        process(lambda: library.open_array(str(folder), mode="r").oindex[:, units])
        for _ in range(rounds)
    )
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    return size, spent, 1e3 * read


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="How activations are stored.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens")
    parser.add_argument("--no-peers", action="store_true", help="measure arcee_lab alone")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    if not args.no_peers:
        importlib.import_module("zarr")  # what is missing shall be missed at once
    torch.set_num_threads(1)
    kept = keep_pages()
    rounds = 3 if args.quick else 9
    verdicts = Verdicts()
    body = layout_table(verdicts, rounds=rounds, peers=not args.no_peers)
    print("\n\n".join(body), flush=True)
    write_section(
        "Activations on disk",
        body,
        command="python3 run.py bench dumps" + (" --quick" if args.quick else ""),
        method=f"CPU time of the thread that does the work, median of {rounds} rounds; of zarr, "
        "which has threads of its own, that of the process. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages. Activations are drawn: each neuron has "
        "its own rate. delphi's layout leaves values up to 1e-5 out, the others keep every bit.",
        packages=("torch", "numpy", "safetensors", "pyarrow", *([] if args.no_peers else ["zarr"])),
        path=args.out,
    )
    return int(verdicts.missed)


if __name__ == "__main__":
    sys.exit(main())
