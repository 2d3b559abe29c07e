"""COLMAP text models: a folder with `cameras.txt` and `images.txt`, world-to-camera quaternions, OpenCV axes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from camera_control.files import replacing
from camera_control.formats.nerfstudio import natural_order
from camera_control.geometry import invert_rigid, require_rotations
from camera_control.trajectory import Trajectory


def load(path: Path) -> Trajectory:
    """Read a text model (the folder, or one of its files); images are put in the natural order of their names.

    Only the camera models PINHOLE and SIMPLE_PINHOLE are read; others would need undistorted pictures.
    """
    folder = path if path.is_dir() else path.parent
    for name in ("cameras.txt", "images.txt"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} has no {name}; allowed: a COLMAP text model; example: cameras.txt, images.txt")
    cameras = _cameras(folder / "cameras.txt")
    rows = _images(folder / "images.txt")
    from scipy.spatial.transform import Rotation

    w2c = np.tile(np.eye(4), (len(rows), 1, 1))
    w2c[:, :3, :3] = Rotation.from_quat([[*row[1][1:4], row[1][0]] for row in rows]).as_matrix()
    w2c[:, :3, 3] = [row[1][4:] for row in rows]
    missing = [row[2] for row in rows if row[2] not in cameras]
    if missing:
        raise ValueError(f"{folder}/images.txt names camera {missing[0]}; allowed: {', '.join(cameras)}")
    used = [cameras[row[2]] for row in rows]
    sizes = {size for size, _ in used}
    size = used[0][0] if len(sizes) == 1 else None
    return Trajectory(invert_rigid(w2c), np.array([camera for _, camera in used]), image_size=size)


def _lines(path: Path) -> list[tuple[int, str]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if not line.startswith("#")]


def _cameras(path: Path) -> dict[str, tuple[tuple[int, int], list[float]]]:
    cameras = {}
    for number, line in _lines(path):
        if not line:
            continue
        identity, model, *numbers = line.split() if len(line.split()) > 1 else (line, "")
        expected = {"PINHOLE": 6, "SIMPLE_PINHOLE": 5}
        if model not in expected:
            raise ValueError(f"{path} line {number}: camera model {model!r}; allowed: PINHOLE, SIMPLE_PINHOLE")
        try:
            width, height, *lens = (float(word) for word in numbers)
        except ValueError:
            lens = []
        if len(lens) != expected[model] - 2:
            raise ValueError(
                f"{path} line {number}: not a camera; allowed: 'ID MODEL W H PARAMS'; example: '1 {model}'"
            )
        focal = lens if model == "PINHOLE" else [lens[0], lens[0], lens[1], lens[2]]
        cameras[identity] = ((round(height), round(width)), focal)
    return cameras


def _images(path: Path) -> list[tuple[str, list[float], str]]:
    lines = _lines(path)
    while lines and not lines[0][1]:
        lines.pop(0)
    images = []
    for number, line in lines[::2]:  # every other line lists 2D points
        if not line:
            continue
        words = line.split(maxsplit=9)
        try:
            pose = [float(word) for word in words[1:8]]
        except ValueError:
            pose = []
        if len(words) != 10 or len(pose) != 7 or not np.isfinite(pose).all() or np.linalg.norm(pose[:4]) < 1e-6:
            raise ValueError(
                f"{path} line {number} is not an image: {line[:60]!r}; allowed: ID QW QX QY QZ TX TY TZ CAMERA NAME; "
                "example: '1 1 0 0 0 0 0 0 1 a.png'"
            )
        images.append((words[9], pose, words[8]))
    if not images:
        raise ValueError(f"{path} holds no image; allowed: two lines an image; example: '1 1 0 0 0 0 0 0 1 a.png'")
    return sorted(images, key=lambda image: natural_order(image[0]))


def save(trajectory: Trajectory, path: Path) -> list[Path]:
    """Write a text model without points; frames with the same intrinsics share one PINHOLE camera."""
    if trajectory.intrinsics is None or trajectory.image_size is None:
        raise ValueError(
            "COLMAP text needs intrinsics and the image size, which this path lacks; allowed: a path with both; "
            "example: --fov-deg 70 --size 704x1280"
        )
    from scipy.spatial.transform import Rotation

    require_rotations(trajectory.c2w)
    height, width = trajectory.image_size
    w2c = invert_rigid(trajectory.c2w)
    quaternion = Rotation.from_matrix(w2c[:, :3, :3]).as_quat()
    distinct, owner = np.unique(trajectory.intrinsics, axis=0, return_inverse=True)
    text = {
        "cameras.txt": ["# CAMERA_ID MODEL WIDTH HEIGHT FX FY CX CY"]
        + [f"{i} PINHOLE {width} {height} {_spaced(row)}" for i, row in enumerate(distinct, start=1)],
        "images.txt": ["# IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME, then a line of points (none here)"],
        "points3D.txt": ["# POINT3D_ID X Y Z R G B ERROR TRACK (none)"],
    }
    for index, (turn, camera) in enumerate(zip(quaternion, owner.reshape(-1), strict=True), start=1):
        pose = _spaced([turn[3], *turn[:3], *w2c[index - 1, :3, 3]])
        text["images.txt"] += [f"{index} {pose} {camera + 1} frame_{index:05d}.png", ""]
    written = []
    for name, lines in text.items():
        with replacing(path / name) as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        written.append(path / name)
    return written


def _spaced(numbers: object) -> str:
    return " ".join(f"{value:.17g}" for value in np.asarray(numbers, dtype=np.float64))
