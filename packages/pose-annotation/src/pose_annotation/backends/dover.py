"""DOVER: technical and aesthetic quality of a clip, from the ONNX file that its repository's script writes.

Two views of 32 frames go in: seven by seven pieces of 32 pixels at full sharpness (technical), and the whole picture at
224 pixels (aesthetic). The released tool draws the places of the pieces at random; here they are the middles of their
cells, so that equal clips have equal scores. Reference: annotate.md 3.3.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_annotation.backends.loading import require, weights_id
from pose_annotation.opencv import cv2
from pose_annotation.types import Array, Ints

_MEAN, _STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
_LENGTH, _CELLS, _PIECE, _WHOLE = 32, 7, 32, 224
_SECONDS = 5.0


class Dover:
    """DOVER's fused score in 0 to 1, averaged over pieces of 5 s; needs onnxruntime and an exported checkpoint.

    Raises Missing when either is not here.
    """

    name = "dover"
    version = "1"
    licence = "S-Lab-1.0"

    def __init__(self, checkpoint: str | Path) -> None:
        self.weights_id = weights_id(Path(checkpoint))
        runtime = require("onnxruntime", "pip install onnxruntime")
        self._session: Any = runtime.InferenceSession(str(checkpoint), providers=["CPUExecutionProvider"])
        shapes = {part.name: part.shape for part in self._session.get_inputs()}
        if set(shapes) != {"aes_view", "tech_view"}:
            raise ValueError(
                f"{checkpoint} takes {sorted(shapes)}; allowed: DOVER's export with aes_view and tech_view"
            )
        clips = shapes["tech_view"][0]
        self._clips = clips if isinstance(clips, int) else 3

    def score(self, frames: NDArray[np.uint8], fps: float, source_width: int) -> dict[str, float | None]:
        """`dover`, `dover_technical` and `dover_aesthetic` of frames (f, H, W, 3)."""
        step = max(1, round(_SECONDS * fps))
        starts = range(0, max(1, len(frames) - step // 2), step)
        both = np.array([self._ask(frames[start : start + step]) for start in starts])
        aesthetic, technical = both.mean(0)
        # The released tool's rescaling; its exported model answers with the aesthetic head first.
        t, a = (technical - 0.1107) / 0.07355, (aesthetic + 0.08285) / 0.03774
        fused = _sigmoid(0.6104 * t + 0.3896 * a)
        return {"dover": fused, "dover_technical": _sigmoid(t), "dover_aesthetic": _sigmoid(a)}

    def _ask(self, frames: NDArray[np.uint8]) -> tuple[float, float]:
        whole = _normalised(np.stack([_resized(frames[i]) for i in _spread(len(frames))]))
        pieces = np.stack([_normalised(_pieces(frames[i])) for i in _clips(len(frames), self._clips)])
        answer = self._session.run(None, {"aes_view": whole[None], "tech_view": pieces})
        return float(np.mean(answer[0])), float(np.mean(answer[1]))


def _sigmoid(x: float) -> float:
    return float(1.0 / (1.0 + np.exp(-x)))


def _spread(count: int) -> Ints:
    """32 frames over the whole piece, one from the middle of each thirty-second."""
    return np.minimum(((np.arange(_LENGTH) + 0.5) * count / _LENGTH).astype(np.int64), count - 1)


def _clips(count: int, clips: int) -> list[Ints]:
    """Runs of 32 frames, every second one, spread evenly; short pieces repeat their last frame."""
    room = max(0, count - 2 * _LENGTH)
    starts = np.round((np.arange(clips) + 0.5) * room / clips).astype(np.int64)
    return [np.minimum(start + 2 * np.arange(_LENGTH), count - 1) for start in starts]


def _resized(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    out: NDArray[np.uint8] = cv2.resize(frame, (_WHOLE, _WHOLE), interpolation=cv2.INTER_LINEAR)
    return out


def _pieces(frames: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Frames (t, 224, 224, 3) put together from 7 x 7 pieces of (t, H, W, 3); smaller pictures are enlarged first."""
    short = min(frames.shape[1:3])
    if short < _WHOLE:
        size = (round(frames.shape[2] * _WHOLE / short), round(frames.shape[1] * _WHOLE / short))
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in frames])
    rows, columns = (_places(side) for side in frames.shape[1:3])
    return frames[:, rows[:, None], columns[None, :]]


def _places(side: int) -> Ints:
    """The 224 pixel numbers along one side that the pieces cover."""
    cell = side / _CELLS
    starts = np.floor(np.arange(_CELLS) * cell + (cell - _PIECE) / 2.0).astype(np.int64)
    return (starts[:, None] + np.arange(_PIECE)).ravel()


def _normalised(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(3, t, h, w) with the mean and deviation that the networks were trained with."""
    values: Array = (frames - _MEAN) / _STD
    return np.ascontiguousarray(values.transpose(3, 0, 1, 2), dtype=np.float32)
