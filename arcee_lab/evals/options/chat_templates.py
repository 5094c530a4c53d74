"""Chat templates of an evaluation: chosen, also by name, and checked before the model is loaded."""

import os
from collections.abc import Mapping
from typing import Any, cast

from lm_eval.models.huggingface import HFLM
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.errors import SettingError
from arcee_lab.model.checks.config_file import checked_config
from arcee_lab.model.checks.tokenizer_files import read_tokenizer
from arcee_lab.model.loading import find_checkpoint

Chosen = bool | str
_Base = cast(Any, HFLM)  # registering a model makes lm-eval declare it a bare LM


def chosen_template(tokenizer: Any, wanted: Chosen) -> str:
    """The chat template of a tokenizer, or the one of a name.

    Args:
        tokenizer: With one template, or several by name.
        wanted: True for the only one, or the one named "default"; else a name.

    Raises:
        SettingError: The tokenizer lacks it.
    """
    templates = getattr(tokenizer, "chat_template", None)
    whose = f"the tokenizer of {getattr(tokenizer, 'name_or_path', '') or 'the model'}"
    if not templates:
        raise SettingError(
            f"apply_chat_template={wanted!r}, and {whose} has no chat template; expected a "
            "checkpoint with one (chat_template.jinja). Leave it out for a base model."
        )
    if not isinstance(templates, Mapping):
        if wanted is True:
            return str(templates)
        raise SettingError(
            f"apply_chat_template={wanted!r}, and {whose} has one chat template, without a name; "
            "give True (--apply-chat-template without a name) to use it."
        )
    name = "default" if wanted is True else wanted
    if name not in templates:
        raise SettingError(
            f"apply_chat_template={wanted!r}, and {whose} has no chat template {name!r}; expected "
            f"one of {', '.join(sorted(templates))}."
        )
    return str(templates[name])


def require_template(
    model: str | os.PathLike | nn.Module | Any,
    tokenizer: PreTrainedTokenizerBase | None,
    wanted: Chosen,
    *,
    revision: str | None = None,
) -> None:
    """Checks that a template is there, before any weight is loaded.

    Args:
        model: A path, a Hub id, a model in memory, or an `ArceeLab`.
        tokenizer: The tokenizer, if it was given.
        wanted: False, True or a name.
        revision: Of a Hub id.

    Raises:
        SettingError: The tokenizer lacks the template.
    """
    if wanted is False:
        return
    if tokenizer is None and isinstance(model, (str, os.PathLike)):
        folder = find_checkpoint(model, revision=revision)
        _, config = checked_config(folder)
        tokenizer = read_tokenizer(folder, vocab_size=config.vocab_size)
    elif tokenizer is None:
        tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is not None:  # else a model without one is refused for that
        chosen_template(tokenizer, wanted)


class ChatTemplates(_Base):
    """The part of an lm-eval model that renders chats, with the template that was chosen.

    lm-eval 0.4.13 looks a named template up, records it in its results, and renders with the
    default one; here the named one renders.
    """

    tokenizer: PreTrainedTokenizerBase
    chat_template_args: dict[str, Any]
    _template: str | None = None

    def chat_template(self, chat_template: Chosen | None = False) -> str | None:
        """Chooses the template of all following chats.

        Args:
            chat_template: False or None for none, True for the tokenizer's own, or a name.

        Raises:
            SettingError: The tokenizer lacks it.
        """
        self._template = chosen_template(self.tokenizer, chat_template) if chat_template else None
        return self._template

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as one text.

        Args:
            chat_history: Messages, each with `role` and `content`.
            add_generation_prompt: Whether the text ends where the assistant begins.
        """
        own = self.chat_template_args
        if self._template is None:  # chosen by nobody, as in lm-eval's Python call
            chosen_template(self.tokenizer, True)
        else:
            self.chat_template_args = own | {"chat_template": self._template}
        try:
            return super().apply_chat_template(
                chat_history, add_generation_prompt=add_generation_prompt
            )
        finally:
            self.chat_template_args = own
