"""The samplers by the names that the original scripts give them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from sana_wm_core.model.memory import Window
from sana_wm_core.sampling.chunk_flow import ChunkFlowSampler
from sana_wm_core.sampling.dpm import DPMSampler
from sana_wm_core.sampling.sampler import Conditions, Progress, Sampler
from sana_wm_core.sampling.student import ChunkSampler, grid_steps

ALGORITHMS = ("auto", "flow_euler_ltx", "flow_euler", "flow_dpm-solver", "chunk_flow_euler", "self_forcing")


@dataclass(frozen=True)
class WholeClipStudent:
    """The chunk-by-chunk sampler on a clip of known length, with the call of the other samplers."""

    chunks: ChunkSampler

    @property
    def guidance(self) -> float:
        """Guidance scale."""
        return self.chunks.guidance

    def __call__(
        self,
        model: Any,
        first_latent: Tensor,
        noise: Tensor,
        conditions: Conditions,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Tensor:
        """Sample one clip; a step of the progress is a chunk."""

        def tell(latents: Tensor, number: int, total: int) -> None:
            if on_step is not None:
                on_step(Progress(number, total, 0.0, latents, 0.0))

        return self.chunks(model, first_latent, noise, conditions, tell)


def choose_sampler(
    name: str,
    *,
    steps: int,
    guidance: float,
    shift: float,
    chunk: int = 3,
    chunk_rule: str = "first_plus_one",
    interval: float | None = None,
    step_list: tuple[float, ...] = (),
    window: int = 2,
    sink: bool = True,
) -> Sampler | DPMSampler | ChunkFlowSampler | WholeClipStudent:
    """Build the sampler of a name.

    Args:
        name: One of ALGORITHMS, already resolved where it was auto.
        steps: Steps of a walk; not read where step_list is given.
        guidance: Guidance scale; 1 or less = off.
        shift: Flow shift of the noise levels; not read where step_list is given.
        chunk: Latent frames of a chunk.
        chunk_rule: How chunk_flow_euler cuts a clip.
        interval: Share of a walk between two chunks of chunk_flow_euler; None = 1 / chunks.
        step_list: Timesteps that self_forcing visits, the last 0.
        window: Chunks that self_forcing looks back at; 0 or less = all.
        sink: Whether the first chunk is always among them.

    Raises:
        ValueError: An unknown name, or numbers it cannot walk.
    """
    if name == "flow_euler_ltx":
        return Sampler(steps, guidance, shift)
    if name == "flow_euler":
        return Sampler(steps, guidance, shift, keep_picture=False)
    if name == "flow_dpm-solver":
        return DPMSampler(steps, guidance, shift)
    if name == "chunk_flow_euler":
        return ChunkFlowSampler(steps, guidance, shift, chunk, chunk_rule, interval)
    if name == "self_forcing":
        walk = step_list or grid_steps(steps, shift)
        return WholeClipStudent(ChunkSampler(walk, guidance, chunk, Window(window, sink)))
    raise ValueError(f"--sampling_algo {name} is not available; use one of {', '.join(ALGORITHMS)}")
