"""TUM trajectory text: `time tx ty tz qx qy qz qw` per line, camera-to-world, no intrinsics."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camera_control.files import replacing
from camera_control.geometry import require_rotations
from camera_control.trajectory import DEFAULT_FPS, Trajectory


def load(path: Path) -> Trajectory:
    """Read a TUM file; irregular times are resampled to their mean frame rate (SLERP)."""
    rows: list[list[float]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split("#", 1)[0].replace(",", " ").split()
        if not words:
            continue
        try:
            row = [float(word) for word in words]
        except ValueError:
            row = []
        if len(row) != 8 or not np.isfinite(row).all():
            raise ValueError(
                f"{path} line {number} is not a pose: {line.strip()[:60]!r}; allowed: time tx ty tz qx qy qz qw; "
                "example: '0.0 0 0 0 0 0 0 1'"
            )
        rows.append(row)
    if not rows:
        raise ValueError(f"{path} holds no pose; allowed: lines of time tx ty tz qx qy qz qw; example: 0 0 0 0 0 0 0 1")
    table = np.array(rows)
    if np.linalg.norm(table[:, 4:], axis=1).min() < 1e-6:
        raise ValueError(f"{path} holds a zero quaternion; allowed: unit quaternions qx qy qz qw; example: 0 0 0 1")
    from scipy.spatial.transform import Rotation, Slerp

    times_s = table[:, 0] - table[0, 0]
    gaps_s = np.diff(times_s)
    if len(gaps_s) and gaps_s.min() <= 0:
        pose = int(gaps_s.argmin()) + 1
        raise ValueError(f"{path}: time does not advance after pose {pose}; allowed: increasing times in seconds")
    fps = len(gaps_s) / times_s[-1] if len(gaps_s) else DEFAULT_FPS
    rotation, position = Rotation.from_quat(table[:, 4:]), table[:, 1:4]
    if len(gaps_s) and np.abs(gaps_s * fps - 1.0).max() > 0.02:
        even_s = np.linspace(0.0, times_s[-1], len(times_s))
        rotation = Slerp(times_s, rotation)(even_s)
        position = np.stack([np.interp(even_s, times_s, column) for column in position.T], axis=-1)
    c2w = np.tile(np.eye(4), (len(table), 1, 1))
    c2w[:, :3, :3] = rotation.as_matrix()
    c2w[:, :3, 3] = position
    return Trajectory(c2w, fps=fps)


def save(trajectory: Trajectory, path: Path) -> list[Path]:
    """Write a TUM file with full precision; intrinsics are not part of the format."""
    from scipy.spatial.transform import Rotation

    require_rotations(trajectory.c2w)
    quaternion = Rotation.from_matrix(trajectory.c2w[:, :3, :3]).as_quat()
    table = np.column_stack([trajectory.times_s, trajectory.c2w[:, :3, 3], quaternion])
    with replacing(path) as temporary:
        np.savetxt(temporary, table, fmt="%.17g", header="time_s tx ty tz qx qy qz qw (camera to world, OpenCV axes)")
    return [path]
