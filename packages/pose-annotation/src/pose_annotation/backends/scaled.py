"""Given depth in a unit of its own, and a model that knows metres: one scale a clip (the paper's mode gt_depth)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pose_annotation.align import sample_indices
from pose_annotation.backends import Depth, DepthBackend
from pose_annotation.backends.fused import coarse
from pose_annotation.scale import frame_scales, scale_of_frames
from pose_annotation.types import Array

_FRAMES = 50  # the model is asked about this many frames at most, as in the paper's tool


class ScaledDepth:
    """The maps of `given` times one scale a clip, found against `metric` on up to 50 frames; see scale_of_frames."""

    version = "1"

    def __init__(self, given: DepthBackend, metric: DepthBackend) -> None:
        self.name = f"{given.name}*{metric.name}:one_scale"
        self.weights_id = f"{given.weights_id}*{metric.weights_id}"
        self.licence = f"{given.licence}; {metric.licence}"
        self._given, self._metric = given, metric

    def infer(self, frames: NDArray[np.uint8], first: int, intrinsics: Array | None) -> Depth:
        """Metric depth at the given one's resolution, the scales of the frames asked about, and the one used."""
        given = self._given.infer(frames, first, intrinsics)
        picks = np.unique(sample_indices(len(frames), min(_FRAMES, len(frames))))
        metres = np.stack([self._metric.infer(frames[i : i + 1], first + int(i), intrinsics).z[0] for i in picks])
        raw = np.full(len(frames), np.nan)
        raw[picks] = frame_scales(coarse(given.z[picks]), coarse(metres))
        scale = scale_of_frames(raw)
        return Depth((given.z * scale).astype(np.float32), True, raw, np.full(len(frames), scale))
