"""The tab of ablations: the next token with the selected units multiplied by a factor."""

import torch

from arcee_lab.explorer.ground import Ground, scaled
from arcee_lab.explorer.messages import Answer, Question, listed, number, text
from arcee_lab.explorer.tabs.tab import Tab
from arcee_lab.explorer.units import MOST

FACTORS = (-100.0, 100.0)
_ROWS = 8  # of each of the two rankings


def _next(ground: Ground, *, text: str, names: list[str], factor: float) -> Answer:
    ids, units = ground.ids(text), ground.units(names)
    before = ground.logits(ids).log_softmax(-1)
    after = before
    if units:
        after = ground.logits(ids, scaled(units, factor)).log_softmax(-1)
    most = min(_ROWS, len(before))
    chosen = list(dict.fromkeys([*_top(before, most), *_top(after, most)]))
    p, q = before.exp(), after.exp()
    rows = [[ground.words.one(i), float(p[i]), float(q[i])] for i in chosen]
    return Answer(
        {
            "text": text,
            "names": [str(unit) for unit in units],
            "factor": factor,
            "tokens": ground.shown(ids[0].tolist()),
            "rows": rows,
            "kl": max(0.0, float((p * (before - after)).nan_to_num().sum())),
        }
    )


def _top(logits: torch.Tensor, most: int) -> list[int]:
    return logits.topk(most).indices.tolist()


TAB = Tab(
    "ablation",
    "Switch off",
    {"next": Question(_next, {"text": text, "names": listed(MOST), "factor": number(*FACTORS)})},
)
