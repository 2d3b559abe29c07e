"""Small videos made on the spot: a picture that slides, a cut, and twelve ways to be broken."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from camera_control.trajectory import Trajectory
from numpy.typing import NDArray


def texture(height: int = 400, width: int = 600, seed: int = 0) -> NDArray[np.uint8]:
    """A colourful picture (height, width, 3) with detail at several scales."""
    rng = np.random.default_rng(seed)
    out = np.zeros((height, width, 3))
    for cell, weight in ((40, 90), (12, 60), (4, 45)):
        coarse = rng.uniform(0, 1, (height // cell + 2, width // cell + 2, 3))
        out += weight * np.kron(coarse, np.ones((cell, cell, 1)))[:height, :width]
    return np.clip(out + 20, 0, 255).astype(np.uint8)


def sliding(frames: int, size: tuple[int, int] = (96, 160), step: float = 2.0, seed: int = 0) -> NDArray[np.uint8]:
    """Frames (frames, H, W, 3) of a window that slides over a texture by `step` pixels a frame."""
    picture = texture(size[0] + 40, size[1] + int(step * frames) + 8, seed)
    rows = range(frames)
    return np.stack([picture[10 : 10 + size[0], int(step * i) : int(step * i) + size[1]] for i in rows])


def write(
    path: Path, frames: NDArray[np.uint8], fps: float = 16.0, pix_fmt: str = "yuv420p", times: list[int] | None = None,
    codec: str = "libx264",
) -> Path:  # fmt: skip
    """Write frames; `times` are their timestamps in units of 1 / 1000 s for a variable rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.options = {"crf": "8", "preset": "ultrafast", "threads": "1"}
        if times is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], Fraction(1, 1000)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def rotated(path: Path, frames: NDArray[np.uint8]) -> Path:
    """An MP4 whose header asks players to turn the stored pictures by 90 degrees clockwise."""
    write(path, frames)
    data = bytearray(path.read_bytes())
    plain = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    at = data.index(plain, data.index(b"tkhd"))
    data[at : at + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, frames.shape[1] << 16, 0, 1 << 30)
    path.write_bytes(bytes(data))
    return path


def audio_only(path: Path) -> Path:
    """A file with sound and no picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(8):
            samples = np.zeros((1, 1024), np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def path_file(path: Path, c2w: NDArray[np.float64], intrinsics: NDArray[np.float64], size: tuple[int, int]) -> Path:
    """A camera path file at 16 frames a second."""
    Trajectory(c2w, intrinsics, 16.0, size).save(path)
    return path
