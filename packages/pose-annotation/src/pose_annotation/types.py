"""What the annotator passes around: tracks of points, a solved camera, and why a clip is doubtful."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Tracks:
    """Image points followed through a clip; row m says that point `track[m]` was seen in `frame[m]` at `xy[m]`.

    Args:
        frame: (m,) frame numbers.
        track: (m,) point numbers, 0 to count - 1; a point is seen at most once in a frame.
        xy: (m, 2) pixels, corner origin (the centre of the top-left pixel is 0.5, 0.5).
        frames: Frames of the clip.
        size: (height, width) of the pictures in pixels.
    """

    frame: Ints
    track: Ints
    xy: Array
    frames: int
    size: tuple[int, int]

    @property
    def count(self) -> int:
        """Number of points."""
        return int(self.track.max()) + 1 if len(self.track) else 0

    def keep(self, mask: NDArray[np.bool_]) -> Tracks:
        """The observations where mask (m,) is true; point numbers stay."""
        return replace(self, frame=self.frame[mask], track=self.track[mask], xy=self.xy[mask])

    def pair(self, first: int, second: int) -> tuple[Ints, Array, Array]:
        """Points seen in both frames: their numbers (k,) and positions (k, 2) in each."""
        a, b = np.flatnonzero(self.frame == first), np.flatnonzero(self.frame == second)
        common, ia, ib = np.intersect1d(self.track[a], self.track[b], assume_unique=True, return_indices=True)
        return common, self.xy[a[ia]], self.xy[b[ib]]


class Observations(NamedTuple):
    """Where the points of a map were seen: frame (m,), point (m,) as a row of `points`, pixel (m, 2)."""

    frame: Ints
    point: Ints
    xy: Array


def _nothing_seen() -> Observations:
    return Observations(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 2)))


@dataclass(frozen=True, eq=False)
class CameraTrack:
    """The camera of a clip: a pose and a lens for every frame, how certain they are, and what is doubtful.

    Args:
        c2w: (f, 4, 4) camera-to-world, OpenCV axes; frame 0 is the identity.
        intrinsics: (f, 4) fx, fy, cx, cy in pixels, corner origin.
        size: (height, width) the intrinsics belong to.
        focal_std: (f,) standard deviation of log focal length from the reduced Hessian; nan when it was not solved.
        pose_std: (f, 6) standard deviations of rotation (rad) and translation; nan when not solved.
        rmse_px: (f,) root mean square reprojection error of the static points, nan where none is seen.
        inlier_ratio: (f,) share of a frame's points that agree with the camera.
        is_keyframe: (f,) frames that the map was built on.
        points: (p, 3) static points in the world, same units as the translations.
        flags: Sorted names of what is doubtful, such as "static_camera", "pure_rotation", "focal_unobservable".
        metric: Whether the translations are metres.
        seen: The observations that the camera was adjusted to.
    """

    c2w: Array
    intrinsics: Array
    size: tuple[int, int]
    focal_std: Array
    pose_std: Array
    rmse_px: Array
    inlier_ratio: Array
    is_keyframe: NDArray[np.bool_]
    points: Array
    flags: tuple[str, ...] = ()
    metric: bool = False
    extra: dict[str, float] = field(default_factory=dict)
    seen: Observations = field(default_factory=_nothing_seen)

    def __len__(self) -> int:
        return len(self.c2w)

    def scaled(self, scale: float, *, metric: bool = False) -> CameraTrack:
        """The same camera with translations and points multiplied by `scale` (> 0)."""
        if not (np.isfinite(scale) and scale > 0):
            raise ValueError(f"scale is {scale}; allowed: a finite number > 0; example: 1.7")
        c2w = self.c2w.copy()
        c2w[:, :3, 3] *= scale
        std = self.pose_std.copy()
        std[:, 3:] *= scale
        return replace(self, c2w=c2w, pose_std=std, points=self.points * scale, metric=metric or self.metric)
