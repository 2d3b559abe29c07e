"""Distribution matching: where two scores disagree about a clip is the direction the clip should move.

Pure functions; reference: training 5.4; DMD2 (arXiv 2405.14867) for clips as in self forcing (arXiv 2506.08009).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sana_wm_core.sampling.schedule import TRAIN_TIMESTEPS
from sana_wm_core.training.losses import shift_sigma
from sana_wm_core.training.stages import Distill


def score_level(settings: Distill, generator: torch.Generator) -> Tensor:
    """The noise level a clip is shown to the scores at: uniform, shifted, clamped; ()."""
    t = torch.randint(TRAIN_TIMESTEPS, (), generator=generator).double() / TRAIN_TIMESTEPS
    low, high = settings.score_range
    return shift_sigma(t, settings.score_shift).mul(TRAIN_TIMESTEPS).clamp(low, high).div(TRAIN_TIMESTEPS).float()


def noised(x: Tensor, level: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Clips (b, c, t, y, x) at their levels (b,), the first frame clean; and the timesteps (b, 1, t)."""
    per_frame = level.view(-1, 1, 1).repeat(1, 1, x.shape[2])
    per_frame[..., 0] = 0
    return torch.lerp(x, noise, per_frame[..., None, None].to(x.dtype)), TRAIN_TIMESTEPS * per_frame


def clean_from(velocity: Tensor, x: Tensor, timestep: Tensor) -> Tensor:
    """The data a velocity points at: x - s v."""
    return x - (timestep / TRAIN_TIMESTEPS)[..., None, None].to(x.dtype) * velocity.to(x.dtype)


def guided(with_text: Tensor, without: Tensor, guidance: float) -> Tensor:
    """c + guidance (c - u)."""
    return with_text + guidance * (with_text - without)


def dmd_gradient(x: Tensor, fake: Tensor, real: Tensor) -> Tensor:
    """(fake - real) over the clip's mean distance to the real score's guess; NaN becomes 0."""
    size = (x - real).abs().mean(dim=(1, 2, 3, 4), keepdim=True).clamp_min(1e-6)
    return torch.nan_to_num((fake - real) / size)


def generator_loss(x: Tensor, gradient: Tensor) -> Tensor:
    """A loss whose gradient in x is `gradient` over the number of elements; the first frame is given and left out."""
    target = (x - gradient).detach()
    return 0.5 * (x - target)[:, :, 1:].square().mean()


def critic_loss(velocity: Tensor, x: Tensor, noise: Tensor) -> Tensor:
    """Flow matching of the fake score on the student's clips; the first frame is left out."""
    return (velocity - (noise - x))[:, :, 1:].square().mean()


def score_conditions(conditions: dict[str, Any]) -> dict[str, Any]:
    """The scores see the whole clip both ways in time: no chunks."""
    return {**conditions, "chunk_index": None}
