"""The camera of a clip: cut to 8k + 1 frames, refused when no model can run it, equal to diffusers' tensors."""

import numpy as np
import pytest
from diffusers.pipelines.sana_wm.cam_utils import prepare_camera, snap_num_frames
from hypothesis import given
from hypothesis import strategies as st
from sana_wm_core.conditioning import camera_tensors, plan_path

LENS, SIZE = [100.0, 100.0, 80.0, 48.0], (96, 160)


def _still(count):
    return np.tile(np.eye(4), (count, 1, 1))


@pytest.mark.parametrize(
    "wanted, available, expected",
    [(160, 999, 161), (164, 999, 161), (165, 999, 169), (165, 168, 161), (165, 169, 169), (161, 161, 161)],
)
def test_published_snapping(wanted, available, expected):
    path = plan_path(_still(available), LENS, SIZE, wanted, 16)
    assert len(path) == len(path.intrinsics) == expected


@given(st.integers(9, 300), st.integers(9, 300))
def test_snapping_equals_diffusers(wanted, available):
    expected = snap_num_frames(min(wanted, available), 8, upper_bound=available)
    assert len(plan_path(_still(available), LENS, SIZE, wanted, 16)) == expected


@pytest.mark.parametrize("wanted, available", [(8, 100), (100, 8), (0, 100), (100, 0), (-5, 100)])
def test_too_short_is_refused(wanted, available):
    with pytest.raises(ValueError, match=r"frames|shape"):
        plan_path(_still(available), LENS, SIZE, wanted, 16)


def test_intrinsics_belong_to_the_cut_clip():
    rows = np.array([[80.0, 80, 50, 40], [160, 120, 50, 40]])
    path = plan_path(_still(40), rows, SIZE, 9, 16)
    np.testing.assert_allclose(path.intrinsics[:, 0], np.linspace(80, 160, 9))


@pytest.mark.parametrize("focal", [10.0, 1000.0, -5.0, float("nan")])
def test_lenses_no_model_knows_are_refused(focal):
    with pytest.raises(ValueError, match=r"field of view|focal|finite"):
        plan_path(_still(9), [focal, focal, 80, 48], SIZE, 9, 16)


def test_a_bad_pose_after_the_clip_is_still_refused():
    poses = _still(40)
    poses[39, 0, 0] = 2.0
    with pytest.raises(ValueError, match="frame 39"):
        plan_path(poses, LENS, SIZE, 9, 16)


def test_camera_tensors_equal_diffusers():
    rng = np.random.default_rng(0)
    poses = np.tile(np.eye(4, dtype=np.float32), (25, 1, 1))
    q, _ = np.linalg.qr(rng.normal(size=(25, 3, 3)))
    poses[:, :3, :3] = q * np.sign(np.linalg.det(q))[:, None, None]
    poses[:, :3, 3] = rng.normal(size=(25, 3))
    rows = np.array([60, 60, 48, 32]) + np.abs(rng.normal(size=(25, 4))).astype(np.float32) * 4
    rows = rows.astype(np.float32)
    theirs = prepare_camera(poses, rows, target_size=(64, 96), vae_stride=(8, 32, 32))
    path = plan_path(poses, rows, (64, 96), 25, 16)
    ours = camera_tensors(path, rows, (64, 96), (2, 3), 8)
    np.testing.assert_allclose(ours["camera_conditions"][0], theirs["raymap"], atol=2e-6)
    np.testing.assert_allclose(ours["chunk_plucker"][0], theirs["chunk_plucker"], atol=2e-6)
