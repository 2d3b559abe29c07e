"""Metric depth from a local checkpoint of any depth model that transformers knows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends import Depth
from pose_annotation.backends.loading import require, weights_id
from pose_annotation.types import Array


class TransformersDepth:
    """Depth Pro, ZoeDepth, Depth Anything's metric checkpoints and others, read from a folder; frame by frame.

    `metric` says whether the checkpoint predicts metres; relative models that predict inverse depth are not for this.
    Raises Missing when transformers or the folder is not there.
    """

    name = "transformers"
    version = "1"

    def __init__(
        self, folder: str | Path, *, metric: bool = True, device: str = "cpu", licence: str = "unknown"
    ) -> None:
        transformers = require("transformers", "pip install 'pose-annotation[models]'")
        self.weights_id, self.metric, self.licence = weights_id(Path(folder)), metric, licence
        self._torch = require("torch", "pip install 'pose-annotation[models]'")
        self._processor: Any = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModelForDepthEstimation.from_pretrained(
            folder, local_files_only=True, use_safetensors=True
        )
        self._model: Any = model.to(device).eval()
        self._device = device

    def infer(self, frames: NDArray[np.uint8], first: int, intrinsics: Array | None) -> Depth:
        """Depth at the pictures' size; values that are not finite and positive become nan."""
        size, maps = [(int(frames.shape[1]), int(frames.shape[2]))], []
        for frame in frames:
            inputs = self._processor(images=frame, return_tensors="pt").to(self._device)
            with self._torch.no_grad():
                outputs = self._model(**inputs)
            found = self._processor.post_process_depth_estimation(outputs, target_sizes=size)[0]["predicted_depth"]
            maps.append(found.float().cpu().numpy())
        z = np.stack(maps).astype(np.float32)
        return Depth(np.where(np.isfinite(z) & (z > 0), z, np.nan).astype(np.float32), self.metric)
