"""From noise to latents: the noise schedule and the sampler that walks down it."""

from sana_wm_core.sampling.sampler import Conditions, Progress, Sampler
from sana_wm_core.sampling.schedule import sigma_grid

__all__ = ["Conditions", "Progress", "Sampler", "sigma_grid"]
