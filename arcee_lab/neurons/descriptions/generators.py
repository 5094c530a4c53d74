"""What a user names as the language model that describes: one function from prompts to texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from arcee_lab.errors import CheckpointError, ModelError, SettingError, WrongType
from arcee_lab.runs.hub import is_hub_id

Generate = Callable[[list[str]], list[str]]


def generator_of(
    given: Any, *, max_new_tokens: int = 128, batch_size: int = 8
) -> tuple[Generate, str]:
    """The function of a generator, and what to call it.

    Args:
        given: A function from a list of prompts to a list of texts; a text-generation pipeline of
            transformers; a model and its tokenizer as a pair; or the folder or the Hub id of a
            causal language model. Only a Hub id that is given here is ever asked for.
        max_new_tokens: Tokens of an answer at most.
        batch_size: Prompts per forward.

    Raises:
        WrongType: It is none of these.
        CheckpointError: There is no such model, or it has no safetensors.
    """
    if isinstance(given, str | Path):
        name = str(given)
        model, tokenizer = _load(name)
    elif _is_pair(given):
        model, tokenizer = given
        name = getattr(model, "name_or_path", "") or type(model).__name__
    elif hasattr(given, "model") and hasattr(given, "tokenizer") and hasattr(given, "task"):
        if given.task != "text-generation" or not hasattr(given.model, "generate"):
            raise WrongType(
                f"generator is a pipeline for {given.task}; expected one for text-generation."
            )
        model, tokenizer = given.model, given.tokenizer
        name = getattr(model, "name_or_path", "") or type(model).__name__
    elif callable(given):
        return _checked(given), getattr(given, "__name__", type(given).__name__)
    else:
        raise WrongType(
            f"generator is {type(given).__name__}; expected a function of prompts, a "
            "text-generation pipeline, a pair of model and tokenizer, a folder, or a Hub id."
        )

    def generate(asked: list[str]) -> list[str]:
        answers = []
        for at in range(0, len(asked), batch_size):
            answers += _answers(model, tokenizer, asked[at : at + batch_size], max_new_tokens)
        return answers

    return generate, name


def _is_pair(given: Any) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2 and hasattr(given[0], "generate")


def _checked(given: Callable[[list[str]], Any]) -> Generate:
    def generate(asked: list[str]) -> list[str]:
        answers = list(given(asked))
        if len(answers) != len(asked) or not all(isinstance(x, str) for x in answers):
            raise ModelError(
                f"generator gave {len(answers)} answers to {len(asked)} prompts; expected one text "
                "per prompt."
            )
        return answers

    return generate


@torch.no_grad()
def _answers(model: Any, tokenizer: Any, asked: list[str], max_new_tokens: int) -> list[str]:
    """Greedy answers. Rows are padded on the left by hand: no setting of the tokenizer changes."""
    rows = [_encoded(tokenizer, prompt) for prompt in asked]
    longest = max(map(len, rows))
    most = getattr(model.config, "max_position_embeddings", None)
    if most is not None and longest + max_new_tokens > most:
        raise SettingError(
            f"a prompt has {longest:,} tokens and an answer {max_new_tokens}; the generator reads "
            f"{most:,} at most. Show fewer exemplars (shown=), or take a generator that reads more."
        )
    pad = tokenizer.pad_token_id
    pad = tokenizer.eos_token_id if pad is None else pad
    ids = torch.full((len(rows), longest), 0 if pad is None else pad)
    mask = torch.zeros_like(ids)
    for row, numbers in enumerate(rows):
        ids[row, longest - len(numbers) :] = torch.tensor(numbers)
        mask[row, longest - len(numbers) :] = 1
    whole = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        do_sample=False,
        temperature=None,
        top_p=None,
        top_k=None,
        pad_token_id=pad,
    )
    return tokenizer.batch_decode(whole[:, longest:].cpu(), skip_special_tokens=True)


def _encoded(tokenizer: Any, prompt: str) -> list[int]:
    if getattr(tokenizer, "chat_template", None):
        found = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )
        return list(found["input_ids"])
    return list(tokenizer(prompt, verbose=False)["input_ids"])


def _load(name: str) -> tuple[Any, Any]:
    folder = Path(name)
    if not folder.is_dir() and not is_hub_id(name):
        raise CheckpointError(
            f"generator {name!r} is neither a folder nor a Hub id such as owner/name; check the "
            "path."
        )
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # A folder is never looked up on the Hub; no code of a checkpoint runs, and no pickle is read.
    local = folder.is_dir()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, trust_remote_code=False, local_files_only=local
        )
        model = AutoModelForCausalLM.from_pretrained(
            name, use_safetensors=True, trust_remote_code=False, local_files_only=local
        )
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise CheckpointError(
            f"generator {name} cannot be loaded: {reason[:300]}. Expected a causal language model "
            "in safetensors with its tokenizer; check the folder or the id."
        ) from error
    return model.eval(), tokenizer
