"""The tokenizer in the files of a checkpoint, checked against the model's vocabulary."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from arcee_lab.errors import CheckpointError
from arcee_lab.model import checkpoint
from arcee_lab.runs.json_text import reason

_CONFIG = "tokenizer_config.json"


def read_tokenizer(source: Path | str, *, vocab_size: int) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder, or of a Hub id.

    Args:
        source: A folder, or a Hub id.
        vocab_size: Rows of the model's embedding.

    Raises:
        ValueError: If there is none, it makes no tokens of a text, or has an id that the model has
            no embedding of.
    """
    if isinstance(source, Path) and (source / _CONFIG).is_file():
        checkpoint.read_json(source / _CONFIG)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        tokenizer(["a"])
        largest = max(tokenizer.get_vocab().values(), default=-1)
    except BaseException as error:
        # Files of a tokenizer are read by code that expects what it wrote itself; what is in Rust
        # ends in an exception of its own, which is none of Python's.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(
            f"{source} has no usable tokenizer ({type(error).__name__}: {reason(error)}); "
            "save one there with tokenizer.save_pretrained(folder)."
        ) from None
    if largest >= vocab_size:
        raise CheckpointError(
            f"The tokenizer of {source} has {len(tokenizer)} tokens with ids up to {largest}, the "
            f"model's vocabulary only {vocab_size}: some ids would have no embedding. Use its own "
            "tokenizer, or resize the model with resize_token_embeddings and save it."
        )
    return tokenizer


def padding_for(tokenizer: PreTrainedTokenizerBase) -> str:
    """A token to pad with, for a tokenizer that names none: its end, another special one, or 0.

    Padding is masked, so any token will do.
    """
    named = (tokenizer.eos_token, tokenizer.unk_token, tokenizer.bos_token)
    found = next((token for token in named if token is not None), None)
    return str(tokenizer.convert_ids_to_tokens(0) if found is None else found)
