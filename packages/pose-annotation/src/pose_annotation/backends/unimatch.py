"""UniMatch's optical flow through ptlflow: the paper's flow score, from a checkpoint that the user brings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends.loading import require, weights_id


class UniMatch:
    """Mean length of flow over half a second in pixels of the source, over the first minute; replaces `flow`.

    Any model of ptlflow works by name. Raises Missing when ptlflow or the checkpoint is not here.
    """

    version = "1"
    licence = "Apache-2.0"

    def __init__(self, checkpoint: str | Path, *, model: str = "unimatch") -> None:
        self.name = model
        self.weights_id = weights_id(Path(checkpoint))
        self._torch = require("torch", "pip install 'pose-annotation[models]'")
        package = require("ptlflow", "pip install ptlflow")
        self._adapter: Any = require("ptlflow.utils.io_adapter", "pip install ptlflow").IOAdapter
        # It reads checkpoints with weights_only=True (0.4.2).
        self._model: Any = package.get_model(model, ckpt_path=str(checkpoint)).eval()

    def score(self, frames: NDArray[np.uint8], fps: float, source_width: int) -> dict[str, float | None]:
        """`flow` of frames (f, H, W, 3); None for clips shorter than half a second."""
        step = max(1, round(0.5 * fps))
        used = frames[: int(60.0 * fps) + 1]
        if len(used) <= step:
            return {"flow": None}
        adapter = self._adapter(self._model, used.shape[1:3])
        lengths = []
        for first in range(0, len(used) - step, step):
            # The package reads pictures as OpenCV does, blue first.
            pair = [np.ascontiguousarray(used[i][..., ::-1]) for i in (first, first + step)]
            with self._torch.no_grad():
                found = self._model(adapter.prepare_inputs(pair))["flows"]
            lengths.append(float(np.linalg.norm(found[0, 0].float().cpu().numpy(), axis=0).mean()))
        return {"flow": float(np.mean(lengths)) * source_width / used.shape[2]}
