"""The hookable Arcee decoder and its causal language model.

    ArceeForCausalLM
      model: ArceeModel
        embed_tokens -> hook_embed
        layers.L: ArceeDecoderLayer
          hook_resid_pre -> input_layernorm -> self_attn -> hook_attn_out -> (+) hook_resid_mid
          -> post_attention_layernorm -> mlp -> hook_mlp_out -> (+) hook_resid_post
        norm
      lm_head -> hook_logits

A Llama-like decoder with two differences: the MLP has no gate and its activation is relu(u)², and
every activation worth reading is the output of a `HookPoint`. Parameter names, class names and
arithmetic are those of transformers' Arcee; without hooks the numbers are the same bit for bit.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache, DynamicCache, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.core_model_loading import WeightRenaming
from transformers.masking_utils import create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast
from transformers.modeling_utils import slice_logits_to_keep
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from arcee_lab.errors import ModelError, WrongType
from arcee_lab.model.attention import ArceeAttention
from arcee_lab.model.checkpoint import require_backbone
from arcee_lab.model.config import ArceeConfig
from arcee_lab.model.layers import (
    ArceeMLP,
    ArceeRMSNorm,
    ArceeRotaryEmbedding,
    Hooked,
    HookPoint,
)
from arcee_lab.model.wrappers.offloaded import device_of


def cache_of_call(cache: Cache | None, past_key_values: Cache | None) -> Cache | None:
    """The cache of a call under either name; transformers is about to drop the second."""
    if past_key_values is None:
        return cache
    if not torch.compiler.is_compiling():  # a warning would break the graph
        warnings.warn(
            "`past_key_values` is deprecated, as in transformers; pass the cache as `cache`.",
            FutureWarning,
            stacklevel=3,
        )
    return cache if cache is not None else past_key_values


class ArceeDecoderLayer(Hooked, GradientCheckpointingLayer):
    """One decoder layer: attention, then the ReLU² MLP, each added to the residual stream."""

    def __init__(self, config: ArceeConfig, layer_idx: int):
        super().__init__()
        self.hidden_size = config.hidden_size
        self.self_attn = ArceeAttention(config, layer_idx)
        self.mlp = ArceeMLP(config)
        self.input_layernorm = ArceeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = ArceeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hook_resid_pre = HookPoint()
        self.hook_attn_out = HookPoint()
        self.hook_resid_mid = HookPoint()
        self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(
        self, hidden_states: Float[Tensor, "batch pos d_model"], **kwargs: Any
    ) -> Float[Tensor, "batch pos d_model"]:
        """Maps the residual stream before the layer to the one after it."""
        resid = self.hook_resid_pre(hidden_states)
        attn_out, _ = self.self_attn(self.input_layernorm(resid), **kwargs)
        resid = self.hook_resid_mid(resid + self.hook_attn_out(attn_out))
        mlp_out = self.hook_mlp_out(self.mlp(self.post_attention_layernorm(resid)))
        return self.hook_resid_post(resid + mlp_out)


# The reference names its QA backbone `transformer`, all other classes `model`. Files keep its
# layout, our modules keep one name, and so every class finds the backbone of every other.
QA_KEYS_ON_DISK = {r"^transformer\.": "model."}


def qa_layout() -> list[WeightRenaming]:
    """The renaming between a QA file and our modules, as transformers' loader takes it."""
    return [
        WeightRenaming(source_patterns=k, target_patterns=v) for k, v in QA_KEYS_ON_DISK.items()
    ]


def _is_qa_layout(conversion: Any) -> bool:
    return list(conversion.source_patterns) == list(qa_layout()[0].source_patterns)


class ArceePreTrainedModel(PreTrainedModel):
    """What all Arcee classes share: how they load, initialise, shard and checkpoint."""

    config: ArceeConfig
    config_class = ArceeConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["ArceeDecoderLayer"]  # noqa: RUF012
    _skip_keys_device_placement = ["past_key_values", "cache"]  # noqa: RUF012
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _can_compile_fullgraph = True
    _supports_attention_backend = True
    _can_record_outputs = {  # noqa: RUF012
        "hidden_states": ArceeDecoderLayer,
        "attentions": ArceeAttention,
    }

    def __init__(self, config: ArceeConfig, *inputs: Any, **kwargs: Any):
        if not isinstance(config, PreTrainedConfig):
            raise WrongType(
                f"config of {type(self).__name__} is {config!r}; expected an ArceeConfig. To load "
                "a checkpoint, call al.load(name)."
            )
        super().__init__(config, *inputs, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where inputs go: of offloaded weights the device that they are computed on."""
        return device_of(self)

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """Loads as transformers does, but refuses a checkpoint that lacks backbone weights.

        The backbone is found in a file of any of the five classes. A head that the file lacks is
        initialised, as a new head is meant to be; transformers reports it. A caller who takes the
        report with `output_loading_info=True` decides by its `missing_keys`.

        Raises:
            ValueError: If a parameter of the backbone is missing and would stay random.
        """
        kwargs["key_mapping"] = QA_KEYS_ON_DISK | (kwargs.get("key_mapping") or {})
        name = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        asks_for_random = name is None and not kwargs.get("state_dict")
        loaded: Any = super().from_pretrained(*args, output_loading_info=True, **kwargs)
        model, info = loaded
        if not (output_loading_info or asks_for_random):
            require_backbone(cls, info)
        # transformers would write a file under the names it was read by; ours follow the class.
        kept = [c for c in model._weight_conversions or [] if not _is_qa_layout(c)]
        model._weight_conversions = [*kept, *cls._layout_on_disk()] or None
        return (model, info) if output_loading_info else model

    @classmethod
    def _layout_on_disk(cls) -> list[WeightRenaming]:
        return []


class ArceeModel(ArceePreTrainedModel):
    """The backbone: embeddings, decoder layers and the final norm."""

    def __init__(self, config: ArceeConfig):
        super().__init__(config)
        self.padding_idx = config.pad_token_id
        self.vocab_size = config.vocab_size
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, self.padding_idx)
        self.layers = nn.ModuleList(
            [ArceeDecoderLayer(config, index) for index in range(config.num_hidden_layers)]
        )
        self.norm = ArceeRMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = ArceeRotaryEmbedding(config)
        self.hook_embed = HookPoint()
        self.gradient_checkpointing = False
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Any = None,
        position_ids: Int[Tensor, "_ pos"] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch pos d_model"] | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPast:
        """Runs the decoder.

        Args:
            input_ids: Token ids; give these or `inputs_embeds`, not both.
            attention_mask: 1 for tokens and 0 for padding, `[batch, k_pos]`; or a 4-D mask.
            position_ids: Positions for RoPE; counted on from the cache by default.
            cache: Keys and values of earlier tokens; `past_key_values` is its older name.
            inputs_embeds: Embeddings in place of ids.
            use_cache: Whether to return a cache.
            past_key_values: See `cache`.
            **kwargs: Passed to the attention kernel (`output_attentions`, flash arguments, ...).

        Returns:
            `last_hidden_state` after the final norm, `cache`, and on request `hidden_states` and
            `attentions`.
        """
        if (input_ids is None) == (inputs_embeds is None):
            got = "neither" if input_ids is None else "both"
            raise ModelError(f"Give exactly one of input_ids or inputs_embeds; got {got}.")
        cache = cache_of_call(cache, past_key_values)
        if inputs_embeds is None:
            inputs_embeds = self.embed_tokens(input_ids)
        assert inputs_embeds is not None
        hidden_states = self.hook_embed(inputs_embeds)

        if use_cache and cache is None:
            cache = DynamicCache(config=self.config)
        if position_ids is None:
            seen = cache.get_seq_length() if cache is not None else 0
            length = hidden_states.shape[1]
            position_ids = torch.arange(length, device=hidden_states.device) + seen
            position_ids = position_ids.unsqueeze(0)
        mask = create_causal_mask(
            config=self.config,
            inputs_embeds=hidden_states,
            attention_mask=attention_mask,
            cache=cache,
            position_ids=position_ids,
        )
        position_embeddings = self.rotary_emb(hidden_states, position_ids=position_ids)
        for layer in self.layers[: self.config.num_hidden_layers]:
            hidden_states = layer(
                hidden_states,
                attention_mask=mask,
                position_embeddings=position_embeddings,
                position_ids=position_ids,
                cache=cache,
                use_cache=use_cache,
                **kwargs,
            )
        return BaseModelOutputWithPast(last_hidden_state=self.norm(hidden_states), cache=cache)


class ArceeForCausalLM(ArceePreTrainedModel, GenerationMixin):
    """The backbone with a language-model head.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> type(model).__name__
        'ArceeForCausalLM'
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}  # noqa: RUF012
    _tp_plan = {"lm_head": "colwise_gather_output"}  # noqa: RUF012
    _pp_plan = {"lm_head": (["hidden_states"], ["logits"])}  # type: ignore[assignment]  # noqa: RUF012
    _fsdp_plan = {"lm_head": "keep_full_weight"}  # noqa: RUF012

    def __init__(self, config: ArceeConfig):
        super().__init__(config)
        self.model = ArceeModel(config)
        self.vocab_size = config.vocab_size
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.hook_logits = HookPoint()
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Any = None,
        position_ids: Int[Tensor, "_ pos"] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch pos d_model"] | None = None,
        labels: Int[Tensor, "batch pos"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Runs the decoder and the LM head; see `ArceeModel.forward` for the shared arguments.

        Args:
            labels: Next-token targets, shifted inside; -100 is ignored.
            logits_to_keep: Compute logits for this many last positions only (0: all), or for
                the positions of an index or boolean tensor.

        Returns:
            `loss` (mean nats per token, if labels were given) and `logits` `[batch, pos, vocab]`.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache_of_call(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,  # return_dict=False in the config is for the caller
            **kwargs,
        )
        if isinstance(logits_to_keep, Tensor):  # else the device would fetch it at every use
            logits_to_keep = logits_to_keep.to(outputs.last_hidden_state.device)
        kept = slice_logits_to_keep(outputs.last_hidden_state, logits_to_keep)
        logits = self.hook_logits(self.lm_head(kept))
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs
            )
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
