"""Write results so that a reader never sees half of one, and equal results have equal bytes."""

from __future__ import annotations

import hashlib
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from camera_control.files import replacing
from numpy.typing import NDArray

from pose_annotation.opencv import cv2


def digest_of(value: object) -> str:
    """Short stable name of a JSON-like value: 20 hex digits of a SHA-256."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object) -> None:
    """Write JSON with sorted keys; numbers that are not finite become null."""
    write_text(path, json.dumps(plain(value), sort_keys=True, indent=1) + "\n")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write one JSON object a line."""
    write_text(path, "".join(json.dumps(plain(row), sort_keys=True) + "\n" for row in rows))


def plain(value: object) -> Any:
    """The same value out of lists, dictionaries, strings and finite numbers only."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


def read_lines(path: Path, what: str) -> list[dict[str, Any]]:
    """Rows of a JSON-lines file; ValueError names the line that is none."""
    rows = []
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ValueError(f"cannot read {what} {path}: {error.strerror}; allowed: a JSON-lines file") from None
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {what} {path}: not text; allowed: a JSON-lines file") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} line {number} is not JSON: {error.msg}; allowed: one object a line") from None
        if not isinstance(row, dict):
            raise ValueError(f"{path} line {number} is no object; allowed: one object a line")
        rows.append(row)
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; ValueError, in one line, when it is none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"cannot read {path}: {error}; allowed: a JSON file written by sana-wm annotate") from None
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object; allowed: a file written by sana-wm annotate")
    return value


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write a compressed .npz; equal arrays give equal bytes."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Write one .npy."""
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, np.ascontiguousarray(array), allow_pickle=False)


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz, without pickle; ValueError when it is none."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror or error}; allowed: an .npz file") from None
    except Exception as error:
        raise ValueError(f"{path} is no .npz of plain arrays ({type(error).__name__}); allowed: np.savez") from None


def write_video(path: Path, frames: NDArray[np.uint8], fps: float, crf: int = 12) -> None:
    """Write frames (f, H, W, 3) with even sides as H.264 yuv420p.

    Equal frames give equal bytes on one machine; what the encoder loses is about one grey level at this quality.
    """
    with replacing(path) as temporary, av.open(str(temporary), "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # One thread, one core a clip; x264's macroblock tree reads memory that nobody wrote, so its bytes vary.
        stream.options = {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
        for frame in frames:
            planes = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2YUV_I420)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(planes, format="yuv420p")))
        container.mux(stream.encode())
