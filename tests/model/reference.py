"""Random shapes, and one of our models compared with transformers' with the same weights."""

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from transformers.models.arcee import configuration_arcee, modeling_arcee

from arcee_lab.model import ArceeConfig
from arcee_lab.model.anatomy import HEADS

NAMES = list(HEADS)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
PAD, BOS, EOS = 0, 1, 2

# 16 positions where a kind of RoPE knows an original length, so that batches of 10 to 24 tokens are
# on both sides of it.
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    "yarn": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0, 1.1, 1.3, 1.6],
        "long_factor": [1.5, 2.0, 3.0, 5.0],
        "original_max_position_embeddings": 16,
        "factor": 4.0,
    },
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}


@st.composite
def shapes(draw: st.DrawFn, ropes: tuple[str, ...] = tuple(ROPES)) -> dict[str, Any]:
    """Fields of a small config: MHA, GQA and MQA, biases, tied weights, every kind of RoPE."""
    kv_heads, groups = draw(st.sampled_from([(1, 1), (2, 1), (2, 2), (1, 4), (3, 2), (4, 1)]))
    rope = draw(st.sampled_from(ropes))
    heads = kv_heads * groups
    return {
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_size": 8 * heads,
        "head_dim": 8,
        "intermediate_size": draw(st.sampled_from([20, 48])),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": ROPES[rope],
        "max_position_embeddings": 16 if rope == "dynamic" else 64,
    }


def fields(**overrides: Any) -> dict[str, Any]:
    """Config fields of a tiny model: 2 layers, 4 heads over 2 kv heads, 40 tokens."""
    shape = {
        "vocab_size": 40,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "pad_token_id": PAD,
        "bos_token_id": BOS,
        "eos_token_id": EOS,
        "num_labels": 3,
    }
    return shape | overrides


def reference_class(head: str) -> type:
    """transformers' class of the same name."""
    return getattr(modeling_arcee, HEADS[head].__name__)


def reference_config(**overrides: Any) -> configuration_arcee.ArceeConfig:
    """transformers' config of `fields`."""
    return configuration_arcee.ArceeConfig(**fields(**overrides))


def as_reference(name: str, head: str) -> str:
    """The reference's name of one of our parameters: its QA class calls the backbone otherwise."""
    return name.replace("model.", "transformer.", 1) if head == "qa" else name


def pair(
    head: str = "causal",
    *,
    attn: str = "sdpa",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **overrides: Any,
) -> tuple[Any, Any]:
    """Returns (ours, the reference), both in evaluation mode, with equal weights.

    Biases and norm weights are random too: at their initial 0 and 1 a swap would not show.
    """
    torch.manual_seed(seed)
    ours: Any = HEADS[head](ArceeConfig(**fields(attn_implementation=attn, **overrides)))
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    theirs = reference_class(head)(reference_config(attn_implementation=attn, **overrides))
    ours, theirs = ours.to(dtype).eval(), theirs.to(dtype).eval()
    theirs.load_state_dict({as_reference(k, head): v for k, v in ours.state_dict().items()})
    return ours, theirs


def batch(
    *, padding: str | None = "left", rows: int = 3, length: int = 10, seed: int = 0, vocab: int = 40
) -> dict[str, Tensor]:
    """Random ids and their mask; every row but the first is padded on the side asked for."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, vocab, (rows, length), generator=generator)
    mask = torch.ones(rows, length, dtype=torch.long)
    if padding is None:
        return {"input_ids": ids, "attention_mask": mask}
    for row in range(1, rows):
        pads = min(1 + 2 * row, length - 2)
        where = slice(0, pads) if padding == "left" else slice(length - pads, length)
        mask[row, where] = 0
        ids[row, where] = PAD
    return {"input_ids": ids, "attention_mask": mask}


def labels(head: str, inputs: dict[str, Tensor], seed: int = 0) -> dict[str, Tensor]:
    """Labels for a batch, with some positions ignored where the head has labels per token."""
    ids, generator = inputs["input_ids"], torch.Generator().manual_seed(seed)
    rows, length = ids.shape
    if head == "causal":
        return {"labels": ids.masked_fill(inputs["attention_mask"] == 0, -100)}
    if head == "sequence":
        return {"labels": torch.randint(3, (rows,), generator=generator)}
    if head == "token":
        tags = torch.randint(3, ids.shape, generator=generator)
        return {"labels": tags.masked_fill(inputs["attention_mask"] == 0, -100)}
    if head == "qa":
        # Beyond the end means ignored; a batch where all are ignored has no loss.
        first, last = torch.randint(length + 2, (2, rows), generator=generator)
        first[0], last[0] = 1, 2
        return {"start_positions": first, "end_positions": last}
    return {}


def loss_of(head: str, output: Any) -> Tensor:
    """The loss, or a scalar that depends on the whole output of the backbone."""
    return output.last_hidden_state.float().pow(2).mean() if head == "base" else output.loss


def tensors(output: Any) -> dict[str, Tensor]:
    """Every tensor of an output by name, those in tuples with their index; no cache."""
    found: dict[str, Tensor] = {}
    for name, value in output.items():
        if isinstance(value, Tensor):
            found[name] = value
        elif isinstance(value, tuple):
            found |= {f"{name}.{i}": v for i, v in enumerate(value) if isinstance(v, Tensor)}
    return found


def assert_same(ours: Any, theirs: Any) -> None:
    """Asserts that two outputs hold the same names and bit for bit the same numbers."""
    mine, other = tensors(ours), tensors(theirs)
    assert mine.keys() == other.keys()
    assert mine
    for name, value in mine.items():
        assert value.dtype == other[name].dtype, name
        assert torch.equal(value, other[name]), name


def assert_same_gradients(ours: Any, theirs: Any, head: str) -> None:
    """Asserts that every parameter has the reference's gradient, bit for bit."""
    other = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        mine, expected = parameter.grad, other[as_reference(name, head)].grad
        assert (mine is None) == (expected is None), name
        if mine is not None:
            assert torch.equal(mine, expected), name


def assert_close_where_attended(ours: Any, theirs: Any, mask: Tensor) -> None:
    """Asserts that scores or states of attended tokens agree within fp32 rounding.

    What a query of padding reads is each kernel's own affair.
    """
    for name in ("last_hidden_state", "logits", "start_logits", "end_logits"):
        if name in ours:
            mine, other = ours[name], theirs[name]
            if mine.shape[:2] == mask.shape:
                mine, other = mine[mask.bool()], other[mask.bool()]
            torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-5)
