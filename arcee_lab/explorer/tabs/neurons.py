"""The tab of all neurons: a table to sort and search, and all that is known of one neuron."""

import contextlib
from typing import Any

from arcee_lab.errors import SettingError, UnknownName
from arcee_lab.explorer.ground import Ground
from arcee_lab.explorer.messages import Answer, Question, flag, one_of, text, whole
from arcee_lab.explorer.neuron_table import SORTS
from arcee_lab.explorer.tabs.tab import Tab
from arcee_lab.explorer.units import Unit
from arcee_lab.neurons.pages.excerpts import Excerpt
from arcee_lab.neurons.pages.neuron_page import NeuronPage

_BEFORE, _AFTER = 12, 6  # tokens around a peak
_TOP, _STRATA, _NEGATIVES = 8, 6, 2  # exemplars that are sent


def _page(
    ground: Ground, *, sort: str, descending: bool, query: str, start: int, count: int
) -> Answer:
    total, rows = ground.table.page(sort, descending, query, start, count)
    return Answer({"total": total, "start": start, "rows": rows})


def _neuron(ground: Ground, *, unit: str, values: bool) -> Answer:
    (found,) = ground.units([unit])
    if found.is_head:
        raise SettingError(f"{found} is a head; expected a neuron.")
    body: dict[str, Any] = {"unit": str(found), "missing": ground.missing}
    page = _page_of(ground, found, values=values)
    if page is not None:
        body |= {
            "headline": page.headline,
            "edges": [float(edge) for edge in page.edges[:-1]],
            "counts": [int(count) for count in page.counts],
            "labels": [[one.label, next(iter(one.scores.values()))] for one in page.labels],
            "groups": _groups(page),
            "valued": page.values_seconds is not None,
        }
    effects, row = ground.effects, None
    if effects is not None:
        with contextlib.suppress(UnknownName):  # effects may be of some neurons only
            row = effects.row(found.layer, found.number)
    if effects is not None and row is not None:
        for name in ("promoted", "suppressed", "read"):
            ids, sizes = getattr(effects, name)[row], getattr(effects, f"{name}_by")[row]
            pairs = zip(ids[:8].tolist(), sizes[:8].tolist(), strict=True)
            body[name] = [[ground.words.one(number), size] for number, size in pairs]
        body["class"] = effects.classes[row]
    return Answer(body)


def _page_of(ground: Ground, unit: Unit, *, values: bool) -> NeuronPage | None:
    from arcee_lab.neurons.pages._page import page

    run = ground.run
    if run is None or unit.layer not in run.layers:
        return None
    return page(
        run,
        unit.layer,
        unit.number,
        tokenizer=ground.tokenizer,
        model=ground.model if values else None,
        found=ground.found,
        before=_BEFORE,
        after=_AFTER,
    )


def _groups(page: NeuronPage) -> list[dict[str, Any]]:
    """The exemplars by kind; of each stratum the first one."""
    strata = [stratum[0] for stratum in reversed(page.strata) if stratum][:_STRATA]
    return [
        {"title": "Largest values", "rows": [_shown(one) for one in page.top[:_TOP]]},
        {"title": "Drawn by size", "rows": [_shown(one) for one in strata]},
        {"title": "Never fires", "rows": [_shown(one) for one in page.negatives[:_NEGATIVES]]},
    ]


def _shown(one: Excerpt) -> dict[str, Any]:
    return {"tokens": list(one.tokens), "values": list(one.known), "value": one.value}


TAB = Tab(
    "neurons",
    "Neurons",
    {
        "page": Question(
            _page,
            {
                "sort": one_of(SORTS),
                "descending": flag,
                "query": text,
                "start": whole(0, 2**31),
                "count": whole(1, 100),
            },
        ),
        "neuron": Question(_neuron, {"unit": text, "values": flag}),
    },
)
