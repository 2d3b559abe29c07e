"""Metric depth from two estimates: a consistent one without a unit (Pi3X) and a metric one that flickers (MoGe-2).

Per frame a scale s_t takes the first onto the second; over time the scales are combined. Two estimators: the paper's
least squares, and the weighted median that minimises absolute errors. Over time: the paper's moving average, the same
without its bias towards frame 0, and one robust scale a clip with slow drift, which is measured to be better
(annotate.md 2.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from pose_annotation.types import Array

ESTIMATORS = ("ls", "l1")
TEMPORAL = ("ema", "ema_debiased", "robust_global", "smooth")
MOMENTUM = 0.99


def frame_scale(relative: Array, metric: Array, estimator: str = "l1") -> tuple[float, int]:
    """Scale s with s * relative nearest to metric, weights 1 / metric, and the pixels it rests on.

    "ls": sum w d_P d_M / sum w d_P^2, the paper's closed form. "l1": weighted median of d_M / d_P with weights w d_P,
    the exact minimiser of sum w |s d_P - d_M|. Values that are not finite and positive are left out; without any, the
    scale is nan.
    """
    if estimator not in ESTIMATORS:
        raise ValueError(f"estimator is {estimator!r}; allowed: {', '.join(ESTIMATORS)}; example: 'l1'")
    if relative.shape != metric.shape:
        raise ValueError(f"depths are {relative.shape} and {metric.shape}; allowed: one shape; example: (64, 64)")
    ok = np.isfinite(relative) & np.isfinite(metric) & (relative > 0) & (metric > 0)
    p, m = relative[ok].astype(np.float64), metric[ok].astype(np.float64)
    if not len(p):
        return float("nan"), 0
    w = 1.0 / m
    if estimator == "ls":
        return float((w * p * m).sum() / (w * p * p).sum()), len(p)
    return weighted_median(m / p, w * p), len(p)


def weighted_median(values: Array, weights: Array) -> float:
    """The value where the weights of smaller and larger ones balance."""
    order = np.argsort(values, kind="stable")
    total = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(total, 0.5 * total[-1])])


def combine_scales(
    scales: Array, weights: Array | None = None, temporal: str = "robust_global", fps: float = 16.0
) -> Array:
    """One scale a frame (f,) from raw ones (f,), of which some may be nan.

    "ema": s_t = 0.99 s_(t-1) + 0.01 raw_t from raw_0, the paper's. "ema_debiased": the same started at zero and divided
    by 1 - 0.99^t. "robust_global": one robust mean of all frames. "smooth": that mean with a slow drift (Whittaker,
    half-life of at least 4 s, outliers weighed down). Raises ValueError when no scale is finite.
    """
    if temporal not in TEMPORAL:
        raise ValueError(f"temporal is {temporal!r}; allowed: {', '.join(TEMPORAL)}; example: 'robust_global'")
    raw = np.asarray(scales, np.float64)
    ok = np.isfinite(raw) & (raw > 0)
    if not ok.any():
        raise ValueError("no frame has a scale; allowed: depth maps that overlap in some pixels")
    if temporal in ("ema", "ema_debiased"):
        return _moving_average(raw, ok, temporal == "ema_debiased")
    weight = np.ones(len(raw)) if weights is None else np.asarray(weights, np.float64)
    log_s = np.log(np.where(ok, raw, 1.0))
    middle = _middle(log_s[ok], weight[ok])
    if temporal == "robust_global":
        return np.full(len(raw), np.exp(middle))
    drift = _whittaker(np.where(ok, log_s - middle, 0.0), ok * weight / weight[ok].mean(), 4.0 * fps)
    return np.exp(middle + drift)


def _middle(values: Array, weights: Array) -> float:
    """Tukey's biweight mean from the weighted median: uses more of the frames, and outliers on one side pull less."""
    middle = weighted_median(values, weights)
    spread = 1.4826 * weighted_median(np.abs(values - middle), weights)
    if spread <= 1e-12:
        return middle
    for _ in range(20):
        share = np.minimum(np.abs(values - middle) / (4.685 * spread), 1.0)
        kept = weights * (1.0 - share**2) ** 2
        middle = float((kept * values).sum() / kept.sum())
    return middle


def _moving_average(raw: Array, ok: NDArray[np.bool_], debiased: bool) -> Array:
    out = np.empty(len(raw))
    first = float(raw[ok][0])
    state, mass = (0.0, 0.0) if debiased else (first, 1.0)
    for t, (value, good) in enumerate(zip(raw, ok, strict=True)):
        if good and (debiased or t > 0):
            state = MOMENTUM * state + (1.0 - MOMENTUM) * value
            mass = MOMENTUM * mass + (1.0 - MOMENTUM) if debiased else 1.0
        out[t] = state / mass if mass > 0 else first
    return out


def _whittaker(values: Array, weights: Array, half_life: float) -> Array:
    n = len(values)
    if n < 3:
        return np.zeros(n)
    # Second differences; this weight halves a wave whose quarter period is the half-life.
    stiffness = (4.0 * half_life / (2.0 * np.pi)) ** 4
    second = sparse.diags([1.0, -2.0, 1.0], [0, 1, 2], shape=(n - 2, n))
    robust, fit = np.ones(n), np.zeros(n)
    for _ in range(10):
        system = sparse.diags(weights * robust) + stiffness * (second.T @ second) + 1e-9 * sparse.eye(n)
        fit = spsolve(system.tocsc(), weights * robust * values)
        error = np.abs(values - fit)
        limit = max(1.5 * float(np.median(error[weights > 0])), 1e-6)
        robust = np.minimum(1.0, limit / np.maximum(error, 1e-12))
    return np.asarray(fit)


def fuse_depth(
    relative: Array, metric: Array, *, estimator: str = "l1", temporal: str = "robust_global", fps: float = 16.0
) -> tuple[Array, Array, Array]:
    """Metric depth (f, h, w) = scale * relative, the raw scales (f,) and the combined ones (f,)."""
    pairs = [frame_scale(r, m, estimator) for r, m in zip(relative, metric, strict=True)]
    raw = np.array([scale for scale, _ in pairs])
    combined = combine_scales(raw, np.array([max(count, 1) for _, count in pairs], float), temporal, fps)
    return relative * combined[:, None, None], raw, combined


def scale_variation(scales: Array, epsilon: float = 1e-8) -> float:
    """Population standard deviation over mean of the finite scales; infinite when there is none."""
    finite = np.asarray(scales, np.float64)
    finite = finite[np.isfinite(finite)]
    return float(finite.std() / (finite.mean() + epsilon)) if len(finite) else float("inf")
