"""Read video once: frames at an even rate, with their times; broken files say what is wrong in one line.

Times come from the stream's own timestamps, so variable frame rates keep their real speed; rotation metadata is
applied, and 10-bit and grey pictures become 8-bit RGB.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError
from numpy.typing import NDArray

from pose_annotation.opencv import cv2
from pose_annotation.types import Array

FPS = 16.0
LEAST_FRAMES = 9


class BrokenVideo(ValueError):
    """A file that is no usable video; the message is one line."""


@dataclass(frozen=True, eq=False)
class Clip:
    """Frames (f, H, W, 3) uint8 RGB at an even rate.

    `times_s` (f,) are the source times of the frames, `source_size` the (height, width) before resizing, `sha256` of
    the file's bytes, `native_fps` the source's rate.
    """

    frames: NDArray[np.uint8]
    times_s: Array
    fps: float
    source_size: tuple[int, int]
    native_fps: float
    sha256: str
    start_s: float = 0.0

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


def decode(path: Path) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """(time in seconds, upright RGB frame) in order of time. Raises BrokenVideo where the file cannot be read."""
    if not path.is_file():
        raise BrokenVideo(f"no such video: {path}; allowed: an existing file; example: walk.mp4")
    if path.stat().st_size == 0:
        raise BrokenVideo(f"{path.name} is empty (0 bytes); allowed: a video; example: walk.mp4")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BrokenVideo(f"{path.name} has no video stream; allowed: a video; example: walk.mp4")
            stream = container.streams.video[0]
            # One decoder thread: the same bytes every time, and one core a clip.
            stream.thread_type = "NONE"
            base = float(stream.time_base) if stream.time_base else 0.0
            rate = float(stream.average_rate or 0.0) or FPS
            for number, frame in enumerate(container.decode(stream)):
                time_s = frame.pts * base if frame.pts is not None and base else number / rate
                yield time_s, _upright(frame)
    except FFmpegError as error:
        raise BrokenVideo(f"{path.name} cannot be read: {error.strerror}; allowed: a whole video file") from None


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    picture: NDArray[np.uint8] = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
    turn = round(frame.rotation / 90.0) % 4 if frame.rotation else 0
    # The container asks for a counter-clockwise turn of the stored picture by `rotation` degrees.
    return np.ascontiguousarray(np.rot90(picture, turn)) if turn else picture


def working_size(source: tuple[int, int], width: int | None) -> tuple[int, int]:
    """(height, width) to work at: `width` wide with even sides, never larger than the source."""
    if width is None or width >= source[1]:
        return source
    height = max(2, round(source[0] * width / source[1] / 2) * 2)
    return height, max(2, width // 2 * 2)


def read_clip(
    path: str | Path, *, fps: float = FPS, width: int | None = None, start_s: float = 0.0, end_s: float | None = None
) -> Clip:
    """Decode a video at an even frame rate.

    Frame k shows the source frame whose time is nearest to start + k / fps (ties to the earlier one); a source slower
    than `fps` keeps its own rate. `width` shrinks the pictures (area filter). Raises BrokenVideo.
    """
    path = Path(path)
    if not (np.isfinite(fps) and fps > 0):
        raise ValueError(f"fps is {fps}; allowed: a number > 0; example: 16")
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    source: tuple[int, int] | None = None
    size = (0, 0)
    previous: tuple[float, NDArray[np.uint8]] | None = None
    native: list[float] = []
    origin = 0.0
    for time_s, picture in decode(path):
        if source is None:
            source, origin = (int(picture.shape[0]), int(picture.shape[1])), time_s
            size = working_size(source, width)
        time_s -= origin
        native.append(time_s)
        if end_s is not None and time_s > end_s + 1.0 / fps:
            break
        if time_s < start_s - 1.0 / fps:
            continue
        small = picture
        if (int(picture.shape[0]), int(picture.shape[1])) != size:
            small = cv2.resize(picture, (size[1], size[0]), interpolation=cv2.INTER_AREA)
        if previous is not None:
            _emit(previous, time_s, fps, start_s, end_s, frames, times)
        previous = (time_s, small)
    if source is None:
        raise BrokenVideo(f"{path.name} holds no frame; allowed: a whole video file; example: walk.mp4")
    if previous is not None:
        _emit(previous, None, fps, start_s, end_s, frames, times)
    if len(frames) < LEAST_FRAMES:
        raise BrokenVideo(
            f"{path.name} has {len(frames)} frames at {fps:g} fps; allowed: at least {LEAST_FRAMES}; example: 2 s"
        )
    gaps = np.diff(native)
    native_fps = float(1.0 / np.median(gaps)) if len(gaps) and np.median(gaps) > 0 else fps
    used = min(fps, native_fps) if native_fps < fps * 0.98 else fps
    kept, kept_times = _without_repeats(frames, times, fps, used)
    return Clip(np.stack(kept), np.array(kept_times), used, source, native_fps, file_digest(path), start_s)


def _emit(
    frame: tuple[float, NDArray[np.uint8]], following_s: float | None, fps: float, start_s: float, end_s: float | None,
    frames: list[NDArray[np.uint8]], times: list[float],
) -> None:  # fmt: skip
    """Use a source frame for every wanted time that is nearer to it than to the following frame."""
    time_s, picture = frame
    limit = time_s + 0.5 / fps if following_s is None else (time_s + following_s) / 2.0
    while True:
        wanted = start_s + len(frames) / fps
        if wanted > limit + 1e-9 or (end_s is not None and wanted >= end_s - 1e-9):
            return
        frames.append(picture)
        times.append(time_s)


def _without_repeats(
    frames: list[NDArray[np.uint8]], times: list[float], fps: float, used: float
) -> tuple[list[NDArray[np.uint8]], list[float]]:
    """Frames of a source slower than the rate asked for, each once."""
    if used >= fps:
        return frames, times
    keep = [0] + [i for i in range(1, len(times)) if times[i] != times[i - 1]]
    return [frames[i] for i in keep], [times[i] for i in keep]
