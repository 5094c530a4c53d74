"""The untrained demo: its shape and its initial weights, also the control of every claim."""

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from arcee_lab.demo.tokenizer import BOS_ID, EOS_ID, LENGTH, PAD_ID
from arcee_lab.model import ArceeConfig, ArceeForCausalLM
from arcee_lab.runs.arguments import checked
from arcee_lab.training.recipe import Recipe

EMBEDDINGS = 0.1  # std of the rows, and of the one vector that all rows share
DOWN = 0.01  # std of the down projections: blocks start smaller than the embeddings
OTHERS = 0.05
BACK = 0.8  # strength of the heads that start out attending back, along the shared direction
BACK_PAIRS = 6  # rotary pairs they use: the fast ones, which distinguish neighbours


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


@checked
def untrained(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> ArceeForCausalLM:
    """A demo model before training, in fp32; its weights depend only on the recipe's seed.

    Every weight is drawn from a normal distribution around 0; norms are 1. One more vector is drawn
    and added to every embedding: it raises all tied logits by the same amount, so the softmax does
    not change, and layers without biases get a direction that is always on. One head of each kv
    group of layer 0 starts out attending to an earlier token, see `Recipe.back`; no weight depends
    on the data.

    Args:
        recipe: The shape and the seed.
        tokenizer: The demo's tokenizer.
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
    """Lets one head of each kv group of layer 0 start out attending to an earlier token.

    The first head of group i attends `distances[i]` tokens back. Queries and keys both read the
    shared direction, which every token has; they are rotated against each other by that many rotary
    steps, so they match best at that distance. Two such heads in one group would share keys and
    values and could hardly distinguish one token back from two: look-ups were then learned late or
    never.
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
