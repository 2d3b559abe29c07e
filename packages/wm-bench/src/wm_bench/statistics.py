"""Means with intervals and paired tests over scenes, seeded and exact where that is cheap."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RESAMPLES = 10_000
_EXACT_UP_TO = 12


class Interval(NamedTuple):
    """A mean with its 95 % bootstrap interval; the ends are NaN for fewer than two values."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values: Array, weights: Array | None = None, seed: int = 0) -> Interval:
    """Mean of values (n,), weighted if asked, with a percentile interval from 10,000 resamplings of scenes."""
    weights = np.ones(len(values)) if weights is None else weights
    if not len(values):
        return Interval(float("nan"), float("nan"), float("nan"))
    mean = float(np.sum(weights * values) / np.sum(weights))
    if len(values) < 2:
        return Interval(mean, float("nan"), float("nan"))
    pick = np.random.default_rng(seed).integers(0, len(values), (RESAMPLES, len(values)))
    means = np.sum((weights * values)[pick], axis=1) / np.sum(weights[pick], axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return Interval(mean, float(low), float(high))


def paired_p_value(differences: Array, seed: int = 0) -> float:
    """Two-sided sign-flip permutation test that the mean of paired differences (n,) is zero.

    All 2^n sign patterns up to n = 12, otherwise 10,000 seeded ones with the observed pattern counted in.
    """
    n = len(differences)
    if n == 0:
        return float("nan")
    observed = abs(float(differences.mean()))
    if n <= _EXACT_UP_TO:
        signs = np.array(list(itertools.product((1.0, -1.0), repeat=n)))
        # A relative hair, so that the observed pattern always counts as reached.
        return float(np.mean(np.abs(signs @ differences) / n >= observed * (1 - 1e-12)))
    signs = np.random.default_rng(seed).choice((1.0, -1.0), (RESAMPLES, n))
    reached = np.abs(signs @ differences) / n >= observed * (1 - 1e-12)
    return float((reached.sum() + 1) / (RESAMPLES + 1))
