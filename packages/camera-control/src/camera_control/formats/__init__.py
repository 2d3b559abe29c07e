"""Camera files: .npy pairs, .npz, TUM, nerfstudio transforms.json and COLMAP text.

| format     | name              | holds                                   |
|------------|-------------------|-----------------------------------------|
| npy        | poses.npy         | poses; intrinsics beside it             |
| npz        | path.npz          | everything, in float64                  |
| tum        | path.txt or .tum  | times and poses, no intrinsics          |
| nerfstudio | transforms.json   | poses (OpenGL axes) and intrinsics      |
| colmap     | a folder          | cameras.txt and images.txt, world-to-camera |
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from camera_control.formats import arrays, colmap, nerfstudio, tum
from camera_control.trajectory import DEFAULT_FPS, Trajectory

FORMATS = ("npy", "npz", "tum", "nerfstudio", "colmap")
_BY_SUFFIX = {".npy": "npy", ".npz": "npz", ".txt": "tum", ".tum": "tum", ".json": "nerfstudio", "": "colmap"}


def guess_format(path: str | Path) -> str:
    """Name the format a path asks for by its suffix; a folder is COLMAP. Raises ValueError for other names."""
    path = Path(path)
    if path.is_dir() or path.name in ("cameras.txt", "images.txt"):
        return "colmap"
    suffix = path.suffix.lower()
    if suffix not in _BY_SUFFIX:
        raise ValueError(
            f"cannot tell the camera format of {path.name!r}; allowed: .npy, .npz, .txt, .tum, .json, or a COLMAP "
            "folder; example: path.npz"
        )
    return _BY_SUFFIX[suffix]


def load_trajectory(
    path: str | Path,
    *,
    intrinsics: str | Path | None = None,
    format: str | None = None,
    fps: float | None = None,
    image_size: tuple[int, int] | None = None,
) -> Trajectory:
    """Read a camera path; `intrinsics` (a .npy file), `fps` and `image_size` fill in or replace what the file says.

    Raises ValueError, in one line, for a missing file, an unknown format and malformed content.
    """
    path = Path(path)
    kind = _known(format or guess_format(path))
    if not path.exists():
        raise ValueError(f"no such camera file: {path}; allowed: an existing file or COLMAP folder; example: path.npz")
    try:
        if kind == "npy":
            trajectory = arrays.load_npy(path, find_intrinsics=intrinsics is None)
        elif kind == "npz":
            trajectory = arrays.load_npz(path)
        elif kind == "tum":
            trajectory = tum.load(path)
        elif kind == "nerfstudio":
            trajectory = nerfstudio.load(path)
        else:
            trajectory = colmap.load(path)
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}; allowed: a readable {kind} file") from None
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {path}: not a text file; allowed: a {kind} file in UTF-8") from None
    if intrinsics is not None:
        trajectory = replace(trajectory, intrinsics=arrays.load_array(Path(intrinsics), "intrinsics"))
    return replace(
        trajectory,
        fps=trajectory.fps if fps is None else fps,
        image_size=trajectory.image_size if image_size is None else image_size,
    )


def save_trajectory(trajectory: Trajectory, path: str | Path, *, format: str | None = None) -> list[Path]:
    """Write a camera path and return the files written. Raises ValueError when the format needs what is unknown."""
    path = Path(path)
    kind = _known(format or guess_format(path))
    if kind == "npy":
        return arrays.save_npy(trajectory, path)
    if kind == "npz":
        return arrays.save_npz(trajectory, path)
    if kind == "tum":
        return tum.save(trajectory, path)
    if kind == "nerfstudio":
        return nerfstudio.save(trajectory, path)
    return colmap.save(trajectory, path)


def _known(kind: str) -> str:
    if kind not in FORMATS:
        raise ValueError(f"unknown camera format {kind!r}; allowed: {', '.join(FORMATS)}; example: 'npz'")
    return kind


__all__ = ["DEFAULT_FPS", "FORMATS", "guess_format", "load_trajectory", "save_trajectory"]
