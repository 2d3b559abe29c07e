"""What can be exchanged: depth, poses, tracks and captions, as small protocols with plain arrays on both sides.

Nothing here fetches weights. Every backend names its version, its weights and their licence; records keep all three.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pose_annotation.types import Array, CameraTrack, Tracks


class Depth(NamedTuple):
    """Depth maps of a clip.

    `z` (f, h, w) along the optical axis, nan where unknown, in any resolution of the pictures' shape; `metric` when in
    metres. `scale_raw` and `scale` (f,) are the factors that a fusion found and used, None without one.
    """

    z: NDArray[np.float32]
    metric: bool
    scale_raw: Array | None = None
    scale: Array | None = None


class Backend(Protocol):
    """What every backend says about itself."""

    name: str
    version: str
    weights_id: str
    licence: str


class DepthBackend(Backend, Protocol):
    """Estimates depth."""

    def infer(self, frames: NDArray[np.uint8], first: int, intrinsics: Array | None) -> Depth:
        """Depth of frames (f, H, W, 3); `first` is the number of the first one in its video, `intrinsics` (4,) px."""
        ...


class TrackBackend(Protocol):
    """Follows points."""

    name: str
    version: str
    weights_id: str

    def track(self, frames: NDArray[np.uint8], mask: NDArray[np.bool_] | None = None) -> Tracks:
        """Tracks through frames (f, H, W, 3); `mask` (f, H, W) is true where the world stands still."""
        ...


class PoseBackend(Backend, Protocol):
    """Solves cameras from pictures alone; the embedded solver works on tracks instead (see solve)."""

    def solve(self, frames: NDArray[np.uint8], fps: float, intrinsics: Array | None) -> CameraTrack:
        """The camera of frames (f, H, W, 3). Raises Unsolvable when there is none."""
        ...


class ScoreBackend(Backend, Protocol):
    """Measures what needs weights: quality, flow, what is in the picture."""

    def score(self, frames: NDArray[np.uint8], fps: float, source_width: int) -> dict[str, float | None]:
        """Scores by their names in the policy; `source_width` is the unit of lengths in pixels, None is unknown."""
        ...


class Missing(ValueError):
    """A backend whose package or weights are not here; the message says how to get them."""


def identity(backend: Backend | TrackBackend | None) -> dict[str, str] | None:
    """Name, version, weights and licence of a backend, as records keep them."""
    if backend is None:
        return None
    names = ("name", "version", "weights_id", "licence")
    return {name: str(getattr(backend, name)) for name in names if hasattr(backend, name)}
