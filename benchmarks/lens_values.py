"""What TransformerLens means by each of its names, as arrays that the tests compare ours with.

    python3 run.py bench lens_values [--out FILE]

A tiny Arcee whose norms have weights far from 1 runs under TransformerLens' bridge, and every
activation of its cache is stored next to the weights. Nothing of arcee_lab takes part. The file is
renewed only when TransformerLens or the model changes.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from idle import bridge_over
from safetensors.torch import load_file, save_file
from transformers.models.arcee.configuration_arcee import ArceeConfig
from transformers.models.arcee.modeling_arcee import ArceeForCausalLM

OUT = Path(__file__).parent.parent / "tests" / "recording" / "lens_values.safetensors"
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


def model() -> ArceeForCausalLM:
    """The model, its weights drawn by NumPy, which draws alike on every processor."""
    made = ArceeForCausalLM(ArceeConfig(**SHAPE, attn_implementation="eager")).eval()
    source = np.random.default_rng(0)
    with torch.no_grad():
        for name, weight in sorted(made.named_parameters()):
            drawn = torch.from_numpy(source.standard_normal(tuple(weight.shape)))
            weight.copy_(1 + 0.5 * drawn if "norm" in name else 0.3 * drawn)
    return made


def main() -> None:
    """Writes the file, and says how far it is from the one that was there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args().out
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
    shared = [name for name in values if name in before]
    furthest = max((float((values[n] - before[n]).abs().max()) for n in shared), default=0.0)
    print(
        f"{len(values)} activations in {out} ({out.stat().st_size:,} bytes); {len(shared)} were "
        f"there before, at most {furthest:.2g} away"
    )


if __name__ == "__main__":
    main()
