"""Loads the models of an evaluation; all arguments are checked before anything is loaded."""

import copy
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from arcee_lab.data.limits import require_context
from arcee_lab.errors import SettingError
from arcee_lab.evals.head_routing import MODEL_ARGUMENTS, Source, checkpoint_heads
from arcee_lab.model.anatomy import anatomy_of
from arcee_lab.model.loading import load
from arcee_lab.runs.devices import read_device


class LoadedModel(NamedTuple):
    """The main model of an evaluation, and where its heads are.

    Attributes:
        model: With its main head.
        tokenizer: Its tokenizer.
        head: The main head.
        sources: Classification head -> a checkpoint or a model.
    """

    model: Any
    tokenizer: PreTrainedTokenizerBase
    head: str
    sources: dict[str, Source]


@dataclass(frozen=True, kw_only=True)
class Loader:
    """How checkpoints are loaded: the model and its heads alike.

    Attributes:
        dtype: Of the weights; by default the checkpoint's own.
        device: By default CUDA where it is, else the CPU.
        attn: Attention kernel.
        revision: Of a Hub id.
    """

    dtype: str | torch.dtype | None = None
    device: str | None = None
    attn: str | None = None
    revision: str | None = None

    def load(
        self, source: str | os.PathLike, head: str
    ) -> tuple[nn.Module, PreTrainedTokenizerBase]:
        """A checkpoint with one of its heads, and its tokenizer."""
        where = self.device or ("cuda" if torch.cuda.is_available() else "cpu")
        return load(
            source,
            head=head,
            dtype=self.dtype,
            device=where,
            attn=self.attn,
            revision=self.revision,
        )

    def resolve(
        self,
        pretrained: str | os.PathLike | nn.Module,
        tokenizer: PreTrainedTokenizerBase | None,
        *,
        head: str,
        heads: Mapping[str, Source],
    ) -> LoadedModel:
        """The main model, loaded, and the sources of its heads, which are not.

        Args:
            pretrained: A checkpoint or a model.
            tokenizer: For a model; else the checkpoint's own by default.
            head: "auto", or the main head.
            heads: Where further heads are.

        Raises:
            SettingError: The arguments do not fit one another or the checkpoint.
        """
        strange = [name for name in heads if name not in MODEL_ARGUMENTS]
        if strange:
            raise SettingError(
                f"heads= has the key {strange[0]!r}; expected some of {', '.join(MODEL_ARGUMENTS)}."
            )
        if self.device is not None:
            read_device(self.device)
        sources: dict[str, Source] = dict(heads)
        if isinstance(pretrained, nn.Module):
            _require_loading(asdict(self), heads.values())
            model: Any = anatomy_of(pretrained).model
            if tokenizer is None:
                raise SettingError("A model in memory needs its tokenizer; give tokenizer= too.")
            tokenizer = copy.deepcopy(tokenizer)  # lm-eval may give it a pad token
            main = anatomy_of(model).legend.head
            if head not in ("auto", main):
                raise SettingError(
                    f"head={head!r}, but the model in memory has the {main} head; leave head= out."
                )
        else:
            inside = checkpoint_heads(pretrained, self.revision)
            main = inside[0] if head == "auto" else head
            if main not in inside:
                raise SettingError(
                    f"head={head!r}, but {os.fspath(pretrained)!r} has only {', '.join(inside)}; "
                    "give one of these."
                )
            sources = {one: pretrained for one in inside if one in MODEL_ARGUMENTS} | sources
            model, own = self.load(pretrained, main)
            tokenizer = own if tokenizer is None else tokenizer
        if main in MODEL_ARGUMENTS:
            sources[main] = heads.get(main, model)
        return LoadedModel(model, tokenizer, main, sources)


def require_reads(model: nn.Module, max_length: int) -> None:
    """Checks that a model reads as many tokens as it is to be given.

    Raises:
        SettingError: It reads fewer.
    """
    reads = anatomy_of(model).backbone.config.max_position_embeddings
    if max_length > reads:
        raise SettingError(
            f"max_length={max_length}, but the model reads {reads} tokens at most; give "
            f"{reads} or fewer, or leave it out."
        )
    require_context(model, max_length, "max_length")


def _require_loading(settings: dict[str, Any], heads: Iterable[Source]) -> None:
    """Checks that there is a checkpoint to which settings of loading apply.

    Args:
        settings: By name; None if not given.
        heads: Checkpoints or models of heads.

    Raises:
        SettingError: The model and its heads are in memory.
    """
    given = [name for name, value in settings.items() if value is not None]
    if given and not any(isinstance(head, (str, os.PathLike)) for head in heads):
        raise SettingError(
            f"{', '.join(given)} came with a model in memory, which is not loaded again; give a "
            "path or a Hub id, or set it on the model itself (model.to(...))."
        )


def require_sizes(*, batch_size: Any = None, **tokens: Any) -> None:
    """Checks the sizes of batches and windows.

    Args:
        batch_size: Sequences per batch, also as on lm-eval's command line: "8", "auto".
        tokens: Numbers of tokens by name.

    Raises:
        SettingError: One is not a number above 0.
    """
    for name, value in tokens.items():
        if value is not None and (type(value) is not int or value < 1):
            raise SettingError(f"{name}={value!r}; expected a whole number of tokens above 0.")
    word = str(batch_size)
    right = word.startswith("auto") or (word.isdecimal() and int(word) > 0)
    if batch_size is not None and not right:
        raise SettingError(
            f"batch_size={batch_size!r}; expected a whole number of sequences above 0, or 'auto'."
        )


def require_arguments(given: dict) -> None:
    """Checks the `--model_args` of a command line, whose values can be anything.

    Args:
        given: The arguments by name.

    Raises:
        SettingError: An argument is missing or has a value that cannot be used.
    """
    if not given.get("pretrained"):
        raise SettingError(
            "arcee-lab needs a model; expected pretrained=demo, a folder or a Hub id, e.g. "
            "--model_args pretrained=demo."
        )
    require_sizes(**{name: given.get(name) for name in ("max_length", "batch_tokens")})
    for name in ("exact", "add_bos_token"):
        if given.get(name) not in (None, True, False):
            raise SettingError(f"{name}={given[name]!r}; expected True or False.")
