"""A transformer that only has to know better than a per-channel Wiener filter, as the velocity model the sampler wants.

A clip at noise level sigma is x = (1 - sigma) d + sigma e. Where channel c of the data d has standard deviation s and
nothing else is known, the best guess of the data is the Wiener filter w x with w = (1 - sigma) s^2 / D and
D = (1 - sigma)^2 s^2 + sigma^2; what it misses has standard deviation sigma s / sqrt(D). So let the transformer give
F, of unit size at every noise level and in every channel,

    data = w x + (sigma s / sqrt(D)) F

and the velocity (x - data) / sigma is, without dividing by sigma,

    v = (sigma - (1 - sigma) s^2) / D x  -  s / sqrt(D) F.

A narrow transformer need not carry the noise of hundreds of channels through its stream, and channels it knows
nothing about keep their natural spread instead of turning grey. The idea is the preconditioning of EDM (Karras et al.,
arXiv 2206.00364, section 5), here for straight paths and with one spread per channel.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from sana_wm_core.sampling.schedule import TRAIN_TIMESTEPS


class WienerVelocity(nn.Module):
    """Velocity model made of a transformer that predicts F.

    Args:
        transformer: Anything with the call of SanaWMTransformer.
        spread: Standard deviation of each latent channel, (c,), positive.
    """

    spread: Tensor

    def __init__(self, transformer: Callable[..., Any], spread: Tensor) -> None:
        super().__init__()
        self.transformer = transformer
        self.register_buffer("spread", spread.float().view(1, -1, 1, 1, 1), persistent=False)

    def forward(self, hidden_states: Tensor, timestep: Tensor, *conditions: Any, **more: Any) -> tuple[Tensor]:
        """Velocity (b, c, t, y, x) of noisy latents, in a tuple; timestep is (b, 1, t) in [0, 1000]."""
        more["return_dict"] = False
        unit = self.transformer(hidden_states, timestep, *conditions, **more)[0]
        keep, add = wiener_factors(timestep.float() / TRAIN_TIMESTEPS, self.spread)
        return ((keep * hidden_states.float() - add * unit.float()).to(hidden_states.dtype),)


def wiener_factors(sigma_b1t: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """The two factors of v = keep x - add F, each (b, c, t, 1, 1)."""
    sigma = sigma_b1t[..., None, None]
    variance = ((1 - sigma) * spread).square() + sigma.square()
    return (sigma - (1 - sigma) * spread.square()) / variance, spread / variance.sqrt()


def measured_spread(latents: Tensor) -> Tensor:
    """Standard deviation per channel of latents (b, c, t, y, x), rounded so that it survives being written down."""
    return (latents.float().std(dim=(0, 2, 3, 4)).clamp_min(1e-3) * 1e4).round() / 1e4
