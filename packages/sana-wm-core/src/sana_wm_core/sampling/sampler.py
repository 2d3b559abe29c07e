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
from typing import Any, NamedTuple, Protocol

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


class Walk(NamedTuple):
    """The way from noise to data.

    Attributes:
        timesteps: (n,) float32 timesteps the model is asked at.
        levels: (n + 1,) noise levels, the last 0.
        move: Latents after a step: takes latents, velocity, each frame's timestep (t,) and the step's number from 0.
    """

    timesteps: Tensor
    levels: Tensor
    move: Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Sampler:
    """Whole-clip Euler sampler with classifier-free guidance.

    Attributes:
        steps: Euler steps.
        guidance: v = v_negative + guidance (v_text - v_negative); 1 or less turns guidance off and halves the work.
        shift: Flow shift of the noise levels.
        keep_picture: Whether latent frame 0 stays the picture. Without it every frame has the same timestep and the
            picture drifts: the original script's flow_euler.

    Reference: SANA-WM (arXiv 2605.15178), inference of the bidirectional model.
    """

    steps: int = 60
    guidance: float = 5.0
    shift: float = 9.8
    keep_picture: bool = True

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
        walk = self.walk(noise.device)
        text, mask, camera = batch_conditions(conditions, self.guidance > 1)
        latents = begin(noise, first_latent)
        given = torch.zeros(latents.shape[2], dtype=torch.bool, device=latents.device)
        given[0] = self.keep_picture

        began_s = time.monotonic()
        for step, moment in enumerate(walk.timesteps):
            timestep = moment.expand(len(given)).masked_fill(given, 0.0)
            velocity = guided_velocity(
                model, latents, timestep, text, self.guidance, encoder_attention_mask=mask, **camera
            )
            moved = walk.move(latents, velocity, timestep, step)
            latents = torch.where(given.view(1, 1, -1, 1, 1), latents, moved)
            if on_step is not None:
                elapsed_s = time.monotonic() - began_s
                on_step(Progress(step + 1, self.steps, float(walk.levels[step + 1]), latents, elapsed_s))
        return latents

    def walk(self, device: torch.device) -> Walk:
        """The steps of a clip; other whole-clip samplers differ in this."""
        levels = sigma_grid(self.steps, self.shift).to(device)

        def move(latents: Tensor, velocity: Tensor, timestep: Tensor, step: int) -> Tensor:
            # Timesteps first, levels from them: the float32 round trip is part of the reference's arithmetic.
            return euler_step(latents, velocity, timestep / TRAIN_TIMESTEPS, levels)

        return Walk(levels[:-1] * TRAIN_TIMESTEPS, levels, move)


def begin(noise: Tensor, first_latent: Tensor) -> Tensor:
    """Noise (1, c, t, y, x) whose frame 0 is the picture, (1, c, 1, y, x)."""
    assert noise.shape[0] == 1 and noise.shape[3:] == first_latent.shape[3:], (noise.shape, first_latent.shape)
    latents = noise.clone()
    latents[:, :, :1] = first_latent.to(latents)
    return latents


def guided_velocity(
    model: Callable[..., Any], latents: Tensor, timestep: Tensor, text: Any, guidance: float, **conditions: Any
) -> Tensor:
    """Ask the model once: the velocity (1, c, t, y, x) of latents at timesteps (t,).

    With guidance above 1, text and conditions hold the negative prompt's and the prompt's, in this order.
    """
    copies = 2 if guidance > 1 else 1
    many = latents.expand(copies, -1, -1, -1, -1)
    velocity = model(many, timestep.expand(copies, 1, -1), text, return_dict=False, **conditions)[0]
    if copies == 1:
        return velocity
    negative, positive = velocity.chunk(2)
    return negative + guidance * (positive - negative)


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
