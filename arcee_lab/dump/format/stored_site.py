"""What a store holds of one hook point, as its manifest says it."""

import math
import re
from dataclasses import dataclass
from typing import Any

import torch

from arcee_lab.dump.format.json_fields import Fields, short
from arcee_lab.dump.format.layouts import LAYOUTS, SPARSE_LAYOUTS
from arcee_lab.dump.format.stored_file import LONGEST_PATH, PATH
from arcee_lab.errors import StoreDamaged

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
MOST_LAYERS = 1024  # no decoder has a sixth of them
_MOST_AXES = 4
_LAYER = re.compile(r"layers\.([^.]*)")
_RELU, _POST = ".mlp.hook_relu", ".mlp.hook_post"


def stored_as(site: str) -> str:
    """The site whose values a store keeps for `site`: relu(u) for relu(u)², else the site itself.

    Reading computes the square again, with the same rounding as the model's. relu(u) has the wider
    range: in float16 the square overflows from 256 on.
    """
    return site.removesuffix(_POST) + _RELU if site.endswith(_POST) else site


@dataclass(frozen=True)
class StoredSite:
    """What is stored of one hook point.

    Attributes:
        name: Canonical name; neurons are stored as `hook_relu`, see `stored_as`.
        shape: Sizes of its axes after batch and pos.
        dtype: `bfloat16`, `float16` or `float32`.
        layout: See `arcee_lab.dump.format.layouts`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    layout: str

    @property
    def width(self) -> int:
        """Values per token."""
        return math.prod(self.shape)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype as a torch.dtype."""
        return DTYPES[self.dtype]

    @property
    def value_dtype(self) -> torch.dtype:
        """The dtype of values that are read: float32 for int8, else the site's own."""
        return torch.float32 if self.layout == "int8" else self.torch_dtype

    @property
    def counts_nonzeros(self) -> bool:
        """Whether its files state how many values are not zero."""
        return self.layout in SPARSE_LAYOUTS

    @classmethod
    def parse(cls, value: Any, at: int) -> "StoredSite":
        """Checks JSON values and makes a site of them.

        Args:
            value: The values.
            at: Its index in the manifest, for errors.

        Raises:
            StoreDamaged: A field is missing, unknown or out of range; it is named.
        """
        fields = Fields(value, f"site {at}")
        name, shape = fields.text("name"), fields.list("shape")
        if len(name) > LONGEST_PATH or not PATH.fullmatch(name) or "/" in name:
            raise StoreDamaged(f"site {at}: {short(name)} is no hook point's name.")
        layer = _LAYER.match(name)
        number = layer[1] if layer else "0"
        if not (len(number) <= 4 and number.isdecimal() and int(number) < MOST_LAYERS):
            raise StoreDamaged(
                f"site {at}: {short(name)} is of no layer; expected 0 to {MOST_LAYERS - 1}."
            )
        sizes = all(type(size) is int and 0 < size < 2**31 for size in shape)
        if not 0 < len(shape) <= _MOST_AXES or not sizes:
            raise StoreDamaged(f"{name}: shape is {short(shape)}; expected positive sizes.")
        if math.prod(shape) >= 2**31:
            raise StoreDamaged(f"{name}: shape {short(shape)} has too many values per token.")
        dtype, layout = fields.text("dtype"), fields.text("layout")
        for what, got, known in (("dtype", dtype, DTYPES), ("layout", layout, LAYOUTS)):
            if got not in known:
                raise StoreDamaged(f"{name}: {what} is {short(got)}; expected {', '.join(known)}.")
        fields.done()
        return StoredSite(name, tuple(shape), dtype, layout)
