"""The noise schedule and the sampler: known answers, parity with diffusers' scheduler, properties."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from sana_wm_core.sampling import Conditions, Sampler, sigma_grid
from sana_wm_core.sampling.sampler import euler_step


@pytest.mark.parametrize("shift", [1.0, 2.0, 3.3, 8.0, 9.8, 9.95])
@pytest.mark.parametrize("steps", [1, 2, 4, 12, 20, 60])
def test_grid_equals_the_scheduler_bit_for_bit(steps, shift):
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(steps)
    assert torch.equal(sigma_grid(steps, shift), scheduler.sigmas)


def test_grid_known_answers():
    torch.testing.assert_close(
        sigma_grid(4, 9.8), torch.tensor([1, 0.9521266, 0.8345522, 0.0877046, 0]), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(sigma_grid(2, 9.8), torch.tensor([1, 0.08770456, 0]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps, shift", [(0, 9.8), (-3, 9.8), (4, 0.0), (4, -1.0), (4, float("nan"))])
def test_grid_refuses_nonsense(steps, shift):
    with pytest.raises(ValueError, match="must be"):
        sigma_grid(steps, shift)


def test_euler_step_equals_the_scheduler_per_token():
    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=9.8)
    scheduler.set_timesteps(7)
    x, v = torch.randn(1, 4, 3, 2, 2), torch.randn(1, 4, 3, 2, 2)
    for t in scheduler.timesteps:
        tau = torch.stack([torch.tensor(0.0), t, t])
        tokens = tau.repeat_interleave(4)[None]
        expected = scheduler.step(
            -v.reshape(1, 4, -1).transpose(1, 2),
            t,
            x.reshape(1, 4, -1).transpose(1, 2),
            per_token_timesteps=tokens,
            return_dict=False,
        )[0]
        ours = euler_step(x, v, tau / 1000, scheduler.sigmas)
        assert torch.equal(ours, expected.transpose(1, 2).reshape(x.shape))


class StraightLine:
    """The velocity of a straight path to a known target: any grid must land on it."""

    def __init__(self, target):
        self.target = target
        self.timesteps = []

    def __call__(self, hidden_states, timestep, text, **_):
        self.timesteps.append(timestep.clone())
        sigma = (timestep / 1000).clamp_min(1e-6)[:, :, :, None, None]
        return ((hidden_states - self.target) / sigma,)


def _conditions(**more):
    return Conditions(torch.zeros(1, 1, 3, 5), torch.ones(1, 3), **more)


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_sampler_lands_on_the_target_and_pins_the_first_frame(steps):
    torch.manual_seed(0)
    target, noise, first = torch.randn(1, 4, 5, 2, 3), torch.randn(1, 4, 5, 2, 3), torch.randn(1, 4, 1, 2, 3)
    model = StraightLine(target)
    seen = []
    out = Sampler(steps, 1.0, 9.8)(model, first, noise, _conditions(), seen.append)
    assert torch.equal(out[:, :, :1], first)
    torch.testing.assert_close(out[:, :, 1:], target[:, :, 1:], atol=1e-4, rtol=1e-4)
    assert all(t.shape == (1, 1, 5) and t[0, 0, 0] == 0 and (t[0, 0, 1:] > 0).all() for t in model.timesteps)
    assert [p.step for p in seen] == list(range(1, steps + 1)) and seen[-1].sigma == 0 and seen[-1].left_s == 0


def test_guidance_mixes_negative_first():
    def model(x, timestep, text, encoder_attention_mask, camera_conditions, return_dict):
        assert x.shape[0] == timestep.shape[0] == encoder_attention_mask.shape[0] == camera_conditions.shape[0] == 2
        return (text[:, 0, 0, 0].view(2, 1, 1, 1, 1).expand_as(x),)

    noise = torch.zeros(1, 2, 2, 1, 1)
    conditions = Conditions(
        torch.full((1, 1, 1, 1), 3.0),
        torch.ones(1, 1),
        torch.full((1, 1, 1, 1), 1.0),
        torch.ones(1, 1),
        {"camera_conditions": torch.zeros(1, 2, 20)},
    )
    out = Sampler(5, 4.0, 2.0)(model, torch.zeros(1, 2, 1, 1, 1), noise, conditions)
    torch.testing.assert_close(out[:, :, 1], torch.full((1, 2, 1, 1), -(1.0 + 4.0 * 2.0)))


def test_a_callback_that_raises_stops_the_run():
    def stop(progress):
        raise KeyboardInterrupt

    model = StraightLine(torch.zeros(1, 1, 2, 1, 1))
    with pytest.raises(KeyboardInterrupt):
        Sampler(9, 1.0, 2.0)(model, torch.zeros(1, 1, 1, 1, 1), torch.randn(1, 1, 2, 1, 1), _conditions(), stop)
    assert len(model.timesteps) == 1


def test_half_precision_stays_in_its_data_type():
    model = StraightLine(torch.zeros(1, 2, 3, 2, 2))
    out = Sampler(4, 1.0, 9.8)(
        lambda x, t, text, **k: (model(x.float(), t, text)[0].bfloat16(),),
        torch.zeros(1, 2, 1, 2, 2),
        torch.randn(1, 2, 3, 2, 2).bfloat16(),
        _conditions(),
    )
    assert out.dtype == torch.bfloat16
