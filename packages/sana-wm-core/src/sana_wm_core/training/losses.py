"""The flow-matching objective (training.md section 2; SANA-WM, arXiv 2605.15178, Training)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class NoisyClip(NamedTuple):
    """What one objective evaluation needs besides the conditions."""

    latents: Tensor  # (b, c, t, y, x) noisy; frame 0 clean where the first frame is given
    target: Tensor  # (b, c, t, y, x) the velocity, noise minus data
    timestep: Tensor  # (b, 1, t) in [0, 1000]
    weight: Tensor  # (b, 1, t, 1, 1) 0 on given frames, else 1


def shift_sigma(sigma: Tensor, shift: float) -> Tensor:
    """Move noise levels in [0, 1] towards 1: s x / (1 + (s - 1) x); shift 1 changes nothing."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def draw_sigma(count: int, shift: float, mean: float, std: float, generator: torch.Generator) -> Tensor:
    """Shifted logit-normal noise levels (count,), in (0, 1)."""
    normal = torch.randn(count, generator=generator)
    return shift_sigma(torch.sigmoid(mean + std * normal), shift)


def add_noise(clean: Tensor, sigma: Tensor, noise: Tensor, given_first: Tensor) -> NoisyClip:
    """Put a clip on the straight path between data and noise.

    x_sigma = (1 - sigma) x_0 + sigma e and v = e - x_0. Where given_first is set, latent frame 0 stays clean, gets
    timestep 0 and carries no loss: that is the whole of the picture conditioning.

    Args:
        clean: (b, c, t, y, x) normalised latents.
        sigma: (b,) in [0, 1].
        noise: Same shape as clean, standard normal.
        given_first: (b,) bool.
    """
    b, _, t = clean.shape[:3]
    level = sigma.view(b, 1, 1, 1, 1).expand(b, 1, t, 1, 1).clone()
    level[:, :, 0][given_first] = 0.0
    weight = torch.ones_like(level)
    weight[:, :, 0][given_first] = 0.0
    latents = (1 - level) * clean + level * noise
    return NoisyClip(latents, noise - clean, 1000 * level.view(b, 1, t), weight)


def flow_loss(velocity: Tensor, clip: NoisyClip) -> Tensor:
    """Mean squared velocity error over the frames that carry loss, per clip (b,)."""
    error = (velocity.float() - clip.target).square().mean(dim=(1, 3, 4), keepdim=True)
    return (error * clip.weight).sum(dim=(1, 2, 3, 4)) / clip.weight.sum(dim=(1, 2, 3, 4)).clamp_min(1)
