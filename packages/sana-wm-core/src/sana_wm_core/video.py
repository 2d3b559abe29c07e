"""Writes what was made: an MP4 every browser plays, and a contact sheet. Never a half file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """Give a temporary name in the same folder and rename it to path at the end; on any error it is removed."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.partial{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a UTF-8 text file, whole or not at all."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_video(path: str | Path, frames: np.ndarray, fps: float = 16, crf: int = 16) -> None:
    """Write an MP4 (H.264, yuv420p, index in front) that starts playing at once in a browser.

    The same frames give the same bytes on one machine: one encoder thread, no dates, and no macroblock tree, whose fast
    code reads memory that nobody wrote. H.264 wants even sizes, so an odd last row or column is doubled.

    Args:
        path: File to write; its folder must exist.
        frames: (f, H, W, 3) uint8, at least one frame.
        fps: Frames per second.
        crf: Quality, 0 (lossless) to 51; 16 is visually lossless.

    Raises:
        ValueError: frames or fps out of shape.
        OSError: The folder cannot be written or the disk is full; nothing is left behind.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(f"the video must be uint8 (frames, height, width, 3); got {frames.dtype} {frames.shape}")
    if not 0 < fps <= 1000:
        raise ValueError(f"the frame rate must be above 0 and at most 1000, such as 16; got {fps}")
    frames = _even(frames)
    rate = _rate(fps)
    with written_whole(path) as temporary:
        with av.open(
            str(temporary), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}
        ) as mp4:
            options = {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
            stream = mp4.add_stream("libx264", rate=rate, options=options)
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            # Names the colour matrix swscale uses, so that players do not guess by picture size.
            stream.codec_context.colorspace = 6
            stream.codec_context.color_range = 1
            for pixels in frames:
                mp4.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")))
            mp4.mux(stream.encode(None))
        if temporary.stat().st_size == 0:
            raise OSError(f"{path}: the encoder wrote no data; is the disk full?")


class GrowingVideo:
    """An MP4 that plays while it is being written: append frames, close at the end (or let `with` do it).

    The file is cut into fragments of half a second, each complete in itself. Whatever stops the writing, a full disk
    or Ctrl-C, the fragments on the disk stay playable. That is why it is written under its final name.

    Args:
        path: File to write; its folder must exist.
        fps: Frames per second.
        crf: Quality, 0 (lossless) to 51.
        preset: Preset of the encoder; faster ones make larger files.
        encoder: libx264, or h264_nvenc on an NVIDIA GPU; see require_encoder.
    """

    def __init__(
        self, path: str | Path, fps: float = 16, crf: int = 18, preset: str = "medium", encoder: str = "libx264"
    ) -> None:
        if not 0 < fps <= 1000:
            raise ValueError(f"the frame rate must be above 0 and at most 1000, such as 16; got {fps}")
        self.path, self.frames = Path(path), 0
        self._fps, self._crf, self._preset, self._encoder = fps, crf, preset, encoder
        flags = "frag_keyframe+empty_moov+default_base_moof"
        options = {"movflags": flags, "frag_duration": "500000", "flush_packets": "1", "fflags": "+bitexact"}
        self._file = av.open(str(path), "w", format="mp4", options=options)
        self._stream: av.VideoStream | None = None

    def __enter__(self) -> GrowingVideo:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        try:
            self.close()
        except OSError:
            # What went wrong first is what the user should read.
            if kind is None:
                raise

    def append(self, frames: np.ndarray) -> None:
        """Write frames (f, H, W, 3) uint8; all calls must bring the same size.

        Raises:
            ValueError: Another shape or size.
            OSError: The disk is full; the fragments before stay playable.
        """
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
            raise ValueError(f"the video must be uint8 (frames, height, width, 3); got {frames.dtype} {frames.shape}")
        frames = _even(frames)
        if self._stream is None:
            self._stream = self._open_stream(*frames.shape[1:3])
        if (self._stream.height, self._stream.width) != frames.shape[1:3]:
            size = f"{self._stream.height}x{self._stream.width}"
            raise ValueError(f"the video is {size}; frames of {frames.shape[1]}x{frames.shape[2]} do not fit it")
        for pixels in frames:
            image = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            self._file.mux(self._stream.encode(image))
            self.frames += 1

    def close(self) -> None:
        """Write what the encoder still holds and finish the file; calling it again does nothing."""
        stream, self._stream = self._stream, None
        try:
            if stream is not None:
                self._file.mux(stream.encode(None))
        finally:
            self._file.close()

    def _open_stream(self, height: int, width: int) -> av.VideoStream:
        options = _encoder_options(self._encoder, self._preset, self._crf)
        stream: Any = self._file.add_stream(self._encoder, rate=_rate(self._fps), options=options)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.colorspace = 6
        stream.codec_context.color_range = 1
        stream.codec_context.gop_size = max(1, round(self._fps))
        return stream


def _encoder_options(encoder: str, preset: str, crf: int) -> dict[str, str]:
    # A frame leaves the encoder as soon as it enters.
    if encoder == "h264_nvenc":
        return {"preset": preset, "cq": str(crf), "b": "0", "rc": "vbr", "zerolatency": "1", "delay": "0"}
    return {"crf": str(crf), "preset": preset, "tune": "zerolatency", "threads": "1"}


def require_encoder(encoder: str, preset: str = "medium") -> None:
    """Make sure that an encoder works here, by opening it.

    Raises:
        ValueError: It does not, or does not know the preset.
    """
    try:
        context: Any = av.CodecContext.create(encoder, "w")
        context.options = _encoder_options(encoder, preset, 18)
        context.width, context.height, context.pix_fmt = 256, 256, "yuv420p"
        context.time_base = Fraction(1, 16)
        context.open()
    except (av.FFmpegError, ValueError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"the encoder {encoder} with preset {preset} cannot be used here ({reason}); use libx264 with medium"
        ) from error


def keep_whole_fragments(path: str | Path) -> int:
    """Cut a growing video whose writing failed after its last whole fragment; returns the frames that are left.

    Players stop at a half fragment in different ways; without it all of them play to the end.
    """
    path = Path(path)
    end = 0
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        at = 0
        while at + 8 <= size:
            file.seek(at)
            length, kind = int.from_bytes(file.read(4), "big"), file.read(4)
            if length < 8 or at + length > size:
                break
            at += length
            # A fragment is a header (moof) and its frames (mdat); what comes before the first is the file's own header.
            if kind in (b"mdat", b"moov"):
                end = at
    with path.open("r+b") as file:
        file.truncate(end)
    try:
        with av.open(str(path)) as video:
            return sum(1 for packet in video.demux(video=0) if packet.size)
    except (av.FFmpegError, IndexError):
        return 0


def read_video(path: str | Path) -> np.ndarray:
    """Read all frames of a video file as (f, H, W, 3) uint8."""
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def write_contact_sheet(path: str | Path, frames: np.ndarray, fps: float = 16, columns: int = 4, rows: int = 3) -> None:
    """Write a PNG with frames spread evenly over a clip, first and last among them, with their times.

    Args:
        path: File to write.
        frames: (f, H, W, 3) uint8.
        fps: Frames per second, for the times.
        columns: Pictures side by side.
        rows: Pictures below each other.
    """
    sheet = ContactSheet(len(frames), columns, rows)
    sheet.append(frames)
    sheet.save(path, fps)


class ContactSheet:
    """Frames spread evenly over a clip that comes piece by piece, first and last among them; holds no others.

    Args:
        total: Frames of the clip.
        columns: Pictures side by side.
        rows: Pictures below each other.
    """

    def __init__(self, total: int, columns: int = 4, rows: int = 3) -> None:
        self.columns, self.seen = columns, 0
        self.chosen: list[int] = np.linspace(0, total - 1, min(columns * rows, total)).round().astype(int).tolist()
        self.held: list[np.ndarray] = []

    def append(self, frames: np.ndarray) -> None:
        """Take the next frames (f, H, W, 3) uint8 of the clip."""
        for index in self.chosen:
            if self.seen <= index < self.seen + len(frames):
                self.held.append(frames[index - self.seen].copy())
        self.seen += len(frames)

    def save(self, path: str | Path, fps: float = 16) -> None:
        """Write what has come as PNG, with the times of the frames."""
        _write_sheet(path, self.held, self.chosen, fps, self.columns)


def _write_sheet(path: str | Path, frames: list[np.ndarray], numbers: list[int], fps: float, columns: int) -> None:
    height, width = frames[0].shape[:2]
    # Small clips are enlarged so that the sheet can be judged by eye; big ones are shrunk to a screen.
    scale = 320 / width
    cell_w, cell_h, gap, strip = 320, max(1, round(height * scale)), 6, 16
    lines = -(-len(frames) // columns)
    sheet = Image.new("RGB", (columns * (cell_w + gap) + gap, lines * (cell_h + strip + gap) + gap), (18, 20, 26))
    draw = ImageDraw.Draw(sheet)
    kind = Image.Resampling.LANCZOS
    for place, (index, frame) in enumerate(zip(numbers, frames, strict=False)):  # fewer, where a clip was cut short
        x = gap + place % columns * (cell_w + gap)
        y = gap + place // columns * (cell_h + strip + gap)
        sheet.paste(Image.fromarray(frame).resize((cell_w, cell_h), kind), (x, y))
        draw.text((x + 2, y + cell_h + 2), f"frame {index}   {index / fps:.2f} s", fill=(190, 196, 206))
    with written_whole(path) as temporary:
        sheet.save(temporary, format="PNG")


def _even(frames: np.ndarray) -> np.ndarray:
    """Frames with an odd last row or column doubled: H.264 wants even sizes."""
    odd_y, odd_x = frames.shape[1] % 2, frames.shape[2] % 2
    if not (odd_y or odd_x):
        return frames
    return np.pad(frames, ((0, 0), (0, odd_y), (0, odd_x), (0, 0)), mode="edge")


def _rate(fps: float) -> Fraction:
    return Fraction(fps).limit_denominator(1001)
