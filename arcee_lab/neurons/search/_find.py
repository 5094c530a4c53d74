"""`find`: which units carry a label, chosen on some documents and confirmed on others."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import nn

from arcee_lab.data.limits import default_context, require_context
from arcee_lab.errors import SettingError, WrongType
from arcee_lab.model.anatomy import Anatomy, anatomy_of
from arcee_lab.neurons.labels.labelled import LabelledTokens, Labels
from arcee_lab.neurons.search import curves
from arcee_lab.neurons.search.controls import Untrained, untrained_copy
from arcee_lab.neurons.search.found import Control, Found, FoundLabel, FoundUnit
from arcee_lab.neurons.search.levels import Scan, passes, scan
from arcee_lab.neurons.search.shuffling import shuffled
from arcee_lab.neurons.search.streaming import Place, collect, places_of
from arcee_lab.results import counted
from arcee_lab.runs.arguments import checked
from arcee_lab.runs.progress import progress_bar

SHORT = 20  # units per label and score that are scored exactly, if not more are wanted
MOST = 500  # units of a label that a search returns


@checked
def find(
    model: nn.Module,
    tokenizer: Any,
    labels: Any,
    *,
    names: str | Sequence[str] | None = None,
    sites: str | Sequence[str] = "layers.*.mlp.hook_post",
    confirm: Any = None,
    rank_by: str = "f1",
    top: int = 5,
    shuffles: int = 20,
    untrained: nn.Module | bool | None = None,
    role: str | None = None,
    context: int | None = None,
    batch_size: int = 8,
    seed: int = 0,
    progress: bool | None = None,
) -> Found:
    """Which units carry a label: chosen on some documents, confirmed on others, with controls.

    Every unit of the sites is scored against every label on the search texts, at 12 levels of its
    range; the best 20 by F1 and the best 20 by AUPRC (the best `top`, where that is more) are
    scored exactly, and each one's threshold is the one with the best F1 there. The confirmation
    texts, which had no part in any choice, give the scores that count. Two controls go through the
    same search: labels that are shuffled (whole documents in another order, so that runs of a label
    stay runs), and an untrained copy of the model. The best of thousands of units looks good by
    chance, so `p` compares it with the best of all units for each shuffled label (Westfall and
    Young, "Resampling-Based Multiple Testing", 1993). Intervals are over documents.

    What is exact: counts and F1 at the levels, and all scores of the units in the result. What is
    not: which units enter the short list by AUPRC, because there the AUPRC is summed over the 12
    levels only.

    A neuron predicts the label above its threshold. A head's value is the length of its output
    `hook_z`; a residual dimension is tried in both directions. Units are ranked by F1 or AUPRC;
    AUROC is only shown, because it hardly changes when labels are missing.

    Args:
        model: One of arcee_lab's models, with any head.
        tokenizer: Its tokenizer, a fast one.
        labels: Texts with labels, of `al.neurons.labels`.
        names: The labels to search for; all by default.
        sites: Where to search: neurons, heads (`layers.*.self_attn.hook_z`), or the residual stream
            (`layers.*.hook_resid_post`).
        confirm: Texts to confirm on; by default every second document of `labels`, which is then
            left out of the search.
        rank_by: "f1" or "auprc".
        top: Units to return per label, at most 500.
        shuffles: Shuffled labels per label; p is at least 1 / (1 + shuffles).
        untrained: A model to take as the untrained control; True for a copy with weights drawn
            anew, False for none. None takes a copy where it fits into half of the free memory, and
            otherwise the result says that this control is missing.
        role: In conversations, whose tokens count: "system", "user" or "assistant"; "not user",
            for example, is everything but the user's. Messages are told apart by the tokenizer's
            chat template. All tokens are read.
        context: Longest window in tokens; by default 1024, or what the model can read if less.
            Longer texts are cut, with their labels.
        batch_size: Windows per forward.
        seed: Random seed of the shuffles and of the untrained copy.
        progress: Whether to show a bar with forwards on stderr.

    Returns:
        The units of each label with their scores, and the controls.

    Raises:
        SettingError: An unknown label, one that never or always holds, too few documents, or a
            setting out of its range.
        SiteError: A site without units per token.
        TextError: A tokenizer that is not fast; with a role, texts that are no conversations.

    Example:
        >>> import arcee_lab as al
        >>> model, tokenizer = al.load("demo")
        >>> labels = al.neurons.labels.demo("story", n=60)
        >>> found = al.neurons.find(model, tokenizer, labels, names="plural noun")
        >>> found["plural noun"].best.f1 > 0.7
        True
    """
    _check(labels, confirm, rank_by, top, shuffles, batch_size)
    anatomy = anatomy_of(model)
    places = places_of(anatomy, sites)
    wanted = labels.require(names)
    longest = default_context(anatomy.model) if context is None else context
    require_context(anatomy.model, longest, "context")
    first, second = _split(labels, confirm, wanted)
    search, check = (
        _checked(side.cut(tokenizer, context=longest, names=wanted, role=role), part)
        for side, part in ((first, "search"), (second, "confirmation"))
    )
    other = _control(anatomy, untrained, seed)
    source = np.random.default_rng(seed)
    fake = _shuffles(search, shuffles, source), _shuffles(check, min(1, shuffles), source)
    groups = passes(places, len(wanted), shuffles)
    each = [len(one.windows) // batch_size + 1 for one in (search, check)]
    forwards = (2 + len(groups)) * each[0] + each[1]
    with progress_bar(
        show=progress, total=forwards * (1 + (other.model is not None)), unit="forward"
    ) as bar:
        run = {"batch_size": batch_size, "bar": bar}
        short = max(SHORT, top)
        mine = _Search(anatomy, places, search, check, fake[0], rank_by, short, run)
        none = np.zeros((*search.truth.shape, 0), dtype=bool)
        theirs = None
        if other.model is not None:
            fresh = anatomy_of(other.model)
            other_places = places_of(fresh, sites)
            theirs = _Search(fresh, other_places, search, check, none, rank_by, short, run)
    found = [_label(i, mine, theirs, fake[1], top=top, seed=seed) for i in range(len(wanted))]
    return Found(
        labels=tuple(found),
        rank_by=rank_by,
        searched=sum(place.units for place in places),
        shuffles=shuffles,
        missing=other.missing,
        search_tokens=int(search.wanted.sum()),
        confirm_tokens=int(check.wanted.sum()),
        documents=len(np.unique(check.documents)),
    )


class _Column(NamedTuple):
    """A column of a search: which unit it is, and its values on both sides."""

    place: Place
    column: int
    search: Float[np.ndarray, " token"]
    check: Float[np.ndarray, " token"]


class _Search:
    """One model's search: all units scored at levels, and the values of a short list."""

    def __init__(
        self,
        anatomy: Anatomy,
        places: Sequence[Place],
        search: LabelledTokens,
        check: LabelledTokens,
        fake: Bool[np.ndarray, "token label shuffle"],
        rank_by: str,
        most: int,
        run: dict[str, Any],
    ):
        self.search, self.check, self.fake, self.rank_by = search, check, fake, rank_by
        self.scan: Scan = scan(anatomy, places, search, fake, **run)
        labels = range(len(search.names))
        short = [np.argsort(-self.scan.f1[i], kind="stable")[:most] for i in labels]
        short += [np.argsort(-self.scan.auprc[i], kind="stable")[:most] for i in labels]
        self.short = [np.union1d(short[i], short[i + len(labels)]) for i in labels]
        strongest = [self.scan.shuffled_best[i, self.strongest(i)] for i in labels if fake.size]
        every = np.unique(np.concatenate([*self.short, np.array(strongest, dtype=int)]))
        edges = np.cumsum([0, *(place.columns for place in places)])
        at = np.searchsorted(edges, every, side="right") - 1
        columns: dict[str, list[int]] = {}
        for column, place in zip(every, at, strict=True):
            columns.setdefault(places[place].site, []).append(int(column - edges[place]))
        sides = [
            collect(anatomy, places, columns, one.windows, one.wanted, **run)
            for one in (search, check)
        ]
        self.columns = {
            int(column): _Column(
                places[place], int(column - edges[place]), sides[0][:, i], sides[1][:, i]
            )
            for i, (column, place) in enumerate(zip(every, at, strict=True))
        }

    def strongest(self, label: int) -> int:
        """The shuffled label on which a search does best."""
        return int(np.argmax(self.scan.shuffled_f1[label]))

    def ranked(self, label: int) -> list["_Scored"]:
        """The short list of a label, scored exactly on the search texts, best first."""
        asked, truth = self.search.asked[:, label], self.search.truth[:, label]
        scored = [
            _scored(self.columns[int(column)], asked, truth[asked]) for column in self.short[label]
        ]
        return sorted(scored, key=lambda one: -getattr(one, self.rank_by))


class _Scored(NamedTuple):
    column: _Column
    threshold: float
    f1: float
    auprc: float


def _scored(column: _Column, asked: np.ndarray, truth: np.ndarray) -> _Scored:
    values = column.search[asked]
    threshold, f1 = curves.best_threshold(values, truth)
    return _Scored(column, threshold, f1, curves.auprc(values, truth))


def _label(
    label: int,
    mine: _Search,
    theirs: _Search | None,
    fake: Bool[np.ndarray, "token label shuffle"],
    *,
    top: int,
    seed: int,
) -> FoundLabel:
    """The units of one label on the confirmation texts, and the controls."""
    check = mine.check
    asked, name = check.asked[:, label], check.names[label]
    truth = check.truth[asked, label]
    groups = np.unique(check.token_documents[asked], return_inverse=True)[1]
    ranked = mine.ranked(label)
    units = []
    for one in ranked[:top]:
        values = one.column.check[asked]
        draws = curves.f1_draws(values, truth, one.threshold, groups, seed=seed)
        falling = one.column.column >= one.column.place.units
        units.append(
            FoundUnit(
                label=name,
                site=one.column.place.site,
                unit=one.column.column % one.column.place.units,
                falling=falling,
                threshold=-one.threshold if falling else one.threshold,
                search_f1=one.f1,
                search_auprc=one.auprc,
                f1=curves.f1(values, truth, one.threshold),
                f1_interval=_ends(draws),
                auprc=curves.auprc(values, truth),
                auroc=curves.auroc(values, truth),
            )
        )
    best = _Draws(ranked[0], asked, truth, groups, seed)
    shuffled_control = untrained = None
    p = float("nan")
    if fake.shape[2]:
        place = mine.strongest(label)
        column = mine.columns[int(mine.scan.shuffled_best[label, place])]
        searched = mine.search.asked[:, label]
        lucky = _scored(column, searched, mine.fake[searched, label, place])
        shuffled_control = best.against(_Draws(lucky, asked, fake[asked, label, 0], groups, seed))
        chance = getattr(mine.scan, f"shuffled_{mine.rank_by}")[label]
        reached = getattr(mine.scan, mine.rank_by)[label].max()
        p = float((1 + (chance >= reached).sum()) / (1 + len(chance)))
    if theirs is not None:
        untrained = best.against(_Draws(theirs.ranked(label)[0], asked, truth, groups, seed))
    return FoundLabel(
        name, tuple(units), shuffled_control, untrained, p, int(truth.sum()), len(truth)
    )


class _Draws:
    """A unit on the confirmation texts: its scores, and those of every draw of documents."""

    def __init__(
        self,
        unit: _Scored,
        asked: Bool[np.ndarray, " token"],
        truth: Bool[np.ndarray, " asked"],
        groups: Int[np.ndarray, " asked"],
        seed: int,
    ):
        values = unit.column.check[asked]
        self.f1 = curves.f1(values, truth, unit.threshold)
        self.auprc = curves.auprc(values, truth)
        self.f1_draws = curves.f1_draws(values, truth, unit.threshold, groups, seed=seed)
        self.auprc_draws = curves.auprc_draws(values, truth, groups, seed=seed)

    def against(self, other: "_Draws") -> Control:
        """The other one as a control of this one."""
        return Control(
            other.f1,
            other.auprc,
            curves.difference(self.f1_draws, other.f1_draws),
            curves.difference(self.auprc_draws, other.auprc_draws),
        )


def _ends(draws: np.ndarray) -> tuple[float, float]:
    return curves.difference(draws, np.zeros_like(draws))


def _shuffles(
    tokens: LabelledTokens, shuffles: int, source: np.random.Generator
) -> Bool[np.ndarray, "token label shuffle"]:
    found = np.zeros((*tokens.truth.shape, shuffles), dtype=bool)
    for label in range(len(tokens.names)):
        asked = tokens.asked[:, label]
        truth, documents = tokens.truth[asked, label], tokens.token_documents[asked]
        for place in range(shuffles):
            found[asked, label, place] = shuffled(truth, documents, source)
    return found


def _split(labels: Labels, confirm: Labels | None, names: tuple[str, ...]) -> tuple[Labels, Labels]:
    if confirm is not None:
        confirm.require(names)
        return labels, confirm
    # Documents of one kind often follow each other, so both sides get every second one.
    documents = list(dict.fromkeys(labels.documents))
    if len(documents) < 4:
        raise SettingError(
            f"labels hold {counted(len(documents), 'document')}; expected at least 4, of which "
            "every second is kept for confirmation, or give confirm=."
        )
    return labels.of(documents[::2]), labels.of(documents[1::2])


def _checked(tokens: LabelledTokens, part: str) -> LabelledTokens:
    for column, name in enumerate(tokens.names):
        true, asked = int(tokens.truth[:, column].sum()), int(tokens.asked[:, column].sum())
        if true in (0, asked):
            when = "never" if true == 0 else "always"
            raise SettingError(
                f"label {name!r} {when} holds: at {true:,} of the {asked:,} tokens of the {part} "
                "texts; expected some of them. Give more texts, or leave it out with names=."
            )
        documents = len(np.unique(tokens.token_documents[tokens.asked[:, column]]))
        if documents < 2:
            raise SettingError(
                f"label {name!r} applies to {counted(documents, 'document')} of the {part} texts; "
                "expected at least 2, over which intervals are drawn."
            )
    return tokens


def _control(anatomy: Anatomy, untrained: nn.Module | bool | None, seed: int) -> Untrained:
    if isinstance(untrained, nn.Module):
        return Untrained(untrained, "")
    if untrained is False:
        return Untrained(None, "it was left out")
    copied = untrained_copy(anatomy, seed=seed)
    if untrained and copied.model is None:
        raise SettingError(
            f"untrained=True asks for a copy of the model, and there is none: {copied.missing}. "
            "Give a model, or False."
        )
    return copied


def _check(
    labels: Any, confirm: Any, rank_by: str, top: int, shuffles: int, batch_size: int
) -> None:
    for name, given in (("labels", labels), ("confirm", confirm)):
        if not isinstance(given, Labels) and not (name == "confirm" and given is None):
            raise WrongType(
                f"{name} is {type(given).__name__}; expected what al.neurons.labels makes."
            )
    if rank_by not in curves.RANKINGS:
        raise SettingError(
            f"rank_by={rank_by!r}; expected one of {', '.join(curves.RANKINGS)}. AUROC ranks "
            "nothing here: it hardly changes where labels are missing."
        )
    for name, given, low, high in (
        ("top", top, 1, MOST),
        ("shuffles", shuffles, 0, 10_000),
        ("batch_size", batch_size, 1, 2**20),
    ):
        if not low <= given <= high:
            raise SettingError(f"{name}={given}; expected {low} to {high:,}.")
