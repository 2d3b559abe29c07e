"""Pi3 and Pi3X, the released benchmark's estimators, when their package and a local checkpoint are there.

Their weights are CC BY-NC 4.0, so they are never fetched here. Reference: benchmark specification 3.1, step A.
"""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from wm_bench.estimators import PoseEstimate, PoseRequest, Unavailable

_PATCH = 14
_MOST_PX = 255_000
_CLASSES = {"pi3": ("pi3.models.pi3", "Pi3"), "pi3x": ("pi3.models.pi3x", "Pi3X")}


def input_size(height: int, width: int) -> tuple[int, int]:
    """The size frames are brought to: multiples of 14, at most 255,000 pixels, nearly the same shape.

    Small frames are enlarged to the same budget: 1280x720 becomes 672x378, 128x128 becomes 504x504.
    """
    scale = (_MOST_PX / (height * width)) ** 0.5
    rows, columns = round(height * scale / _PATCH), round(width * scale / _PATCH)
    while rows * columns * _PATCH**2 > _MOST_PX:
        if columns / rows > width / height:
            columns -= 1
        else:
            rows -= 1
    return rows * _PATCH, columns * _PATCH


class Pi3:
    """All frames in one pass; the option is the checkpoint's folder, in the layout of its publisher."""

    def __init__(self, name: str, options: str = "") -> None:
        self.id = name
        module, self._class = _CLASSES[name]
        folder = Path(options).expanduser()
        if not options or not folder.is_dir():
            raise Unavailable(f"{name} needs its package and a local checkpoint; run it as --estimator {name}:FOLDER")
        try:
            self._module: Any = importlib.import_module(module)
        except ImportError:
            raise Unavailable(f"{name} needs the package pi3, which is not installed") from None
        self._folder = folder
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        # The same weights in another arithmetic are another estimator.
        self._dtype = _autocast_dtype() if self._device == "cuda" else torch.float32
        self.version = f"1;{str(self._dtype).removeprefix('torch.')}"
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        total = hashlib.sha256()
        for file in files:
            total.update(f"{file.relative_to(folder)}\0".encode())
            with file.open("rb") as opened:
                total.update(hashlib.file_digest(opened, "sha256").digest())
        self.weights_sha256 = total.hexdigest()
        self._model: Any = None

    @torch.no_grad()
    def estimate(self, request: PoseRequest) -> PoseEstimate:
        """Poses of all frames, in the estimator's own frame and scale."""
        if self._model is None:
            made = getattr(self._module, self._class).from_pretrained(str(self._folder))
            self._model = made.to(self._device).eval()
        pixels = torch.from_numpy(_prepare(request.frames)).to(self._device)[None]
        half = self._dtype != torch.float32
        with torch.autocast(self._device, dtype=self._dtype if half else torch.bfloat16, enabled=half):
            found = self._model(pixels)
        c2w = found["camera_poses"][0].double().cpu().numpy()
        placed = np.asarray(np.isfinite(c2w).all(axis=(1, 2)), dtype=np.bool_)
        c2w[~placed] = np.eye(4)
        c2w[:, :3, :3] = _orthonormal(c2w[:, :3, :3])
        return PoseEstimate(c2w, placed)


def _autocast_dtype() -> torch.dtype:
    """Bfloat16 from Ampere on, half precision before."""
    return torch.bfloat16 if torch.cuda.get_device_capability()[0] >= 8 else torch.float16


def _prepare(frames: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = input_size(*frames.shape[1:3])
    small = [Image.fromarray(f).resize((width, height), Image.Resampling.LANCZOS) for f in frames]
    return np.stack([np.asarray(f, dtype=np.float32).transpose(2, 0, 1) / 255.0 for f in small])


def _orthonormal(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """The nearest rotations: half precision leaves them off by a thousandth."""
    u, _, vt = np.linalg.svd(rotations)
    sign = np.sign(np.linalg.det(u) * np.linalg.det(vt))
    u[:, :, 2] *= sign[:, None]
    return np.asarray(u @ vt, dtype=np.float64)
