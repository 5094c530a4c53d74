"""The untrained demo: its shape and its initial weights. Also the control of every later claim."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo.tokenizer import BOS_ID, EOS_ID, LENGTH, PAD_ID
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.training.recipe import Recipe

EMBEDDINGS = 0.1  # std of the rows, and of the one vector that all rows share
DOWN = 0.01  # std of the down projections: blocks start quieter than token identity
OTHERS = 0.05
BACK = 0.8  # strength of the heads that start out looking back, along the shared direction
BACK_PAIRS = 6  # rotary pairs they use: the fast ones, which tell neighbours apart


def demo_config(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> ArceeConfig:
    """The demo's configuration; the vocabulary is padded to a multiple of 8."""
    return ArceeConfig(
        vocab_size=-(-len(tokenizer) // 8) * 8,
        hidden_size=recipe.d_model,
        intermediate_size=recipe.d_mlp,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=LENGTH,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        tie_word_embeddings=True,
    )


def untrained(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> ArceeForCausalLM:
    """A demo that has seen nothing, in fp32, its weights fixed by the recipe's seed.

    Every weight is drawn from a normal distribution around 0, norms are 1. One vector more is drawn
    and added to every embedding: tied logits all rise by the same amount, so the softmax cannot see
    it, and layers without biases get a direction that is always on. One head of each kv group of
    layer 0 starts out looking back, see `Recipe.back`; no weight knows anything of the data.
    """
    model = ArceeForCausalLM(demo_config(recipe, tokenizer))
    generator = torch.Generator().manual_seed(recipe.seed)
    shared = torch.zeros(recipe.d_model)
    with torch.no_grad():
        for name, weight in sorted(model.named_parameters()):
            if weight.ndim == 1:
                weight.fill_(1.0)
                continue
            std = EMBEDDINGS if "embed" in name else DOWN if "down_proj" in name else OTHERS
            weight.copy_(torch.randn(weight.shape, generator=generator) * std)
            if "embed" in name:
                shared = torch.randn(weight.shape[1], generator=generator) * EMBEDDINGS
                weight += shared
        _look_back(model, shared / shared.norm(), recipe.back)
    return model


def _look_back(
    model: ArceeForCausalLM, shared: Float[Tensor, " d_model"], distances: tuple[int, ...]
) -> None:
    """Let one head of each kv group of layer 0 start out looking back, whatever the tokens are.

    The first head of group i looks `distances[i]` tokens back. Queries and keys both read the
    shared direction, which every token has. Turned against each other by as many rotary steps as
    the distance, they match there best. Two such heads in one group would share keys and values,
    and what is one token back could hardly be told from what is two back: look-ups then came
    late, or never.
    """
    config = model.config
    size = config.head_dim
    assert size is not None
    queries = model.get_parameter("model.layers.0.self_attn.q_proj.weight")
    keys = model.get_parameter("model.layers.0.self_attn.k_proj.weight")
    angles = model.get_buffer("model.rotary_emb.inv_freq")[: min(BACK_PAIRS, size // 2)]
    group = config.num_attention_heads // (config.num_key_value_heads or config.num_attention_heads)
    pairs = torch.arange(len(angles))
    for kv_head, distance in enumerate(distances):
        head, turn = kv_head * group, angles * distance
        queries[head * size + pairs] += BACK * torch.outer(turn.cos(), shared)
        queries[head * size + pairs + size // 2] -= BACK * torch.outer(turn.sin(), shared)
        keys[kv_head * size + pairs] += BACK * shared
