"""Trajectory: validation, slicing, resampling; the motion families."""

import inspect

import numpy as np
import pytest
from camera_control import action_string_to_c2w
from camera_control.families import FAMILIES, dolly, fly_through, orbit, spiral
from camera_control.trajectory import Trajectory
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation


def random_trajectory(frames=12, seed=0, fps=16.0):
    random = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = Rotation.random(frames, random_state=seed).as_matrix()
    c2w[:, :3, 3] = random.normal(size=(frames, 3))
    return Trajectory(c2w, 500 + random.uniform(0, 50, size=(frames, 4)), fps, (704, 1280))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c[:, :3], r"shape \(5, 3, 4\); allowed: \(F, 4, 4\)"),
        (lambda c: c[0], r"shape \(4, 4\); allowed: \(F, 4, 4\)"),
        (lambda c: c[:0], r"shape \(0, 4, 4\)"),
        (lambda c: np.where(np.arange(5)[:, None, None] == 3, np.nan, c), "frame 3 holds NaN"),
        (lambda c: np.where(c == 1, np.inf, c), "frame 0 holds NaN or infinity"),
        (lambda c: c + np.eye(4, k=-3) * 2, "ends with the row 2 0 0 1"),
    ],
)
def test_bad_poses_are_named(change, says):
    with pytest.raises(ValueError, match=says):
        Trajectory(change(np.tile(np.eye(4), (5, 1, 1))))


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"fps": 0}, "fps is 0; allowed"),
        ({"fps": float("nan")}, "fps is nan"),
        ({"image_size": (0, 10)}, "image_size is"),
        ({"intrinsics": np.ones((5, 5))}, r"intrinsics have shape \(5, 5\)"),
        ({"intrinsics": np.array([600, np.nan, 1, 1])}, "not finite"),
    ],
)
def test_bad_settings_are_named(settings_, says):
    with pytest.raises(ValueError, match=says):
        Trajectory(np.tile(np.eye(4), (5, 1, 1)), **settings_)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10**6), st.sampled_from([16.0, 24.0, 29.97]))
def test_resampling_at_the_same_times_changes_nothing(frames, seed, fps):
    path = random_trajectory(frames, seed, fps)
    for again in (path.resample(frames=frames), path.resample(fps=fps)):
        assert len(again) == frames and again.fps == pytest.approx(fps)
        np.testing.assert_allclose(again.c2w, path.c2w, atol=1e-9)
        np.testing.assert_allclose(again.intrinsics, path.intrinsics, atol=1e-9)


def test_resampling_turns_evenly():
    c2w = np.tile(np.eye(4), (2, 1, 1))
    c2w[1, :3, :3] = Rotation.from_euler("y", 90, degrees=True).as_matrix()
    c2w[1, :3, 3] = [4, 0, 0]
    path = Trajectory(c2w, fps=1.0).resample(frames=5)
    np.testing.assert_allclose(path.turns_deg, 22.5)
    np.testing.assert_allclose(path.c2w[:, 0, 3], [0, 1, 2, 3, 4])
    assert path.fps == 4.0


def test_resampling_keeps_time_and_ends():
    path = random_trajectory(17)
    half = path.resample(fps=8)
    assert len(half) == 9
    np.testing.assert_allclose(half.c2w, path.c2w[::2], atol=1e-9)
    np.testing.assert_allclose(path.resample(frames=40).c2w[[0, -1]], path.c2w[[0, -1]], atol=1e-9)
    with pytest.raises(ValueError, match="exactly one"):
        path.resample()
    with pytest.raises(ValueError, match="allowed: 0 to 1 s"):
        path.at([1.5])
    with pytest.raises(ValueError, match="frames is 0"):
        path.resample(frames=0)


def test_slices_keep_time():
    path = random_trajectory(20)
    part = path[4:13:2]
    assert len(part) == 5 and part.fps == 8.0
    np.testing.assert_array_equal(part.c2w, path.c2w[4:13:2])
    np.testing.assert_array_equal(part.intrinsics, path.intrinsics[4:13:2])
    for bad in (slice(5, 5), slice(9, 3, -1)):
        with pytest.raises(ValueError, match="empty or backwards"):
            path[bad]
    with pytest.raises(ValueError, match="cut with a slice"):
        path[3]


def test_steps_and_turns_have_known_values():
    path = Trajectory(action_string_to_c2w("wl-10,none-1"))
    np.testing.assert_allclose(path.steps, [0.05] * 10 + [0], atol=1e-6)
    np.testing.assert_allclose(path.turns_deg, [1.2] * 10 + [0], atol=1e-4)


@pytest.mark.parametrize("name", list(FAMILIES))
def test_families_start_at_the_identity_and_obey_frames(name):
    path = FAMILIES[name](frames=41, fps=12.0, image_size=(96, 160), fov_deg=80.0)
    assert len(path) == 41 and path.fps == 12.0 and path.image_size == (96, 160)
    np.testing.assert_array_equal(path.c2w[0], np.eye(4))
    assert path.steps.sum() > 0.5
    assert "frames" in inspect.signature(FAMILIES[name]).parameters
    assert len(FAMILIES[name](frames=1)) == 1
    with pytest.raises(ValueError, match="frames is 0"):
        FAMILIES[name](frames=0)


def test_orbit_faces_its_centre_at_its_radius():
    path = orbit(radius=3.0, angle_deg=90.0, frames=31)
    centre = np.array([0, 0, 3.0])
    towards = centre - path.c2w[:, :3, 3]
    np.testing.assert_allclose(np.linalg.norm(towards, axis=1), 3.0, atol=1e-9)
    np.testing.assert_allclose(towards / 3.0, path.c2w[:, :3, 2], atol=1e-9)
    np.testing.assert_allclose(path.c2w[-1, :3, 3], [-3, 0, 3], atol=1e-9)


def test_spiral_ends_at_its_radius_and_height_facing_the_centre():
    path = spiral(radius=4.0, end_radius=2.0, angle_deg=360.0, rise=1.5, frames=61)
    np.testing.assert_allclose(path.c2w[-1, :3, 3], [0, -1.5, 2.0], atol=1e-9)
    towards = np.array([0, 0, 4.0]) - path.c2w[:, :3, 3]
    np.testing.assert_allclose(towards / np.linalg.norm(towards, axis=1)[:, None], path.c2w[:, :3, 2], atol=1e-9)
    with pytest.raises(ValueError, match="radius is 0"):
        spiral(radius=0)


def test_dolly_zoom_keeps_the_subject_size():
    path = dolly(distance=2.0, frames=21, subject_distance=5.0)
    size = path.intrinsics[:, 0] / (5.0 - path.c2w[:, 2, 3])
    np.testing.assert_allclose(size, size[0], rtol=1e-12)
    assert dolly(2.0, 21, ease=False).steps == pytest.approx(0.1)
    with pytest.raises(ValueError, match="subject_distance is 1"):
        dolly(distance=2.0, subject_distance=1)


def test_fly_through_meets_its_points_at_even_speed():
    points = np.array([[0, 0, 0], [1, 0, 3], [0, 0, 6.0]])
    path = fly_through(points, frames=201, ease=False)
    assert path.steps.std() / path.steps.mean() < 0.01
    start = points[1] - points[0]
    reach = np.linalg.norm(path.c2w[:, :3, 3], axis=1)
    assert np.abs(reach - np.linalg.norm(start)).min() < 0.03
    assert reach[-1] == pytest.approx(6.0, abs=1e-6)
    moves = np.diff(path.c2w[:, :3, 3], axis=0)
    ahead = (moves / path.steps[:, None] * path.c2w[:-1, :3, 2]).sum(1)
    assert ahead.min() > 0.999
    for bad in ([[0, 0, 0]], [[0, 0], [1, 1]], [[0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 0, np.nan]]):
        with pytest.raises(ValueError, match="allowed"):
            fly_through(bad)
