"""Scores of camera following on cases with a known value."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from wm_bench.following import (
    Following,
    _octave_energy,
    colour_difference,
    laplacian_variance,
    opposite_path,
    psnr,
    score,
    sharpness_match,
    spectrum_match,
    summary,
)


def _video(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (25, 12, 16, 3)).astype(np.uint8)


def test_psnr_of_a_constant_offset() -> None:
    a = np.full((3, 4, 4, 3), 100, np.uint8)
    assert psnr(a, a + 10) == pytest.approx(20 * np.log10(255 / 10))
    assert psnr(a, a) == pytest.approx(100.0)


def test_laplacian_variance_of_a_ramp_is_zero_and_grows_with_contrast() -> None:
    ramp = np.broadcast_to((np.arange(16) * 10).astype(np.uint8)[None, None, :, None], (2, 12, 16, 3))
    assert laplacian_variance(ramp) == pytest.approx(0, abs=1e-6)
    video = _video()
    assert laplacian_variance(video) > 3.9 * laplacian_variance(video // 2)


def test_colour_difference_is_relative() -> None:
    a = np.full((2, 4, 4, 3), 100, np.uint8)
    b = a.copy()
    b[..., 1] = 110
    assert colour_difference(b, a) == pytest.approx(0.1)


def test_opposite_path_turns_motion_round_and_is_its_own_inverse() -> None:
    path = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    path[:, 2, 3] = [1.0, 1.5, 2.0]
    angle = np.deg2rad(10)
    path[2, :3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    turned = opposite_path(path)
    assert turned[:, 2, 3].tolist() == [1.0, 0.5, 0.0]
    np.testing.assert_allclose(turned[2, :3, :3], path[2, :3, :3].T, atol=1e-6)
    np.testing.assert_allclose(opposite_path(turned), path, atol=1e-6)


def test_a_perfect_video_beats_still_and_opposite() -> None:
    truth, other = _video(), _video(1)
    s = score(truth, other, truth, truth)
    assert s.near == s.far == s.codec == pytest.approx(100.0)
    assert s.true_path > s.opposite_path
    assert s.sharpness == pytest.approx(1.0) and s.colour == 0
    assert s.still_near < 20


def test_summary_counts_only_moving_clips() -> None:
    moving = Following(25, 20, 15, 14, 24, 18, 0.8, 0.05, 31, 0.7, 0.6)
    resting = Following(40, 40, 35, 35, 40, 41, 1.0, 0.0, 35, 0.9, 0.8)
    table = summary([moving, resting])
    assert table["near_clips"] == 1 and table["near_gain_db"] == 10
    assert table["far_gain_db"] == 6 and table["true_beats_opposite"] == 0.5
    assert table["codec_psnr_db"] == 33
    assert table["sharpness_match"] == pytest.approx(0.8) and table["spectrum_match"] == pytest.approx(0.7)


def _smooth(sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=(3, 64, 96))
    soft = gaussian_filter(noise, (0, sigma, sigma))
    soft = 128 + 45 * soft / soft.std()
    return np.repeat(np.clip(soft, 0, 255).astype(np.uint8)[..., None], 3, axis=3)


def test_grain_earns_sharpness_but_no_match() -> None:
    truth = _smooth(2.0)
    assert sharpness_match(truth, truth) == spectrum_match(truth, truth) == 1.0
    grain = np.random.default_rng(1).normal(0, 20, truth.shape[:3])[..., None]
    noisy = np.clip(truth + grain, 0, 255).astype(np.uint8)
    soft = gaussian_filter(truth, (0, 1.5, 1.5, 0))
    assert laplacian_variance(noisy) > 3 * laplacian_variance(truth)
    assert sharpness_match(noisy, truth) < 0.3 and spectrum_match(noisy, truth) < 0.8
    assert sharpness_match(soft, truth) < 0.5
    # Blur with as much grain as brings the Laplacian variance back: the ratio is fooled, the octaves are not.
    wanted, had = laplacian_variance(truth), laplacian_variance(soft)
    level = np.sqrt((wanted - had) / 20.0)  # the Laplacian of unit white noise has variance 20
    faked = np.clip(soft + np.random.default_rng(2).normal(0, level, truth.shape[:3])[..., None], 0, 255).astype(
        np.uint8
    )
    assert sharpness_match(faked, truth) > 0.7
    assert spectrum_match(faked, truth) < 0.75 * spectrum_match(_smooth(2.0, seed=5), truth)


def test_octaves_hold_all_detail() -> None:
    column = np.arange(64)
    for period, octave in ((3, 0), (6, 1), (12, 2)):
        wave = np.round(128 + 60 * np.sin(2 * np.pi * column / period)).astype(np.uint8)
        energy = _octave_energy(np.broadcast_to(wave[None, None, :, None], (1, 64, 64, 3)))[0]
        assert energy.argmax() == octave and energy[octave] > 0.9 * energy.sum()
        assert energy.shape == (4,)
