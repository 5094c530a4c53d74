"""How long the attention pattern takes next to the fast kernel.

    python3 run.py bench patterns [--rounds N] [--no-peers] [--out FILE]

Our model under SDPA, the un-hooked forward against one that also gives patterns, or statistics of
heads. TransformerLens and nnsight (on transformers' eager kernel, which alone gives it a pattern)
do the same on the same weights in the same process. `pattern_memory` measures memory.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from idle import PACKAGES, SETTINGS, bridge_over, random_ids, random_reference, twin
from paired import Paired, measure
from results import RESULTS, keep_pages, ratio_table, write_section
from transformers import ArceeForCausalLM as ReferenceForCausalLM

import arcee_lab as al
from arcee_lab.attention import Distance, Entropy, FirstMass, Offset, Statistic, TopKeys
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

SETTING = SETTINGS[0]
ONE, ALL = "layers.3.self_attn.hook_pattern", "*hook_pattern"
ASKED: list[Statistic] = [Entropy(), FirstMass(), Offset(1), TopKeys(4), Distance()]
FIVE = "arcee_lab, five head statistics of all layers"
FOUR = "arcee_lab, those without the strongest keys, all layers"
TARGETS = {
    "arcee_lab, pattern of one layer": 1.04,
    "arcee_lab, pattern of all layers": 1.25,
    FIVE: 1.55,
    FOUR: 1.30,
}


def ours(
    model: ArceeForCausalLM, ids: torch.Tensor, forward: Callable[[], torch.Tensor]
) -> dict[str, Callable[[], object]]:
    """Patterns and statistics next to the fast kernel; logits stay the same to the last bit."""

    def captured(sites: str, **cuts: int) -> object:
        with al.capture(model, sites, **cuts) as acts:
            forward()
        return acts

    def read(layers: str, asked: Sequence[Statistic] = ASKED) -> object:
        with al.attention.heads(model, asked, layers=layers) as stats:
            forward()
        return stats

    expected = forward()
    with al.capture(model, ALL) as acts, al.attention.heads(model, ASKED):
        assert torch.equal(forward(), expected)
    assert len(acts) == SETTING.shape["num_hidden_layers"]
    return {
        "arcee_lab, pattern of one layer": lambda: captured(ONE),
        "arcee_lab, pattern of all layers": lambda: captured(ALL),
        "arcee_lab, pattern of one head of all layers": lambda: captured(ALL, heads=0),
        "arcee_lab, pattern of the last token, all layers": lambda: captured(ALL, positions=-1),
        "arcee_lab, five head statistics of one layer": lambda: read("layers.3"),
        FIVE: lambda: read("layers.*"),
        FOUR: lambda: read("layers.*", [one for one in ASKED if not isinstance(one, TopKeys)]),
    }


def peers(reference: ReferenceForCausalLM, ids: torch.Tensor) -> dict[str, Callable[[], object]]:
    """TransformerLens' cache and nnsight's trace of the same patterns."""
    import nnsight

    bridge = bridge_over(reference)
    names = [f"blocks.{layer}.attn.hook_pattern" for layer in range(bridge.cfg.n_layers)]
    eager = twin(reference, ReferenceForCausalLM, reference.config)
    eager.config._attn_implementation = "eager"
    wrapped = nnsight.NNsight(eager)

    def cache(wanted: list[str]) -> object:
        return bridge.run_with_cache(ids, names_filter=wanted)[1]

    def trace(wanted: range) -> object:
        with wrapped.trace(ids, use_cache=False):
            kept = nnsight.save([])
            for layer in wanted:
                kept.append(wrapped.model.layers[layer].self_attn.output[1])
        return kept

    every = range(bridge.cfg.n_layers)
    assert torch.allclose(cache(names[3:4])[names[3]], trace(range(3, 4))[0], atol=1e-5)
    return {
        "TransformerLens, run_with_cache of one layer": lambda: cache(names[3:4]),
        "TransformerLens, run_with_cache of all layers": lambda: cache(names),
        "nnsight on the eager kernel, one layer": lambda: trace(range(3, 4)),
        "nnsight on the eager kernel, all layers": lambda: trace(every),
    }


def time(*, rounds: int, with_peers: bool) -> dict[str, Paired]:
    """Ratios to our own forward with nothing asked."""
    reference = random_reference(SETTING.shape)
    ids = random_ids(SETTING.batch, SETTING.length)
    config = ArceeConfig(**reference.config.to_dict())
    config._attn_implementation = "sdpa"
    model = twin(reference, ArceeForCausalLM, config)

    def forward() -> torch.Tensor:
        return model(ids, use_cache=False).logits

    with torch.no_grad():
        contestants = {"arcee_lab, nothing asked, again (A/A)": forward}
        contestants |= ours(model, ids, forward)
        if with_peers:
            contestants |= peers(reference, ids)
        return measure(forward, contestants, rounds=rounds, calls=SETTING.calls)


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="How long patterns take.")
    parser.add_argument("--rounds", type=int, default=41, metavar="N", help="default: 41")
    parser.add_argument("--no-peers", action="store_true", help="measure arcee_lab alone")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = keep_pages()
    results = time(rounds=args.rounds, with_peers=not args.no_peers)
    table = ratio_table(SETTING.title, results, TARGETS)
    print(table, flush=True)
    write_section(
        "How long attention patterns take",
        [table],
        command="python3 run.py bench patterns",
        method=f"CPU time of the process; median of {args.rounds} ratios, each of two runs side by "
        "side in random order. The reference is our own forward under SDPA with nothing asked; the "
        "A/A row is that against itself: the noise. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages. Statistics: entropy, mass on the first "
        "token, mass one back, four strongest keys, distance. The peers' rows hold their whole "
        "forward: both compute attention eagerly in place of SDPA.",
        packages=PACKAGES[:2] if args.no_peers else PACKAGES,
        path=args.out,
    )
    print(args.out)
    return int(any(results[name].median > limit for name, limit in TARGETS.items()))


if __name__ == "__main__":
    sys.exit(main())
