"""The columns of a store that describe its tokens; stored once, for all sites."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from arcee_lab.errors import SettingError, StoreDamaged

TAG = "tag."
_DTYPES = {
    "ids": torch.int32,
    "positions": torch.int32,
    "documents": torch.int32,
    "windows": torch.int32,
    "attended": torch.bool,
    "first": torch.bool,
}


@dataclass(frozen=True)
class TokenTable:
    """A run of tokens, in the order in which a store holds them.

    The tokens of a window follow one another, and so do the windows of a document.

    Attributes:
        ids: Token ids.
        positions: Position of each token in its window, as the model counted it.
        documents: Number of its document.
        windows: Number of the window in which the model read it.
        attended: False for padding.
        first: True at a window's first token and at BOS; statistics count these separately.
        tags: Further whole numbers per token, by name.
    """

    ids: Int[Tensor, " token"]
    positions: Int[Tensor, " token"]
    documents: Int[Tensor, " token"]
    windows: Int[Tensor, " token"]
    attended: Bool[Tensor, " token"]
    first: Bool[Tensor, " token"]
    tags: Mapping[str, Int[Tensor, " token"]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.ids)

    def tensors(self) -> dict[str, Tensor]:
        """The columns by name, as a shard file holds them.

        Raises:
            SettingError: A number that does not fit 32 bits, or a tag of another length.
        """
        named = {name: getattr(self, name) for name in _DTYPES}
        named |= {TAG + name: values for name, values in self.tags.items()}
        stored = {}
        for name, values in named.items():
            dtype = _DTYPES.get(name, torch.int32)
            stored[name] = values.to(dtype).contiguous()
            if len(values) != len(self) or not torch.equal(stored[name].to(values.dtype), values):
                raise SettingError(
                    f"tokens: {name} has {len(values)} values of {values.dtype} for {len(self)} "
                    f"tokens; expected one per token that fits {dtype}."
                )
        return stored

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, length: int, tags: Iterable[str]) -> "TokenTable":
        """The inverse of `tensors`, for a file that has not been checked yet.

        Raises:
            StoreDamaged: Tensors are missing, unexpected, or of another dtype or length.
        """
        dtypes = _DTYPES | {TAG + name: torch.int32 for name in tags}
        if set(tensors) != set(dtypes):
            raise StoreDamaged(f"it holds {sorted(tensors)}; expected {sorted(dtypes)}")
        for name, dtype in dtypes.items():
            if tensors[name].dtype != dtype or tensors[name].shape != (length,):
                got = f"{list(tensors[name].shape)} {tensors[name].dtype}"
                raise StoreDamaged(f"its {name} are {got}; expected [{length}] {dtype}")
        for name in ("ids", "positions", "documents", "windows"):
            if length and int(tensors[name].min()) < 0:
                raise StoreDamaged(f"its {name} hold negative numbers; expected numbers from 0 up")
        return cls(
            **{name: tensors[name] for name in _DTYPES},
            tags={name: tensors[TAG + name] for name in tags},
        )

    def __getitem__(self, which: slice | Tensor) -> "TokenTable":
        columns: dict[str, Any] = {name: getattr(self, name)[which] for name in _DTYPES}
        columns["tags"] = {name: tag[which] for name, tag in self.tags.items()}
        return TokenTable(**columns)

    @classmethod
    def join(cls, parts: Sequence["TokenTable"], *, tags: Iterable[str]) -> "TokenTable":
        """Concatenates runs of tokens that all have these tags."""
        columns: dict[str, Any] = {
            name: torch.cat([torch.zeros(0, dtype=dtype), *(getattr(p, name) for p in parts)])
            for name, dtype in _DTYPES.items()
        }
        nothing = torch.zeros(0, dtype=torch.int32)
        columns["tags"] = {
            name: torch.cat([nothing, *(part.tags[name] for part in parts)]) for name in tags
        }
        return cls(**columns)
