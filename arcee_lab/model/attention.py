"""Grouped-query attention on transformers' kernels, with every intermediate a hook point."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from arcee_lab.errors import ModelError
from arcee_lab.model.attention_mask import AttentionMask, attention_mask_of
from arcee_lab.model.attention_pattern import AttentionMatrices, EagerMatrices, RecomputedMatrices
from arcee_lab.model.config import ArceeConfig
from arcee_lab.model.layers import Hooked, HookPoint

PatternMode = Literal["off", "read", "write"]
Reader = Callable[[AttentionMatrices], None]


def rotate_half(x: Float[Tensor, "*any d_head"]) -> Float[Tensor, "*any d_head"]:
    """Turns (a, b) into (-b, a), a and b the halves of the last axis."""
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), dim=-1)


def apply_rotary_pos_emb(
    q: Float[Tensor, "batch head pos d_head"],
    k: Float[Tensor, "batch kv_head pos d_head"],
    cos: Float[Tensor, "_ pos d_head"],
    sin: Float[Tensor, "_ pos d_head"],
) -> tuple[Float[Tensor, "batch head pos d_head"], Float[Tensor, "batch kv_head pos d_head"]]:
    """Rotates queries and keys by their positions."""
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return (q * cos) + (rotate_half(q) * sin), (k * cos) + (rotate_half(k) * sin)


def _is_bool(mask: object) -> bool:
    return isinstance(mask, Tensor) and mask.dtype == torch.bool


def edits_of(x: Tensor) -> int | None:
    """How often a tensor was changed in place; `None` where nothing counts.

    That is in inference mode, and while `torch.compile` traces.
    """
    return None if torch.compiler.is_compiling() or x.is_inference() else x._version


def repeat_kv(
    states: Float[Tensor, "batch kv_head pos d_head"], groups: int
) -> Float[Tensor, "batch head pos d_head"]:
    """Repeats each kv head for its query heads: query head h reads kv head h // groups."""
    if groups == 1:
        return states
    batch, kv_heads, pos, d_head = states.shape
    expanded = states[:, :, None].expand(batch, kv_heads, groups, pos, d_head)
    return expanded.reshape(batch, kv_heads * groups, pos, d_head)


def eager_attention_forward(
    module: "ArceeAttention",
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[Tensor, Tensor]:
    """Plain attention, in the signature that the attention registry calls.

    It is also the write mode: `hook_scores` (before the mask) and `hook_pattern` (after softmax
    and before dropout) are in the path of the data here.
    """
    write = module.current_mode() == "write"
    key_states = repeat_kv(key, module.num_key_value_groups)
    value_states = repeat_kv(value, module.num_key_value_groups)
    scores = torch.matmul(query, key_states.transpose(2, 3)) * scaling
    if write:
        scores = module.hook_scores(scores)
    shown = scores if write and module.readers else None
    if attention_mask is not None:
        bias = attention_mask
        if bias.dtype == torch.float64:
            # The softmax is taken in fp32, where the least fp64 number is -inf: the rows of padding
            # would be NaN, and with them, from the next layer on, every token of the sequence.
            bias = bias.clamp(min=torch.finfo(torch.float32).min)
        scores = scores + bias
    pattern = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    if write:
        pattern = module.hook_pattern(pattern)
    if shown is not None:
        module.show(
            EagerMatrices(shown, pattern, module.mask_of_call(query, key, attention_mask, kwargs))
        )
    weights = nn.functional.dropout(pattern, p=dropout, training=module.training)
    output = torch.matmul(weights, value_states).transpose(1, 2).contiguous()
    return output, weights


class ArceeAttention(Hooked):
    """Multi-head attention with grouped keys and values, any kernel of the registry.

    What happens to `hook_scores` and `hook_pattern`, see `current_mode`:

    * off: neither is computed.
    * read: data flows through the chosen kernel; what is asked for is computed next to it.
    * write: this layer runs the eager kernel and the data flows through both.

    Attributes:
        pattern_mode: The mode where neither has a hook.
        capture_hooks: How many of the hooks on them only read (those of `al.capture`).
        readers: Called in every forward with its scores and pattern, of which each reads the part
            that it wants; none makes the layer compute the rest.
    """

    def __init__(self, config: ArceeConfig, layer_idx: int):
        super().__init__()
        heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
        assert kv_heads is not None  # the config fills both
        assert config.head_dim is not None
        self.config = config
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.num_key_value_groups = heads // kv_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        self.is_causal = True
        self.pattern_mode: PatternMode = "off"
        self.capture_hooks = 0
        self.readers: list[Reader] = []

        bias = config.attention_bias
        self.q_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_heads * self.head_dim, bias=bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_heads * self.head_dim, bias=bias)
        self.o_proj = nn.Linear(heads * self.head_dim, config.hidden_size, bias=bias)

        self.hook_q = HookPoint()
        self.hook_k = HookPoint()
        self.hook_v = HookPoint()
        self.hook_rot_q = HookPoint()
        self.hook_rot_k = HookPoint()
        self.hook_scores = HookPoint()
        self.hook_pattern = HookPoint()
        self.hook_z = HookPoint()

    def forward(
        self,
        hidden_states: Float[Tensor, "batch pos d_model"],
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any = None,
        cache: Cache | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[Float[Tensor, "batch pos d_model"], Tensor | None]:
        """Returns the block's output and, where the kernel or the caller made one, the pattern."""
        cache = cache if cache is not None else past_key_values
        input_shape = hidden_states.shape[:-1]
        per_head = (*input_shape, -1, self.head_dim)
        query = self.hook_q(self.q_proj(hidden_states).view(per_head)).transpose(1, 2)
        key = self.hook_k(self.k_proj(hidden_states).view(per_head)).transpose(1, 2)
        value = self.hook_v(self.v_proj(hidden_states).view(per_head)).transpose(1, 2)

        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        query = self.hook_rot_q(query.transpose(1, 2)).transpose(1, 2)
        key = self.hook_rot_k(key.transpose(1, 2)).transpose(1, 2)

        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx, kwargs=kwargs)

        mode = self.current_mode()
        kernel: Callable = eager_attention_forward
        mask = attention_mask
        eager = self.config._attn_implementation == "eager"
        if mode == "write" or (eager and _is_bool(mask)):
            # The reference's eager kernel would add True and False as 1 and 0.
            readable = self.mask_of_call(query, key, attention_mask, kwargs)
            mask = readable.keys().additive(query.dtype)
        if mode != "write":
            kernel = ALL_ATTENTION_FUNCTIONS.get_interface(
                self.config._attn_implementation,  # type: ignore[arg-type]
                eager_attention_forward,
            )
        output, weights = kernel(
            self,
            query,
            key,
            value,
            mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        asked = weights is None and kwargs.get("output_attentions")
        if mode == "read" or asked:
            readable = self.mask_of_call(query, key, attention_mask, kwargs)
            matrices = RecomputedMatrices(query, key, readable, scaling=self.scaling)
            if asked or self.pattern_mode == "read" or self.capture_hooks:
                pattern = self._read(matrices)
                weights = pattern if weights is None else weights
            self.show(matrices)

        output = self.hook_z(output).reshape(*input_shape, -1).contiguous()
        return self.o_proj(output), weights

    def current_mode(self) -> PatternMode:
        """The mode of the next forward, from the hooks on scores and pattern.

        None: `pattern_mode`, or "read" if that is "off" and there are readers. Only captures:
        "read". Any other: "write", since it may edit.
        """
        hooks = len(self.hook_pattern._forward_hooks) + len(self.hook_scores._forward_hooks)
        if hooks == 0:
            return "read" if self.readers and self.pattern_mode == "off" else self.pattern_mode
        if hooks == self.capture_hooks and self.pattern_mode != "write":
            return "read"
        return "write"

    def show(self, matrices: AttentionMatrices) -> None:
        """Lets every reader take what it wants."""
        for read in self.readers:
            read(matrices)

    def mask_of_call(self, query: Tensor, key: Tensor, mask: object, kwargs: dict) -> AttentionMask:
        """Which keys the queries of this call may read.

        Raises:
            ValueError: If the kernel learns it by other means than a mask.
        """
        causal = kwargs.get("is_causal")
        if kwargs.get("cu_seq_lens_q") is not None:
            raise ModelError(
                "hook_pattern cannot read sequences packed by cu_seq_lens; pass position_ids that "
                "restart at each sequence instead."
            )
        name = self.config._attn_implementation or "eager"
        return attention_mask_of(
            mask,
            batch=query.shape[0],
            q_len=query.shape[2],
            k_len=key.shape[2],
            is_causal=self.is_causal if causal is None else causal,
            device=query.device,
            flash=name not in ("eager", "sdpa", "flex_attention"),
            position_ids=kwargs.get("position_ids"),
        )

    def _read(self, matrices: RecomputedMatrices) -> Tensor:
        # Scores that nobody sees become the pattern in place.
        if self.pattern_mode == "read" or self.hook_scores._forward_hooks:
            self._show_unedited(self.hook_scores, matrices.scores())
        pattern = matrices.pattern()
        self._show_unedited(self.hook_pattern, pattern)
        return pattern

    def _show_unedited(self, point: HookPoint, value: Tensor) -> None:
        before = edits_of(value)
        if point(value) is not value or edits_of(value) != before:
            raise ModelError(
                f"Scores or pattern of layer {self.layer_idx} were changed while they were "
                "only read: the change would be lost. Set the layer's pattern_mode = 'write' "
                "to let the data flow through them."
            )
