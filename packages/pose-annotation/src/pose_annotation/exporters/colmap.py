"""COLMAP's text model with points and their tracks, one PINHOLE camera for every lens that occurs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from camera_control.geometry import invert_rigid
from scipy.spatial.transform import Rotation

from pose_annotation.exporters import AnnotatedClip
from pose_annotation.exporters.plain import write_pictures
from pose_annotation.outputs import write_text


def export(clips: list[AnnotatedClip], out: Path) -> list[Path]:
    """`NAME/sparse/{cameras,images,points3D}.txt` and `NAME/images`; pixels have a corner origin on both sides."""
    written = []
    for clip in clips:
        write_pictures(clip, out / clip.name / "images")
        written += write_model(clip, out / clip.name / "sparse")
    return written


def write_model(clip: AnnotatedClip, folder: Path) -> list[Path]:
    """The three text files of one clip."""
    height, width = clip.size
    w2c = invert_rigid(clip.c2w)
    quaternion = Rotation.from_matrix(w2c[:, :3, :3]).as_quat()
    lenses, owner = np.unique(clip.intrinsics, axis=0, return_inverse=True)
    owner = owner.reshape(-1)
    order = np.lexsort((clip.seen_point, clip.seen_frame))
    frame, point, xy = clip.seen_frame[order], clip.seen_point[order], clip.seen_xy[order]
    starts = np.searchsorted(frame, np.arange(len(w2c) + 1))
    images = ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then X Y POINT3D_ID of every point"]
    for i in range(len(w2c)):
        turn = quaternion[i]
        pose = _numbers([turn[3], *turn[:3], *w2c[i, :3, 3]])
        images.append(f"{i + 1} {pose} {owner[i] + 1} frame_{i + 1:05d}.png")
        rows = range(starts[i], starts[i + 1])
        images.append(" ".join(f"{xy[m, 0]:.9g} {xy[m, 1]:.9g} {point[m] + 1}" for m in rows))
    text = {
        "cameras.txt": ["# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY"]
        + [f"{i} PINHOLE {width} {height} {_numbers(row)}" for i, row in enumerate(lenses, 1)],
        "images.txt": images,
        "points3D.txt": _points(clip, frame, point, xy, starts, w2c),
    }
    for name, lines in text.items():
        write_text(folder / name, "\n".join(lines) + "\n")
    return [folder / name for name in text]


def _points(
    clip: AnnotatedClip, frame: np.ndarray, point: np.ndarray, xy: np.ndarray, starts: np.ndarray, w2c: np.ndarray
) -> list[str]:
    place = np.arange(len(frame)) - starts[frame]  # a point's number among those of its image
    y = np.einsum("mij,mj->mi", w2c[frame, :3, :3], clip.points[point]) + w2c[frame, :3, 3]
    lens = clip.intrinsics[frame]
    error = np.linalg.norm(lens[:, :2] * y[:, :2] / y[:, 2:] + lens[:, 2:] - xy, axis=1)
    order = np.argsort(point, kind="stable")
    edges = np.searchsorted(point[order], np.arange(len(clip.points) + 1))
    lines = ["# POINT3D_ID X Y Z R G B ERROR, then IMAGE_ID POINT2D_IDX of every view"]
    for p in range(len(clip.points)):
        rows = order[edges[p] : edges[p + 1]]
        if not len(rows):
            continue
        track = " ".join(f"{frame[m] + 1} {place[m]}" for m in rows)
        lines.append(f"{p + 1} {_numbers(clip.points[p])} 128 128 128 {error[rows].mean():.6g} {track}")
    return lines


def _numbers(values: object) -> str:
    return " ".join(f"{value:.17g}" for value in np.asarray(values, dtype=np.float64))
