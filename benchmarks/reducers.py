"""What statistics cost while the model runs, compared with counting stored activations.

    python3 run.py bench reducers [--rounds N] [--no-peers] [--out FILE]

Everybody answers the same question, on the same weights and the same padded batch: how often does
each MLP neuron of each layer fire on a token that is no padding? nnsight and TransformerLens keep
the neurons and NumPy counts them; plain torch hooks keep nothing. The other rows are further
reducers, for their price.
"""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from idle import PACKAGES, POST, SETTINGS, bridge_over, random_ids, random_reference, twin
from paired import Paired, measure
from results import RESULTS, keep_pages, ratio_table, write_section
from transformers import ArceeForCausalLM as ReferenceForCausalLM

import arcee_lab as al
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

SETTING = SETTINGS[0]
TITLE = "What statistics cost"
FIRING = "arcee_lab, FiringRate"
MOMENTS, TOP = "arcee_lab, Moments", "arcee_lab, TopK of 10"
STEADY = "arcee_lab, TopK of 10, batches 50 and later"
TARGETS = {FIRING: 1.035, MOMENTS: 1.30, TOP: 1.25, STEADY: 1.12}
OTHERS = {
    "arcee_lab, FiringRate of 4 groups": al.reducers.Grouped(al.reducers.FiringRate(), 4),
    MOMENTS: al.reducers.Moments(),
    TOP: al.reducers.TopK(10),
}
READ = 50  # batches before those of the steady row
Counts = list[np.ndarray]  # of each layer, how often each neuron fired


def padded(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The ids as a batch whose second half is padded on the left by a quarter."""
    mask = torch.ones_like(ids)
    mask[len(ids) // 2 :, : ids.shape[1] // 4] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def ours(reference: ReferenceForCausalLM) -> ArceeForCausalLM:
    """Our model on the reference's weights."""
    config = ArceeConfig(**reference.config.to_dict())
    config._attn_implementation = "sdpa"
    return twin(reference, ArceeForCausalLM, config)  # type: ignore[return-value]


def reducing(
    model: ArceeForCausalLM, reducer: al.reducers.Reducer, batch: Mapping[str, torch.Tensor]
) -> Callable[[], list]:
    """A forward under a reducer at every layer, and its results."""
    labels = torch.arange(batch["input_ids"].shape[1]) % 4

    def reduce() -> list:
        with al.capture(model, {POST: reducer}) as stats:
            stats.set_labels(labels[None])
            model(**batch, use_cache=False)
        return list(stats.values())

    return reduce


def steady(
    model: ArceeForCausalLM, batch: Mapping[str, torch.Tensor], block: ExitStack
) -> Callable[[], object]:
    """A forward over new tokens in a block that has seen many: few of them enter its lists."""
    block.enter_context(al.capture(model, {POST: al.reducers.TopK(10)}))
    draw = torch.Generator().manual_seed(2)

    def read() -> object:
        ids = torch.randint(3, 512, batch["input_ids"].shape, generator=draw)
        return model(**{**batch, "input_ids": ids}, use_cache=False)

    for _ in range(READ):
        read()
    return read


def by_hand(model: ArceeForCausalLM, batch: Mapping[str, torch.Tensor]) -> Callable[[], Counts]:
    """A forward under a plain torch hook at every layer: the mask times the signs."""
    real = batch["attention_mask"].flatten().float()
    points = [layer.mlp.hook_post for layer in model.model.layers]

    def count() -> Counts:
        found: list[torch.Tensor] = []

        def hook(module: object, args: object, post: torch.Tensor) -> None:
            found.append(real @ post.flatten(0, 1).sign())

        handles = [point.register_forward_hook(hook) for point in points]
        model(**batch, use_cache=False)
        for handle in handles:
            handle.remove()
        return [counts.long().numpy() for counts in found]

    return count


def nnsight(reference: ReferenceForCausalLM, batch: Mapping[str, torch.Tensor]) -> Callable:
    """Nnsight's cache of every layer, counted by NumPy."""
    import nnsight as library

    wrapped = library.NNsight(twin(reference, ReferenceForCausalLM, reference.config))
    mask = batch["attention_mask"].bool().numpy()

    def count() -> Counts:
        with wrapped.trace(**batch, use_cache=False) as tracer:
            cache = tracer.cache(modules=[layer.mlp.act_fn for layer in wrapped.model.layers])
        held = cache.keys()
        return [(cache[name].output.numpy()[mask] > 0).sum(0) for name in held]

    return count


def transformer_lens(
    reference: ReferenceForCausalLM, batch: Mapping[str, torch.Tensor]
) -> Callable:
    """TransformerLens' run_with_cache of every layer, counted by NumPy."""
    bridge = bridge_over(reference)
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(bridge.cfg.n_layers)]
    mask = batch["attention_mask"].bool().numpy()

    def count() -> Counts:
        _, cache = bridge.run_with_cache(
            batch["input_ids"], attention_mask=batch["attention_mask"], names_filter=names
        )
        return [(cache[name].numpy()[mask] > 0).sum(0) for name in names]

    return count


def run(*, rounds: int, peers: bool) -> dict[str, Paired]:
    """Checks that all count the same, and measures them."""
    reference = random_reference(SETTING.shape)
    batch = padded(random_ids(SETTING.batch, SETTING.length))
    model = ours(reference)
    with torch.no_grad(), ExitStack() as block:

        def forward() -> object:
            return model(**batch, use_cache=False)

        contestants: dict[str, Callable[[], object]] = {"arcee_lab, idle again (A/A)": forward}
        contestants[FIRING] = reducing(model, al.reducers.FiringRate(), batch)
        expected = [
            rates.fired.numpy() for rates in reducing(model, al.reducers.FiringRate(), batch)()
        ]
        assert len(expected) == SETTING.shape["num_hidden_layers"]
        contestants["torch hooks, mask @ post.sign()"] = by_hand(model, batch)
        for mine, theirs in zip(expected, by_hand(model, batch)(), strict=True):
            assert (mine == theirs).all()
        if peers:
            counters = {
                "nnsight, tracer.cache and NumPy": nnsight(reference, batch),
                "TransformerLens, run_with_cache and NumPy": transformer_lens(reference, batch),
            }
            for name, count in counters.items():
                for mine, theirs in zip(expected, count(), strict=True):
                    # Under TransformerLens' eager kernel, values may round to the other side of 0.
                    assert np.abs(mine - theirs).max() <= 2, name
            contestants |= counters
        others = {name: reducing(model, reducer, batch) for name, reducer in OTHERS.items()}
        others[STEADY] = steady(ours(reference), batch, block)
        # Afterwards: what answers another question does not stand between those that are compared.
        return measure(forward, contestants, rounds=rounds, calls=SETTING.calls) | measure(
            forward, others, rounds=rounds, calls=SETTING.calls
        )


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where the target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What statistics cost.")
    parser.add_argument("--rounds", type=int, default=31, metavar="N", help="default: 31")
    parser.add_argument("--no-peers", action="store_true", help="measure arcee_lab alone")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = keep_pages()
    peers = not args.no_peers
    results = run(rounds=args.rounds, peers=peers)
    table = ratio_table(SETTING.title, results, TARGETS)
    print(table, end="\n\n", flush=True)
    write_section(
        TITLE,
        [table],
        command="python3 run.py bench reducers",
        method=f"CPU time of the process; median of {args.rounds} ratios, each of two runs side by "
        "side in random order. The reference is our forward without hooks under SDPA, with the "
        "same padding mask; the A/A row is the reference against itself: the noise. Every row "
        "opens its block, runs one forward and has the statistics of `hook_post` of every layer, "
        "padding left out; only the last row keeps its block open, and reads new tokens in each "
        "call. nnsight and TransformerLens keep the activations and count in NumPy. "
        "All count the same; the further reducers are measured after them. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages.",
        packages=PACKAGES if peers else PACKAGES[:2],
        path=args.out,
    )
    print(args.out)
    return int(any(results[name].median > limit for name, limit in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
