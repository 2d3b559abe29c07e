"""A clip made chunk by chunk with gradients where self forcing wants them: in the last call of every chunk.

As published the walk re-noises between steps, unlike the sampler's: x <- (1 - s') x0 + s' e with fresh noise. Memory
holds no gradient, so none flows through time. Reference: training 5.2; self forcing (arXiv 2506.08009).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sana_wm_core.model.clip import BlockMemory
from sana_wm_core.model.memory import Memory, Window, after_chunk
from sana_wm_core.sampling.chunks import bounds
from sana_wm_core.sampling.schedule import TRAIN_TIMESTEPS
from sana_wm_core.sampling.student import cut_camera

Velocity = Callable[..., Any]


def step_levels(step_list: Sequence[float]) -> Tensor:
    """Noise levels of a step list: t / 1000 exactly."""
    return torch.tensor([float(t) for t in step_list], dtype=torch.float64).div(TRAIN_TIMESTEPS).float()


def remember(
    model: Velocity,
    clean: Tensor,
    conditions: dict[str, Any],
    span: tuple[int, int],
    memory: Memory | None,
    window: Window,
) -> Memory:
    """The memory after a finished chunk (b, c, n, y, x) of latent frames span[0] .. span[1] - 1; no gradient."""
    kept: list[BlockMemory] = []
    with torch.no_grad():
        timestep = clean.new_zeros(clean.shape[0], 1, clean.shape[2])
        model(clean.detach(), timestep, **chunk_conditions(conditions, span), memory=memory, kept=kept)
    return after_chunk(memory, kept, clean.shape[2], window)


def clean_guess(
    model: Velocity,
    x: Tensor,
    level: Tensor,
    first: Tensor | None,
    conditions: dict[str, Any],
    span: tuple[int, int],
    memory: Memory | None,
) -> Tensor:
    """What the model takes for the data: x - s v. A given first frame has timestep 0 and is put back."""
    timestep = (TRAIN_TIMESTEPS * level).expand(x.shape[0], 1, x.shape[2]).clone()
    if first is not None:
        timestep[..., 0] = 0
    # A list nobody reads marks the very first chunk's pass as a streaming one.
    kept: list[BlockMemory] | None = [] if memory is None else None
    velocity = model(x, timestep, **chunk_conditions(conditions, span), memory=memory, kept=kept)[0]
    guess = x - level * velocity.to(x.dtype)
    return guess if first is None else torch.cat([first, guess[:, :, 1:]], dim=2)


def roll_out(
    model: Velocity,
    noise: Tensor,
    first: Tensor,
    conditions: dict[str, Any],
    starts: list[int],
    levels: Tensor,
    last: int,
    window: Window,
    fresh: Callable[[int, int], Tensor] | None,
) -> Tensor:
    """Make a clip, every chunk stopped after its step number `last`.

    Args:
        model: Velocity model in the transformer's call.
        noise: (b, c, t, y, x) standard normal, the start of every chunk.
        first: (b, c, 1, y, x) the given first frame.
        conditions: Keyword arguments of the whole clip: text, mask, camera.
        starts: First latent frames of the chunks.
        levels: Noise levels of the step list, ending in 0.
        last: Number of the step whose guess is taken; the only one with a gradient.
        window: Which chunks softmax blocks see.
        fresh: (chunk, step) to new noise of the clip's shape; None walks as the sampler does, without any.

    Returns:
        Guesses of the data (b, c, t, y, x).
    """
    memory: Memory | None = None
    done = []
    for number, (a, b) in enumerate(bounds(starts, noise.shape[2])):
        given = first if a == 0 else None
        x = noise[:, :, a:b]
        if given is not None:
            x = torch.cat([given, x[:, :, 1:]], dim=2)
        guess = x
        for step in range(last + 1):
            with torch.set_grad_enabled(torch.is_grad_enabled() and step == last):
                guess = clean_guess(model, x, levels[step], given, conditions, (a, b), memory)
            if step < last:
                level, guess = levels[step + 1], guess.detach()
                if fresh is None:
                    x = guess + level / levels[step] * (x - guess)
                else:
                    x = (1 - level) * guess + level * fresh(number, step)[:, :, a:b]
                if given is not None:
                    x = torch.cat([given, x[:, :, 1:]], dim=2)
        done.append(guess)
        memory = remember(model, guess, conditions, (a, b), memory, window)
    return torch.cat(done, dim=2)


def behind_clean(
    model: Velocity, latents: Tensor, timestep: Tensor, clean: Tensor, conditions: dict[str, Any], starts: list[int]
) -> Tensor:
    """Velocity (b, c, t, y, x) of noisy clips, every chunk behind the clean data of all chunks before it.

    This is what a chunk meets in a session. The memory of the clean chunks holds no gradient.
    """
    memory: Memory | None = None
    parts = []
    pieces = bounds(starts, latents.shape[2])
    for a, b in pieces:
        kept: list[BlockMemory] | None = [] if memory is None else None
        given = chunk_conditions(conditions, (a, b))
        parts.append(model(latents[:, :, a:b], timestep[..., a:b], **given, memory=memory, kept=kept)[0])
        if b < pieces[-1][1]:
            memory = remember(model, clean[:, :, a:b], conditions, (a, b), memory, Window(0, False))
    return torch.cat(parts, dim=2)


def chunk_conditions(conditions: dict[str, Any], span: tuple[int, int]) -> dict[str, Any]:
    """Keyword arguments for the frames of a chunk."""
    cameras = {k: v for k, v in conditions.items() if k in ("camera_conditions", "chunk_plucker") and v is not None}
    rest = {k: v for k, v in conditions.items() if k not in ("camera_conditions", "chunk_plucker", "chunk_index")}
    return {**rest, **cut_camera(cameras, *span), "return_dict": False}
