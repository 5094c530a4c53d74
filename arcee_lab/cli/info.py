"""`arcee-lab info [MODEL]`: versions and devices, and the facts of a model."""

import argparse
import copy
import importlib.metadata
import platform

from arcee_lab.cli import flags
from arcee_lab.errors import ArceeLabError, CheckpointError
from arcee_lab.runs.json_text import reason

HELP = "Show versions and devices, and for a model its shape, parameters and hook points."
EXAMPLE = "arcee-lab info demo"

_PACKAGES = ("arcee_lab", "torch", "transformers", "nnsight", "lm-eval", "datasets")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `info`."""
    flags.add_model(parser, optional=True)


def run(args: argparse.Namespace) -> int:
    """Prints one fact per line."""
    facts = {"python": platform.python_version()} | versions() | {"devices": devices()}
    if args.model is not None:
        facts |= anatomy_facts(args.model)
    width = max(map(len, facts))
    for name, value in facts.items():
        print(f"{name:<{width}}  {value}")
    return 0


def versions() -> dict[str, str]:
    """Installed versions of the packages that determine numbers."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def devices() -> str:
    """The devices that torch can use, as text."""
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory / 2**30
        found.append(f"cuda:{number} ({torch.cuda.get_device_name(number)}, {memory:.0f} GiB)")
    if torch.backends.mps.is_available():
        found.append("mps")
    return ", ".join(found)


def anatomy_facts(name: str) -> dict[str, str]:
    """Describes a model from its configuration and tokenizer; no weights are read or downloaded.

    Raises:
        CheckpointError: There is no such model, or it is no Arcee model.
    """
    import torch

    from arcee_lab.model import ArceeForCausalLM
    from arcee_lab.model.checks.config_file import checked_config
    from arcee_lab.model.checks.tokenizer_files import read_tokenizer
    from arcee_lab.model.loading import find_checkpoint
    from arcee_lab.runs.hub import is_hub_id
    from arcee_lab.sites import Legend

    source = name if "/" in name and is_hub_id(name) else find_checkpoint(name)
    config = checked_config(source)[1]
    tokenizer = read_tokenizer(source, vocab_size=config.vocab_size)
    one_layer = copy.deepcopy(config)  # all layers have equally many parameters
    one_layer.num_hidden_layers = 1
    try:
        with torch.device("meta"):
            model = ArceeForCausalLM(one_layer)
    except ArceeLabError:
        raise
    except Exception as error:  # what torch or transformers makes of a setting that we do not know
        raise CheckpointError(
            f"The config.json of {name} does not describe a model: {reason(error)}; get it again."
        ) from error
    dtype = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    layer = sum(p.numel() for p in model.model.layers[0].parameters())
    n_parameters = sum(p.numel() for p in model.parameters())
    n_parameters += (config.num_hidden_layers - 1) * layer
    sites = Legend(config.num_hidden_layers, "causal").sites()
    return {
        "model": name,
        "dtype": str(dtype).removeprefix("torch."),
        "shape": f"{config.num_hidden_layers} layers, d_model {config.hidden_size}, "
        f"d_mlp {config.intermediate_size}, {config.num_attention_heads} heads over "
        f"{config.num_key_value_heads} kv heads of {config.head_dim}",
        "context": f"{config.max_position_embeddings:,} tokens",
        "vocabulary": f"{config.vocab_size:,} ({len(tokenizer):,} used by the tokenizer)",
        "parameters": f"{n_parameters:,} ({n_parameters * dtype.itemsize / 2**20:,.1f} MiB)",
        "hook points": f"{len(sites):,}, named in docs/reference/sites.md",
    }
