"""What sparse decoding saves: `down_proj` and the whole MLP at AFM-4.5B's shape, and the demo.

    python3 run.py bench decode [--rounds N] [--out FILE]

Two layers of AFM's shape in bf16, random weights, used in turn: each weight is larger than the
processor's cache, so every call reads it from memory, as decoding does. Dense and sparse calls use
the same weights. Of the demo whole decoding steps are timed, as `generate` takes them.
"""

import argparse
import os
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from paired import Paired, measure
from results import RESULTS, keep_pages, ratio_table, write_section
from torch import Tensor, nn

import arcee_lab as al
from arcee_lab.demo import documents
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.model.layers import ArceeMLP

D_MODEL, D_MLP = 2560, 18432
# Targets are speed-ups; the table holds ratios of time, so 3.5 x reads <= 0.286.
DOWN = {0.5: None, 0.8: 3.5, 0.9: 6.0, 0.95: None}
WHOLE = {0.8: None, 0.9: 1.6}


def afm_layers() -> ArceeForCausalLM:
    """Two layers of AFM-4.5B's shape, bf16; the rest of the model is as small as it can be."""
    config = ArceeConfig(
        hidden_size=D_MODEL,
        intermediate_size=D_MLP,
        num_hidden_layers=2,
        num_attention_heads=20,
        num_key_value_heads=4,
        head_dim=128,
        vocab_size=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return ArceeForCausalLM(config).to(torch.bfloat16).eval().requires_grad_(False)


def dense_twin(mlp: ArceeMLP) -> ArceeMLP:
    """An MLP on the same weights that `sparse_decode` does not know of."""
    config = ArceeConfig(hidden_size=D_MODEL, intermediate_size=D_MLP)
    with torch.device("meta"):
        twin = ArceeMLP(config)
    twin.load_state_dict(mlp.state_dict(keep_vars=True), assign=True)
    return twin


def in_turn(modules: list[nn.Module], inputs: list[Tensor]) -> Callable[[], object]:
    """A call that goes round the layers."""
    turn = count()

    def call() -> object:
        at = next(turn) % len(modules)
        return modules[at](inputs[at])

    return call


def activations(zeros: float, generator: torch.Generator) -> Tensor:
    """relu(u)² of one token, of which this share is zero."""
    x = torch.randn(1, 1, D_MLP, generator=generator)
    return (x - x.quantile(zeros)).relu().square().to(torch.bfloat16)


def down_proj(model: ArceeForCausalLM, rounds: int) -> dict[str, Paired]:
    """`down_proj` alone, one token, at several shares of zeros."""
    generator = torch.Generator().manual_seed(0)
    linears = [layer.mlp.down_proj for layer in model.model.layers]
    plain = [dense_twin(layer.mlp).down_proj for layer in model.model.layers]
    found = {}
    for zeros in DOWN:
        x = [activations(zeros, generator) for _ in linears]
        dense, sparse = in_turn(plain, x), in_turn(linears, x)
        with al.sparse_decode(model, min_zeros=0.4):
            contestants = {f"down_proj, {zeros:.0%} zeros": sparse}
            if not found:
                contestants = {"down_proj, dense again (A/A)": dense, **contestants}
            found |= measure(dense, contestants, rounds=rounds, calls=4)
    return found


def whole_mlp(model: ArceeForCausalLM, rounds: int) -> dict[str, Paired]:
    """The whole MLP, whose `up_proj` stays dense; input and weights make the share of zeros."""
    generator = torch.Generator().manual_seed(0)
    mlps = [layer.mlp for layer in model.model.layers]
    twins = [dense_twin(mlp) for mlp in mlps]
    x = torch.randn(1, 1, D_MODEL, generator=generator).to(torch.bfloat16)
    x[..., 0] = 1.0
    found = {}
    for zeros in WHOLE:
        for mlp in mlps:
            weight = mlp.up_proj.weight
            weight[:, 0] = 0
            weight[:, 0] = -(weight @ x[0, 0]).float().quantile(zeros)
        dense, sparse = in_turn(twins, [x, x]), in_turn(mlps, [x, x])
        with al.sparse_decode(model) as block:
            contestants = {f"MLP, {zeros:.0%} zeros": sparse}
            if not found:
                contestants = {"MLP, dense again (A/A)": dense, **contestants}
            found |= measure(dense, contestants, rounds=rounds, calls=2)
        seen = block.frame()["mean_zeros"]
        assert ((seen - zeros).abs() < 0.01).all(), seen
    return found


def demo(rounds: int) -> tuple[dict[str, Paired], str]:
    """Whole decoding steps of the demo, and the share of zeros that they met."""
    model, tokenizer = al.load("demo")
    text = documents("story", n=1, seed=0, split="test")[0].text[:40]
    prompt = tokenizer(text, return_tensors="pt")

    def generate() -> Tensor:
        return model.generate(**prompt, min_new_tokens=32, max_new_tokens=32, do_sample=False)

    def sparse() -> Tensor:
        with al.sparse_decode(model):
            return generate()

    assert torch.equal(sparse(), generate())
    with al.sparse_decode(model) as block:
        generate()
    zeros = block.frame()["mean_zeros"].mean()
    contestants = {"demo, 32 tokens, dense again (A/A)": generate, "demo, 32 tokens": sparse}
    return measure(generate, contestants, rounds=rounds, calls=1), f"{zeros:.0%}"


def remark(found: dict[str, Paired]) -> str:
    """The ratios once more as speed-ups."""
    words = [f"{name}: {1 / result.median:.2f} x" for name, result in found.items()]
    return "Dense time over sparse time: " + "; ".join(w for w in words if "A/A" not in w) + "."


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What sparse decoding saves.")
    parser.add_argument("--rounds", type=int, default=41, metavar="N", help="default: 41")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    keep_pages()
    with torch.no_grad():
        model = afm_layers()
        large = down_proj(model, args.rounds) | whole_mlp(model, args.rounds)
        del model
        small, zeros = demo(args.rounds)
    targets = {f"down_proj, {z:.0%} zeros": 1 / t for z, t in DOWN.items() if t}
    targets |= {f"MLP, {z:.0%} zeros": 1 / t for z, t in WHOLE.items() if t}
    tables = [
        ratio_table("AFM-4.5B's layer, bf16, one token", large, targets),
        remark(large),
        ratio_table(f"The demo, fp32, {zeros} zeros: too small to gain", small, {}),
    ]
    write_section(
        "Sparse decoding",
        tables,
        command="python3 run.py bench decode",
        method=f"CPU time of the process; median of {args.rounds} ratios, sparse over dense, of "
        "two runs side by side in random order, finding the active neurons included. Random "
        f"weights of {D_MODEL} x {D_MLP}, two layers in turn so that no weight stays in the cache. "
        "The demo's runs include opening and closing the block.",
        path=args.out,
    )
    print(*tables, args.out, sep="\n\n")
    return int(any(large[name].median > limit for name, limit in targets.items()))


if __name__ == "__main__":
    sys.exit(main())
