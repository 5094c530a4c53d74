"""Load any head from any Arcee checkpoint: the demo, a folder, or a Hub id."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from arcee_lab.errors import ArceeLabError, CheckpointError
from arcee_lab.model import checkpoint
from arcee_lab.model.anatomy import HEADS
from arcee_lab.model.checks import limits
from arcee_lab.model.checks.config_file import checked_config, head_labels
from arcee_lab.model.checks.fsdp import refuse_request_in_4_bit
from arcee_lab.model.checks.options import as_dtype, check_options, one_dtype
from arcee_lab.model.checks.selfcheck import require_self_check
from arcee_lab.model.checks.tokenizer_files import padding_for, read_tokenizer
from arcee_lab.model.config import ArceeConfig
from arcee_lab.model.modeling import ArceePreTrainedModel
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.devices import read_device
from arcee_lab.runs.hub import is_hub_id
from arcee_lab.runs.json_text import reason

DEMO = Path(__file__).parent.parent / "demo" / "checkpoint"
FILES = ["*.json", "*.safetensors", "*.txt", "tokenizer*", "*.jinja"]

_log = logging.getLogger("arcee_lab")


@checked
def load(
    name: str | os.PathLike,
    *,
    head: str = "causal",
    dtype: torch.dtype | str | None = None,
    device: str | torch.device | None = None,
    attn: str | None = None,
    num_labels: int | None = None,
    revision: str | None = None,
    check: bool = True,
    **options: Any,
) -> tuple[ArceePreTrainedModel, PreTrainedTokenizerBase]:
    """Loads a model in evaluation mode, and its tokenizer.

    Any head comes from any checkpoint: the backbone is always the checkpoint's, and a head that it
    lacks starts random with one warning. A folder may hold further heads as
    `heads/sequence.safetensors`, `heads/token.safetensors` and `heads/qa.safetensors`, with their
    labels in `heads.json`.

    Args:
        name: "demo", a folder, or a Hub id such as "arcee-ai/AFM-4.5B".
        head: "causal", "base", "sequence", "token" or "qa".
        dtype: E.g. `torch.bfloat16` or "bfloat16". By default the checkpoint's own, and float32
            for the demo. The dtype that was loaded is `model.dtype`, and is logged.
        device: E.g. "cuda"; the CPU by default.
        attn: Attention kernel: "sdpa", "eager", "flex_attention", "flash_attention_2"; the best
            that is installed by default.
        num_labels: Classes of a new sequence or token head.
        revision: Branch, tag or commit of a Hub id.
        check: Compare four tokens with arithmetic written from the weights; see
            `arcee_lab.model.checks.selfcheck.self_check`.
        **options: Passed to transformers' `from_pretrained`: `quantization_config=`, `device_map=`
            and the others of `arcee_lab.model.checks.options`. `torch_dtype=` is another name of
            `dtype=`.

    Returns:
        The model and its tokenizer. A tokenizer without a pad token pads with another of its
        tokens, which is logged; padding is masked, so no value depends on it.

    Raises:
        ValueError: If the checkpoint is absent, foreign, incomplete, truncated, a pickle, holds
            NaN, does not fit its tokenizer, has a size out of bounds or a path out of its folder,
            asks for a kernel to be fetched, or fails the self-check; if an option is unknown, or
            needs a package that is not installed; or for 4-bit weights under FSDP2, which compute
            wrong numbers. No code of a checkpoint is run.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo", head="sequence")
        >>> model.config.num_labels
        2
    """
    if head not in HEADS:
        raise CheckpointError(f"head={head!r}; expected one of {', '.join(HEADS)}.")
    dtype = one_dtype(dtype, options)
    check_options(options)
    folder = find_checkpoint(name, revision=revision)
    checkpoint.check_folder(folder)
    if dtype is None:
        dtype = torch.float32 if folder == DEMO else "auto"
    config, head_file = _head_config(folder, head, num_labels, attn)
    if attn is not None:
        options["attn_implementation"] = attn
    if device is not None:
        if "device_map" in options:
            raise CheckpointError(
                "Give device= or device_map=, not both; either decides where weights go."
            )
        options["device_map"] = {"": read_device(device)}
    refuse_request_in_4_bit(config, options)
    tokenizer = read_tokenizer(folder, vocab_size=config.vocab_size)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = padding_for(tokenizer)
        _log.warning("%s has no pad token; its tokenizer pads with %r", name, tokenizer.pad_token)
    with _quiet_transformers():
        try:
            model, info = HEADS[head].from_pretrained(
                folder,
                config=config,
                dtype=as_dtype(dtype),
                output_loading_info=True,
                trust_remote_code=False,
                **options,
            )
        except (ArceeLabError, MemoryError, torch.OutOfMemoryError):
            raise
        except ImportError as error:  # of a kernel, or of a way to quantise
            raise CheckpointError(
                f"{name} cannot be loaded so: {error} Install that package, or load without the "
                "option that needs it (attn='sdpa' needs none)."
            ) from None
        except Exception as error:  # whatever transformers makes of an option or of the config
            if "mismatch" not in str(error):
                raise CheckpointError(
                    f"{name} cannot be loaded so ({type(error).__name__}: {reason(error)}); check "
                    f"{', '.join(['config.json', *options, *(['attn'] if attn else [])])}."
                ) from error
            raise CheckpointError(
                f"The weights of {folder} have other shapes than its config.json says"
                f"{'' if num_labels is None else f', or other labels than num_labels={num_labels}'}"
                "; get the checkpoint again, or leave num_labels out."
            ) from None
    checkpoint.require_backbone(HEADS[head], info)
    checkpoint.require_every_weight_used(folder, info)
    if head_file is not None:
        checkpoint.load_head(model, head_file)
    else:
        foreign = checkpoint.drop_foreign_head(model, config)
        _warn_of_new_head(folder, head, foreign or checkpoint.missing_head(info))
    checkpoint.require_finite(model)
    model.eval()
    model.name_or_path = os.fspath(name)  # as it was asked for, not the folder it is in
    if check and require_self_check(model) is None:
        _log.warning("self-check not run: the weights of %s are quantised or elsewhere", name)
    _log.info("loaded %s as %s in %s on %s", name, type(model).__name__, model.dtype, model.device)
    return model, tokenizer


def find_checkpoint(name: str | os.PathLike, *, revision: str | None = None) -> Path:
    """Returns the folder of a checkpoint, downloading a Hub id.

    Raises:
        ValueError: If there is no such folder, a file of it is a link to elsewhere, or the Hub
            cannot give it.
    """
    text = os.fspath(name)
    if "\0" in text:
        raise CheckpointError(f"{text!r} holds a null byte, which no path has; check the path.")
    if text == "demo":
        if not (DEMO / "config.json").is_file():
            raise CheckpointError(
                "The demo checkpoint is not in this installation; reinstall arcee_lab, or make one "
                "with `arcee-lab train-demo --out DIR` and load DIR."
            )
        return DEMO
    try:
        folder = Path(text).expanduser()
        folder.exists()
    except (OSError, RuntimeError) as error:  # a name too long, or a folder without a right
        raise CheckpointError(f"{text[:200]!r} cannot be opened: {reason(error)}.") from error
    if folder.is_dir():
        checkpoint.check_paths(folder)
        return folder
    if folder.exists():
        raise CheckpointError(
            f"{text!r} is a file; expected the folder of a checkpoint, a Hub id (owner/name), or "
            "'demo'. Give the folder that the file is in."
        )
    if not isinstance(name, str) or "/" not in text or not is_hub_id(text):
        raise CheckpointError(
            f"{text!r} is neither a folder, nor a Hub id (owner/name), nor 'demo'. Check the path."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(text, revision=revision, allow_patterns=FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        said = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"The Hub did not give {text!r} (revision {revision or 'default'}): {said} Check the "
            "name, the network, and `hf auth login` for a gated model; 'demo' works offline."
        ) from None


def _head_config(
    folder: Path, head: str, num_labels: int | None, attn: str | None
) -> tuple[ArceeConfig, Path | None]:
    if num_labels is not None and head not in ("sequence", "token"):
        raise CheckpointError(
            f"num_labels={num_labels} means nothing for head={head!r}; leave it out."
        )
    if num_labels is not None and not 1 <= num_labels <= limits.MOST_LABELS:
        raise CheckpointError(
            f"num_labels={num_labels}; expected a whole number from 1 to {limits.MOST_LABELS:,}."
        )
    fields, config = checked_config(folder, attn=attn)
    quantised = bool(fields.get("quantization_config"))
    limits.check_sizes(config, checkpoint.shapes_in(folder), folder, quantised=quantised)
    if not quantised:
        checkpoint.require_floating(folder)
    file = folder / "heads" / f"{head}.safetensors"
    if file.is_file():
        labels = head_labels(folder / "heads.json", head)
        if labels is not None:
            config.id2label = labels
            config.label2id = {label: i for i, label in labels.items()}
        if num_labels not in (None, config.num_labels):
            raise CheckpointError(
                f"num_labels={num_labels}, but {file} has {config.num_labels} labels; leave it out."
            )
        return config, file
    if num_labels is not None:
        config.num_labels = num_labels
    return config, None


def _warn_of_new_head(folder: Path, head: str, missing: list[str]) -> None:
    if missing:
        warnings.warn(
            f"{folder.name} has no {head} head: {', '.join(missing)} start random, its scores mean "
            "nothing before training.",
            stacklevel=4,  # `checked` is one of them
        )


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Holds back transformers' load report and bars; what matters in it we say ourselves."""
    verbosity = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
