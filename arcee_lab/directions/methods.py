"""From activations of two classes to a vector of length 1 and a threshold; plain arrays."""

import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from arcee_lab.errors import SameMeans, SettingError


class Fit(NamedTuple):
    """A direction, fp64.

    Attributes:
        vector: `[d]`, of length 1.
        threshold: Of `x @ vector`.
    """

    vector: np.ndarray
    threshold: float


Method = Callable[[Float[np.ndarray, "n d"], Bool[np.ndarray, " n"]], Fit]


def difference_of_means(x: Float[np.ndarray, "n d"], y: Bool[np.ndarray, " n"]) -> Fit:
    """From the mean of the other class to the mean of the class; the threshold is in the middle.

    Source: Rimsky et al., "Steering Llama 2 via Contrastive Activation Addition", arXiv:2312.06681;
    Marks and Tegmark, "The Geometry of Truth", arXiv:2310.06824.
    """
    high, low = x[y].mean(axis=0, dtype=np.float64), x[~y].mean(axis=0, dtype=np.float64)
    vector = _unit(high - low)
    return Fit(vector, float((high + low) @ vector / 2))


def logistic_probe(strength: float) -> Method:
    """scikit-learn's logistic regression on standardised features.

    Args:
        strength: Its `C`; smaller values regularise more.
    """

    def fit(x: Float[np.ndarray, "n d"], y: Bool[np.ndarray, " n"]) -> Fit:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(x.astype(np.float64))
        probe = LogisticRegression(C=strength, max_iter=300)
        with warnings.catch_warnings():  # a probe need not reach its optimum
            warnings.simplefilter("ignore", ConvergenceWarning)
            probe.fit(scaler.transform(x), y)
        return _raw(probe.coef_[0], float(np.ravel(probe.intercept_)[0]), scaler)

    return fit


def ridge_probe(penalty: float) -> Method:
    """scikit-learn's ridge regression of -1 and 1 on standardised features.

    Args:
        penalty: Its `alpha`; larger values regularise more.
    """

    def fit(x: Float[np.ndarray, "n d"], y: Bool[np.ndarray, " n"]) -> Fit:
        from sklearn.linear_model import Ridge
        from sklearn.preprocessing import StandardScaler

        scaler = StandardScaler().fit(x.astype(np.float64))
        probe = Ridge(alpha=penalty).fit(scaler.transform(x), np.where(y, 1.0, -1.0))
        return _raw(np.asarray(probe.coef_), float(probe.intercept_), scaler)

    return fit


def distance(x: Float[np.ndarray, "n d"], y: Bool[np.ndarray, " n"], vector: np.ndarray) -> float:
    """How far the mean of the class is from that of the other along a vector."""
    scores = x.astype(np.float64) @ vector
    return float(scores[y].mean() - scores[~y].mean())


def _raw(weight: np.ndarray, intercept: float, scaler: object) -> Fit:
    """A probe of standardised features as one of the activations themselves."""
    scale, mean = scaler.scale_, scaler.mean_  # type: ignore[attr-defined]
    raw = weight / scale
    vector = _unit(raw)
    # w·(x - mean)/scale + b = 0 is where x·vector = (w·mean/scale - b) / |raw|
    return Fit(vector, float((raw @ mean - intercept) / np.linalg.norm(raw)))


def _unit(vector: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vector)
    if not np.isfinite(length):
        raise SettingError(
            "The activations hold NaN or infinite numbers; expected finite ones, so run the model "
            "in bfloat16 or float32."
        )
    if not length:
        raise SameMeans(
            "The two classes have the same mean, so no direction leads from one to the other; "
            "choose another site or concept."
        )
    return vector / length
