"""Scores of camera following on cases with a known value."""

import numpy as np
import pytest
from wm_bench.following import Following, colour_difference, laplacian_variance, opposite_path, psnr, score, summary


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
    moving = Following(25, 20, 15, 14, 24, 18, 0.8, 0.05, 31)
    resting = Following(40, 40, 35, 35, 40, 41, 1.0, 0.0, 35)
    table = summary([moving, resting])
    assert table["near_clips"] == 1 and table["near_gain_db"] == 10
    assert table["far_gain_db"] == 6 and table["true_beats_opposite"] == 0.5
    assert table["codec_psnr_db"] == 33
