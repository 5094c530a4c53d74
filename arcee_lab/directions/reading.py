"""Which tokens a direction is fitted and tried on, and their activations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import nn

from arcee_lab.data.limits import default_context, require_context
from arcee_lab.errors import SettingError, SiteError, TextError
from arcee_lab.heads.batches import in_batches
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.neurons.labels.labelled import Labels
from arcee_lab.recording.capturing import capture

SITES = ("hook_embed", "layers.*.hook_resid_post")
MAX_POSITIONS = 4000


@dataclass(frozen=True)
class Places:
    """Labelled tokens, those to fit on and those to confirm on, which share no document.

    Attributes:
        rows: Token ids of the windows that hold them.
        row: The window of each token.
        at: Its position there.
        truth: Whether it has the label.
        document: Its document.
        fit: Whether it is one to fit on.
        split: How documents were divided, in words.
    """

    rows: tuple[list[int], ...]
    row: Int[np.ndarray, " place"]
    at: Int[np.ndarray, " place"]
    truth: Bool[np.ndarray, " place"]
    document: Int[np.ndarray, " place"]
    fit: Bool[np.ndarray, " place"]
    split: str

    def part(self, *, fit: bool) -> tuple[int, int]:
        """How many tokens there are to fit on, or to confirm on, and of how many documents."""
        taken = self.fit == fit
        return int(taken.sum()), len(np.unique(self.document[taken]))


def find_places(
    model: nn.Module,
    tokenizer: Any,
    labels: Labels,
    concept: str,
    *,
    confirm: Labels | None = None,
    context: int | None = None,
    max_positions: int = MAX_POSITIONS,
    seed: int = 0,
) -> Places:
    """The tokens of a label: half of the documents to fit on, half to confirm on.

    Of more than `max_positions` in a half, evenly spaced ones are taken, as many of each class as
    there are, up to half of them; the AUROC does not depend on the classes' sizes.

    Args:
        model: The model, for its context.
        tokenizer: Its tokenizer.
        labels: Texts with labels.
        concept: The label.
        confirm: Other texts to confirm on; then all of `labels` is fitted on.
        context: Tokens per window.
        max_positions: Most tokens to fit on, and to confirm on.
        seed: Of the division.

    Raises:
        SettingError: There is no such label, or a limit is out of its range.
        TextError: A half lacks one of the two classes.
    """
    inner = anatomy_of(model).model
    longest = default_context(inner) if context is None else context
    require_context(inner, longest, "context")
    if max_positions < 4:
        raise SettingError(f"max_positions={max_positions}; expected 4 or more.")
    parts = [_labelled(tokenizer, labels, concept, longest)]
    if confirm is None:
        fit = _half(parts[0].document, parts[0].truth, seed)
        split = f"half of the documents to fit on, half to confirm on, drawn with seed {seed}"
    else:
        if shared := set(labels.texts) & set(confirm.texts):
            raise TextError(
                f"{len(shared)} of the texts to confirm on are also there to fit on; give texts "
                "that were not fitted on."
            )
        parts.append(_labelled(tokenizer, confirm, concept, longest))
        fit = np.repeat([True, False], [len(part.truth) for part in parts])
        split = "texts to fit on and other texts to confirm on, as given"
    whole = _joined(parts)
    taken = np.concatenate(
        [
            _few(np.flatnonzero((fit == half) & (whole.truth == side)), max_positions // 2)
            for half in (True, False)
            for side in (True, False)
        ]
    )
    for half, what in ((True, "to fit on"), (False, "to confirm on")):
        truth = whole.truth[fit == half]
        if truth.all() or not truth.any():
            raise TextError(
                f"Label {concept!r} is true of {int(truth.sum())} of {len(truth)} tokens {what}; "
                "expected both classes in both halves, so give more texts or another label."
            )
    taken.sort()
    used, row = np.unique(whole.row[taken], return_inverse=True)
    return Places(
        rows=tuple(whole.rows[window] for window in used),
        row=row,
        at=whole.at[taken],
        truth=whole.truth[taken],
        document=whole.document[taken],
        fit=fit[taken],
        split=split,
    )


def token_sites(anatomy: Anatomy, sites: str | Sequence[str]) -> list[str]:
    """Canonical names of sites that have one vector per token.

    Raises:
        SiteError: One of them has not.
    """
    names, legend = anatomy.resolve(sites), anatomy.legend.sites()
    for name in names:
        axes = legend[name].axes
        if axes[:2] != ("batch", "pos") or len(axes) != 3 or axes[2] == "1":
            raise SiteError(
                f"A direction needs one vector per token, and {name} has the axes "
                f"{' '.join(axes)}; take a residual site, mlp.hook_post or hook_attn_out."
            )
    return names


@torch.no_grad()
def activations(
    model: nn.Module,
    rows: Sequence[Sequence[int]],
    row: Int[np.ndarray, " place"],
    at: Int[np.ndarray, " place"],
    sites: Sequence[str],
    *,
    batch_size: int,
    bar: Any = None,
) -> dict[str, Float[np.ndarray, "place d"]]:
    """What the sites hold at tokens, fp32, in the order of the tokens.

    The forward ends after the last site. It takes 4 bytes per token, site and dimension.

    Args:
        model: The model.
        rows: Token ids.
        row: The row of each token.
        at: Its position there.
        sites: Canonical names.
        batch_size: Rows per forward.
        bar: A progress bar that counts rows.
    """
    anatomy = anatomy_of(model)
    order = np.argsort(row, kind="stable")
    starts = np.searchsorted(row[order], np.arange(len(rows) + 1))
    found: dict[str, Any] = {}
    for numbers, ids, mask in in_batches(anatomy, rows, batch_size=batch_size):
        own = [order[starts[n] : starts[n + 1]] for n in numbers]
        places = np.concatenate(own)
        slots = torch.from_numpy(np.repeat(np.arange(len(own)), [len(o) for o in own]))
        columns = torch.from_numpy(at[places])
        with capture(anatomy.model, list(sites), stop_at=True) as acts:
            anatomy.model(input_ids=ids, attention_mask=mask, use_cache=False)
        for site in sites:
            x = acts[site]
            taken = x[slots.to(x.device), columns.to(x.device)].float().cpu().numpy()
            if site not in found:
                found[site] = np.empty((len(row), taken.shape[-1]), dtype=np.float32)
            found[site][places] = taken
        if bar is not None:
            bar.update(len(numbers))
    return found


@dataclass(frozen=True)
class _Part:
    rows: list[list[int]]
    row: np.ndarray
    at: np.ndarray
    truth: np.ndarray
    document: np.ndarray


def _labelled(tokenizer: Any, labels: Labels, concept: str, context: int) -> _Part:
    tokens = labels.cut(tokenizer, context=context, names=concept)
    windows = tokens.windows
    asked = np.flatnonzero(tokens.asked[:, 0])
    row = np.searchsorted(windows.bounds, asked, side="right") - 1
    return _Part(
        rows=[windows[window].tolist() for window in range(len(windows))],
        row=row,
        at=asked - windows.bounds[row],
        truth=tokens.truth[asked, 0],
        document=tokens.documents[row],
    )


def _joined(parts: list[_Part]) -> _Part:
    """Parts one after the other; windows and documents are numbered on."""
    rows: list[list[int]] = []
    row, document, last = [], [], 0
    for part in parts:
        row.append(part.row + len(rows))
        _, number = np.unique(part.document, return_inverse=True)
        document.append(number + last)
        last += int(number.max(initial=-1)) + 1
        rows += part.rows
    return _Part(
        rows,
        np.concatenate(row),
        np.concatenate([part.at for part in parts]),
        np.concatenate([part.truth for part in parts]),
        np.concatenate(document),
    )


def _half(
    document: Int[np.ndarray, " place"], truth: Bool[np.ndarray, " place"], seed: int
) -> Bool[np.ndarray, " place"]:
    """Half of the documents, as many of those with the label and of those without it."""
    known = np.unique(document)
    having = np.isin(known, np.unique(document[truth]))
    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(known[having == side])[::2] for side in (True, False)]
    return np.isin(document, np.concatenate(chosen))


def _few(places: np.ndarray, most: int) -> np.ndarray:
    """At most so many of them, evenly spaced."""
    if len(places) <= most:
        return places
    return places[np.unique(np.linspace(0, len(places) - 1, most).astype(int))]
