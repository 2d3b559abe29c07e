"""Whether a model in fewer bits still follows its camera: a quick probe that refuses what certainly does not.

Two cameras are shown to the model on the same noise, and the difference of its two answers is its response to the
camera. How much of a response b is left in the smaller model's response a is (a . b) / max(|a|^2, |b|^2): it falls when
the camera counts for less, for more, or for something else, while noise that the camera has no part in counts by its
square. A model that keeps less than nine tenths has lost some of the camera, whatever its pictures look like. The probe
is no pose metric: passing it is necessary, and sana-wm bench says the rest.
"""

from __future__ import annotations

import numpy as np
import torch
from camera_control import rays
from camera_control.actions import action_string_to_c2w
from torch import Tensor, nn

from sana_wm_core.precision import quantize
from sana_wm_core.sampling.student import transformer_of

LIMIT = 0.1
_GRID = (3, 4, 6)  # latent frames, rows, columns
_PATHS = ("w-16", "jd-16")


@torch.no_grad()
def camera_response(model: nn.Module) -> Tensor:
    """How a model's velocity changes from one camera path to another, (1, c, t, y, x) float32 on the CPU."""
    network = transformer_of(model)
    config, (t, y, x) = network.config, _GRID
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, config.in_channels, t, y, x, generator=generator)
    text = torch.randn(1, 1, 8, config.caption_channels, generator=generator)
    size = (32 * y, 32 * x)
    lens = np.repeat(np.array([[0.9 * size[1], 0.9 * size[1], size[1] / 2, size[0] / 2]], np.float32), 17, axis=0)
    answers = []
    for path in _PATHS:
        poses = action_string_to_c2w(path).astype(np.float32)
        camera = rays.camera_conditions(poses, lens, size, (y, x), 8)
        packed = rays.chunk_plucker(poses, lens, size, (y, x), 8)
        fits = config.use_chunk_plucker_post_attn and config.chunk_plucker_channels == packed.shape[0]
        velocity = network(
            latents.to(network.device, network.dtype),
            torch.full((1, 1, t), 700.0, device=network.device),
            text.to(network.device, network.dtype),
            encoder_attention_mask=torch.ones(1, 8, device=network.device),
            camera_conditions=_ready(camera, network),
            chunk_plucker=_ready(packed, network) if fits else None,
        ).sample
        answers.append(velocity.float().cpu())
    return answers[0] - answers[1]


def response_error(before: Tensor, after: Tensor) -> float:
    """How much of a response is lost: 0 = nothing; 1 = all of it, or it has nothing to do with what it was."""
    b, a = before.double().flatten(), after.double().flatten()
    larger = torch.maximum(a @ a, b @ b)
    return float((1 - (a @ b) / larger).clamp(min=0)) if larger > 0 else 0.0


def require_camera(error: float, precision: str, limit: float = LIMIT) -> None:
    """Refuse a number format that loses the camera.

    Raises:
        ValueError: More of the response is lost than the limit; says how much.
    """
    if not error <= limit:
        raise ValueError(
            f"stage 1 in {precision} answers the camera {error:.0%} differently (at most {limit:.0%} is accepted); use "
            f"{'fp8 or bf16' if precision == 'fp4' else 'bf16'}, or take it as it is with --allow_camera_error"
        )


def quantize_and_check(model: nn.Module, precision: str, limit: float = LIMIT) -> float:
    """Store a first stage's linear layers in fewer bits, in place, unless that loses the camera.

    Returns:
        How much of its response to the camera is lost.

    Raises:
        ValueError: As quantize, and a loss above the limit.
    """
    if precision == "bf16":
        return 0.0
    before = camera_response(model)
    quantize(model, precision)
    error = response_error(before, camera_response(model))
    require_camera(error, precision, limit)
    return error


def _ready(array: np.ndarray, network: nn.Module) -> Tensor:
    like = next(network.parameters())
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None].to(like.device, like.dtype)
