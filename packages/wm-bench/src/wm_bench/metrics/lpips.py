"""LPIPS (AlexNet, v0.1) from a weights file the user has; without one it is unavailable, never approximated."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as nn

from wm_bench.estimators import Unavailable

# Per layer of AlexNet's feature part: index in the published model, stride, padding, max-pool before it.
_LAYERS = ((0, 4, 2, False), (3, 1, 2, True), (6, 1, 1, True), (8, 1, 1, False), (10, 1, 1, False))
_SHIFT = torch.tensor([-0.030, -0.088, -0.188]).view(1, 3, 1, 1)
_SCALE = torch.tensor([0.458, 0.448, 0.450]).view(1, 3, 1, 1)


class Lpips:
    """Perceptual distance of pictures; lower is more alike, 0 for equal ones.

    The file (.safetensors, .pth or .pt) holds AlexNet's features.N.weight/bias and the five heads linK.model.1.weight
    of lpips v0.1; both published files may be merged into one.
    """

    id = "lpips-alex-v0.1"

    def __init__(self, path: Path | None) -> None:
        if path is None:
            raise Unavailable("no LPIPS weights; give --lpips-weights FILE with AlexNet and the v0.1 heads")
        if not path.is_file():
            raise ValueError(f"no LPIPS weights at {path}; allowed: a .safetensors or .pth file")
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
        try:
            self._filters = [(state[f"features.{i}.weight"], state[f"features.{i}.bias"]) for i, *_ in _LAYERS]
            self._heads = [state[f"lin{k}.model.1.weight"].reshape(1, -1, 1, 1) for k in range(len(_LAYERS))]
        except KeyError as error:
            raise ValueError(f"{path.name} lacks {error}; allowed: AlexNet features.* and lin0..lin4.model.1") from None
        with path.open("rb") as opened:
            self.weights_sha256 = hashlib.file_digest(opened, "sha256").hexdigest()

    @torch.no_grad()
    def __call__(self, a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
        """Distance of two pictures (H, W, 3), at their own size."""
        total = 0.0
        for head, x, y in zip(self._heads, self._features(a), self._features(b), strict=True):
            difference = (_normalised(x) - _normalised(y)) ** 2
            total += float((difference * head).sum(1).mean())
        return total

    def _features(self, picture: NDArray[np.uint8]) -> list[Tensor]:
        x = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None].float() / 127.5 - 1.0
        x = (x - _SHIFT) / _SCALE
        out = []
        for (weight, bias), (_, stride, padding, pool) in zip(self._filters, _LAYERS, strict=True):
            if pool:
                x = nn.max_pool2d(x, 3, 2)
            x = nn.relu(nn.conv2d(x, weight, bias, stride, padding))
            out.append(x)
        return out


def _normalised(x: Tensor) -> Tensor:
    return x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
