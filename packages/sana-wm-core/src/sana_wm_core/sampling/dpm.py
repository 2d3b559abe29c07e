"""Sampling with DPM-Solver++: more accurate steps than Euler's, so fewer of them. The solver itself is diffusers'."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sana_wm_core.sampling.sampler import Sampler, Walk


@dataclass(frozen=True)
class DPMSampler(Sampler):
    """Whole-clip sampler, DPM-Solver++ of second order on the flow's own noise levels.

    The first latent frame stays the picture, with timestep 0, as with the Euler sampler; the original script let it
    drift under this solver.

    Reference: DPM-Solver++ (arXiv 2211.01095); inference 5.5.
    """

    steps: int = 20

    def walk(self, device: torch.device) -> Walk:
        """The solver's steps.

        Raises:
            ValueError: No steps.
        """
        from diffusers import DPMSolverMultistepScheduler

        if self.steps < 1:
            raise ValueError(f"the number of steps must be at least 1, such as 20; got {self.steps}")
        solver = DPMSolverMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=self.shift, solver_order=2
        )
        solver.set_timesteps(self.steps, device=device)

        def move(latents: Tensor, velocity: Tensor, timestep: Tensor, step: int) -> Tensor:
            moment = solver.timesteps[step]
            return solver.step(velocity.float(), moment, latents.float(), return_dict=False)[0].to(latents.dtype)

        return Walk(solver.timesteps.float(), solver.sigmas, move)
