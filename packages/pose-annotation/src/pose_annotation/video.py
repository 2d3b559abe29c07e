"""Read a video once as upright frames at an even rate; broken files say what is wrong in one line.

Times come from the stream's own timestamps, so variable frame rates keep their real speed; rotation metadata is
applied, and 10-bit and grey pictures become 8-bit RGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from pose_annotation.opencv import cv2
from pose_annotation.scores import MotionMeter
from pose_annotation.types import Array

FPS = 16.0
LEAST_FRAMES = 9
MOTION_HEIGHT = 720  # motion scores are taken at the source's size, at most this high
_PLANAR = ("yuv420p", "yuv422p", "yuv444p", "yuvj420p", "yuvj422p", "yuvj444p", "nv12")


class BrokenVideo(ValueError):
    """A file that is no usable video; the message is one line."""


class Picture(NamedTuple):
    """One frame: source time in seconds, RGB (H, W, 3) uint8 at the wanted size, luma (h, w) uint8 at the source's."""

    time_s: float
    rgb: NDArray[np.uint8]
    luma: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames (f, H, W, 3) uint8 RGB at an even rate.

    `times_s` (f,) are the source times of the frames, `source_size` the (height, width) before resizing, `native_fps`
    the source's rate, `motion` (f,) VMAF's motion of each frame against the one before, in grey levels.
    """

    frames: NDArray[np.uint8]
    times_s: Array
    fps: float
    source_size: tuple[int, int]
    native_fps: float
    motion: Array

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        return int(self.frames.shape[1]), int(self.frames.shape[2])


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


class Video:
    """A video file at an even frame rate; iterate over it for its pictures, decoded once.

    Picture k shows the source frame whose time is nearest to start + k / fps (ties to the earlier one). A source slower
    than `fps` keeps its own rate. `width` shrinks the pictures, never enlarges them; luma stays as it was.
    Afterwards `notes` names what was unusual and dealt with: "grey pictures", "uneven frame times", "yuv420p10le".

    Raises BrokenVideo for a file that is missing, empty, without pictures or damaged.
    """

    def __init__(
        self, path: str | Path, *, fps: float = FPS, width: int | None = None, start_s: float = 0.0,
        end_s: float | None = None,
    ) -> None:  # fmt: skip
        if not (np.isfinite(fps) and fps > 0):
            raise ValueError(f"fps is {fps}; allowed: a number > 0; example: 16")
        self.path, self.width, self.start_s, self.end_s = Path(path), width, start_s, end_s
        self._promised_s, self._coloured, self.notes = 0.0, False, set[str]()
        self.native_fps = self._rate()
        self.fps = self.native_fps if self.native_fps < 0.98 * fps else fps
        self.source_size = (0, 0)

    def _rate(self) -> float:
        if not self.path.is_file():
            raise BrokenVideo(f"no such video: {self.path}; allowed: an existing file; example: walk.mp4")
        if self.path.stat().st_size == 0:
            raise BrokenVideo(f"{self.path.name} is empty (0 bytes); allowed: a video; example: walk.mp4")
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise BrokenVideo(f"{self.path.name} has no video stream; allowed: a video; example: walk.mp4")
                stream = container.streams.video[0]
                base = float(stream.time_base) if stream.time_base else 0.0
                self._promised_s = (stream.duration or 0) * base or (container.duration or 0) / av.time_base
                return float(stream.average_rate or stream.base_rate or 0.0) or FPS
        except FFmpegError as error:
            raise self._damaged(error) from None

    def _damaged(self, error: FFmpegError) -> BrokenVideo:
        return BrokenVideo(f"{self.path.name} cannot be read: {error.strerror}; allowed: a whole video file")

    def _decoded(self) -> Iterator[tuple[float, av.VideoFrame]]:
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                # One decoder thread: the same bytes every time, and one core a clip.
                stream.thread_type = "NONE"
                base = float(stream.time_base) if stream.time_base else 0.0
                origin: float | None = None
                for number, frame in enumerate(container.decode(stream)):
                    time_s = frame.pts * base if frame.pts is not None and base else number / self.native_fps
                    origin = time_s if origin is None else origin
                    yield time_s - origin, frame
        except FFmpegError as error:
            raise self._damaged(error) from None

    def __iter__(self) -> Iterator[Picture]:
        emitted = 0
        previous: tuple[float, av.VideoFrame] | None = None
        for time_s, frame in self._decoded():
            if previous is not None:
                if abs((time_s - previous[0]) * self.native_fps - 1.0) > 0.2:
                    self.notes.add("uneven frame times")
                used = self._wanted(emitted, (previous[0] + time_s) / 2.0)
                if used:
                    yield from [self._picture(*previous)] * used
                    emitted += used
            if self.end_s is not None and time_s > self.end_s + 1.0 / self.fps:
                return
            previous = (time_s, frame)
        if previous is None:
            raise BrokenVideo(f"{self.path.name} holds no frame; allowed: a whole video file; example: walk.mp4")
        if previous[0] + 1.0 / self.native_fps < 0.9 * self._promised_s - 0.25:
            raise BrokenVideo(
                f"{self.path.name} ends after {previous[0]:.2f} of {self._promised_s:.2f} s; allowed: a whole video"
            )
        used = self._wanted(emitted, previous[0] + 0.5 / self.native_fps)
        if used:
            yield from [self._picture(*previous)] * used
        if not self._coloured:
            self.notes.add("grey pictures")

    def _wanted(self, emitted: int, limit_s: float) -> int:
        """How many of the wanted times after those already served lie before `limit_s`."""
        count = int(np.floor((limit_s + 1e-9 - self.start_s) * self.fps)) + 1
        if self.end_s is not None:
            count = min(count, int(np.ceil((self.end_s - 1e-9 - self.start_s) * self.fps)))
        return max(0, count - emitted)

    def _picture(self, time_s: float, frame: av.VideoFrame) -> Picture:
        turn = round(frame.rotation / 90.0) % 4 if frame.rotation else 0
        if turn:
            self.notes.add(f"turned by {90 * turn} degrees")
        if frame.format.name not in _PLANAR:
            self.notes.add(frame.format.name)
        stored = (frame.height, frame.width)
        self.source_size = (stored[1], stored[0]) if turn % 2 else stored
        height, width = working_size(self.source_size, self.width)
        if turn % 2:
            height, width = width, height
        rgb = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        luma = _luma(frame)
        if luma.shape[0] > MOTION_HEIGHT:
            small = (round(luma.shape[1] * MOTION_HEIGHT / luma.shape[0]), MOTION_HEIGHT)
            luma = cv2.resize(luma, small, interpolation=cv2.INTER_AREA)
        self._coloured = self._coloured or bool(np.ptp(rgb, axis=-1).max() > 2)
        # The container asks for a counter-clockwise turn of the stored picture by `rotation` degrees.
        return Picture(time_s, np.ascontiguousarray(np.rot90(rgb, turn), dtype=np.uint8), luma)


def _luma(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """The stored luma plane (h, w), as ffmpeg's motion filter sees it; other pixel formats go through yuv420p."""
    planar = frame if frame.format.name in _PLANAR else frame.reformat(format="yuv420p")
    plane = planar.planes[0]
    rows = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
    return rows[: planar.height, : planar.width].copy()


def working_size(source: tuple[int, int], width: int | None) -> tuple[int, int]:
    """(height, width) to work at: `width` wide with even sides, never larger than the source."""
    if width is None or width >= source[1]:
        return source
    height = max(2, round(source[0] * width / source[1] / 2) * 2)
    return height, max(2, width // 2 * 2)


def read_clip(
    path: str | Path, *, fps: float = FPS, width: int | None = None, start_s: float = 0.0, end_s: float | None = None
) -> Clip:
    """All of a video, or the part from `start_s` to before `end_s`, in memory.

    Raises BrokenVideo for a broken file and for fewer than 9 frames.
    """
    video, meter = Video(path, fps=fps, width=width, start_s=start_s, end_s=end_s), MotionMeter()
    frames, times, motion = [], [], []
    for picture in video:
        frames.append(picture.rgb)
        times.append(picture.time_s)
        motion.append(meter.measure(picture.luma))
    require_length(video, len(frames))
    return Clip(np.stack(frames), np.array(times), video.fps, video.source_size, video.native_fps, np.array(motion))


def require_length(video: Video, frames: int) -> None:
    """Raise BrokenVideo when a video gave fewer frames than anything can be learned from."""
    if frames < LEAST_FRAMES:
        raise BrokenVideo(
            f"{video.path.name} has {frames} frame{'s' * (frames != 1)} at {video.fps:g} fps; allowed: at least "
            f"{LEAST_FRAMES}; example: 2 s"
        )
