"""Pi3X: consistent depth over a clip. The package and its weights (non-commercial) are the user's to bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends import Depth
from pose_annotation.backends.loading import require, weights_id
from pose_annotation.opencv import cv2
from pose_annotation.types import Array

_PATCH, _MOST_PIXELS, _LEAST_CONFIDENCE = 14, 255_000, 0.1


class Pi3X:
    """Pi3X from a local checkpoint (weights CC BY-NC 4.0), over windows of frames.

    The scale of a window is the model's own guess of metres; `FusedDepth` replaces it by a better one. Raises Missing
    when the package `pi3` or the checkpoint is not there.
    """

    name = "pi3x"
    version = "1"
    licence = "CC BY-NC 4.0 (weights)"

    def __init__(self, checkpoint: str | Path, *, device: str = "cpu", window: int = 64) -> None:
        self.weights_id = weights_id(Path(checkpoint))
        self._torch = require("torch", "pip install 'pose-annotation[models]'")
        package = require("pi3.models.pi3x", "installing Pi3 from its repository")
        self._model: Any = package.Pi3X.from_pretrained(str(checkpoint)).to(device).eval()
        if hasattr(self._model, "disable_multimodal"):
            self._model.disable_multimodal()
        self._device, self._window = device, window

    def infer(self, frames: NDArray[np.uint8], first: int, intrinsics: Array | None) -> Depth:
        """Relative depth of the clip at the model's resolution; nan where its confidence is below 0.1."""
        torch, maps = self._torch, []
        height, width = model_size((int(frames.shape[1]), int(frames.shape[2])))
        small = np.stack([cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA) for frame in frames])
        for start in range(0, len(small), self._window):
            part = np.ascontiguousarray(small[start : start + self._window].transpose(0, 3, 1, 2))
            with torch.no_grad():
                found = self._model((torch.from_numpy(part).to(self._device).float() / 255.0)[None])
            z = found["local_points"][0, ..., 2].float().cpu().numpy()
            sure = torch.sigmoid(found["conf"][0, ..., 0]).float().cpu().numpy() > _LEAST_CONFIDENCE
            scale = float(found["metric"].flatten()[0]) if "metric" in found else 1.0
            maps.append(np.where(sure & np.isfinite(z) & (z > 0), z * scale, np.nan))
        return Depth(np.concatenate(maps).astype(np.float32), False)


def model_size(source: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in multiples of 14 with at most 255,000 pixels and about the source's shape."""
    scale = min(1.0, float(np.sqrt(_MOST_PIXELS / (source[0] * source[1]))))
    height, width = (max(_PATCH, int(side * scale) // _PATCH * _PATCH) for side in source)
    return height, width
