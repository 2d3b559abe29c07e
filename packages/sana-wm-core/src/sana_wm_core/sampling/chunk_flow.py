"""Sampling a whole clip with chunk-causal weights: chunks start one after the other and finish in the same order.

Chunk i begins its walk int(i interval steps) steps after the first. While later chunks are still noise, earlier ones
are already clear, so every chunk sees a past that is further ahead than itself. Only chunks that have begun are passed
through the transformer, in its chunk-causal form. Reference: inference 5.5.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sana_wm_core.sampling.chunks import training_chunks
from sana_wm_core.sampling.sampler import (
    Conditions,
    Progress,
    Sampler,
    batch_conditions,
    begin,
    euler_step,
    guided_velocity,
)
from sana_wm_core.sampling.schedule import TRAIN_TIMESTEPS, sigma_grid
from sana_wm_core.sampling.student import cut_camera


@dataclass(frozen=True)
class ChunkFlowSampler:
    """Euler sampler of the chunk-causal teacher.

    Attributes:
        steps: Euler steps of every chunk.
        guidance: Guidance scale; 1 or less = off.
        shift: Flow shift of the noise levels.
        size: Latent frames of a chunk.
        rule: How the clip is cut; see training_chunks.
        interval: Share of a chunk's walk after which the next one begins; None = 1 / number of chunks.
    """

    steps: int = 60
    guidance: float = 5.0
    shift: float = 9.8
    size: int = 3
    rule: str = "first_plus_one"
    interval: float | None = None

    def begins(self, chunks: int) -> list[int]:
        """Global step at which each of `chunks` chunks begins.

        Raises:
            ValueError: An interval that is not above 0.
        """
        interval = 1 / chunks if self.interval is None else self.interval
        if not 0 < interval < float("inf"):
            raise ValueError(f"chunk interval {interval} must be above 0, such as 0.1; leave it out for 1 / chunks")
        return [int(i * interval * self.steps) for i in range(chunks)]

    @torch.no_grad()
    def __call__(
        self,
        model: nn.Module,
        first_latent: Tensor,
        noise: Tensor,
        conditions: Conditions,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Sample one clip; arguments and result as of Sampler."""
        frames = noise.shape[2]
        starts = training_chunks(frames, self.size, self.rule)
        if len(starts) == 1:
            whole = Sampler(self.steps, self.guidance, self.shift)
            return whole(model, first_latent, noise, conditions, on_step)
        begins = self.begins(len(starts))
        levels = sigma_grid(self.steps, self.shift).to(noise.device)
        text, mask, _ = batch_conditions(conditions, self.guidance > 1)
        copies = text.shape[0]
        ends = [*starts[1:], frames]
        latents = begin(noise, first_latent)
        total = begins[-1] + self.steps
        began_s = time.monotonic()
        for step in range(total):
            active = sum(step >= begin for begin in begins)
            end = ends[active - 1]
            sigma = frame_levels(levels, [step - begin for begin in begins[:active]], starts[:active], end)
            timestep = sigma * TRAIN_TIMESTEPS
            camera = cut_camera(conditions.camera, 0, end)
            camera = {name: tensor.expand(copies, *tensor.shape[1:]) for name, tensor in camera.items()}
            velocity = guided_velocity(
                model,
                latents[:, :, :end],
                timestep,
                text,
                self.guidance,
                encoder_attention_mask=mask,
                chunk_index=starts[:active],
                **camera,
            )
            moved = euler_step(latents[:, :, :end], velocity, timestep / TRAIN_TIMESTEPS, levels)
            latents = torch.cat([moved, latents[:, :, end:]], dim=2)
            if on_step is not None:
                on_step(Progress(step + 1, total, float(sigma[-1]), latents, time.monotonic() - began_s))
        return latents


def frame_levels(levels: Tensor, own_steps: Sequence[int], starts: Sequence[int], end: int) -> Tensor:
    """Noise level of each latent frame (end,): chunks by their own step count, finished ones and frame 0 clean."""
    sigma = levels.new_zeros(end)
    for own, first, after in zip(own_steps, starts, [*starts[1:], end], strict=True):
        sigma[first:after] = levels[min(own, len(levels) - 1)]
    sigma[0] = 0.0
    return sigma
