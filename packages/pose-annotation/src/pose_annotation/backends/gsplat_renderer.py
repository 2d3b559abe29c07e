"""Pictures of Gaussian splats along a camera path, by gsplat; it needs a GPU and is brought by the user.

Only the public `gsplat.rasterization` is called. It counts pixels from the corner as we do, takes world-to-camera
matrices in OpenCV axes, and evaluates the spherical harmonics itself.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from camera_control.geometry import invert_rigid
from camera_control.trajectory import Trajectory
from numpy.typing import NDArray

from pose_annotation.backends.loading import require
from pose_annotation.splats import Splats
from pose_annotation.types import Array

NEAR_BLANK = 0.5  # a frame with less of it covered than this is near blank


def render_splats(
    splats: Splats, path: Trajectory, *, device: str = "cuda", batch: int = 8
) -> Iterator[tuple[NDArray[np.uint8], Array]]:
    """Draw a path, `batch` frames at a time: pictures (n, H, W, 3) and the share of each that is covered (n,).

    Raises ValueError for a path without a lens; Missing, a ValueError, when gsplat is not installed.
    """
    if path.intrinsics is None or path.image_size is None:
        raise ValueError(
            "the path has no lens; allowed: intrinsics and image size; example: Trajectory.with_intrinsics"
        )
    gsplat = require("gsplat", "uv pip install gsplat, with a CUDA GPU")
    torch = require("torch", "uv pip install 'pose-annotation[models]'")

    def given(values: Array) -> object:
        return torch.as_tensor(np.ascontiguousarray(values, np.float32), device=device)

    height, width = path.image_size
    scene = [given(v) for v in (splats.means, splats.quaternions, splats.scales, splats.opacity, splats.harmonics)]
    w2c = invert_rigid(path.c2w)
    matrix = np.tile(np.eye(3), (len(path), 1, 1))
    matrix[:, 0, 0], matrix[:, 1, 1] = path.intrinsics[:, 0], path.intrinsics[:, 1]
    matrix[:, :2, 2] = path.intrinsics[:, 2:]
    for low in range(0, len(path), batch):
        part = slice(low, low + batch)
        with torch.no_grad():
            colours, alphas, _ = gsplat.rasterization(
                *scene, given(w2c[part]), given(matrix[part]), width, height, sh_degree=splats.degree
            )
        pictures = (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
        yield pictures, alphas.float().mean(dim=(1, 2, 3)).cpu().numpy().astype(np.float64)


def near_blank_share(covered: Array, least: float = NEAR_BLANK) -> float:
    """Share of frames of which less than `least` is covered; the paper discards clips above 30 %."""
    return float(np.mean(np.asarray(covered) < least)) if len(covered) else 1.0
