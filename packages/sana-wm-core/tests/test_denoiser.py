"""The Wiener form of a velocity model: what it assumes about data, and that nothing is lost by it."""

import torch
from sana_wm_core.sampling.denoiser import WienerVelocity, measured_spread, wiener_factors
from sana_wm_core.sampling.sampler import Conditions, Sampler


class Constant(torch.nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, hidden_states, timestep, *args, return_dict=True, **kwargs):
        return (self.value.expand_as(hidden_states),)


def test_velocity_is_the_slope_between_guess_and_noise() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, 2, 2, generator=g, dtype=torch.float64)
    f = torch.randn(2, 3, 4, 2, 2, generator=g, dtype=torch.float64)
    spread = torch.tensor([4.0, 1.0, 0.2], dtype=torch.float64)
    sigma = torch.rand(2, 1, 4, generator=g, dtype=torch.float64) * 0.9 + 0.1
    keep, add = wiener_factors(sigma, spread.view(1, -1, 1, 1, 1))
    s, sd = spread.view(1, -1, 1, 1, 1), sigma[..., None, None]
    variance = ((1 - sd) * s) ** 2 + sd**2
    data = (1 - sd) * s**2 / variance * x + sd * s / variance.sqrt() * f
    torch.testing.assert_close(keep * x - add * f, (x - data) / sd)


def test_a_transformer_that_knows_nothing_still_samples_the_right_spread() -> None:
    spread = torch.tensor([3.0, 1.0, 0.3, 0.1])
    model = WienerVelocity(Constant(torch.zeros(())), spread)
    noise = torch.randn(1, 4, 5, 32, 32, generator=torch.Generator().manual_seed(1))
    conditions = Conditions(torch.zeros(1, 1, 1, 1), torch.ones(1, 1))
    out = Sampler(steps=400, guidance=1.0, shift=1.0)(model, torch.zeros(1, 4, 1, 32, 32), noise, conditions)
    torch.testing.assert_close(measured_spread(out[:, :, 1:]), spread, rtol=0.05, atol=0.0)


def test_no_error_at_the_ends_of_the_path() -> None:
    keep, add = wiener_factors(torch.tensor([[[0.0, 1.0]]]), torch.tensor([2.0]).view(1, 1, 1, 1, 1))
    assert keep.flatten().tolist() == [-1.0, 1.0]
    assert add.flatten().tolist() == [1.0, 2.0]
