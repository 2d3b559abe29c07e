"""Cut a video into clips while it is decoded: scenes first, then windows of 16 k + 1 frames inside each scene."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pose_annotation.opencv import cv2
from pose_annotation.scores import MotionMeter
from pose_annotation.types import Array
from pose_annotation.video import Picture

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

    @property
    def longest(self) -> int:
        """The largest 16 k + 1 that `most` allows."""
        return (self.most - 1) // 16 * 16 + 1


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


class Window(NamedTuple):
    """One clip of a video: which scene and window, its first frame in the video, and its pictures.

    `frames` (f, H, W, 3) uint8 RGB; `times_s` (f,) source times; `motion` (f,) VMAF's motion against the frame before.
    """

    scene: int
    number: int
    first: int
    frames: NDArray[np.uint8]
    times_s: Array
    motion: Array


@dataclass
class SceneFinder:
    """Finds cuts frame by frame.

    A cut is where hue, saturation and value change by more than `threshold` in the mean from one frame to the next,
    and the scene before is at least 15 frames long: the content rule of PySceneDetect with its default settings.
    """

    threshold: float = CUT_THRESHOLD
    _before: NDArray[np.int32] | None = None
    _since: int = 0

    def feed(self, frame: NDArray[np.uint8]) -> bool:
        """True when `frame` (H, W, 3) begins a new scene; the first frame of a video does not."""
        hsv = cv2.cvtColor(_small(frame), cv2.COLOR_RGB2HSV).astype(np.int32)
        cut = False
        if self._before is not None:
            self._since += 1
            change = float(np.abs(hsv - self._before).mean(axis=(0, 1)).mean())
            cut = change >= self.threshold and self._since >= SHORTEST_SCENE
        if cut:
            self._since = 0
        self._before = hsv
        return cut


def scene_starts(frames: Iterable[NDArray[np.uint8]], threshold: float = CUT_THRESHOLD) -> list[int]:
    """First frames of the scenes; a clip without a cut is one scene that starts at 0."""
    finder = SceneFinder(threshold)
    return [0] + [number for number, frame in enumerate(frames) if finder.feed(frame)]


@dataclass
class WindowCutter:
    """Cuts pictures into windows as they come, holding no more than one longest window and the way to the next.

    After the last window is taken, `frames` and `scenes` count what the video had, and `cuts` are the first frames of
    the scenes.
    """

    rule: WindowRule
    frames: int = 0
    cuts: list[int] = field(default_factory=lambda: [0])
    _held: list[tuple[Picture, float]] = field(default_factory=list)
    _dropped: int = 0  # frames of this scene that are no longer held
    _made: int = 0  # windows of this scene

    @property
    def scenes(self) -> int:
        """Scenes so far, at least 1."""
        return len(self.cuts)

    def cut(self, pictures: Iterable[Picture]) -> Iterator[Window]:
        """Yield the windows of `windows`, scene by scene."""
        finder, meter = SceneFinder(), MotionMeter()
        for picture in pictures:
            if finder.feed(picture.rgb):
                yield from self._finish()
                self.cuts.append(self.frames)
            self._held.append((picture, meter.measure(picture.luma)))
            self.frames += 1
            yield from self._due()
        yield from self._finish()

    def _length(self) -> int:
        return self._dropped + len(self._held)

    def _due(self) -> Iterator[Window]:
        size = self.rule.longest
        while size >= self.rule.least and (self._made == 0 or self._length() > self.rule.most):
            start = self._made * self.rule.stride
            if start + size > self._length():
                break
            yield self._window(start, size)
        keep = min(self._made * self.rule.stride, self._length() - size)
        if keep > self._dropped:
            del self._held[: keep - self._dropped]
            self._dropped = keep

    def _finish(self) -> Iterator[Window]:
        length, size = self._length(), (min(self._length(), self.rule.most) - 1) // 16 * 16 + 1
        if size >= self.rule.least and length >= self.rule.least:
            if self._made == 0:
                yield self._window(0, size)
            elif length > self.rule.most and (self._made - 1) * self.rule.stride + size < length:
                yield self._window(length - size, size)
        self._held, self._dropped, self._made = [], 0, 0

    def _window(self, start: int, size: int) -> Window:
        part = self._held[start - self._dropped : start - self._dropped + size]
        number, self._made = self._made, self._made + 1
        motion = np.array([value for _, value in part])
        motion[0] = 0.0
        return Window(
            self.scenes - 1, number, self.cuts[-1] + start, np.stack([p.rgb for p, _ in part]),
            np.array([p.time_s for p, _ in part]), motion,
        )  # fmt: skip


def _small(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The frame at most about 256 pixels wide, as the reference shrinks it before comparing."""
    step = max(1, round(frame.shape[1] / 256))
    if step == 1:
        return frame
    size = (round(frame.shape[1] / step), round(frame.shape[0] / step))
    small: NDArray[np.uint8] = cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR)
    return small
