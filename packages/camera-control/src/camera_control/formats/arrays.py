"""NumPy files: a poses .npy with an intrinsics .npy beside it, or everything in one .npz."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from camera_control.files import replacing
from camera_control.trajectory import Trajectory


def intrinsics_beside(path: Path) -> Path:
    """Where the intrinsics of `poses.npy` live: `poses_intrinsics.npy`."""
    return path.with_name(f"{path.stem}_intrinsics.npy")


def load_array(path: Path, what: str) -> NDArray[np.float64]:
    """Read one numeric .npy file without pickle; ValueError names the file and `what` it should hold."""
    try:
        with path.open("rb") as stream:
            values = np.load(stream, allow_pickle=False)
    except OSError as error:
        reason = error.strerror or "not a NumPy file"
        raise ValueError(f"cannot read {what} from {path}: {reason}; allowed: a .npy file of numbers") from None
    except (ValueError, EOFError):
        raise ValueError(
            f"cannot read {what} from {path}: not a NumPy array file; example: np.save(path, c2w)"
        ) from None
    return _numbers(values, path, what)


def _numbers(values: Any, path: Path, what: str) -> NDArray[np.float64]:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        kind = getattr(values, "dtype", type(values).__name__)
        raise ValueError(f"{what} in {path} are {kind}; allowed: real numbers; example: float32")
    return values.astype(np.float64)


def load_npy(path: Path, *, find_intrinsics: bool = True) -> Trajectory:
    """Read (F, 4, 4) poses, and intrinsics from the file beside them when there is one."""
    beside = intrinsics_beside(path)
    intrinsics = load_array(beside, "intrinsics") if find_intrinsics and beside.exists() else None
    return Trajectory(load_array(path, "camera poses"), intrinsics)


def save_npy(trajectory: Trajectory, path: Path) -> list[Path]:
    """Write float32 poses, and the intrinsics beside them when they are known."""
    written = [path]
    _save(path, trajectory.c2w.astype(np.float32))
    if trajectory.intrinsics is not None:
        written.append(intrinsics_beside(path))
        _save(written[-1], trajectory.intrinsics.astype(np.float32))
    return written


def _save(path: Path, values: NDArray[Any]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.save(stream, values, allow_pickle=False)


def load_npz(path: Path) -> Trajectory:
    """Read c2w, and intrinsics, fps and image_size when they are there."""
    try:
        # Opened here, because np.load leaves its own handle open when the archive is broken.
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ValueError("one array")
            content = {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, zipfile.BadZipFile):
        raise ValueError(f"cannot read {path}: not an .npz archive; example: `sana-wm camera plan w-80`") from None
    if "c2w" not in content:
        names = ", ".join(sorted(content)) or "nothing"
        raise ValueError(f"{path} holds {names}; allowed: c2w, intrinsics, fps, image_size; example: c2w (81, 4, 4)")
    arrays = {name: _numbers(values, path, name) for name, values in content.items()}
    try:
        fps = float(arrays["fps"]) if "fps" in arrays else 16.0
        size = tuple(int(side) for side in arrays["image_size"]) if "image_size" in arrays else None
    except (TypeError, ValueError):
        raise ValueError(f"{path} holds a wrong fps or image_size; allowed: one number and two numbers") from None
    if size is not None and len(size) != 2:
        raise ValueError(f"image_size in {path} has {len(size)} numbers; allowed: height and width; example: 704 1280")
    return Trajectory(arrays["c2w"], arrays.get("intrinsics"), fps, size)


def save_npz(trajectory: Trajectory, path: Path) -> list[Path]:
    """Write everything that is known, in float64."""
    content: dict[str, Any] = {"c2w": trajectory.c2w, "fps": np.float64(trajectory.fps)}
    if trajectory.intrinsics is not None:
        content["intrinsics"] = trajectory.intrinsics
    if trajectory.image_size is not None:
        content["image_size"] = np.array(trajectory.image_size, dtype=np.int64)
    with replacing(path) as temporary, temporary.open("wb") as stream:
        np.savez(stream, **content)
    return [path]
