"""Structure from motion with pycolmap as the pose backend: SIFT, matching in sequence, incremental mapping."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from camera_control.geometry import invert_rigid, relative_to_first
from numpy.typing import NDArray

from pose_annotation.backends.loading import require
from pose_annotation.opencv import cv2
from pose_annotation.solve import Unsolvable
from pose_annotation.types import Array, CameraTrack


class Colmap:
    """pycolmap with a lens per frame, or a shared one; all frames must register. Not deterministic.

    Raises Missing when pycolmap is not installed.
    """

    name = "pycolmap"
    weights_id = "none"
    licence = "BSD-3-Clause"

    def __init__(self, *, shared_lens: bool = False, overlap: int = 10) -> None:
        self._colmap: Any = require("pycolmap", "pip install 'pose-annotation[colmap]'")
        self._shared, self._overlap = shared_lens, overlap
        self.version = f"{self._colmap.__version__};shared={shared_lens};overlap={overlap}"

    def solve(self, frames: NDArray[np.uint8], fps: float, intrinsics: Array | None) -> CameraTrack:
        """The camera of frames (f, H, W, 3). Raises Unsolvable when a frame does not register."""
        colmap = self._colmap
        colmap.logging.minloglevel = 3
        colmap.set_random_seed(0)
        height, width = frames.shape[1:3]
        with tempfile.TemporaryDirectory(prefix="pose-annotation-") as folder:
            root = Path(folder)
            (root / "images").mkdir()
            names = [f"{number:05d}.png" for number in range(len(frames))]
            for name, frame in zip(names, frames, strict=True):
                cv2.imwrite(str(root / "images" / name), cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            mode = colmap.CameraMode.SINGLE if self._shared else colmap.CameraMode.PER_IMAGE
            reader = colmap.ImageReaderOptions()
            reader.camera_model = "PINHOLE"
            if intrinsics is not None:
                reader.camera_params = ",".join(repr(float(v)) for v in intrinsics.reshape(-1, 4)[0])
            colmap.extract_features(root / "db", root / "images", camera_mode=mode, reader_options=reader)
            pairing = colmap.SequentialPairingOptions()
            pairing.overlap = self._overlap
            colmap.match_sequential(root / "db", pairing_options=pairing)
            models = colmap.incremental_mapping(root / "db", root / "images", root)
        best = max(models.values(), key=lambda model: model.num_reg_images(), default=None)
        registered = 0 if best is None else best.num_reg_images()
        if best is None or registered < len(names):
            raise Unsolvable(f"pycolmap registered {registered} of {len(names)} frames; allowed: all of them")
        return _as_camera(best, names, (int(height), int(width)))


def _as_camera(model: Any, names: list[str], size: tuple[int, int]) -> CameraTrack:
    n = len(names)
    w2c, lens = np.tile(np.eye(4), (n, 1, 1)), np.zeros((n, 4))
    depths = []
    points = np.array([point.xyz for point in model.points3D.values()])
    for image in model.images.values():
        place = names.index(image.name)
        pose = image.cam_from_world
        w2c[place, :3] = (pose() if callable(pose) else pose).matrix()
        lens[place] = model.cameras[image.camera_id].params
        depths.append(points @ w2c[place, 2, :3] + w2c[place, 2, 3])
    nan = np.full((n, 6), np.nan)
    camera = CameraTrack(
        relative_to_first(invert_rigid(w2c)), lens, size, nan[:, 0], nan, nan[:, 0], np.ones(n), np.zeros(n, bool),
        points @ w2c[0, :3, :3].T + w2c[0, :3, 3], extra={"points": float(len(points))},
    )  # fmt: skip
    z = np.concatenate(depths)
    return camera.scaled(1.0 / float(np.median(z[z > 0])))
