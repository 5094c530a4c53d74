"""Small Arcee models of random shapes, for the tests of neurons."""

import random

import torch

import arcee_lab as al


def random_model(seed: int, *, dtype=torch.float32, attn: str = "eager", tied: bool = False):
    """A language model of a random shape with random weights, norms included."""
    draw = random.Random(seed)
    kv = draw.choice([1, 2])
    heads = kv * draw.choice([1, 2])
    config = al.ArceeConfig(
        vocab_size=draw.randint(50, 60),
        hidden_size=8 * heads,
        head_dim=8,
        intermediate_size=draw.randint(11, 30),
        num_hidden_layers=draw.randint(1, 3),
        num_attention_heads=heads,
        num_key_value_heads=kv,
        max_position_embeddings=64,
        tie_word_embeddings=tied,
        attn_implementation=attn,
    )
    model = al.ArceeForCausalLM(config)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            middle = 1.0 if weight.ndim == 1 else 0.0
            weight.copy_(middle + 0.3 * torch.randn(weight.shape, generator=source))
    return model.to(dtype).eval()
