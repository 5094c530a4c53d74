"""Statistics of activations, reduced on the model's device while it runs; padding never counts.

FiringRate      how often each unit fires
ActiveCount     how many units fire at a token
Moments         mean, variance and largest value of each unit
Histogram       sizes in powers of two: the share above any threshold, asked later
Quantile        quantiles within a stated relative error
TopK            the largest values of each unit, and where they stand
CoActivation    how often chosen units fire together
MeanCovariance  mean and covariance of a site's vector
Grouped         any of them, apart for each label
"""

from typing import TYPE_CHECKING

from arcee_lab._lazy import lazy_exports

if TYPE_CHECKING:
    from arcee_lab.reducers.active_count import ActiveCount, ActiveCounts
    from arcee_lab.reducers.coactivation import CoActivation, CoActivations
    from arcee_lab.reducers.covariance import Covariance, MeanCovariance
    from arcee_lab.reducers.firing import FiringRate, FiringRates
    from arcee_lab.reducers.grouped import Grouped, Groups
    from arcee_lab.reducers.histogram import Histogram, LogHistogram, Share
    from arcee_lab.reducers.moments import Moments, MomentsOf
    from arcee_lab.reducers.quantile import Quantile, Quantiles
    from arcee_lab.reducers.reducer import Reducer, State
    from arcee_lab.reducers.running.result import ReducerResult
    from arcee_lab.reducers.running.statistics import Statistics, load
    from arcee_lab.reducers.topk import Largest, TopK

__all__ = [
    "ActiveCount",
    "ActiveCounts",
    "CoActivation",
    "CoActivations",
    "Covariance",
    "FiringRate",
    "FiringRates",
    "Grouped",
    "Groups",
    "Histogram",
    "Largest",
    "LogHistogram",
    "MeanCovariance",
    "Moments",
    "MomentsOf",
    "Quantile",
    "Quantiles",
    "Reducer",
    "ReducerResult",
    "Share",
    "State",
    "Statistics",
    "TopK",
    "load",
]

__getattr__, __dir__ = lazy_exports(
    __name__,
    {
        "active_count": ("ActiveCount", "ActiveCounts"),
        "coactivation": ("CoActivation", "CoActivations"),
        "covariance": ("Covariance", "MeanCovariance"),
        "firing": ("FiringRate", "FiringRates"),
        "grouped": ("Grouped", "Groups"),
        "histogram": ("Histogram", "LogHistogram", "Share"),
        "moments": ("Moments", "MomentsOf"),
        "quantile": ("Quantile", "Quantiles"),
        "reducer": ("Reducer", "State"),
        "running.result": ("ReducerResult",),
        "running.statistics": ("Statistics", "load"),
        "topk": ("Largest", "TopK"),
    },
)
