"""Camera tensors: known answers, diffusers parity, packing rules."""

import numpy as np
import pytest
from camera_control.geometry import crop_intrinsics, crop_plan, intrinsics_to_vec4, invert_rigid, snap_num_frames
from camera_control.rays import camera_conditions, chunk_plucker, plucker_rays, relative_to_first
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

IMAGE, LATENT = (704, 1280), (22, 40)


def random_path(frames, seed=0, spread=1.0):
    random = np.random.default_rng(seed)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = Rotation.random(frames, random_state=seed).as_matrix()
    c2w[:, :3, 3] = random.normal(size=(frames, 3)) * spread
    intrinsics = np.array([600.0, 610.0, 640.0, 352.0]) + random.normal(size=(frames, 4)) * 20
    return c2w.astype(np.float32), intrinsics.astype(np.float32)


@pytest.mark.parametrize("frames", [1, 5, 8, 9, 33, 38])
def test_tensors_equal_diffusers(frames):
    cam_utils = pytest.importorskip("diffusers.pipelines.sana_wm.cam_utils")
    c2w, intrinsics = random_path(frames, seed=frames)
    theirs = cam_utils.prepare_camera(c2w, intrinsics, target_size=IMAGE, vae_stride=(8, 32, 32))
    ours = camera_conditions(c2w, intrinsics, IMAGE, LATENT)
    assert ours.dtype == np.float32 and ours.shape == theirs["raymap"].shape
    np.testing.assert_allclose(ours, theirs["raymap"].numpy(), atol=1e-6, rtol=1e-6)
    rays = chunk_plucker(c2w, intrinsics, IMAGE, LATENT)
    assert rays.dtype == np.float32 and rays.shape == (48, len(ours), *LATENT)
    np.testing.assert_allclose(rays, theirs["chunk_plucker"].numpy(), atol=1e-6, rtol=1e-6)


def test_rays_by_hand():
    """A camera one unit right of the origin, turned a quarter to its right, principal point at cell (1, 2)."""
    pose = np.array([[[0, 0, 1, 1], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]]], dtype=np.float32)
    rays = plucker_rays(pose, np.array([[2.0, 2.0, 2.0, 1.0]], dtype=np.float32), (3, 4))
    np.testing.assert_allclose(rays[0, 1, 2], [1, 0, 0, 0, 0, 0], atol=1e-7)
    # One cell down: camera ray (0, 0.5, 1) becomes (1, 0.5, 0) in the world; moment (1, 0, 0) x d = (0, 0, 0.5) / |d|.
    np.testing.assert_allclose(rays[0, 2, 2], np.array([1, 0.5, 0, 0, 0, 0.5]) / np.sqrt(1.25), atol=1e-7)


def test_latent_frame_zero_looks_ahead_and_the_end_repeats():
    c2w, intrinsics = random_path(20)
    packed = chunk_plucker(c2w, intrinsics, IMAGE, LATENT)
    scaled = intrinsics * np.float32(1 / 32)
    rays = plucker_rays(relative_to_first(c2w), scaled, LATENT)
    for latent, first in ((0, 0), (1, 1), (2, 9)):
        for k in range(8):
            expected = rays[min(first + k, 19)].transpose(2, 0, 1)
            np.testing.assert_allclose(packed[6 * k : 6 * k + 6, latent], expected, atol=1e-6)
    short = chunk_plucker(c2w[:3], intrinsics[:3], IMAGE, LATENT)
    np.testing.assert_array_equal(short[12:18, 0], short[42:48, 0])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 20), st.integers(0, 10**6), st.sampled_from([np.float32, np.float64]))
def test_first_relative_pose_is_the_exact_identity(frames, seed, dtype):
    c2w = random_path(frames, seed, spread=50.0)[0].astype(dtype)
    relative = relative_to_first(c2w)
    assert relative.dtype == dtype
    np.testing.assert_array_equal(relative[0], np.eye(4))
    np.testing.assert_allclose(c2w[0] @ relative[-1], c2w[-1], atol=1e-3 if dtype == np.float32 else 1e-5)
    np.testing.assert_allclose(relative_to_first(relative), relative, atol=1e-4 if dtype == np.float32 else 1e-5)


def test_directions_are_unit_and_moments_stand_on_them():
    c2w, intrinsics = random_path(4)
    rays = plucker_rays(c2w, intrinsics / 32, LATENT).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(rays[..., :3], axis=-1), 1.0, atol=1e-6)
    np.testing.assert_allclose((rays[..., :3] * rays[..., 3:]).sum(-1), 0.0, atol=1e-6)


def test_inverse_undoes_a_pose():
    c2w = random_path(5)[0].astype(np.float64)
    np.testing.assert_allclose(invert_rigid(c2w) @ c2w, np.tile(np.eye(4), (5, 1, 1)), atol=1e-6)


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"c2w has shape \(3, 3, 4\) and intrinsics \(3, 4\)"):
        camera_conditions(np.zeros((3, 3, 4)), np.zeros((3, 4)), IMAGE, LATENT)
    with pytest.raises(ValueError, match="allowed"):
        chunk_plucker(np.zeros((3, 4, 4)), np.zeros((4,)), IMAGE, LATENT)


@pytest.mark.parametrize(
    ("source", "resized", "top_left"),
    [
        ((1080, 1920), (720, 1280), (8, 0)),
        ((928, 1690), (704, 1282), (0, 1)),
        ((1024, 1024), (1280, 1280), (288, 0)),
        ((83, 110), (966, 1280), (131, 0)),
    ],
)
def test_crop_plan_of_the_specification(source, resized, top_left):
    assert crop_plan(source, IMAGE) == (resized, top_left)


def test_crop_of_intrinsics():
    out = crop_intrinsics(np.array([800.0, 800.0, 845.0, 464.0]), (928, 1690), IMAGE)
    np.testing.assert_allclose(out, [606.864, 606.897, 640.0, 352.0], atol=1e-3)


def test_intrinsics_forms_agree():
    matrix = np.array([[600.0, 0, 640], [0, 610, 352], [0, 0, 1]])
    row = np.array([600.0, 610, 640, 352])
    for form in (row, matrix, row[None], matrix[None], np.tile(row, (5, 1)), np.tile(matrix, (9, 1, 1))):
        np.testing.assert_array_equal(intrinsics_to_vec4(form, 5), np.tile(row, (5, 1)))
    ramp = intrinsics_to_vec4(np.stack([row, row + 8]), 5)
    np.testing.assert_allclose(ramp[:, 0], [600, 602, 604, 606, 608])


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 5), (3, 4, 4), (0, 4), (1, 1, 3, 3)])
def test_other_intrinsics_are_refused(shape):
    with pytest.raises(ValueError, match="allowed"):
        intrinsics_to_vec4(np.ones(shape), 5)


@pytest.mark.parametrize(
    ("frames", "stride", "bound", "snapped"),
    [
        (160, 8, None, 161),
        (164, 8, None, 161),
        (165, 8, 169, 169),
        (165, 8, 168, 161),
        (242, 24, None, 241),
        (253, 24, None, 265),
        (161, 8, None, 161),
        (0, 8, None, 1),
        (3, 8, None, 1),
    ],
)
def test_snapping_of_frame_counts(frames, stride, bound, snapped):
    assert snap_num_frames(frames, stride, bound) == snapped
