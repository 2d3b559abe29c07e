"""Two depths become one: a consistent one gives the shape, a metric one the metres (the paper's Pi3X and MoGe-2)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends import Depth, DepthBackend
from pose_annotation.fuse import ESTIMATORS, TEMPORAL, fuse_depth
from pose_annotation.opencv import cv2
from pose_annotation.types import Array

_SAMPLES = 64  # a side, as in the paper's tool


class FusedDepth:
    """Depth of `relative`, scaled to `metric` frame by frame and over time; see fuse for the choices."""

    version = "1"

    def __init__(
        self, relative: DepthBackend, metric: DepthBackend, estimator: str = "l1", temporal: str = "robust_global",
        fps: float = 16.0,
    ) -> None:  # fmt: skip
        for what, value, allowed in (("estimator", estimator, ESTIMATORS), ("temporal", temporal, TEMPORAL)):
            if value not in allowed:
                raise ValueError(f"{what} is {value!r}; allowed: {', '.join(allowed)}; example: {allowed[0]!r}")
        self.name = f"{relative.name}+{metric.name}:{estimator}+{temporal}"
        self.weights_id = f"{relative.weights_id}+{metric.weights_id}"
        self.licence = f"{relative.licence}; {metric.licence}"
        self._parts, self._estimator, self._temporal, self._fps = (relative, metric), estimator, temporal, fps

    def infer(self, frames: NDArray[np.uint8], first: int, intrinsics: Array | None) -> Depth:
        """Metric depth at the relative one's resolution, with the scales found and used."""
        relative, metric = (part.infer(frames, first, intrinsics) for part in self._parts)
        _, raw, used = fuse_depth(
            coarse(relative.z), coarse(metric.z), estimator=self._estimator, temporal=self._temporal, fps=self._fps
        )  # fmt: skip
        return Depth((relative.z * used[:, None, None]).astype(np.float32), True, raw, used)


def coarse(maps: NDArray[np.float32]) -> Array:
    """Coarse grids (f, 64, 64) of maps (f, h, w), by nearest pixels so that nothing is mixed across edges."""
    size = (_SAMPLES, _SAMPLES)
    return np.stack([np.asarray(cv2.resize(z, size, interpolation=cv2.INTER_NEAREST), np.float64) for z in maps])
