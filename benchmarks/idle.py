"""What hook points cost: our Arcee, idle and under capture, next to transformers' own.

    python3 run.py bench idle [--rounds N] [--no-peers] [--out FILE]

The reference is `transformers.ArceeForCausalLM` under SDPA; all models hold the same weights in the
same memory. TransformerLens and nnsight run in the same process at the same two tasks: a forward
with nothing asked, and a forward that keeps the MLP neurons of every layer.
"""

import argparse
import copy
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from paired import Paired, measure
from results import RESULTS, keep_pages, ratio_table, write_section
from transformers import ArceeConfig as ReferenceConfig
from transformers import ArceeForCausalLM as ReferenceForCausalLM

import arcee_lab as al
from arcee_lab.model import ArceeConfig, ArceeForCausalLM

POST = "layers.*.mlp.hook_post"
PACKAGES = ("torch", "transformers", "transformer-lens", "nnsight")


@dataclass(frozen=True)
class Setting:
    """A model shape, an input shape and the ratios we must stay below."""

    title: str
    shape: dict[str, int]
    batch: int
    length: int
    calls: int
    targets: dict[str, float]


SETTINGS = (
    Setting(
        title="8 layers, width 256, 2048 neurons, 4 x 256 tokens",
        shape={
            "num_hidden_layers": 8,
            "hidden_size": 256,
            "intermediate_size": 2048,
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
        },
        batch=4,
        length=256,
        calls=1,
        targets={"arcee_lab, idle": 1.02, "arcee_lab, capture": 1.05},
    ),
    Setting(
        title="Python alone: 2 layers, width 64, 256 neurons, 1 x 8 tokens",
        shape={
            "num_hidden_layers": 2,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
        },
        batch=1,
        length=8,
        calls=40,
        targets={"arcee_lab, idle": 1.10, "arcee_lab, capture": 1.30},
    ),
)


def twin(model: torch.nn.Module, cls: type, config: object) -> torch.nn.Module:
    """A model of another class, or another one of the same, on the very same parameters.

    It has a config of its own: TransformerLens sets its model's attention to eager through it.
    """
    config = copy.deepcopy(config)
    with torch.device("meta"):
        other = cls(config)
    other.load_state_dict(model.state_dict(keep_vars=True), assign=True)
    # The RoPE tables are no part of a state dict.
    other.model.rotary_emb = type(other.model.rotary_emb)(config)
    return other.eval()


def ours(reference: ReferenceForCausalLM, ids: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Our model: a forward, and one under `al.capture`."""
    config = ArceeConfig(**reference.config.to_dict())
    config._attn_implementation = "sdpa"
    model = twin(reference, ArceeForCausalLM, config)

    def capture() -> object:
        with al.capture(model, POST) as acts:
            model(ids, use_cache=False)
        return acts

    expected = reference(ids, use_cache=False).logits
    assert torch.equal(model(ids, use_cache=False).logits, expected)
    assert sum(1 for _ in capture()) == reference.config.num_hidden_layers
    return {
        "arcee_lab, idle": lambda: model(ids, use_cache=False),
        "arcee_lab, capture": capture,
    }


def bridge_over(reference: ReferenceForCausalLM) -> Any:
    """TransformerLens' bridge over a twin, since it takes the model apart."""
    from tokenizers import Tokenizer, models
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedTokenizerFast

    words = {f"w{number}": number for number in range(reference.config.vocab_size)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w0")),
        pad_token="w0",
        bos_token="w1",
        eos_token="w2",
    )
    model = twin(reference, ReferenceForCausalLM, reference.config)
    with tempfile.TemporaryDirectory() as folder:  # it reads config and tokenizer by path
        model.config.architectures = ["ArceeForCausalLM"]
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return TransformerBridge.boot_transformers(folder, hf_model=model)


def transformer_lens(
    reference: ReferenceForCausalLM, ids: torch.Tensor
) -> dict[str, Callable[[], object]]:
    """TransformerLens' bridge: a forward, and one with a cache."""
    bridge = bridge_over(reference)
    names = [f"blocks.{layer}.mlp.hook_post" for layer in range(bridge.cfg.n_layers)]

    def cache() -> object:
        return bridge.run_with_cache(ids, names_filter=names)[1]

    expected = reference(ids, use_cache=False).logits
    assert torch.allclose(bridge(ids), expected, atol=1e-4)
    assert set(names) <= set(cache())
    return {"TransformerLens, idle": lambda: bridge(ids), "TransformerLens, run_with_cache": cache}


def nnsight(reference: ReferenceForCausalLM, ids: torch.Tensor) -> dict[str, Callable[[], object]]:
    """Nnsight's wrapper over a twin: the wrapped module itself, and a trace."""
    import nnsight as library

    model = twin(reference, ReferenceForCausalLM, reference.config)
    wrapped = library.NNsight(model)

    def trace() -> object:
        with wrapped.trace(ids, use_cache=False):
            kept = library.save([])
            for layer in wrapped.model.layers:
                kept.append(layer.mlp.act_fn.output)
        return kept

    assert len(trace()) == reference.config.num_hidden_layers
    return {"nnsight, idle": lambda: model(ids, use_cache=False), "nnsight, trace": trace}


def random_reference(shape: dict[str, int]) -> ReferenceForCausalLM:
    """Transformers' Arcee of a shape, with random weights that are always the same."""
    generator = torch.Generator().manual_seed(0)
    config = ReferenceConfig(
        **shape,
        vocab_size=512,
        max_position_embeddings=512,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="sdpa",
    )
    reference = ReferenceForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    return reference


def random_ids(batch: int, length: int) -> torch.Tensor:
    """Token ids that are always the same."""
    return torch.randint(3, 512, (batch, length), generator=torch.Generator().manual_seed(1))


def run(setting: Setting, *, rounds: int, peers: bool) -> dict[str, Paired]:
    """Measures all contestants at one setting."""
    reference, ids = random_reference(setting.shape), random_ids(setting.batch, setting.length)
    with torch.no_grad():

        def forward() -> object:
            return reference(ids, use_cache=False)

        contestants = {"transformers again (A/A)": forward, **ours(reference, ids)}
        if peers:
            contestants |= transformer_lens(reference, ids) | nnsight(reference, ids)
        return measure(forward, contestants, rounds=rounds, calls=setting.calls)


def main(argv: list[str] | None = None) -> int:
    """Measures, writes the report and fails where a target is missed."""
    parser = argparse.ArgumentParser(prog="run.py bench", description="What hook points cost.")
    parser.add_argument("--rounds", type=int, default=61, metavar="N", help="default: 61")
    parser.add_argument("--no-peers", action="store_true", help="measure arcee_lab alone")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FILE")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    kept = keep_pages()
    peers = not args.no_peers
    tables, missed = [], False
    for setting in SETTINGS:
        results = run(setting, rounds=args.rounds, peers=peers)
        tables.append(ratio_table(setting.title, results, setting.targets))
        print(tables[-1], end="\n\n", flush=True)
        missed |= any(results[name].median > limit for name, limit in setting.targets.items())
    write_section(
        "What hook points cost",
        tables,
        command="python3 run.py bench idle",
        method=f"CPU time of the process; median of {args.rounds} ratios, each of two runs side by "
        "side in random order. The reference is transformers' Arcee under SDPA with the same "
        "weights; the A/A row is the reference against itself: the noise. The allocator "
        f"{'keeps' if kept else 'may return'} freed pages. capture, run_with_cache and trace keep "
        "the MLP neurons (`hook_post`) of every layer.",
        packages=PACKAGES if peers else PACKAGES[:2],
        path=args.out,
    )
    print(args.out)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
