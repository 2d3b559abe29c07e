"""MoGe-2: metric depth of single pictures. The package and its weights are the user's to bring."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends import Depth
from pose_annotation.backends.loading import require, weights_id
from pose_annotation.types import Array


class MoGe2:
    """MoGe-2 from a local checkpoint (MIT); given a lens, its field of view is handed over.

    Raises Missing when the package `moge` or the checkpoint is not there.
    """

    name = "moge-2"
    version = "1"
    licence = "MIT"

    def __init__(self, checkpoint: str | Path, *, device: str = "cpu", batch: int = 8) -> None:
        self.weights_id = weights_id(Path(checkpoint))
        self._torch = require("torch", "pip install 'pose-annotation[models]'")
        package = require("moge.model.v2", "installing MoGe from its repository")
        self._model: Any = package.MoGeModel.from_pretrained(str(checkpoint)).to(device).eval()
        self._device, self._batch = device, batch

    def infer(self, frames: NDArray[np.uint8], first: int, intrinsics: Array | None) -> Depth:
        """Metric depth at the pictures' size, nan where the model masks."""
        torch, maps = self._torch, []
        options: dict[str, Any] = {}
        if intrinsics is not None:
            options["fov_x"] = float(np.degrees(2 * np.arctan(frames.shape[2] / (2 * intrinsics[0]))))
        for start in range(0, len(frames), self._batch):
            part = np.ascontiguousarray(frames[start : start + self._batch].transpose(0, 3, 1, 2))
            with torch.no_grad():
                found = self._model.infer(torch.from_numpy(part).to(self._device).float() / 255.0, **options)
            z = found["depth"].float().cpu().numpy()
            maps.append(np.where(found["mask"].cpu().numpy().astype(bool) & np.isfinite(z) & (z > 0), z, np.nan))
        return Depth(np.concatenate(maps).astype(np.float32), True)
