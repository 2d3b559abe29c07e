"""The camera of a session: where it is, how it got there, and the tensors of the next chunk."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from camera_control import rays
from camera_control.actions import parse_actions
from camera_control.dialects import CONTROLS, get_dialect
from camera_control.geometry import invert_rigid
from camera_control.rollout import roll_out
from numpy.typing import NDArray
from torch import Tensor


def _origin() -> NDArray[np.float64]:
    return np.eye(4)


def _nothing() -> NDArray[np.bool_]:
    return np.zeros((0, len(CONTROLS)), dtype=bool)


@dataclass(frozen=True, eq=False)
class CameraTrack:
    """A camera path so far, as a value; poses are relative to the session's first frame.

    Attributes:
        translation_speed: Metres per held frame.
        rotation_speed_deg: Degrees per held frame.
        dialect: What keys mean; see camera_control.dialects.
        base: (4, 4) float64 pose at which the held controls begin.
        held: (n, 8) controls since then, one row a frame: eight bytes a frame, the only part of a session that grows.
    """

    translation_speed: float = 0.05
    rotation_speed_deg: float = 1.2
    dialect: str = "sana-v1"
    base: NDArray[np.float64] = field(default_factory=_origin)
    held: NDArray[np.bool_] = field(default_factory=_nothing)

    @property
    def pose(self) -> NDArray[np.float32]:
        """Camera-to-world pose of the last frame."""
        return self._poses()[-1]

    def parse(self, action: str) -> NDArray[np.bool_]:
        """Controls (f, 8) of an action string such as "w-24"."""
        return parse_actions(action, self.dialect).held

    def hold(self, rows: NDArray[np.bool_]) -> tuple[CameraTrack, NDArray[np.float32]]:
        """Hold controls (f, 8) and return the track after them with the poses (f, 4, 4) of the frames.

        Rolled out from the beginning, so that any cutting of an action string gives the same poses.
        """
        track = replace(self, held=np.concatenate([self.held, rows]))
        return track, track._poses()[len(self.held) + 1 :]

    def follow(self, c2w: NDArray[np.floating]) -> tuple[CameraTrack, NDArray[np.float32]]:
        """Continue along poses (f + 1, 4, 4) whose first stands for where the camera is now.

        Controls held afterwards move on the horizontal plane of the last pose.
        """
        given = np.asarray(c2w, dtype=np.float64)
        step = invert_rigid(given[:1]) @ given[1:]
        poses = self.pose.astype(np.float64) @ step
        return replace(self, base=poses[-1], held=_nothing()), poses.astype(np.float32)

    def _poses(self) -> NDArray[np.float32]:
        motion = get_dialect(self.dialect).motion
        rolled = roll_out(self.held, self.translation_speed, self.rotation_speed_deg, motion)
        if np.array_equal(self.base, np.eye(4)):
            return rolled
        return (self.base @ rolled).astype(np.float32)


def chunk_camera(
    c2w: NDArray[np.float32],
    lens: NDArray[np.floating],
    size: tuple[int, int],
    latent_size: tuple[int, int],
    stride: int,
    first: bool,
) -> dict[str, Tensor]:
    """Camera tensors of one chunk, batch 1, equal to the same part of the whole clip's.

    Args:
        c2w: Poses of the chunk's raw frames relative to frame 0: 1 + stride (n - 1) of them in the first chunk, frame 0
            in front, stride n in a later one.
        lens: (4,) fx, fy, cx, cy in pixels of the cropped picture.
        size: Height and width of that picture, pixels.
        latent_size: Rows and columns of the latent grid.
        stride: Raw frames per latent frame.
        first: Whether it is the first chunk.
    """
    intrinsics = np.repeat(np.asarray(lens, dtype=np.float32)[None], len(c2w), axis=0)
    if first:
        rows = rays.camera_conditions(c2w, intrinsics, size, latent_size, stride)
        packed = rays.chunk_plucker(c2w, intrinsics, size, latent_size, stride)
    else:
        focal = rays.latent_intrinsics(intrinsics, size, latent_size)
        rows = np.concatenate([c2w[stride - 1 :: stride].reshape(-1, 16), focal[stride - 1 :: stride]], axis=-1)
        seen = rays.plucker_rays(c2w, focal, latent_size).reshape(-1, stride, *latent_size, 6)
        packed = seen.transpose(1, 4, 0, 2, 3).reshape(6 * stride, -1, *latent_size)
    arrays = {"camera_conditions": rows, "chunk_plucker": packed}
    return {name: torch.from_numpy(np.ascontiguousarray(array, np.float32))[None] for name, array in arrays.items()}
