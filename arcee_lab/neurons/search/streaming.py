"""Activations of texts as rows of units, one site and batch at a time, on the model's device."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from arcee_lab.data.windows import Windows
from arcee_lab.errors import SiteError
from arcee_lab.hooks.watch import Watch
from arcee_lab.model.anatomy import Anatomy
from arcee_lab.sites import head_name, unit_name

_NEVER_NEGATIVE = ("hook_post", "hook_relu", "hook_z", "hook_q", "hook_k", "hook_v")
Read = Callable[[str, Tensor, np.ndarray], None]


class Place(NamedTuple):
    """The units of one site.

    Attributes:
        site: Its name.
        units: How many; of a head site the heads.
        signed: Whether values may be negative, so that a unit may carry a label by falling.
    """

    site: str
    units: int
    signed: bool

    @property
    def columns(self) -> int:
        """Columns of its values: each unit, and for signed ones each unit's negative."""
        return self.units * (2 if self.signed else 1)


def places_of(anatomy: Anatomy, sites: Any) -> list[Place]:
    """The sites whose units are searched.

    Raises:
        SiteError: An unknown site, or one without units per token.
    """
    found = []
    for name in anatomy.resolve(sites):
        axes = anatomy.legend.sites()[name].axes
        heads = len(axes) == 4 and axes[2] in ("head", "kv_head")
        features = len(axes) == 3 and axes[2] != "1" and name != "hook_logits"
        if axes[:2] != ("batch", "pos") or not (heads or features):
            raise SiteError(
                f"{name} has no units per token that could carry a label; expected a site of "
                "neurons, heads (hook_z) or the residual stream."
            )
        signed = not name.endswith(_NEVER_NEGATIVE)
        found.append(Place(name, anatomy.size(axes[2]), signed))
    return found


def device_of(anatomy: Anatomy) -> torch.device:
    """Where a model takes its token ids."""
    table: Any = anatomy.model.get_input_embeddings()
    return table.weight.device


def name_of_unit(site: str, unit: int) -> str:
    """A unit as people read it: `L1/N32`, `L1/H3`, or `L1/D7` of the residual stream."""
    parts = site.split(".")
    if parts[0] != "layers":
        return f"{site}/D{unit}"
    layer = int(parts[1])
    if parts[2] == "mlp":
        return unit_name(layer, unit)
    if parts[2] == "self_attn":
        return head_name(layer, unit)
    return f"L{layer}/D{unit}"


def stream(
    anatomy: Anatomy,
    places: Sequence[Place],
    windows: Windows,
    wanted: np.ndarray,
    read: Read,
    *,
    batch_size: int,
    bar: Any,
) -> None:
    """Runs the texts and hands over the values of each site and batch.

    Args:
        anatomy: Of the model.
        places: Sites, in forward order; the forward ends after the last.
        windows: The texts.
        wanted: Which tokens of `windows.ids` count.
        read: Gets the site, values `[token, column]` in fp32 (fp64 of such models), and the
            tokens' indices in `windows.ids`.
        batch_size: Windows per forward.
        bar: A progress bar, moved on by one per batch.
    """
    device = device_of(anatomy)
    with torch.no_grad(), _Reading(anatomy, places, read) as reading:
        for batch in windows.batches(batch_size):
            length = batch.input_ids.shape[1]
            flat, tokens = [], []
            for row, window in enumerate(batch.rows):
                start, stop = windows.bounds[window], windows.bounds[window + 1]
                here = np.flatnonzero(wanted[start:stop])
                flat.append(row * length + here)
                tokens.append(start + here)
            reading.expect(np.concatenate(flat), np.concatenate(tokens))
            anatomy.model(
                input_ids=batch.input_ids.to(device),
                attention_mask=batch.attention_mask.to(device),
                use_cache=False,
            )
            bar.update()


class _Reading(Watch):
    _opened_by = "al.neurons.find"

    def __init__(self, anatomy: Anatomy, places: Sequence[Place], read: Read):
        names = [place.site for place in places]
        super().__init__(anatomy, names, stop=names[-1])
        self._signed = {place.site: place.signed for place in places}
        self._read = read

    def expect(self, flat: Int[np.ndarray, " token"], tokens: Int[np.ndarray, " token"]) -> None:
        """Which tokens of the next forward count, and their indices."""
        self._flat, self._tokens = torch.from_numpy(flat), tokens
        self._there: dict[torch.device, Tensor] = {}

    def _on_activation(self, name: str, x: Tensor) -> None:
        if not len(self._tokens):
            return
        if x.device not in self._there:
            self._there[x.device] = self._flat.to(x.device)
        rows = x.flatten(0, 1).index_select(0, self._there[x.device])
        rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
        if rows.ndim == 3:
            rows = rows.norm(dim=-1)
        self._read(name, torch.cat([rows, -rows], 1) if self._signed[name] else rows, self._tokens)


def collect(
    anatomy: Anatomy,
    places: Sequence[Place],
    columns: dict[str, list[int]],
    windows: Windows,
    wanted: np.ndarray,
    *,
    batch_size: int,
    bar: Any,
) -> Float[np.ndarray, "token column"]:
    """The values of a few columns at all tokens; 0 where a token does not count.

    Args:
        anatomy: Of the model.
        places: The sites.
        columns: Site -> its columns; sites without any are not read.
        windows: The texts.
        wanted: Which tokens count.
        batch_size: Windows per forward.
        bar: A progress bar, moved on by one per batch.
    """
    used = [place for place in places if columns.get(place.site)]
    first, width = {}, 0
    for place in used:
        first[place.site] = width
        width += len(columns[place.site])
    values = np.zeros((windows.n_tokens, width))

    def read(site: str, x: Tensor, tokens: np.ndarray) -> None:
        some = torch.tensor(columns[site], device=x.device)
        start = first[site]
        values[tokens, start : start + len(some)] = x.index_select(1, some).cpu().numpy()

    stream(anatomy, used, windows, wanted, read, batch_size=batch_size, bar=bar)
    return values
