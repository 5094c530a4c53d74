"""Classification heads on the Arcee backbone: sequences, tokens and answer spans."""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import Cache
from transformers.core_model_loading import WeightRenaming
from transformers.modeling_outputs import (
    QuestionAnsweringModelOutput,
    SequenceClassifierOutputWithPast,
    TokenClassifierOutput,
)
from transformers.utils.generic import can_return_tuple

from arcee_lab.errors import ModelError
from arcee_lab.model.attended import attended_tokens, tokens_seen
from arcee_lab.model.config import ArceeConfig
from arcee_lab.model.layers import HookPoint
from arcee_lab.model.modeling import ArceeModel, ArceePreTrainedModel, cache_of_call, qa_layout


class ArceeForSequenceClassification(ArceePreTrainedModel):
    """One label, several labels or one number per sequence, read at its last attended token."""

    def __init__(self, config: ArceeConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ArceeModel(config)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)  # type: ignore[arg-type]
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
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Scores each sequence; see `ArceeModel.forward` for the shared arguments.

        With a 2-D `attention_mask` the last attended token is pooled, whatever its id. Without one
        the last token that is not `pad_token_id` is, as transformers does.

        Args:
            labels: Class ids `[batch]`, multi-hot rows `[batch, n_labels]`, or targets of a
                regression; `config.problem_type` decides, or is inferred.

        Raises:
            ValueError: If several sequences come with neither a mask nor a `pad_token_id`.
        """
        cache = cache_of_call(cache, past_key_values)
        seen = tokens_seen(cache)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        logits = self.score(outputs.last_hidden_state)
        last = self._last_token(input_ids, attention_mask, logits, seen)
        rows = torch.arange(logits.shape[0], device=logits.device)
        pooled = self.hook_logits(logits[rows, last])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=pooled, config=self.config
            )
        return SequenceClassifierOutputWithPast(
            loss=loss,
            logits=pooled,
            cache=outputs.cache,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def _last_token(
        self, input_ids: Tensor | None, attention_mask: Any, logits: Tensor, seen: int | Tensor
    ) -> Int[Tensor, " batch"] | int:
        batch, length = logits.shape[:2]
        if isinstance(attention_mask, Tensor) and attention_mask.ndim == 2:
            real = attended_tokens(
                attention_mask, batch=batch, length=length, device=logits.device, seen=seen
            )
        elif self.config.pad_token_id is not None and input_ids is not None:
            real = input_ids.to(logits.device) != self.config.pad_token_id
        elif self.config.pad_token_id is None and batch > 1:
            raise ModelError(
                f"Cannot tell where {batch} sequences end: got neither an attention_mask nor a "
                "pad_token_id. Pass the tokenizer's attention_mask, or set config.pad_token_id."
            )
        else:
            return -1
        order = torch.arange(length, device=logits.device, dtype=torch.int32)
        return (order * real).argmax(-1)


class ArceeForTokenClassification(ArceePreTrainedModel):
    """One label per token."""

    def __init__(self, config: ArceeConfig):
        super().__init__(config)
        self.num_labels = config.num_labels
        self.model = ArceeModel(config)
        dropout = getattr(config, "classifier_dropout", None)
        if dropout is None:
            dropout = getattr(config, "hidden_dropout", None)
        self.dropout = nn.Dropout(0.1 if dropout is None else dropout)
        bias = getattr(config, "token_classification_bias", True)
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=bias)  # type: ignore[arg-type]
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
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> TokenClassifierOutput:
        """Scores each token; `labels` are class ids, -100 is ignored."""
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache_of_call(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            return_dict=True,
            **kwargs,
        )
        logits = self.hook_logits(self.score(self.dropout(outputs.last_hidden_state)))
        loss = None
        if labels is not None:
            loss = self.loss_function(logits, labels, self.config)
        return TokenClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ArceeForQuestionAnswering(ArceePreTrainedModel):
    """Start and end of an answer span. Written to disk as `transformer.*`, reads both layouts."""

    def __init__(self, config: ArceeConfig):
        super().__init__(config)
        self.model = ArceeModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.hook_logits = HookPoint()
        self.post_init()
        self._weight_conversions = qa_layout()

    @classmethod
    def _layout_on_disk(cls) -> list[WeightRenaming]:
        return qa_layout()

    @can_return_tuple
    def forward(
        self,
        input_ids: Int[Tensor, "batch pos"] | None = None,
        attention_mask: Any = None,
        position_ids: Int[Tensor, "_ pos"] | None = None,
        cache: Cache | None = None,
        inputs_embeds: Float[Tensor, "batch pos d_model"] | None = None,
        start_positions: Int[Tensor, " batch"] | None = None,
        end_positions: Int[Tensor, " batch"] | None = None,
        past_key_values: Cache | None = None,
        **kwargs: Any,
    ) -> QuestionAnsweringModelOutput:
        """Scores each token as the first and as the last of the answer.

        Args:
            start_positions: Index of the answer's first token.
            end_positions: Index of its last token.

        Returns:
            `start_logits` and `end_logits` `[batch, pos]`, and `loss` if both labels were given.
        """
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            cache=cache_of_call(cache, past_key_values),
            inputs_embeds=inputs_embeds,
            return_dict=True,
            **kwargs,
        )
        logits = self.hook_logits(self.qa_outputs(outputs.last_hidden_state))
        start_logits, end_logits = (x.squeeze(-1).contiguous() for x in logits.split(1, dim=-1))
        loss = None
        if start_positions is not None and end_positions is not None:
            loss = self.loss_function(
                start_logits, end_logits, start_positions, end_positions, **kwargs
            )
        return QuestionAnsweringModelOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )
