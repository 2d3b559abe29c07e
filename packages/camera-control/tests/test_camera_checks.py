"""Checks before a model runs: each finding, at its level, with its numbers."""

from dataclasses import replace

import numpy as np
import pytest
from camera_control import action_string_to_c2w
from camera_control.checks import Limits, check_trajectory, require_runnable
from camera_control.geometry import fov_deg, intrinsics_from_fov
from camera_control.trajectory import Trajectory

SIZE = (704, 1280)


def good(action="w-40,lw-40"):
    return Trajectory(action_string_to_c2w(action), intrinsics_from_fov(70.0, SIZE), 16.0, SIZE)


def finding(path, name, **options):
    return next(found for found in check_trajectory(path, **options) if found.name == name)


def turned(matrix, frame=4):
    c2w = good().c2w.copy()
    c2w[frame, :3, :3] = matrix
    return replace(good(), c2w=c2w)


def test_a_good_path_has_only_ok_findings():
    assert {found.level for found in check_trajectory(good())} == {"ok"}
    assert require_runnable(good()) == []
    assert "81 frames, 5.00 s at 16 fps, 11 latent frames" in finding(good(), "frames").message
    assert "longest 0.05 units" in finding(good(), "steps").message
    assert "fastest 1.2 degrees" in finding(good(), "turns").message


@pytest.mark.parametrize(
    ("path", "says"),
    [
        (turned(np.eye(3) * 1.1), "rotation of frame 4 is not orthonormal: |R^T R - I| = 0.21; allowed: up to 0.001"),
        (turned(np.diag([1.0, 1.0, -1.0]), 7), "rotation of frame 7 is left-handed: determinant -1.000; allowed: +1"),
        (good("w-7"), "path has 8 frames; allowed: at least 9"),
        (replace(good(), intrinsics=intrinsics_from_fov(130, SIZE)), "field of view is 130.0 to 130.0 degrees across"),
        (replace(good(), intrinsics=intrinsics_from_fov(20, SIZE)), "allowed: 25 to 120"),
        (replace(good(), intrinsics=intrinsics_from_fov(42, SIZE)), "23.8 to 23.8 down"),
        (replace(good(), intrinsics=np.array([-600.0, 600, 640, 352])), "focal length of frame 0 is -600 px"),
    ],
)
def test_errors_stop_a_run_with_numbers(path, says):
    with pytest.raises(ValueError) as caught:
        require_runnable(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_field_of_view_of_any_frame_counts():
    intrinsics = good().intrinsics.copy()
    intrinsics[33, :2] = 100.0
    with pytest.raises(ValueError, match="field of view is 70"):
        require_runnable(replace(good(), intrinsics=intrinsics))


def test_unknown_lens_or_size_is_a_warning_not_a_guess():
    assert finding(replace(good(), intrinsics=None), "field of view").level == "warning"
    nameless = replace(good(), image_size=None)
    assert finding(nameless, "field of view").level == "warning"
    assert finding(nameless, "field of view", image_size=SIZE).level == "ok"


@pytest.mark.parametrize(
    ("path", "name", "says"),
    [
        (good("w-44"), "frames", "not 8k+1, a run will use 41 or 49 frames"),
        (Trajectory(action_string_to_c2w("w-16", 0.7)), "steps", "above 0.5 a frame"),
        (Trajectory(action_string_to_c2w("l-16", 0.05, 11.0)), "turns", "above 10 a frame"),
        (replace(good(), intrinsics=np.array([900.0, 900, -5, 352])), "field of view", "outside the picture"),
    ],
)
def test_warnings_do_not_stop_a_run(path, name, says):
    found = finding(path, name)
    assert found.level == "warning" and says in found.message
    assert found in require_runnable(path)


def test_a_jump_is_found_at_its_frame():
    c2w = good("w-40").c2w.copy()
    c2w[20:, 0, 3] += 0.49
    found = finding(replace(good("w-40"), c2w=c2w), "steps")
    assert found.level == "warning" and "at frame 20" in found.message and "10 times the median" in found.message


def test_limits_can_be_moved():
    assert finding(good(), "turns", limits=Limits(max_turn_deg=1.0)).level == "warning"


def test_single_pose_is_told_not_crashed():
    assert finding(Trajectory(np.eye(4)[None]), "frames").level == "error"


def test_field_of_view_formula():
    np.testing.assert_allclose(fov_deg(np.array([640.0, 352, 0, 0]), SIZE), [90, 90])
    np.testing.assert_allclose(fov_deg(intrinsics_from_fov(70, SIZE), SIZE)[0], 70)
    with pytest.raises(ValueError, match="field of view is 180"):
        intrinsics_from_fov(180, SIZE)
