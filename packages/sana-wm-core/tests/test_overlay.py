"""The overlay: keys and stick read back from action strings, drawn where they belong, nothing else touched."""

import numpy as np
import pytest
from camera_control.actions import action_string_to_c2w
from sana_wm_core.overlay import apply_overlay, read_controls


@pytest.mark.parametrize("keys", ["w", "s", "a", "d", "wa", "wd", "sa", "sd"])
@pytest.mark.parametrize("turn", ["", "j", "l", "i", "k"])
def test_keys_and_turns_are_read_back_from_poses(keys, turn):
    controls = read_controls(action_string_to_c2w(f"{keys}{turn}-12"))
    assert set(controls.keys[3]) == set(keys.upper())
    yaw, pitch = controls.stick[3]
    expected = {"": (0, 0), "j": (-1, 0), "l": (1, 0), "i": (0, 1), "k": (0, -1)}[turn]
    np.testing.assert_allclose((yaw, pitch), expected, atol=0.02)
    assert len(controls.keys) == len(controls.stick) == 13


def test_standing_still_lights_nothing():
    controls = read_controls(np.tile(np.eye(4), (9, 1, 1)))
    assert controls.keys == [""] * 9 and not controls.stick.any()
    assert read_controls(np.eye(4)[None]).keys == [""]


def test_segments_change_the_lit_keys():
    controls = read_controls(action_string_to_c2w("w-8,none-8,d-8"))
    assert controls.keys[2] == "W" and controls.keys[11] == "" and controls.keys[20] == "D"


@pytest.mark.parametrize("size", [(96, 160), (95, 159), (704, 1280), (16, 16), (64, 8)])
def test_drawing_stays_in_the_corners_and_copies(size):
    video = np.full((17, *size, 3), 90, np.uint8)
    out = apply_overlay(video, action_string_to_c2w("wl-16"))
    assert out.shape == video.shape and out.dtype == np.uint8 and (video == 90).all()
    changed = (out != 90).any(axis=(0, 3))
    assert changed.any()
    if min(size) >= 95:
        height, width = size
        assert not changed[: height // 2].any() and not changed[:, int(0.4 * width) : int(0.6 * width)].any()
        assert changed[height // 2 :, : width // 2].any() and changed[height // 2 :, width // 2 :].any()


def test_one_pose_per_frame_is_needed():
    with pytest.raises(ValueError, match="one pose per frame"):
        apply_overlay(np.zeros((5, 16, 16, 3), np.uint8), np.tile(np.eye(4), (4, 1, 1)))
