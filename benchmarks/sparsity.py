"""What measuring sparsity costs: next to an MLP's forward at AFM-4.5B's shape, and on the demo.

    python3 run.py bench sparsity [--rounds N] [--full-size] [--out FILE]

One MLP of 2560 x 18432 in bf16 has planted weights: each neuron fires at a rate of its own, 10 % on
average. `--full-size` measures 2,048 tokens on a model of AFM-4.5B's whole shape with random bf16
weights instead; it needs about 12 GB of memory, and minutes.
"""

import argparse
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from paired import Paired, measure
from results import RESULTS, keep_pages, ratio_table, write_section

import arcee_lab as al
from arcee_lab.data.limits import default_context
from arcee_lab.data.windows import Windows, cut
from arcee_lab.demo.world import documents
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.model.layers import ArceeMLP
from arcee_lab.runs.ranks import Ranks
from arcee_lab.sparsity import registry
from arcee_lab.sparsity.core import every_token
from arcee_lab.sparsity.core.state import Shape
from arcee_lab.sparsity.job import plan_pass
from arcee_lab.sparsity.run_estimate import state_bytes
from arcee_lab.sparsity.sampled.mlps import Mlp
from arcee_lab.sparsity.streamed import schedule
from arcee_lab.sparsity.streamed.analysis import LayerBatch
from arcee_lab.sparsity.streamed.runner import new_states

SAMPLE_EVERY = 8
CORE, ALL = "core, every token", f"all analyses, 1 window in {SAMPLE_EVERY}"
SHOWN = "all analyses, every window"
SPARED = "all but predictors, every window"
DENSITY, WINDOW, TOKENS = 0.10, 256, 1024


def planted_mlp() -> tuple[ArceeMLP, torch.Tensor]:
    """An MLP of AFM-4.5B's shape, and an input on which a tenth of its neurons fires."""
    generator = torch.Generator().manual_seed(0)
    config = ArceeConfig.afm_4_5b()
    mlp = ArceeMLP(config)
    x = torch.randn(1, TOKENS, config.hidden_size, generator=generator)
    x[..., 0] = 1.0  # a constant input, whose weight is each neuron's bias
    rates = np.random.default_rng(0).beta(0.5, 0.5 / DENSITY - 0.5, config.intermediate_size)
    bias = torch.distributions.Normal(0.0, 1.0).icdf(torch.from_numpy(rates).clamp(1e-6, 1 - 1e-6))
    with torch.no_grad():
        mlp.up_proj.weight.normal_(generator=generator).div_(config.hidden_size**0.5)
        mlp.up_proj.weight[:, 0] = bias
        mlp.down_proj.weight.normal_(std=0.02, generator=generator)
    return mlp.bfloat16(), x.bfloat16()


def afm_layer() -> tuple[Callable[[], object], dict[str, Callable[[], object]], float]:
    """The forward of one MLP, what each analysis adds to it, and the share that fires."""
    module, x = planted_mlp()
    mlp = Mlp(0, "mlp", module.up_proj, module.down_proj, True)
    ids = np.random.default_rng(0).integers(3, 1000, TOKENS).astype(np.int32)
    bounds = np.arange(0, TOKENS + 1, WINDOW)
    windows = Windows(ids, bounds, np.arange(len(bounds) - 1), bos_id=None, pad_id=0)
    # All windows are shown, and predictors are tried as in those windows that they are tried in.
    plan = replace(schedule.plan(windows, batch_size=4, sample_every=1), every=schedule.EVERY)
    (job,) = plan.forwards([0])
    shape = Shape(1, x.shape[2], mlp.d_mlp, 1024, WINDOW, TOKENS)
    names = registry.GROUPS["all"]
    analyses = {name: registry.streamed(name) for name in names}
    states = new_states(shape, analyses, torch.device("cpu"))
    with torch.no_grad():
        post = module.hook_post(torch.relu(mlp.up(x)).square())[0]
        y = mlp.down(post)
        norms = mlp.write_norms()
    rows = job.tokens.places
    losses = torch.rand(len(rows))
    active = every_token.add_layer(states["core"], 0, post, rows, job.first)

    def seen() -> LayerBatch:
        # As in the pass: the rows that count are copied out.
        inputs = x[0].index_select(0, rows)
        kept, outputs = post.index_select(0, rows), y.index_select(0, rows)
        return LayerBatch(0, mlp, kept, active, inputs, outputs, inputs, norms, job.tokens)

    def add_core() -> None:
        found = every_token.add_layer(states["core"], 0, post, rows, job.first)
        every_token.add_batch(states["core"], job.tokens, len(job.first), found[:, None])

    def add(*chosen: str) -> Callable[[], None]:
        def call() -> None:
            shown = seen()
            for name in chosen:
                analyses[name].layer(states[name], shown)
                analyses[name].batch(states[name], job.tokens, active[:, None], losses)

        return call

    contestants: dict[str, Callable[[], object]] = {
        CORE: add_core,
        **{f"{name}, every window": add(name) for name in names},
        SHOWN: add(*names),
        SPARED: add(*(name for name in names if name != "predictors")),
    }
    return lambda: module(x), contestants, float((post[rows] != 0).float().mean())


def at_share(found: dict[str, Paired]) -> Paired:
    """The core at every token and the others at 1 window in 8, put together from their ratios."""
    tried = 1 / schedule.SPREAD  # of these windows, the part in which predictors are tried

    def together(core: float, shown: float, spared: float) -> float:
        return core + (tried * shown + (1 - tried) * spared) / SAMPLE_EVERY

    parts = [found[name] for name in (CORE, SHOWN, SPARED)]
    ratios = zip(*(part.ratios for part in parts), strict=True)
    return Paired(
        together(*(part.milliseconds for part in parts)), tuple(together(*each) for each in ratios)
    )


def on_demo() -> tuple[Callable[[], object], dict[str, Callable[[], object]]]:
    """The demo's plain forwards over 192 documents, and whole measurements of the same."""
    model, tokenizer = al.load("demo")
    texts = [document.text for document in documents(n=192, seed=5, split="test")]
    windows = cut(tokenizer, texts, context=default_context(model))
    alone = Ranks(0, 1, 0, torch.device("cpu"))

    def run(names: tuple[str, ...]) -> Callable[[], object]:
        return lambda: plan_pass(
            model, windows, names, sample_every=SAMPLE_EVERY, batch_size=32
        ).run(alone)

    plan = plan_pass(model, windows, (), sample_every=SAMPLE_EVERY, batch_size=32).plan
    forwards = list(plan.forwards(range(len(plan.batches))))

    def forward() -> None:
        with torch.no_grad():
            for job in forwards:
                model.base_model(
                    input_ids=job.input_ids, attention_mask=job.attention_mask, use_cache=False
                )

    return forward, {
        "the forwards again (A/A)": forward,
        CORE: run(()),
        ALL: run(registry.GROUPS["all"]),
    }


def memory_table() -> str:
    """Bytes of the counts of AFM-4.5B, told without making them."""
    config = ArceeConfig.afm_4_5b()
    shape = Shape(
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.vocab_size,
        1024,
        10**6,
    )
    analyses = {name: registry.streamed(name) for name in registry.GROUPS["all"]}
    states = new_states(shape, analyses, torch.device("meta"))
    sizes = {name: sum(x.nbytes for x in state.values()) for name, state in states.items()}
    neurons = shape.layers * shape.d_mlp
    lines = [
        f"### Counts of AFM-4.5B: {neurons:,} neurons, {shape.vocab:,} ids, any length of text",
        "",
        "| analysis | MB |",
        "|---|---:|",
        *(f"| {name} | {size / 1e6:.1f} |" for name, size in sizes.items()),
        f"| all | {sum(sizes.values()) / 1e6:.1f} |",
    ]
    return "\n".join(lines)


def full_size(path: Path) -> None:
    """2,048 tokens through a model of AFM-4.5B's whole shape, random weights in bf16."""
    config = ArceeConfig.afm_4_5b()
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = ArceeForCausalLM(config).bfloat16()
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=0.02, generator=generator)
            else:
                parameter.fill_(1)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # not a parameter
    model.eval()
    ids = np.random.default_rng(0).integers(3, config.vocab_size - 8, 2048).astype(np.int32)
    windows = Windows(ids, np.array([0, 1024, 2048]), np.arange(2), bos_id=None, pad_id=0)
    weights = sum(x.numel() * x.element_size() for x in model.parameters())
    run = plan_pass(model, windows, registry.GROUPS["all"], sample_every=None, batch_size=1)
    print(
        f"weights {weights / 1e9:.2f} GB, counts {state_bytes(run) / 1e9:.2f} GB; with activations "
        "about 12 GB are expected",
        flush=True,
    )
    began, worked = time.perf_counter(), time.process_time()
    report = al.sparsity.measure(model, None, windows, batch_size=1, progress=True)
    worked = time.process_time() - worked
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    assert report.n_tokens == 2046
    assert report.fired.numel() == 663_552
    lines = [
        "| what | |",
        "|---|---:|",
        f"| weights | {weights / 1e9:.2f} GB |",
        f"| counts | {state_bytes(run) / 1e9:.2f} GB |",
        f"| largest resident memory of the process | {peak / 1e9:.2f} GB |",
        f"| CPU time | {worked:.0f} s |",
        f"| wall time, on a machine with other work | {time.perf_counter() - began:.0f} s |",
        f"| exact zeros (random weights: about one half) | {report.zeros.mean():.3f} |",
    ]
    write_section(
        "Measuring a model of AFM-4.5B's size",
        ["\n".join(lines)],
        command="python3 run.py bench sparsity --full-size",
        method="random bf16 weights of the whole shape, 2 windows of 1,024 random tokens, the "
        "default call: of so few windows every analysis sees both, predictors 1 token in 32.",
        path=path,
    )


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench sparsity", description=__doc__)
    parser.add_argument("--rounds", type=int, default=21, metavar="N", help="default: 21")
    parser.add_argument("--full-size", action="store_true", help="measure AFM-4.5B's whole shape")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    if args.full_size:
        full_size(args.out)
        return 0
    kept = keep_pages()
    with torch.no_grad():
        forward, contestants, density = afm_layer()
        layer = measure(
            forward,
            {"the forward again (A/A)": forward, **contestants},
            rounds=args.rounds,
            calls=1,
        )
    layer[ALL] = at_share(layer)
    demo = measure(*on_demo(), rounds=args.rounds, calls=1)
    limits = ({CORE: 0.14, ALL: 0.22}, {CORE: 1.45, ALL: 1.8})
    tables = [
        ratio_table(
            f"Cost over one MLP forward: 2560 x 18432, bf16, {TOKENS:,} tokens, {density:.0%} of "
            "activations not 0 (ratio = cost / forward)",
            layer,
            limits[0],
        ),
        ratio_table("The whole pass over the plain forwards of the demo", demo, limits[1]),
        memory_table(),
    ]
    print("\n\n".join(tables))
    write_section(
        "What measuring sparsity costs",
        tables,
        command="python3 run.py bench sparsity",
        method=f"CPU time of the process; median of {args.rounds} ratios, each of two runs side by "
        "side in random order. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages. Analyses are timed on every window, "
        "alone and one after the other as in the pass, where they share the rows that are copied "
        "out and the list of neurons that fire; predictors on 1 token in "
        f"{schedule.EVERY}, which is done in every fourth window of the share (from 256 windows "
        "on), so that the row of 1 window in 8 is the core, 1/32 of all analyses and 3/32 of all "
        "but predictors.",
        path=args.out,
    )
    missed = [
        name
        for found, limit in zip((layer, demo), limits, strict=True)
        for name in limit
        if found[name].median > limit[name]
    ]
    print(args.out)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
