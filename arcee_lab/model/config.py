"""The shape of an Arcee model."""

import functools
from typing import Any

from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import RopeParameters

from arcee_lab.errors import CheckpointError


@strict
class ArceeConfig(PreTrainedConfig):
    """Configuration of every Arcee class; field names are those of the Hub checkpoints.

    `ArceeConfig()` is a complete, self-consistent model: its special tokens are inside its
    vocabulary. For the shape of AFM-4.5B call `ArceeConfig.afm_4_5b()`.

    Attributes:
        vocab_size: Rows of the embedding and of the LM head.
        hidden_size: Width of the residual stream (d_model).
        intermediate_size: ReLU² neurons per layer (d_mlp).
        num_hidden_layers: Decoder layers.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads (kv_head); `None` means one per query head.
        head_dim: Width of a head (d_head); `None` means `hidden_size // num_attention_heads`.
        hidden_act: Always "relu2": the MLP is `down_proj(relu(up_proj(x))**2)`.
        max_position_embeddings: Longest context in tokens.
        rope_parameters: RoPE settings: `rope_type`, `rope_theta` and what the type needs.
        attention_bias: Whether q, k, v and o projections have biases.
        mlp_bias: Whether up and down projections have biases.

    Example:
        >>> from arcee_lab.model import ArceeConfig
        >>> config = ArceeConfig(hidden_size=64, num_attention_heads=4, num_key_value_heads=2)
        >>> config.head_dim
        16
    """

    model_type = "arcee"
    keys_to_ignore_at_inference = ["past_key_values", "cache"]  # noqa: RUF012
    base_model_tp_plan = {  # noqa: RUF012
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    }
    base_model_pp_plan = {  # noqa: RUF012
        "embed_tokens": (["input_ids"], ["inputs_embeds"]),
        "layers": (["hidden_states", "attention_mask"], ["hidden_states"]),
        "norm": (["hidden_states"], ["hidden_states"]),
    }

    vocab_size: int = 32000
    hidden_size: int = 2560
    intermediate_size: int = 18432
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    hidden_act: str = "relu2"
    max_position_embeddings: int = 4096
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-5
    use_cache: bool = True
    pad_token_id: int | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    tie_word_embeddings: bool = False
    rope_parameters: RopeParameters | dict | None = None
    attention_bias: bool = False
    attention_dropout: float | int = 0.0
    mlp_bias: bool = False
    head_dim: int | None = None

    def __post_init__(self, **kwargs):
        # Before the widths are divided, and as a ValueError: the decorator wraps it in a class of
        # its own when it calls this again.
        self.validate_architecture()
        if self.head_dim is None:
            self.head_dim = self.hidden_size // self.num_attention_heads
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        super().__post_init__(**kwargs)

    def validate_architecture(self):
        """Checks that heads divide widths; runs when a config is made and when it is saved.

        Raises:
            ValueError: If they do not.
        """
        for name in ("vocab_size", "hidden_size", "intermediate_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise CheckpointError(f"{name}={getattr(self, name)}; expected at least 1.")
        if self.num_hidden_layers < 0:
            raise CheckpointError(
                f"num_hidden_layers={self.num_hidden_layers}; expected 0 or more."
            )
        if self.num_attention_heads < 1 or self.hidden_size % self.num_attention_heads != 0:
            raise CheckpointError(
                f"hidden_size={self.hidden_size} is not a multiple of "
                f"num_attention_heads={self.num_attention_heads}; choose a width the heads divide."
            )
        kv_heads = self.num_key_value_heads
        if kv_heads is not None and (kv_heads < 1 or self.num_attention_heads % kv_heads != 0):
            raise CheckpointError(
                f"num_attention_heads={self.num_attention_heads} is not a multiple of "
                f"num_key_value_heads={kv_heads}; each kv head serves a whole "
                "number of query heads."
            )

    @classmethod
    def afm_4_5b(cls, **overrides: Any) -> "ArceeConfig":
        """Returns the shape of arcee-ai/AFM-4.5B: 4.619 billion parameters.

        36 layers of width 2560 with 18432 neurons each, 20 heads over 4 kv heads, an untied
        vocabulary of 128005 and YaRN that stretches a context of 4096 by a factor of 20.

        Args:
            **overrides: Fields to replace, e.g. `num_hidden_layers=2` for a slice of the model.

        Example:
            >>> from arcee_lab.model import ArceeConfig
            >>> ArceeConfig.afm_4_5b(num_hidden_layers=2).intermediate_size
            18432
        """
        shape: dict[str, Any] = {
            "vocab_size": 128005,
            "hidden_size": 2560,
            "intermediate_size": 18432,
            "num_hidden_layers": 36,
            "num_attention_heads": 20,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "max_position_embeddings": 65536,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 128000,
            "eos_token_id": 128003,
            "tie_word_embeddings": False,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 20.0,
                "original_max_position_embeddings": 4096,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
            },
        }
        return cls(**(shape | overrides))


_checked_by_type = ArceeConfig.__init__


@functools.wraps(_checked_by_type)
def _init(self: ArceeConfig, *args: Any, **kwargs: Any) -> None:
    try:
        _checked_by_type(self, *args, **kwargs)
    except StrictDataclassError as error:  # a class of its own, and no ValueError
        said = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(f"ArceeConfig: {said}.") from error


ArceeConfig.__init__ = _init  # type: ignore[method-assign]
