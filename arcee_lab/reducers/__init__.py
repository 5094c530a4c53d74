"""Statistics of activations, reduced on the model's device while it runs; padding never counts.

FiringRate      how often each unit fires
ActiveCount     how many units fire at a token
Moments         mean, variance and largest value of each unit
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arcee_lab.reducers.active import ActiveCount, ActiveCounts
    from arcee_lab.reducers.firing import FiringRate, FiringRates
    from arcee_lab.reducers.moments import Moments, MomentsOf
    from arcee_lab.reducers.reducer import Reducer, State
    from arcee_lab.reducers.result import Result
    from arcee_lab.reducers.statistics import Statistics

_HOMES = {
    "active": ("ActiveCount", "ActiveCounts"),
    "firing": ("FiringRate", "FiringRates"),
    "moments": ("Moments", "MomentsOf"),
    "reducer": ("Reducer", "State"),
    "result": ("Result",),
    "statistics": ("Statistics",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "ActiveCount",
    "ActiveCounts",
    "FiringRate",
    "FiringRates",
    "Moments",
    "MomentsOf",
    "Reducer",
    "Result",
    "State",
    "Statistics",
]


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(import_module(f"arcee_lab.reducers.{_HOME_OF[name]}"), name)
    raise AttributeError(f"module 'arcee_lab.reducers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
