"""THE SAMPLER: noise in, a clip of latents out, following the text and the camera.

The transformer predicts the velocity v = noise - data of a straight path x_sigma = (1 - sigma) data + sigma noise.
Walking down the levels sigma_0 = 1 > ... > sigma_n = 0 with Euler steps

    x <- x - (sigma_i - sigma_{i+1}) v(x, 1000 sigma_i)

arrives at the data. The first latent frame is the picture: it enters clean, its own timestep is always 0, and it
never moves. So every latent frame has its own timestep, (b, 1, t).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from sana_wm_core.sampling.schedule import TRAIN_TIMESTEPS, sigma_grid


class VelocityModel(Protocol):
    """What the sampler needs of a transformer: a call from noisy latents to their velocity."""

    def __call__(
        self, hidden_states: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **conditions: Any
    ) -> Any: ...


@dataclass(frozen=True)
class Conditions:
    """What a clip must follow.

    Attributes:
        text: Caption states (1, 1, l, c).
        text_mask: (1, l), nonzero where a token counts.
        negative_text: States of what to stay away from, same shape; needed only when guidance is on.
        negative_mask: Its mask.
        camera: Keyword tensors for the transformer, batch 1: camera_conditions (1, t, 20) and
            chunk_plucker (1, 48, t, y, x); empty = no camera.
    """

    text: Tensor
    text_mask: Tensor
    negative_text: Tensor | None = None
    negative_mask: Tensor | None = None
    camera: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Progress:
    """Where a sampling run stands after a step.

    Attributes:
        step: Finished steps, from 1.
        steps: All steps.
        sigma: Noise level just reached.
        latents: The clip so far (1, c, t, y, x).
        elapsed_s: Seconds since the first step began.
    """

    step: int
    steps: int
    sigma: float
    latents: Tensor
    elapsed_s: float

    @property
    def left_s(self) -> float:
        """Seconds still to go at the speed so far."""
        return self.elapsed_s / self.step * (self.steps - self.step)


@dataclass(frozen=True)
class Sampler:
    """Whole-clip Euler sampler with classifier-free guidance.

    Attributes:
        steps: Euler steps.
        guidance: v = v_negative + guidance (v_text - v_negative); 1 or less turns guidance off and halves the work.
        shift: Flow shift of the noise levels.

    Reference: SANA-WM (arXiv 2605.15178), inference of the bidirectional model.
    """

    steps: int = 60
    guidance: float = 5.0
    shift: float = 9.8

    @torch.no_grad()
    def __call__(
        self,
        model: VelocityModel,
        first_latent: Tensor,
        noise: Tensor,
        conditions: Conditions,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Sample one clip.

        Args:
            model: The transformer.
            first_latent: The picture as latent frame 0, (1, c, 1, y, x), normalised.
            noise: Standard normal (1, c, t, y, x), in the data type the transformer works in.
            conditions: Text and camera.
            on_step: Called after every step; raise in it to stop.

        Returns:
            Latents (1, c, t, y, x); frame 0 equals first_latent bit for bit.
        """
        assert noise.shape[0] == 1 and noise.shape[3:] == first_latent.shape[3:], (noise.shape, first_latent.shape)
        levels = sigma_grid(self.steps, self.shift).to(noise.device)
        guided = self.guidance > 1
        text, mask, camera = batch_conditions(conditions, guided)
        copies = 2 if guided else 1

        latents = noise.clone()
        latents[:, :, :1] = first_latent.to(latents)
        given = torch.zeros(latents.shape[2], dtype=torch.bool, device=latents.device)
        given[0] = True

        began_s = time.monotonic()
        for step in range(self.steps):
            # Timesteps first, levels from them: the float32 round trip is part of the reference's arithmetic.
            timestep = (levels[step] * TRAIN_TIMESTEPS).expand(len(given)).masked_fill(given, 0.0)
            velocity = model(
                latents.expand(copies, -1, -1, -1, -1),
                timestep.expand(copies, 1, -1),
                text,
                encoder_attention_mask=mask,
                return_dict=False,
                **camera,
            )[0]
            if guided:
                negative, positive = velocity.chunk(2)
                velocity = negative + self.guidance * (positive - negative)
            moved = euler_step(latents, velocity, timestep / TRAIN_TIMESTEPS, levels)
            latents = torch.where(given.view(1, 1, -1, 1, 1), latents, moved)
            if on_step is not None:
                elapsed_s = time.monotonic() - began_s
                on_step(Progress(step + 1, self.steps, float(levels[step + 1]), latents, elapsed_s))
        return latents


def euler_step(latents: Tensor, velocity: Tensor, sigma: Tensor, levels: Tensor) -> Tensor:
    """Move every latent frame from its own noise level to the next lower one of the list.

    Args:
        latents: (b, c, t, y, x).
        velocity: Same shape.
        sigma: Level of each latent frame, (t,) float32 in [0, 1].
        levels: The list, decreasing, last 0.

    Returns:
        The moved latents, computed in float32 and cast back to the data type they came in.
    """
    # 1e-6 keeps a level from counting as lower than itself after the round trip through timesteps.
    below = torch.where(levels[:, None] < sigma - 1e-6, levels[:, None], 0.0)
    drop = (sigma - below.amax(dim=0)).view(1, 1, -1, 1, 1)
    return (latents.float() - drop * velocity.float()).to(latents.dtype)


def batch_conditions(conditions: Conditions, guided: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Stack the conditions for one call of the transformer: [negative, text] when guided, else [text]."""
    if not guided:
        return conditions.text, conditions.text_mask, conditions.camera
    negative, negative_mask = conditions.negative_text, conditions.negative_mask
    assert negative is not None and negative_mask is not None, "guidance above 1 needs an encoded negative prompt"
    text = torch.cat([negative, conditions.text])
    mask = torch.cat([negative_mask, conditions.text_mask])
    return text, mask, {name: tensor.expand(2, *tensor.shape[1:]) for name, tensor in conditions.camera.items()}
