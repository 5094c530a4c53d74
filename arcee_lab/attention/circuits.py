"""What a head's weights do: its OV and QK circuits, and what their directions mean in tokens.

Query head h reads kv head `h // (heads / kv_heads)`. The gain of the norm that a head reads through
is multiplied in, its scale is not: that is a number per token. Biases are left out.
"""

from typing import Any, NamedTuple

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor, nn

from arcee_lab.attention.factored import Factored
from arcee_lab.data.token_words import token_word
from arcee_lab.errors import ModelError, SettingError
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.model.wrappers.adapters import effective_weight
from arcee_lab.model.wrappers.unwrap import unwrap


class HeadWeights(NamedTuple):
    """The weights of one layer's attention by head, in fp32 at least, the norm's gain inside."""

    q: Float[Tensor, "head d_head d_model"]
    k: Float[Tensor, "kv_head d_head d_model"]
    v: Float[Tensor, "kv_head d_head d_model"]
    o: Float[Tensor, "head d_model d_head"]


def ov(model: nn.Module, layer: int, head: int, *, tokens: bool = False) -> Factored:
    """What a head writes for what it reads: `W_O W_V diag(gain)`, `[d_model, d_model]`.

    Row by column: a unit of the residual stream at the token that is read (column) adds this much
    to the stream at the token that reads (row), for each unit of attention and of the norm's scale.

    Source: Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021.

    Args:
        model: One of arcee_lab's models.
        layer: Which layer, negative from the last.
        head: Which query head.
        tokens: From token embeddings to logits, `[vocab, vocab]`, in place of the stream: the
            unembedding with the final norm's gain on the left, the embedding on the right.

    Returns:
        The product, of which only the factors exist.

    Raises:
        ValueError: For a layer or head that the model lacks, or `tokens=True` without an LM head.

    Example:
        >>> import arcee_lab as al
        >>> model, _ = al.load("demo")
        >>> al.attention.ov(model, 1, 2)
        Factored(128 x 128, rank <= 32)
    """
    anatomy = anatomy_of(model)
    weights, place = _weights_of(anatomy, layer, head)
    product = Factored(weights.o[head], weights.v[place])
    if not tokens:
        return product
    return Factored(unembedding(anatomy) @ product.left, product.right @ embedding(anatomy).T)


def qk(model: nn.Module, layer: int, head: int, *, tokens: bool = False) -> Factored:
    """Which pairs of streams attend: `diag(gain) W_Q^T W_K diag(gain)`, `[d_model, d_model]`.

    The score of a query's stream x and a key's stream y is `x^T QK y / sqrt(d_head)` times the
    scales of the norm at both, BEFORE RoPE: rotation multiplies the middle by a matrix that depends
    on the distance, and is the identity at distance 0 alone.

    Source: as for `ov`.

    Args:
        model: One of arcee_lab's models.
        layer: Which layer, negative from the last.
        head: Which query head.
        tokens: Between token embeddings, `[vocab, vocab]`, in place of streams.

    Returns:
        The product, of which only the factors exist: queries down, keys across.

    Raises:
        ValueError: For a layer or head that the model lacks.
    """
    anatomy = anatomy_of(model)
    weights, place = _weights_of(anatomy, layer, head)
    product = Factored(weights.q[head].T, weights.k[place])
    if not tokens:
        return product
    embed = embedding(anatomy)
    return Factored(embed @ product.left, product.right @ embed.T)


def singular_tokens(
    model: nn.Module,
    tokenizer: Any,
    layer: int,
    head: int,
    *,
    circuit: str = "ov",
    directions: int = 5,
    top: int = 10,
) -> pd.DataFrame:
    """The tokens that a head's strongest singular directions read and write.

    A direction of OV reads the embeddings that have the largest product with its right vector, and
    writes the tokens whose logits its left vector raises most. Of QK the left vector is on the side
    of the query and the right one on that of the key, and both are compared with embeddings. A pair
    of vectors may be turned around together: tokens of the other end are at `side` "-".

    Source of the method: Millidge and Black, "The singular value decompositions of transformer
    weight matrices are highly interpretable", 2022.

    Args:
        model: An Arcee causal LM.
        tokenizer: Its tokenizer.
        layer: Which layer.
        head: Which query head.
        circuit: "ov" or "qk".
        directions: How many, the strongest first.
        top: Tokens for each end.

    Returns:
        One row per direction, end, side and token: singular value, token, and its product with the
        direction.

    Raises:
        ValueError: As for `ov` and `qk`, and for numbers out of range.
    """
    if circuit not in ("ov", "qk"):
        raise SettingError(f"circuit={circuit!r}; expected 'ov' or 'qk'.")
    anatomy = anatomy_of(model)
    product = ov(model, layer, head) if circuit == "ov" else qk(model, layer, head)
    rank, vocab = product.left.shape[1], anatomy.size("vocab")
    if not 1 <= directions <= rank or not 1 <= top <= vocab:
        raise SettingError(
            f"directions={directions} and top={top}; expected 1 to {rank} and 1 to {vocab}."
        )
    u, s, vh = product.svd()
    embed = embedding(anatomy)
    out = unembedding(anatomy) if circuit == "ov" else embed
    ends = {
        "reads" if circuit == "ov" else "key": (embed, vh[:directions]),
        "writes" if circuit == "ov" else "query": (out, u.T[:directions]),
    }
    rows = []
    for end, (table, vectors) in ends.items():
        products = vectors @ table.T  # [direction, vocab]
        for sign, side in ((1, "+"), (-1, "-")):
            found = (sign * products).topk(top, dim=1)
            for number in range(directions):
                for value, token in zip(
                    found.values[number].tolist(), found.indices[number].tolist(), strict=True
                ):
                    word = str(token) if tokenizer is None else token_word(tokenizer, token)
                    rows.append((number, float(s[number]), end, side, word, sign * value))
    names = ["direction", "singular_value", "end", "side", "token", "product"]
    table = pd.DataFrame(rows, columns=names)
    return table.sort_values(["direction", "end", "side"], kind="stable", ignore_index=True)


def head_weights(anatomy: Anatomy, layer: int) -> HeadWeights:
    """The weights of a layer by head; adapters count, and quantised weights as what they act as."""
    block: Any = unwrap(anatomy.backbone.layers[layer])
    attention: Any = unwrap(block.self_attn)
    gain = _wide(unwrap(block.input_layernorm).weight)
    d_head = anatomy.size("d_head")

    def rows(linear: nn.Module) -> Tensor:
        return (_wide(effective_weight(linear)) * gain).unflatten(0, (-1, d_head))

    o = _wide(effective_weight(attention.o_proj)).unflatten(1, (-1, d_head)).transpose(0, 1)
    return HeadWeights(
        q=rows(attention.q_proj), k=rows(attention.k_proj), v=rows(attention.v_proj), o=o
    )


def embedding(anatomy: Anatomy) -> Float[Tensor, "vocab d_model"]:
    """The token embeddings."""
    return _wide(anatomy.backbone.embed_tokens.weight)


def unembedding(anatomy: Anatomy) -> Float[Tensor, "vocab d_model"]:
    """The rows of the LM head times the final norm's gain.

    Raises:
        ModelError: The model has no LM head.
    """
    if anatomy.legend.head != "causal":
        raise ModelError(
            f"A {type(anatomy.model).__name__} has no LM head, so nothing is written as tokens; "
            "load the model with head='causal'."
        )
    model: Any = anatomy.model
    norm: Any = unwrap(anatomy.backbone.norm)
    return _wide(effective_weight(model.lm_head)) * _wide(norm.weight)


def _weights_of(anatomy: Anatomy, layer: int, head: int) -> tuple[HeadWeights, int]:
    layers, heads = len(anatomy.backbone.layers), anatomy.size("head")
    for what, value, size in (("layer", layer, layers), ("head", head, heads)):
        low = -size if what == "layer" else 0
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value < size:
            raise SettingError(f"{what}={value!r}; expected {low} to {size - 1}.")
    weights = head_weights(anatomy, layer)
    return weights, head // (heads // len(weights.k))


def _wide(x: Any) -> Tensor:
    whole = x.full_tensor() if hasattr(x, "full_tensor") else x
    return whole.detach().to(torch.promote_types(whole.dtype, torch.float32))
