"""What TransformerLens means by each of its names, as arrays that the tests compare ours with.

    python3 run.py bench lens_values [--out FILE] [--quantities FILE]

A tiny Arcee whose norms have weights far from 1 runs under TransformerLens' bridge, and every
activation of its cache is stored next to the weights. A second file has what TransformerLens
computes from such a cache after folding the norms: decompositions, attributions, ranks, circuits,
composition and head scores. Nothing of arcee_lab takes part. The files are renewed only when
TransformerLens or the model changes.
"""

import argparse
import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from idle import bridge_over
from safetensors.torch import load_file, save_file
from transformers.models.arcee.configuration_arcee import ArceeConfig
from transformers.models.arcee.modeling_arcee import ArceeForCausalLM

TESTS = Path(__file__).parent.parent / "tests"
OUT = TESTS / "recording" / "lens_values.safetensors"
QUANTITIES = TESTS / "lens" / "transformerlens.safetensors"
SHAPE = {
    "vocab_size": 20,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
IDS = [[1, 7, 4, 19, 3, 11], [1, 5, 5, 18, 9, 6]]
REPEATED = [[1, 5, 7, 9, 5, 7, 9, 4, 5, 7, 7]]  # what the detectors of heads read
RIGHT, WRONG = 7, 11  # of the attribution


def model() -> ArceeForCausalLM:
    """The model, its weights drawn by NumPy, which draws alike on every processor."""
    made = ArceeForCausalLM(ArceeConfig(**SHAPE, attn_implementation="eager")).eval()
    source = np.random.default_rng(0)
    with torch.no_grad():
        for name, weight in sorted(made.named_parameters()):
            drawn = torch.from_numpy(source.standard_normal(tuple(weight.shape)))
            weight.copy_(1 + 0.5 * drawn if "norm" in name else 0.3 * drawn)
    return made


@torch.no_grad()
def quantities() -> dict[str, torch.Tensor]:
    """What TransformerLens derives from a cache, by the name of the call."""
    bridge = bridge_over(model())
    bridge.enable_compatibility_mode()  # folds the norms into the weights
    _, cache = bridge.run_with_cache(torch.tensor(IDS))
    parts = cache.decompose_resid(layer=-1)
    heads = cache.stack_head_results(layer=-1)
    neurons = cache.get_full_resid_decomposition(layer=-1, expand_neurons=True)
    seen = cache.logit_lens(incl_mid=True, positions=None, targets=torch.tensor(following()))

    def added(stack: torch.Tensor) -> torch.Tensor:
        return cache.logit_attrs(stack, tokens=RIGHT, incorrect_tokens=WRONG)

    found = {
        "decompose_resid": parts,
        "decompose_resid_mid_1": cache.decompose_resid(layer=1, mlp_input=True),
        "accumulated_resid": cache.accumulated_resid(layer=-1, incl_mid=True),
        "stack_head_results": heads,
        "get_full_resid_decomposition": cache.get_full_resid_decomposition(
            layer=-1, expand_neurons=False
        ),
        "apply_ln_to_stack": cache.apply_ln_to_stack(parts, layer=-1),
        "logit_attrs_parts": added(parts),
        "logit_attrs_heads": added(heads),
        "logit_attrs_neurons": added(neurons),
        "ranks": seen.rank_trajectory(),
        "OV": bridge.OV.AB,
        "QK": bridge.QK.AB,
        "OV_singular_values": bridge.OV.S,
        "OV_norm": bridge.OV.norm(),
    }
    found |= {f"composition_{kind}": bridge.all_composition_scores(kind) for kind in "QKV"}
    return found | detected(bridge)


def following() -> list[list[int]]:
    """The next token of each; of a last one some token."""
    return [[*row[1:], 3] for row in IDS]


def detected(bridge: Any) -> dict[str, torch.Tensor]:
    """Scores of heads on ids that come again."""
    from transformer_lens import head_detector

    ids = torch.tensor(REPEATED)
    _, cache = bridge.run_with_cache(ids)
    score: Callable = head_detector.compute_head_attention_similarity_score
    found = {}
    for name in ("previous_token", "duplicate_token", "induction"):
        marked = getattr(head_detector, f"get_{name}_head_detection_pattern")(ids)
        rows = [
            [
                score(
                    cache["pattern", layer][0, head],
                    marked,
                    exclude_bos=False,
                    exclude_current_token=False,
                    error_measure="mul",
                )
                for head in range(bridge.cfg.n_heads)
            ]
            for layer in range(bridge.cfg.n_layers)
        ]
        found[f"detected_{name}"] = torch.tensor(rows)
    return found | {"repeated": ids}


def main() -> None:
    """Writes the file, and says how far it is from the one that was there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--quantities", type=Path, default=QUANTITIES)
    args = parser.parse_args()
    out = args.out
    reference, ids = model(), torch.tensor(IDS)
    tensors = {f"weights/{name}": x.detach().clone() for name, x in reference.named_parameters()}
    with torch.no_grad():
        _, cache = bridge_over(reference).run_with_cache(ids)
    values = {f"values/{name}": x.detach().clone().contiguous() for name, x in cache.items()}
    before = load_file(out) if out.exists() else {}
    facts = {
        "transformer-lens": version("transformer-lens"),
        "transformers": version("transformers"),
        "torch": version("torch").split("+")[0],
        "config": json.dumps(SHAPE),
    }
    save_file({"ids": ids} | tensors | values, out, metadata=facts)
    derived = {name: x.detach().clone().contiguous() for name, x in quantities().items()}
    save_file(derived, args.quantities, metadata=facts)
    print(f"{len(derived)} quantities in {args.quantities}")
    shared = [name for name in values if name in before]
    furthest = max((float((values[n] - before[n]).abs().max()) for n in shared), default=0.0)
    print(
        f"{len(values)} activations in {out} ({out.stat().st_size:,} bytes); {len(shared)} were "
        f"there before, at most {furthest:.2g} away"
    )


if __name__ == "__main__":
    main()
