"""The flow-matching objective against its definition."""

import torch
from sana_wm_core.training.losses import add_noise, draw_sigma, flow_loss, shift_sigma


def _clip(given: list[bool]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, object]:
    g = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(len(given), 4, 3, 2, 2, generator=g) for _ in range(2))
    sigma = torch.rand(len(given), generator=g)
    return clean, noise, sigma, add_noise(clean, sigma, noise, torch.tensor(given))


def test_shift_is_identity_at_one_and_keeps_the_ends() -> None:
    sigma = torch.linspace(0, 1, 11)
    assert torch.equal(shift_sigma(sigma, 1.0), sigma)
    shifted = shift_sigma(sigma, 9.8)
    assert shifted[0] == 0 and shifted[-1] == 1 and (shifted.diff() > 0).all()


def test_draws_stay_inside_and_follow_the_generator() -> None:
    draws = [draw_sigma(500, 2.0, 0.0, 1.0, torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(draws[0], draws[1])
    assert (draws[0] > 0).all() and (draws[0] < 1).all()
    assert 0.6 < draws[0].median() < 0.73  # the shift moves the median from 1/2 to 2/3


def test_given_first_frame_is_clean_at_time_zero_without_loss() -> None:
    clean, _, sigma, clip = _clip([True, False])
    assert torch.equal(clip.latents[0, :, 0], clean[0, :, 0])
    assert not torch.allclose(clip.latents[1, :, 0], clean[1, :, 0])
    assert clip.timestep[0, 0, 0] == 0
    torch.testing.assert_close(clip.timestep[0, 0, 1:], (1000 * sigma[0]).expand(2))
    wrong = clip.target.clone()
    wrong[0, :, 0] += 5
    assert flow_loss(wrong, clip)[0] == 0
    wrong[1, :, 0] += 5
    assert flow_loss(wrong, clip)[1] > 0


def test_velocity_leads_back_to_the_data() -> None:
    clean, noise, sigma, clip = _clip([False, False, False])
    level = sigma.view(-1, 1, 1, 1, 1)
    torch.testing.assert_close(clip.latents - level * clip.target, clean)
    torch.testing.assert_close(clip.latents + (1 - level) * clip.target, noise)


def test_loss_is_the_mean_over_weighted_frames() -> None:
    _, _, _, clip = _clip([True])
    off = clip.target.clone()
    off[:, :, 1:] += 2.0
    torch.testing.assert_close(flow_loss(off, clip), torch.tensor([4.0]))
