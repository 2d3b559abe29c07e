"""nerfstudio `transforms.json`: camera-to-world with OpenGL axes (+Y up, -Z forward) and pinhole intrinsics."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from camera_control.files import replacing
from camera_control.geometry import require_rotations
from camera_control.trajectory import DEFAULT_FPS, Trajectory

_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_LENS = ("k1", "k2", "k3", "k4", "p1", "p2")


def load(path: Path) -> Trajectory:
    """Read poses, turned to OpenCV axes, and intrinsics; frames are put in the natural order of their file names.

    Only the pinhole camera is read: distortion other than zero is refused, because dropping it would move the rays.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON: {error.msg} at line {error.lineno}; example: transforms.json") from None
    frames = data.get("frames") if isinstance(data, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path} has no list of frames; allowed: nerfstudio transforms.json; example: 'frames': [...]")
    if all(isinstance(frame.get("file_path"), str) for frame in frames):
        frames = sorted(frames, key=lambda frame: natural_order(frame["file_path"]))
    poses, cameras = [], []
    for index, frame in enumerate(frames):
        merged = {**data, **frame}
        where = f"{path} frame {index}"
        poses.append(_matrix(merged.get("transform_matrix"), where) @ _OPENCV_FROM_OPENGL)
        cameras.append(_camera(merged, where))
    known = [camera for camera in cameras if camera is not None]
    if known and len(known) != len(cameras):
        raise ValueError(f"{path}: {len(known)} of {len(cameras)} frames have a focal length; allowed: all or none")
    size = None
    if "w" in data and "h" in data:
        size = (round(_number(data, "h", str(path))), round(_number(data, "w", str(path))))
    fps = _number(data, "fps", str(path)) if "fps" in data else DEFAULT_FPS
    return Trajectory(np.stack(poses), np.array(known) if known else None, fps, size)


def save(trajectory: Trajectory, path: Path) -> list[Path]:
    """Write poses with OpenGL axes; intrinsics go to the top when constant, to each frame when not."""
    if trajectory.intrinsics is None or trajectory.image_size is None:
        raise ValueError(
            "nerfstudio transforms.json needs intrinsics and the image size, which this path lacks; "
            "allowed: a path with both; example: --fov-deg 70 --size 704x1280"
        )
    require_rotations(trajectory.c2w)
    height, width = trajectory.image_size
    cameras = [dict(zip(("fl_x", "fl_y", "cx", "cy"), row, strict=True)) for row in trajectory.intrinsics.tolist()]
    constant = bool((trajectory.intrinsics == trajectory.intrinsics[0]).all())
    data: dict[str, Any] = {"camera_model": "OPENCV", "w": width, "h": height, "fps": trajectory.fps}
    data.update(cameras[0] if constant else {})
    data["frames"] = [
        {
            "file_path": f"images/frame_{index + 1:05d}.png",
            **({} if constant else camera),
            "transform_matrix": pose.tolist(),
        }
        for index, (pose, camera) in enumerate(zip(trajectory.c2w @ _OPENCV_FROM_OPENGL, cameras, strict=True))
    ]
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    return [path]


def natural_order(name: str) -> list[tuple[int, int, str]]:
    """Sort key that puts frame_10 after frame_9."""
    parts = re.split(r"([0-9]+)", name)
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in parts if part]


def _number(values: dict[str, Any], key: str, where: str) -> float:
    value = values[key]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{where}: {key} is {value!r}; allowed: a finite number; example: 600.0")
    return float(value)


def _matrix(value: Any, where: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.empty(0)
    if matrix.shape == (3, 4):
        matrix = np.vstack([matrix, [0.0, 0.0, 0.0, 1.0]])
    if matrix.shape != (4, 4):
        raise ValueError(f"{where}: transform_matrix has shape {matrix.shape}; allowed: (4, 4); example: the identity")
    return matrix


def _camera(values: dict[str, Any], where: str) -> list[float] | None:
    bent = [key for key in _LENS if key in values and abs(_number(values, key, where)) > 1e-9]
    if bent:
        raise ValueError(f"{where}: lens distortion {bent[0]} = {values[bent[0]]}; allowed: 0 (undistort the pictures)")
    if "fl_x" in values:
        fx = _number(values, "fl_x", where)
    elif "camera_angle_x" in values and "w" in values:
        fx = _number(values, "w", where) / (2.0 * math.tan(_number(values, "camera_angle_x", where) / 2.0))
    else:
        return None
    fy = _number(values, "fl_y", where) if "fl_y" in values else fx
    centre = []
    for key, side in (("cx", "w"), ("cy", "h")):
        if key not in values and side not in values:
            raise ValueError(f"{where}: neither {key} nor {side} is given; allowed: one of them; example: 640")
        centre.append(_number(values, key, where) if key in values else _number(values, side, where) / 2.0)
    return [fx, fy, *centre]
