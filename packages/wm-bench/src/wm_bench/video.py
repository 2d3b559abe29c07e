"""Reading submitted videos frame by frame with their times, and writing lossless ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.error import FFmpegError
from av.video.stream import VideoStream
from camera_control.files import replacing
from numpy.typing import NDArray

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".npy")
_NPY_FPS = 16.0


class BrokenVideo(ValueError):
    """A file that cannot be read to its end; the message is one line."""


class VideoInfo(NamedTuple):
    """What a video says about itself: size (height, width), frames per second, and one time per frame in seconds."""

    path: Path
    size: tuple[int, int]
    fps: float
    times_s: NDArray[np.float64]  # (n,), the first is 0
    sha256: str

    def __len__(self) -> int:
        return len(self.times_s)


def probe(path: Path) -> VideoInfo:
    """Read size and frame times without decoding. Raises BrokenVideo for a file that is no video.

    .npy files hold uint8 (n, H, W, 3) at 16 frames per second.
    """
    if path.stat().st_size == 0:
        raise BrokenVideo("the file is empty")
    with path.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    if path.suffix == ".npy":
        frames = _array(path)
        return VideoInfo(path, frames.shape[1:3], _NPY_FPS, np.arange(len(frames)) / _NPY_FPS, digest)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise BrokenVideo("the file has no video stream")
            stream = container.streams.video[0]
            base = float(stream.time_base or Fraction(1, 16))
            pts = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
            size = (int(stream.height), int(stream.width))
            rate = float(stream.average_rate or 0.0)
    except FFmpegError as error:
        raise BrokenVideo(f"the file is not a readable video ({error.strerror})") from None
    if not pts or min(size) <= 0:
        raise BrokenVideo("the file holds no frame")
    times = (np.array(pts, dtype=np.float64) - pts[0]) * base
    if len(times) > 1:
        # The median step is what the frames really follow; containers round the average rate.
        rate = 1.0 / max(float(np.median(np.diff(times))), 1e-6)
        rate = round(rate, 2)
    return VideoInfo(path, size, rate, times, digest)


def decode(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Frames (H, W, 3) uint8 RGB in order, one at a time. Raises BrokenVideo where decoding fails.

    One decoder thread and a fixed colour conversion: the same file gives the same bytes every time.
    """
    if path.suffix == ".npy":
        yield from _array(path)
        return
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "NONE"
            for frame in container.decode(stream):
                yield np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    except FFmpegError as error:
        raise BrokenVideo(f"decoding stops early ({error.strerror})") from None


def read_frames(path: Path, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Frames (k, H, W, 3) at increasing indices (k,), decoding no further than the last."""
    wanted = {int(i): place for place, i in enumerate(indices)}
    found: dict[int, NDArray[np.uint8]] = {}
    last = int(indices[-1])
    for number, frame in enumerate(decode(path)):
        if number in wanted:
            found[wanted[number]] = frame
        if number == last:
            break
    if len(found) != len(wanted):
        raise BrokenVideo(f"frame {last} cannot be decoded")
    return np.stack([found[place] for place in range(len(wanted))])


def write_lossless(path: Path, frames: NDArray[np.uint8], fps: float) -> Path:
    """Write frames (n, H, W, 3) as FFV1 in Matroska: every byte comes back."""
    return _write(path, frames, fps, "matroska", "ffv1", "bgr0", {})


def write_lossless_mp4(path: Path, frames: NDArray[np.uint8], fps: float) -> Path:
    """Write frames (n, H, W, 3) as lossless H.264 in RGB, for programs that read only MP4."""
    return _write(path, frames, fps, "mp4", "libx264rgb", "rgb24", {"qp": "0", "preset": "ultrafast"})


def _write(
    path: Path, frames: NDArray[np.uint8], fps: float, container_format: str, codec: str, pixels: str,
    options: dict[str, str],
) -> Path:  # fmt: skip
    with (
        replacing(path) as temporary,
        av.open(str(temporary), "w", format=container_format, options={"fflags": "+bitexact"}) as container,
    ):
        stream = cast("VideoStream", container.add_stream(codec, rate=_rate(fps), options=options))
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        stream.thread_type = "NONE"
        for frame in frames:
            for packet in stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)


def _array(path: Path) -> NDArray[np.uint8]:
    try:
        frames = np.load(path, allow_pickle=False, mmap_mode="r")
    except (OSError, ValueError, EOFError):
        raise BrokenVideo("the file is not a NumPy array") from None
    if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
        raise BrokenVideo("the array is not uint8 (n, height, width, 3)")
    if not len(frames):
        raise BrokenVideo("the file holds no frame")
    return frames
