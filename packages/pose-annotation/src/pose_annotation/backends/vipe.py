"""ViPE as the pose backend: its command is run in its own environment, and its artifacts are read."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from camera_control.geometry import invert_rigid, relative_to_first
from numpy.typing import NDArray

from pose_annotation.backends import Missing
from pose_annotation.exporters.vipe import read
from pose_annotation.outputs import write_video
from pose_annotation.rotations import interpolate_poses
from pose_annotation.solve import Unsolvable
from pose_annotation.types import Array, CameraTrack


class Vipe:
    """Runs `command infer VIDEO --output FOLDER`; ViPE needs a GPU and is installed by the user.

    Its poses are metric by its own depth model. Raises Missing when the command is not found.
    """

    name = "vipe"
    weights_id = "vipe's own"
    licence = "Apache-2.0 (code); UniK3D non-commercial"

    def __init__(self, command: str = "vipe", *, timeout_s: float = 3600.0) -> None:
        found = shutil.which(command)
        if found is None:
            raise Missing(f"no command {command!r}; allowed: ViPE installed in its own environment, or --pose own")
        self._command, self._timeout_s, self.version = found, timeout_s, "artifacts"

    def solve(self, frames: NDArray[np.uint8], fps: float, intrinsics: Array | None) -> CameraTrack:
        """The camera of frames (f, H, W, 3), interpolated where ViPE skipped one. Raises Unsolvable on its failure."""
        size = (int(frames.shape[1]) // 2 * 2, int(frames.shape[2]) // 2 * 2)
        with tempfile.TemporaryDirectory(prefix="pose-annotation-") as folder:
            root = Path(folder)
            write_video(root / "clip.mp4", frames[:, : size[0], : size[1]], fps)
            arguments = [self._command, "infer", str(root / "clip.mp4"), "--output", str(root / "out")]
            try:
                done = subprocess.run(arguments, capture_output=True, text=True, timeout=self._timeout_s, check=False)
            except subprocess.TimeoutExpired:
                raise Unsolvable(f"ViPE took longer than {self._timeout_s:g} s; allowed: a shorter clip") from None
            if done.returncode:
                last = (done.stderr.strip().splitlines() or ["no message"])[-1]
                raise Unsolvable(f"ViPE ended with {done.returncode}: {last[:200]}")
            found = read(root / "out", "clip")
        every = np.arange(len(frames))
        w2c = invert_rigid(found.c2w)
        turn, shift = interpolate_poses(found.inds.astype(float), w2c[:, :3, :3], w2c[:, :3, 3], every.astype(float))
        poses = np.tile(np.eye(4), (len(every), 1, 1))
        poses[:, :3, :3] = np.swapaxes(turn, 1, 2)
        poses[:, :3, 3] = -np.einsum("nji,nj->ni", turn, shift)
        lens = np.stack([np.interp(every, found.inds, column) for column in found.intrinsics.T], -1)
        nan = np.full((len(every), 6), np.nan)
        return CameraTrack(
            relative_to_first(poses), lens, (int(frames.shape[1]), int(frames.shape[2])), nan[:, 0], nan, nan[:, 0],
            np.ones(len(every)), np.isin(every, found.inds), np.zeros((0, 3)), metric=True,
        )  # fmt: skip
