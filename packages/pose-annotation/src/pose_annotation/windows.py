"""Cut a video into clips: scenes first, then windows of 16 k + 1 frames inside each scene."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pose_annotation.opencv import cv2

CUT_THRESHOLD = 27.0
SHORTEST_SCENE = 15


@dataclass(frozen=True)
class WindowRule:
    """Lengths of clips in frames: between `least` and `most`, of the form 16 k + 1, starting every `stride` frames.

    The paper's corpora use 481, 961 and 480 at 16 frames per second; the default takes short videos too.
    """

    least: int = 17
    most: int = 961
    stride: int = 480

    def __post_init__(self) -> None:
        if not 17 <= self.least <= self.most or self.stride < 1:
            raise ValueError(
                f"windows are {self.least} to {self.most} frames every {self.stride}; allowed: 17 <= least <= most, "
                "stride >= 1; example: 481 961 480"
            )


def windows(first: int, stop: int, rule: WindowRule) -> list[tuple[int, int]]:
    """Windows (first, stop) inside one scene; the last one is moved left so that it ends with the scene.

    Empty when the scene is shorter than `rule.least`. Reference: annotate.md 2.8.
    """
    length = stop - first
    size = (min(length, rule.most) - 1) // 16 * 16 + 1
    if size < rule.least or length < rule.least:
        return []
    if length <= rule.most:
        return [(first, first + size)]
    starts = list(range(first, stop - size + 1, rule.stride))
    if starts[-1] + size < stop:
        starts.append(stop - size)
    return [(start, start + size) for start in starts]


def scene_starts(frames: NDArray[np.uint8], threshold: float = CUT_THRESHOLD) -> list[int]:
    """First frames of the scenes; a clip without a cut is one scene that starts at 0.

    A cut is where hue, saturation and value change by more than `threshold` in the mean from one frame to the next,
    and the scene before is at least 15 frames long: the content rule of PySceneDetect with its default settings.
    """
    starts, before = [0], None
    for number, frame in enumerate(frames):
        hsv = cv2.cvtColor(_small(frame), cv2.COLOR_RGB2HSV).astype(np.int32)
        if before is not None:
            change = float(np.abs(hsv - before).mean(axis=(0, 1)).mean())
            if change >= threshold and number - starts[-1] >= SHORTEST_SCENE:
                starts.append(number)
        before = hsv
    return starts


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame at most 256 pixels wide, as the reference shrinks it before comparing."""
    step = max(1, round(frame.shape[1] / 256))
    if step == 1:
        return frame
    size = (round(frame.shape[1] / step), round(frame.shape[0] / step))
    small: NDArray[np.uint8] = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    return small
