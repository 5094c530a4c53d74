"""What our model code takes from transformers 5.24 and 5.17 lacks or calls otherwise.

For the proof alone, on a machine where only the older release is installed. It is put in before
arcee_lab is imported. `generate` and static caches stay as they are: their rows are skipped there.
"""

from typing import Any

from transformers import __version__, masking_utils, modeling_outputs, modeling_utils

NEEDED = (5, 24)
_OUTPUTS = (
    "BaseModelOutputWithPast",
    "CausalLMOutputWithPast",
    "SequenceClassifierOutputWithPast",
)


def version() -> tuple[int, int]:
    """Of transformers, without the patch level."""
    major, minor = __version__.split(".")[:2]
    return int(major), int(minor)


def is_older() -> bool:
    """Whether rows that need 5.24 have to be skipped."""
    return version() < NEEDED


def fill_in() -> None:
    """Adds what is missing; does nothing under 5.24."""
    if not is_older():
        return
    if not hasattr(modeling_utils, "slice_logits_to_keep"):
        modeling_utils.slice_logits_to_keep = _slice  # type: ignore[attr-defined]
    masking_utils.create_causal_mask = _renamed(masking_utils.create_causal_mask)
    for name in _OUTPUTS:
        setattr(modeling_outputs, name, _with_cache(getattr(modeling_outputs, name)))


def _slice(hidden: Any, kept: Any) -> Any:
    return hidden[:, slice(-kept, None) if isinstance(kept, int) else kept, :]


def _renamed(plain: Any) -> Any:
    def create_causal_mask(*, cache: Any = None, **given: Any) -> Any:
        given.setdefault("past_key_values", cache)
        return plain(**given)

    return create_causal_mask


def _with_cache(plain: Any) -> Any:
    class WithCache(plain):
        def __init__(self, *args: Any, cache: Any = None, **fields: Any):
            fields.setdefault("past_key_values", cache)
            super().__init__(*args, **fields)

        @property
        def cache(self) -> Any:
            return self.past_key_values

    WithCache.__name__ = plain.__name__
    return WithCache
