"""The noise levels a sampler visits on its way from noise (1) to data (0)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

TRAIN_TIMESTEPS = 1000


def shift_sigma(sigma: np.ndarray | float, shift: float) -> np.ndarray | float:
    """Move noise levels in [0, 1] towards 1: g(x) = s x / (1 + (s - 1) x); shift 1 changes nothing."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def sigma_grid(steps: int, shift: float) -> Tensor:
    """List the noise levels of a flow-matching Euler walk, from 1 down to 0.

    The lowest level is shifted twice: once because the grid ends at g(1/1000), once with the whole grid. The released
    weights were sampled this way, so the quirk is part of the model (diffusers' FlowMatchEulerDiscreteScheduler does
    the same).

    Args:
        steps: Euler steps, at least 1.
        shift: Flow shift, above 0; 9.8 for the released model.

    Returns:
        (steps + 1,) float32, decreasing, first 1, last 0.

    Raises:
        ValueError: steps or shift out of range.

    Reference: SANA-WM (arXiv 2605.15178), inference; shift of Stable Diffusion 3 (arXiv 2403.03206), section 5.3.2.
    """
    if steps < 1:
        raise ValueError(f"the number of steps must be at least 1, such as 60; got {steps}")
    if not (np.isfinite(shift) and shift > 0):
        raise ValueError(f"the flow shift must be above 0, such as 9.8; got {shift}")
    # The scheduler keeps its lowest level in float32; one ulp there would show in the published grids.
    lowest = torch.tensor(1.0) / TRAIN_TIMESTEPS
    sigma_min = (shift * lowest / (1 + (shift - 1) * lowest)).item()
    timesteps = np.linspace(1.0 * TRAIN_TIMESTEPS, sigma_min * TRAIN_TIMESTEPS, steps)
    sigmas = np.asarray(shift_sigma(timesteps / TRAIN_TIMESTEPS, shift), dtype=np.float64)
    return torch.from_numpy(np.append(sigmas, 0.0)).float()
