"""The lens of a picture that comes without one: estimated by Pi3X, where the user has installed it.

Pi3X's code is BSD-3-Clause, its weights are CC BY-NC 4.0, so neither is a part of this package nor downloaded by it
unasked. Reference: inference 2.3; Pi3 (arXiv 2507.13347).
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from sana_wm_core.images import as_rgb

REPOSITORY = "yyfz233/Pi3X"
PIXELS = 255_000
PATCH = 14
NARROWEST_DEG, WIDEST_DEG = 25.0, 120.0


def can_estimate() -> bool:
    """Whether Pi3X is installed here."""
    return importlib.util.find_spec("pi3") is not None


def estimate_lens(picture: Image.Image, device: torch.device | str = "cpu", model: Any = None) -> NDArray[np.float64]:
    """Estimate fx, fy, cx, cy, in pixels of a picture, with the principal point in its middle.

    Args:
        picture: Any size.
        device: Where Pi3X works; it is freed afterwards.
        model: Pi3X itself, loaded already; None loads it.

    Raises:
        ValueError: Pi3X is not installed or cannot be loaded, or the field of view it sees cannot be right.
    """
    picture = as_rgb(picture)
    width, height = picture_size(picture.width, picture.height)
    small = picture.resize((width, height), Image.Resampling.LANCZOS)
    pixels = torch.from_numpy(np.array(small, dtype=np.float32) / 255.0).permute(2, 0, 1)[None, None]
    network = (_load() if model is None else model).to(device).eval()
    half = torch.bfloat16
    if torch.device(device).type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        half = torch.float16
    with torch.no_grad(), torch.autocast(torch.device(device).type, dtype=half):
        points = network(pixels.to(device))["local_points"]
    focal_x, focal_y = focal_lengths(points.float().reshape(height, width, 3))
    fx, fy = focal_x * picture.width / width, focal_y * picture.height / height
    seen = [math.degrees(2 * math.atan(size / (2 * f))) for size, f in ((picture.width, fx), (picture.height, fy))]
    if not all(NARROWEST_DEG < angle < WIDEST_DEG for angle in seen):
        raise ValueError(
            f"Pi3X sees a field of view of {seen[0]:.0f} x {seen[1]:.0f} degrees, which cannot be right (25 to 120); "
            "give --intrinsics FILE.npy or --fov DEGREES"
        )
    return np.array([fx, fy, picture.width / 2, picture.height / 2])


def picture_size(width: int, height: int) -> tuple[int, int]:
    """Width and height that Pi3X is given: multiples of 14, about the same shape, at most 255 000 pixels."""
    scale = math.sqrt(PIXELS / (width * height))
    across, down = max(1, round(width * scale / PATCH)), max(1, round(height * scale / PATCH))
    while across * down * PATCH * PATCH > PIXELS:
        if across / down > width / height:
            across -= 1
        else:
            down -= 1
    return across * PATCH, down * PATCH


def focal_lengths(points: Tensor) -> tuple[float, float]:
    """Focal lengths, in pixels, of a camera that sees points (height, width, 3), its axis through the middle.

    Least squares over the rays: u - cx = fx x / z, v - cy = fy y / z.

    Raises:
        ValueError: No points in front of the camera.
    """
    height, width = points.shape[:2]
    front = points[..., 2] > 1e-6
    if not bool(front.any()):
        raise ValueError("Pi3X sees nothing in front of the camera; give --intrinsics FILE.npy or --fov DEGREES")
    u = (torch.arange(width, device=points.device) + 0.5 - width / 2).expand(height, width)[front].double()
    v = (torch.arange(height, device=points.device) + 0.5 - height / 2)[:, None].expand(height, width)[front].double()
    slope_x, slope_y = (points[..., i][front].double() / points[..., 2][front].double() for i in (0, 1))
    fx = (u * slope_x).sum() / slope_x.square().sum().clamp(min=1e-12)
    fy = (v * slope_y).sum() / slope_y.square().sum().clamp(min=1e-12)
    return max(float(fx), 1e-6), max(float(fy), 1e-6)


def require_estimator() -> None:
    """Make sure that a lens can be estimated here.

    Raises:
        ValueError: Pi3X is not installed; says what else to do.
    """
    if not can_estimate():
        raise ValueError(
            "this model needs the picture's lens: give --fov DEGREES (a phone's main camera has about 65), "
            "--intrinsics FILE.npy, or install Pi3X (github yyfz/Pi3; weights CC BY-NC 4.0), which estimates it"
        )


def _load() -> Any:
    require_estimator()
    try:
        network = importlib.import_module("pi3.models.pi3x").Pi3X.from_pretrained(REPOSITORY)
    except Exception as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise ValueError(
            f"Pi3X cannot be loaded ({type(error).__name__}: {reason}); give --fov DEGREES or --intrinsics FILE.npy"
        ) from error
    disable = getattr(network, "disable_multimodal", None)
    if disable is not None:
        disable()
    return network
