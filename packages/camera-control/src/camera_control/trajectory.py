"""Trajectory: where a camera is, how it sees, and how fast its frames follow each other."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from camera_control.geometry import intrinsics_to_vec4, relative_to_first, require_rotations

DEFAULT_FPS = 16.0


@dataclass(frozen=True, eq=False)
class Trajectory:
    """A camera path: one pose, and one set of intrinsics, per raw frame.

    Args:
        c2w: (F, 4, 4) camera-to-world, OpenCV axes; kept in float64.
        intrinsics: fx, fy, cx, cy in pixels as (F, 4); (4,), (3, 3) and (F, 3, 3) are accepted too. None means
            unknown, as in a TUM file.
        fps: Frames per second.
        image_size: (height, width) in pixels that `intrinsics` belong to, if known.

    Raises ValueError for a wrong shape, for numbers that are not finite and for a last row other than 0 0 0 1.
    """

    c2w: NDArray[Any]
    intrinsics: NDArray[Any] | None = None
    fps: float = DEFAULT_FPS
    image_size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        c2w = _as_poses(self.c2w)
        object.__setattr__(self, "c2w", c2w)
        if self.intrinsics is not None:
            object.__setattr__(self, "intrinsics", intrinsics_to_vec4(np.asarray(self.intrinsics), len(c2w)))
        if not (np.isfinite(self.fps) and self.fps > 0):
            raise ValueError(f"fps is {self.fps}; allowed: a finite number > 0; example: fps=16")
        object.__setattr__(self, "fps", float(self.fps))
        if self.image_size is not None:
            height, width = (int(side) for side in self.image_size)
            if min(height, width) <= 0:
                raise ValueError(f"image_size is {self.image_size}; allowed: (height, width) > 0; example: (704, 1280)")
            object.__setattr__(self, "image_size", (height, width))

    def __len__(self) -> int:
        return len(self.c2w)

    def __getitem__(self, frames: slice) -> Trajectory:
        """Cut out frames; a step keeps the real time and so divides the frame rate."""
        if not isinstance(frames, slice):
            raise ValueError(f"a trajectory is cut with a slice, got {frames!r}; example: trajectory[10:91]")
        start, stop, step = frames.indices(len(self))
        if step < 1 or start >= stop:
            raise ValueError(f"slice {start}:{stop}:{step} of {len(self)} frames is empty or backwards; example: [0:9]")
        intrinsics = None if self.intrinsics is None else self.intrinsics[frames]
        return replace(self, c2w=self.c2w[frames], intrinsics=intrinsics, fps=self.fps / step)

    @property
    def times_s(self) -> NDArray[np.float64]:
        """Time of every frame in seconds; the first is 0."""
        return np.arange(len(self)) / self.fps

    @property
    def steps(self) -> NDArray[np.float64]:
        """(F - 1,) distances between consecutive positions, in world units per frame."""
        return np.linalg.norm(np.diff(self.c2w[:, :3, 3], axis=0), axis=-1)

    @property
    def turns_deg(self) -> NDArray[np.float64]:
        """(F - 1,) rotation angles between consecutive poses, in degrees per frame."""
        before, after = self.c2w[:-1, :3, :3], self.c2w[1:, :3, :3]
        # |A - B| = 2 sqrt(2) sin(angle / 2) stays exact for the tiny angles where arccos of a trace does not.
        chord = np.linalg.norm(after - before, axis=(-2, -1)) / (2.0 * np.sqrt(2.0))
        return np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0)))

    def relative(self) -> Trajectory:
        """The same path seen from its first camera; pose 0 is the exact identity."""
        return replace(self, c2w=relative_to_first(self.c2w))

    def with_intrinsics(self, intrinsics: ArrayLike, image_size: tuple[int, int] | None = None) -> Trajectory:
        """The same path through another lens; every form of intrinsics is accepted."""
        return replace(self, intrinsics=np.asarray(intrinsics, dtype=np.float64), image_size=image_size)

    def at(self, times_s: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Poses (n, 4, 4) and intrinsics (n, 4) at any times in seconds within the path.

        Rotations turn evenly on the shortest arc (SLERP); positions and intrinsics are linear in time.
        """
        from scipy.spatial.transform import Rotation, Slerp

        require_rotations(self.c2w)
        wanted = np.atleast_1d(np.asarray(times_s, dtype=np.float64))
        known, slack = self.times_s, 1e-9 / self.fps
        if wanted.ndim != 1 or not np.all((wanted >= -slack) & (wanted <= known[-1] + slack)):
            raise ValueError(f"times are not within the path; allowed: 0 to {known[-1]:g} s; example: [0.0, 0.5]")
        wanted = np.clip(wanted, 0.0, known[-1])
        poses = np.tile(np.eye(4), (len(wanted), 1, 1))
        if len(self) == 1:
            poses[:] = self.c2w
        else:
            poses[:, :3, :3] = Slerp(known, Rotation.from_matrix(self.c2w[:, :3, :3]))(wanted).as_matrix()
            poses[:, :3, 3] = _interpolate(wanted, known, self.c2w[:, :3, 3])
        intrinsics = None if self.intrinsics is None else _interpolate(wanted, known, self.intrinsics)
        return poses, intrinsics

    def resample(self, *, fps: float | None = None, frames: int | None = None) -> Trajectory:
        """The same motion at another frame rate, or spread over another number of frames.

        With `fps` the path keeps its speed in seconds; with `frames` both ends are kept and the frame rate follows.
        Give exactly one of the two.
        """
        if (fps is None) == (frames is None):
            raise ValueError(f"resample got fps={fps} and frames={frames}; allowed: exactly one; example: fps=16")
        duration_s = (len(self) - 1) / self.fps
        if fps is not None:
            if not (np.isfinite(fps) and fps > 0):
                raise ValueError(f"fps is {fps}; allowed: a finite number > 0; example: fps=16")
            count = int(np.floor(duration_s * fps + 1e-6)) + 1
            times_s, rate = np.arange(count) / fps, float(fps)
        else:
            if frames is None or frames < 1:
                raise ValueError(f"frames is {frames}; allowed: a whole number from 1; example: frames=81")
            times_s = np.linspace(0.0, duration_s, frames)
            rate = (frames - 1) / duration_s if frames > 1 and duration_s > 0 else self.fps
        c2w, intrinsics = self.at(np.minimum(times_s, duration_s))
        return replace(self, c2w=c2w, intrinsics=intrinsics, fps=rate)

    @classmethod
    def load(cls, path: str | Path, *, intrinsics: str | Path | None = None, **options: Any) -> Trajectory:
        """Read .npy, .npz, TUM .txt, nerfstudio .json or a COLMAP text folder; see `camera_control.formats`."""
        from camera_control.formats import load_trajectory

        return load_trajectory(path, intrinsics=intrinsics, **options)

    def save(self, path: str | Path, *, format: str | None = None) -> list[Path]:
        """Write the path in the format its name asks for; returns the files written."""
        from camera_control.formats import save_trajectory

        return save_trajectory(self, path, format=format)


def _as_poses(c2w: ArrayLike) -> NDArray[np.float64]:
    poses = np.array(c2w, dtype=np.float64)
    if poses.ndim != 3 or poses.shape[1:] != (4, 4) or len(poses) == 0:
        raise ValueError(f"camera poses have shape {poses.shape}; allowed: (F, 4, 4); example: (81, 4, 4)")
    bad = ~np.isfinite(poses).all(axis=(1, 2))
    if bad.any():
        raise ValueError(f"camera pose of frame {int(bad.argmax())} holds NaN or infinity; allowed: finite numbers")
    off = np.abs(poses[:, 3] - np.array([0.0, 0.0, 0.0, 1.0])).max(axis=1)
    if off.max() > 1e-4:
        frame = int(off.argmax())
        row = " ".join(f"{value:g}" for value in poses[frame, 3])
        raise ValueError(
            f"camera pose of frame {frame} ends with the row {row}; allowed: 0 0 0 1 (c2w, not transposed)"
        )
    return poses


def _interpolate(
    wanted: NDArray[np.float64], known: NDArray[np.float64], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    return np.stack([np.interp(wanted, known, column) for column in values.T], axis=-1)
