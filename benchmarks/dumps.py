"""Activation dumps: bytes, speed and memory, beside zarr, delphi's cache and nnsight with numpy.

    python3 run.py bench dumps [--quick] [--no-peers] [--out FILE]

Each measurement of memory runs in a process of its own. The peers are called as their users call
them; delphi's cache, whose package brings a serving stack, is written by the few lines of its own
scheme: the nonzeros above 1e-5 of all tokens are gathered in memory, then saved by latent range.
"""

import argparse
import importlib
import itertools
import json
import os
import resource
import statistics
import subprocess
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

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.dump import DumpConfig, shards
from arcee_lab.dump.block import Block
from arcee_lab.dump.job import Job
from arcee_lab.dump.layouts import Builder
from arcee_lab.dump.manifest import Manifest, StoredShard, StoredSite, shard_path
from arcee_lab.dump.tokens import Tokens
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.texts import Windows, cut

TOKENS, WIDTH, BATCH = 4096, 18_432, 1024
SIZES = {0.80: (0.41, 0.25), 0.90: (0.21, 0.14), 0.97: (0.07, 0.05)}
WRITE, READ = 0.4, 15.0  # GB/s a core at 90 %; ms for 64 neurons
DEMO, AFM, FLAT = 1.5, 1.15, 1.05
SITE = "layers.0.mlp.hook_relu"


class Verdicts:
    """Rows of what was measured beside what was asked for."""

    def __init__(self) -> None:
        self.missed = False

    def row(
        self, what: str, got: float, limit: float, *, least: bool = False, unit: str = ""
    ) -> str:
        """One line of a table."""
        passed = got >= limit if least else got <= limit
        self.missed |= not passed
        sign = ">=" if least else "<="
        verdict = "pass" if passed else "MISS"
        return f"| {what} | {got:.3g}{unit} | {sign} {limit:g}{unit} | {verdict} |"


def cpu(call: Callable[[], object], *, rounds: int) -> float:
    """Median CPU seconds of this thread."""
    spent = []
    for _ in range(rounds):
        began = time.thread_time()
        call()
        spent.append(time.thread_time() - began)
    return statistics.median(spent)


def activations(zeros: float) -> torch.Tensor:
    """relu(u) of unlike neurons: each has its own rate, and each token its own strength."""
    generator = torch.Generator().manual_seed(round(100 * zeros))
    spread = torch.randn(WIDTH, generator=generator)
    gain = 1 + 0.2 * torch.randn(TOKENS, 1, generator=generator)
    low, high = -8.0, 8.0
    x = torch.randn(TOKENS, WIDTH, generator=generator)
    for _ in range(30):  # the shift at which so many are zero
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
    shards.write(folder, "again.safetensors", builder.finish())


def ask_store(folder: Path, units: list[int]) -> None:
    """A question to a store that nobody has opened yet."""
    al.dump.open(folder).neurons(0, units)


def one_shard(folder: Path, block: Block) -> al.dump.Store:
    """A store of one block."""
    site = StoredSite(SITE, (WIDTH,), "float16", "neuron")
    number = torch.arange(TOKENS, dtype=torch.int32)
    yes = torch.ones(TOKENS, dtype=torch.bool)
    tokens = Tokens(number % 50, number % 512, number // 512, number // 512, yes, number % 512 == 0)
    file = shards.write(folder, shard_path(SITE, 0), block)
    known = shards.write(folder, shard_path("tokens", 0), tokens)
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
    beside = ["", "| beside it, at 90 % zeros | of dense | write, CPU s | 64 neurons, CPU ms |"]
    beside += ["|---|---:|---:|---:|"]
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
            beside.append(f"| arcee_lab | {share:.3f} | {spent:.2f} | {read:.1f} |")
            for name, peer in {"delphi's layout": delphi_layout, "zarr, zstd 3": zarr}.items():
                if peers:
                    size, spent, read = peer(x, units, folder / name, rounds)
                    beside.append(f"| {name} | {size / dense:.3f} | {spent:.2f} | {read:.1f} |")
    return ["\n".join(lines), "\n".join(beside)]


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


# ---------------------------------------------------------------------- the price of a dump


def price(job: Job, *, rounds: int) -> tuple[float, float, float]:
    """CPU time of the main thread under a dump over that of plain forwards; and the writer's."""
    backbone = job._parts.backbone
    batches = [rows for shard in job.plan.shards for rows in shard.batches]

    def plain() -> None:
        with torch.no_grad():
            for rows in batches:
                backbone(**job.plan.inputs(rows).to(torch.device("cpu")), use_cache=False)

    def dump() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            from arcee_lab.dump.folder import LocalFolder

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
    job = Job(model, tokenizer, texts, DumpConfig(batch_size=32, max_tokens=tokens))
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
    ids = np.random.default_rng(0).integers(5, 512, size=1024).astype(np.int32)
    windows = Windows(ids, np.array([0, 256, 512, 768, 1024]), np.arange(4), None, 0)
    big = Job(layer, tokenizer, windows, DumpConfig(batch_size=2, context=256))
    for what, one_job, limit in (("the demo", job, DEMO), ("one AFM layer, bfloat16", big, AFM)):
        ratio, noise, writer = price(one_job, rounds=rounds if one_job is job else 3)
        lines.append(verdicts.row(f"{what}: main thread", ratio, limit))
        lines.append(f"| {what}: plain against plain (A/A) | {noise:.3g} | | |")
        lines.append(f"| {what}: the writer's thread, beside it | {writer:.3g} | | |")
    return "\n".join(lines)


# ---------------------------------------------------------------------- whole dumps, a process each


def ours(model, tokenizer, texts, folder: Path) -> dict[str, float]:
    """`al.dump.write` of all neurons."""
    store = al.dump.write(
        model, tokenizer, texts, folder, DumpConfig(batch_size=32, shard_tokens=4096, queue_mib=64)
    )
    return {"ask": 1e3 * cpu(lambda: al.dump.open(folder).neuron(2, 17), rounds=5), "n": len(store)}


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

    def ask() -> None:
        file = load_file(folder / "2" / f"{bounds[0]}_{bounds[1] - 1}.safetensors")
        kept = file["locations"][:, 2].to(torch.int32) == 17
        _ = file["locations"][kept], file["activations"][kept]

    return {"ask": 1e3 * cpu(ask, rounds=5), "n": 0}


def nnsight(model, tokenizer, texts, folder: Path) -> dict[str, float]:
    """An nnsight trace a batch, saved tensors to one dense numpy file a layer."""
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

    def ask() -> None:
        _ = np.ascontiguousarray(np.load(folder / "2.npy", mmap_mode="r")[:, 17])

    return {"ask": 1e3 * cpu(ask, rounds=5), "n": 0}


WAYS = {"arcee_lab": ours, "delphi's cache": delphi, "nnsight + numpy": nnsight}


def child(way: str, tokens: int) -> None:
    """One dump in this process; prints what it took."""
    torch.set_num_threads(1)
    model, tokenizer = al.load("demo")
    texts = []
    for document in documents(n=tokens // 20, seed=1, split="test"):
        texts.append(document.text)
    windows = cut(tokenizer, texts, context=model.config.max_position_embeddings, max_tokens=tokens)
    texts = [tokenizer.decode(windows[w], skip_special_tokens=True) for w in range(len(windows))]
    with tempfile.TemporaryDirectory() as scratch:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.process_time()
        took = WAYS[way](model, tokenizer, texts, Path(scratch) / "s")
        took["cpu"] = time.process_time() - began
        took["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        took["more"] = took["peak"] - before / 1024
        took["bytes"] = sum(f.stat().st_size for f in Path(scratch).rglob("*") if f.is_file())
    print(json.dumps(took))


def measured(way: str, tokens: int) -> dict[str, float]:
    """`child` in a process of its own."""
    command = [sys.executable, __file__, "--child", way, "--tokens", str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def whole_table(verdicts: Verdicts, *, tokens: int, peers: bool) -> list[str]:
    """The same activations dumped in three ways, and memory at ten times the tokens."""
    few, many = measured("arcee_lab", tokens), measured("arcee_lab", 10 * tokens)
    flat = [
        "### Memory",
        "",
        "| what | measured | target | |",
        "|---|---:|---:|---|",
        f"| peak of the process at {tokens:,} tokens | {few['peak']:.0f} MiB | | |",
        verdicts.row(f"at {10 * tokens:,} tokens, over that", many["peak"] / few["peak"], FLAT),
    ]
    lines = [
        f"### The same activations in three ways: the demo, all layers, {10 * tokens:,} tokens",
        "",
        "| what | CPU s | memory, MiB more | bytes | one neuron, CPU ms |",
        "|---|---:|---:|---:|---:|",
    ]
    for way in WAYS if peers else ["arcee_lab"]:
        took = many if way == "arcee_lab" else measured(way, 10 * tokens)
        lines.append(
            f"| {way} | {took['cpu']:.1f} | {took['more']:.0f} | {took['bytes']:,.0f} | "
            f"{took['ask']:.2f} |"
        )
    return ["\n".join(flat), "\n".join(lines)]


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What dumps cost.")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and tokens")
    parser.add_argument("--no-peers", action="store_true", help="measure arcee_lab alone")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--child", choices=tuple(WAYS), help=argparse.SUPPRESS)
    parser.add_argument("--tokens", type=int, default=6000, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.child:
        child(args.child, args.tokens)
        return 0
    torch.set_num_threads(1)
    if not args.no_peers:
        importlib.import_module("zarr")  # before the measurements, rather than after
    kept = keep_pages()
    rounds, tokens = (3, 4000) if args.quick else (9, 6000)
    verdicts, peers = Verdicts(), not args.no_peers
    body = layout_table(verdicts, rounds=rounds, peers=peers)
    print("\n\n".join(body), flush=True)
    body.append(price_table(verdicts, rounds=rounds, tokens=tokens))
    print(body[-1], flush=True)
    body += whole_table(verdicts, tokens=tokens, peers=peers)
    print("\n\n".join(body[-2:]), flush=True)
    write_section(
        "Activation dumps",
        body,
        command="python3 run.py bench dumps" + (" --quick" if args.quick else ""),
        method=f"CPU time of the thread that does the work, median of {rounds} rounds; peers with "
        "threads of their own and whole dumps by the CPU time of the process. The allocator of the "
        f"first two tables {'keeps' if kept else 'may return'} freed pages; memory is measured in "
        "processes that do not. Activations of the first table are drawn: each neuron has its own "
        "rate. delphi's layout leaves values up to 1e-5 out; arcee_lab and nnsight keep every bit.",
        packages=("torch", "numpy", "safetensors", "pyarrow", "nnsight", *(["zarr"] * peers)),
        path=args.out,
    )
    return int(verdicts.missed)


if __name__ == "__main__":
    sys.exit(main())
