"""How near a decoded video is to the true one, in three ways that a codec fit weighs against each other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in [-1, 1], over all but the first axis."""
    error = (a.float() - b.float()).square().flatten(1).mean(1)
    return 10 * torch.log10(4.0 / error.clamp_min(1e-10))


def local_detail(video: Tensor) -> Tensor:
    """Strength of fine detail of video (b, 3, f, H, W): RMS of the Laplacian of luma over 8 x 8 pixels, (b, f, y, x).

    Matching it asks for as much detail as there should be, not for each pixel of it: what a decoder cannot know it may
    draw, where squared error alone would leave grey.
    """
    luma = (video * video.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1, 1)).sum(1)
    around = luma[..., :-2, 1:-1] + luma[..., 2:, 1:-1] + luma[..., 1:-1, :-2] + luma[..., 1:-1, 2:]
    return (F.avg_pool2d((4 * luma[..., 1:-1, 1:-1] - around).square(), 8, ceil_mode=True) + 1e-5).sqrt()


def edge_error(a: Tensor, b: Tensor) -> Tensor:
    """Mean absolute error of horizontal and vertical differences: keeps edges sharp where squared error would blur."""
    difference = a - b
    return difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
