"""Sampling a chunk of latent frames at a time, each behind the memory of all chunks before it.

A chunk walks from noise down a short list of levels with plain Euler steps; the memory is only read meanwhile. One more
pass over the finished chunk, at timestep 0, hands it over to the memory. There is no noise added between steps.
Reference: streaming 3.4 and 4; self forcing (arXiv 2506.08009).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.clip import BlockMemory
from sana_wm_core.model.memory import Memory, ReadText, Window, after_chunk
from sana_wm_core.sampling.chunks import bounds, streaming_chunks
from sana_wm_core.sampling.sampler import Conditions, batch_conditions, begin, euler_step, guided_velocity
from sana_wm_core.sampling.schedule import TRAIN_TIMESTEPS, sigma_grid

STUDENT_STEPS = (1000.0, 960.0, 889.0, 727.0, 0.0)


def parse_steps(text: str) -> tuple[float, ...]:
    """Read a list of timesteps such as "1000,960,889,727,0".

    Raises:
        ValueError: Not whole numbers from 1000 down to 0, or fewer than two.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise ValueError(f"step list {text!r} must be a comma-separated list ending with 0, such as 1000,960,889,727,0")
    return check_steps([float(part) for part in parts])


def check_steps(steps: Sequence[float]) -> tuple[float, ...]:
    """Return a list of timesteps that a sampler can walk down.

    Raises:
        ValueError: Fewer than two, not decreasing, above 1000, or not ending in 0.
    """
    falling = all(a > b for a, b in zip(steps, [*steps[1:], -1.0], strict=True))
    if len(steps) < 2 or not falling or steps[0] > TRAIN_TIMESTEPS or steps[-1] != 0:
        shown = ",".join(f"{step:g}" for step in steps)
        raise ValueError(f"step list {shown} must fall from at most 1000 and end with 0, such as 1000,960,889,727,0")
    return tuple(float(step) for step in steps)


def grid_steps(steps: int, shift: float) -> tuple[float, ...]:
    """The list of timesteps for weights that were not distilled: the grid of the whole-clip sampler."""
    return tuple((sigma_grid(steps, shift) * TRAIN_TIMESTEPS).tolist())


@dataclass(frozen=True)
class ChunkSampler:
    """Makes a clip chunk by chunk.

    Attributes:
        steps: Timesteps the walk visits, from 1000 to 0; the released student knows only its own list.
        guidance: Guidance scale; 1 or less = off. The released student has it built in.
        size: Latent frames of a chunk; the first chunk of a clip may be longer.
        window: Which earlier chunks softmax blocks look at.
    """

    steps: tuple[float, ...] = STUDENT_STEPS
    guidance: float = 1.0
    size: int = 3
    window: Window = field(default_factory=Window)

    def __post_init__(self) -> None:
        check_steps(self.steps)

    @property
    def copies(self) -> int:
        """Clips in a batch: with guidance the negative one rides along."""
        return 2 if self.guidance > 1 else 1

    @torch.no_grad()
    def read(self, model: nn.Module, conditions: Conditions) -> ReadText:
        """Read the prompt (and the negative one) once for all chunks."""
        text, mask, _ = batch_conditions(conditions, self.guidance > 1)
        return transformer_of(model).read_text(text, mask)

    @torch.no_grad()
    def chunk(
        self,
        model: nn.Module,
        noise: Tensor,
        text: ReadText,
        camera: dict[str, Tensor],
        memory: Memory | None = None,
        first_latent: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        """Make the next chunk.

        Args:
            model: The transformer, or a velocity model around it.
            noise: Standard normal (1, c, n, y, x) of the chunk.
            text: What `read` returned.
            camera: Camera tensors of the chunk, batch 1.
            memory: The chunks so far; None for the first. It is not written to.
            first_latent: The picture as latent frame 0, (1, c, 1, y, x); for the first chunk only.

        Returns:
            Latents (1, c, n, y, x), and the memory after them.
        """
        camera = {name: tensor.expand(self.copies, *tensor.shape[1:]) for name, tensor in camera.items()}
        latents = noise if first_latent is None else begin(noise, first_latent)
        given = torch.zeros(noise.shape[2], dtype=torch.bool, device=noise.device)
        given[0] = first_latent is not None
        times = torch.tensor(self.steps, device=noise.device)
        levels = times / TRAIN_TIMESTEPS
        for time in times[:-1]:
            timestep = time.expand(len(given)).masked_fill(given, 0.0)
            velocity = self._velocity(model, latents, timestep, text, camera, memory, None)
            moved = euler_step(latents, velocity, timestep / TRAIN_TIMESTEPS, levels)
            latents = torch.where(given.view(1, 1, -1, 1, 1), latents, moved)
        kept: list[BlockMemory] = []
        self._velocity(model, latents, torch.zeros_like(times[:1]).expand(len(given)), text, camera, memory, kept)
        return latents, after_chunk(memory, kept, len(given), self.window)

    def __call__(
        self,
        model: nn.Module,
        first_latent: Tensor,
        noise: Tensor,
        conditions: Conditions,
        on_chunk: Callable[[Tensor, int, int], None] | None = None,
    ) -> Tensor:
        """Make a clip of known length.

        Args:
            model: The transformer, or a velocity model around it.
            first_latent: The picture as latent frame 0, (1, c, 1, y, x), normalised.
            noise: Standard normal (1, c, t, y, x).
            conditions: Text, and camera tensors for all t latent frames.
            on_chunk: Called with each finished chunk, its number from 1, and the number of chunks.

        Returns:
            Latents (1, c, t, y, x).
        """
        frames = noise.shape[2]
        pieces = bounds(streaming_chunks(frames, self.size), frames)
        text, memory = self.read(model, conditions), None
        done = []
        for number, (a, b) in enumerate(pieces, start=1):
            part = cut_camera(conditions.camera, a, b)
            first = first_latent if a == 0 else None
            latents, memory = self.chunk(model, noise[:, :, a:b], text, part, memory, first)
            done.append(latents)
            if on_chunk is not None:
                on_chunk(latents, number, len(pieces))
        return torch.cat(done, dim=2)

    def _velocity(
        self,
        model: nn.Module,
        latents: Tensor,
        timestep: Tensor,
        text: ReadText,
        camera: dict[str, Tensor],
        memory: Memory | None,
        kept: list[BlockMemory] | None,
    ) -> Tensor:
        # A list nobody reads marks the pass of the very first chunk as a streaming one.
        kept = [] if kept is None and memory is None else kept
        return guided_velocity(model, latents, timestep, text, self.guidance, memory=memory, kept=kept, **camera)


def cut_camera(camera: dict[str, Tensor], first: int, end: int) -> dict[str, Tensor]:
    """Camera tensors of latent frames first .. end - 1."""
    along = {"camera_conditions": 1, "chunk_plucker": 2}
    return {name: tensor.narrow(along[name], first, end - first) for name, tensor in camera.items()}


def transformer_of(model: nn.Module) -> SanaWMTransformer:
    """The transformer inside a velocity model."""
    for module in model.modules():
        if isinstance(module, SanaWMTransformer):
            return module
    raise ValueError(f"{type(model).__name__} holds no SanaWMTransformer; streaming needs one")
