"""Pose metrics on cases with known answers (benchmark specification 6.9, K1 to K12) and beside evo."""

import json

import numpy as np
import pytest
from camera_control.trajectory import Trajectory
from scipy.spatial.transform import Rotation
from wm_bench.poses import (
    align,
    nearest_frames,
    pose_errors,
    relative_pair,
    relative_pose_errors,
    rotation_angle_deg,
    score_poses,
    truth_at,
)
from wm_bench.poses.sampling import sample_times

BOTH = ("code-v1", "paper-sim3")


def poses(rotations, centres):
    out = np.tile(np.eye(4), (len(centres), 1, 1))
    out[:, :3, :3] = rotations
    out[:, :3, 3] = centres
    return out


def turn(axis, degrees):
    """Rotations about one axis: (3, 3) for a number, (n, 3, 3) for many."""
    return Rotation.from_rotvec(np.multiply.outer(degrees, np.eye(3)["XYZ".index(axis)]), degrees=True).as_matrix()


def loop(frames=241, seconds=60.0, fps=None):
    """A gentle loop with changing yaw, pitch and height; closed over its duration."""
    times = np.arange(frames) / fps if fps else np.linspace(0, seconds, frames)
    u = 2 * np.pi * times / seconds
    centres = np.stack([2 * np.sin(u), 0.3 * np.sin(3 * u), 2 - 2 * np.cos(u)], 1)
    turns = Rotation.from_euler("YX", np.stack([60 * np.sin(u), 10 * np.sin(2 * u)], 1), degrees=True)
    return poses(turns.as_matrix(), centres)


def planar_twice(theta_deg=0.0, delta=0.0, frames=40):
    """Every place twice on a planar path: rotated (or moved) by +x and by -x about (along) the plane's normal."""
    u = np.repeat(np.linspace(0, 3, frames), 2)
    centres = np.stack([5 + 2 * np.cos(u), np.zeros_like(u), 1.5 * np.sin(u)], 1)
    sign = np.tile([1.0, -1.0], frames)
    truth = poses(np.tile(np.eye(3), (len(u), 1, 1)), centres)
    turned = turn("Y", sign * theta_deg)
    return poses(turned, centres + np.outer(sign * delta, [0, 1, 0])), truth


def triple(protocol, estimate, truth):
    errors = pose_errors(align(protocol, estimate, truth).c2w, truth)
    return [float(e.mean()) for e in errors]


@pytest.mark.parametrize("protocol", [*BOTH, "first-frame", "none"])
def test_k1_the_same_path_has_no_error(protocol):
    truth = loop()
    assert triple(protocol, truth, truth) == pytest.approx([0, 0, 0], abs=1e-9)


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("seed", range(3))
def test_k2_a_similarity_of_the_path_has_no_error(protocol, seed):
    truth = loop()
    q = Rotation.random(rng=np.random.default_rng(seed)).as_matrix()
    estimate = poses(q @ truth[:, :3, :3], 0.37 * truth[:, :3, 3] @ q.T + [3, -1, 2])
    assert triple(protocol, estimate, truth) == pytest.approx([0, 0, 0], abs=1e-9)
    assert align(protocol, estimate, truth).scale == pytest.approx(1 / 0.37, abs=1e-9)


def test_k3_cam_mc_is_the_chord_and_the_distance():
    rng = np.random.default_rng(3)
    truth, estimate = (poses(Rotation.random(50, rng=rng).as_matrix(), rng.normal(size=(50, 3))) for _ in range(2))
    e = pose_errors(estimate, truth)
    expected = 8 * np.sin(np.radians(e.rotation_deg) / 2) ** 2 + e.translation**2
    np.testing.assert_allclose(e.cam_mc**2, expected, atol=1e-9)
    still = poses(np.eye(3)[None], np.zeros((1, 3)))
    turned = poses(turn("X", [10.0]), np.zeros((1, 3)))
    assert pose_errors(turned, still).cam_mc[0] == pytest.approx(0.2465136669, abs=1e-10)


@pytest.mark.parametrize("theta", [5.0, 30.0, 60.0])
def test_k4_rotation_error_leaks_into_the_released_codes_scale_only(theta):
    estimate, truth = planar_twice(theta_deg=theta)
    rot, trans, _ = triple("code-v1", estimate, truth)
    # The released translation part lives in camera coordinates, so scale and centre shrink by cos(theta).
    mean_g = np.linalg.norm(truth[:, :3, 3], axis=1).mean()
    assert rot == pytest.approx(theta, abs=1e-9)
    assert align("code-v1", estimate, truth).scale == pytest.approx(np.cos(np.radians(theta)), abs=1e-9)
    assert trans == pytest.approx((1 - np.cos(np.radians(theta))) * mean_g, abs=1e-9)
    assert triple("paper-sim3", estimate, truth)[:2] == pytest.approx([theta, 0], abs=1e-9)
    assert align("paper-sim3", estimate, truth).scale == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("protocol", BOTH)
def test_k5_a_constant_offset_along_the_normal(protocol):
    delta = 0.4
    estimate, truth = planar_twice(delta=delta)
    g = truth[:, :3, 3]
    spread = np.mean(np.sum((g - g.mean(0)) ** 2, axis=1))
    s = spread / (spread + delta**2)
    off = np.sqrt((1 - s) ** 2 * np.sum((g - g.mean(0)) ** 2, axis=1) + s**2 * delta**2)
    assert align(protocol, estimate, truth).scale == pytest.approx(s, abs=1e-9)
    assert triple(protocol, estimate, truth)[:2] == pytest.approx([0, off.mean()], abs=1e-9)


def test_k6_linear_yaw_drift_is_centred_by_the_released_code():
    frames, theta = 241, 10.0
    truth = loop(frames)
    drift = turn("Y", np.linspace(0, theta, frames))
    level = poses(np.tile(np.eye(3), (frames, 1, 1)), truth[:, :3, 3])
    estimate = poses(drift, truth[:, :3, 3])
    rot = triple("code-v1", estimate, level)[0]
    assert rot == pytest.approx(theta * (frames + 1) / (4 * frames), abs=1e-9)
    assert rot == pytest.approx(2.51037, abs=1e-5)


def test_k7_a_mirror_image_is_flagged_and_never_used():
    truth = poses(np.tile(np.eye(3), (3, 1, 1)), np.zeros((3, 3)))
    estimate = poses(np.stack([np.diag([1, -1, -1]), np.diag([-1, 1, -1]), np.diag([-1, -1, 1])]), np.zeros((3, 3)))
    found = align("code-v1", estimate.astype(float), truth)
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    assert {"reflected", "ambiguous", "still"} <= set(found.flags)


def test_straight_and_still_paths_are_flagged():
    line = loop()
    line[:, :3, 3] = np.outer(np.linspace(0, 3, len(line)), [0, 0, 1])
    assert "straight" in align("paper-sim3", line, line).flags
    still = loop()
    still[:, :3, 3] = 0
    for protocol in (*BOTH, "first-frame"):
        assert "still" in align(protocol, still, loop()).flags
        assert np.isfinite(triple(protocol, still, loop())).all()
    assert align("paper-sim3", loop(), loop()).flags == ()


@pytest.mark.parametrize("seed", range(3))
def test_k8_evo_agrees(seed):
    evo_metrics = pytest.importorskip("evo.core.metrics")
    from evo.core.trajectory import PosePath3D

    rng = np.random.default_rng(seed)
    truth = loop(120)
    noise = Rotation.from_rotvec(0.1 * rng.normal(size=(120, 3))).as_matrix()
    estimate = poses(truth[:, :3, :3] @ noise, 0.3 * truth[:, :3, 3] + 0.05 * rng.normal(size=(120, 3)))
    reference, other = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(estimate))
    other.align(reference, correct_scale=True)
    aligned = align("paper-sim3", estimate, truth).c2w
    errors = pose_errors(aligned, truth)
    relation = evo_metrics.PoseRelation
    for kind, ours in (
        (relation.rotation_angle_deg, errors.rotation_deg),
        (relation.translation_part, errors.translation),
        (relation.full_transformation, None),
    ):
        peer = evo_metrics.APE(kind)
        peer.process_data((reference, other))
        if ours is None:  # evo takes the norm of inv(G) E - I, which equals the norm of the [R|t] difference
            ours = errors.cam_mc
        np.testing.assert_allclose(peer.error, ours, atol=1e-9)
    for delta in (1, 16):
        angle, move = relative_pose_errors(aligned, truth, delta)
        for kind, ours in ((relation.rotation_angle_deg, angle), (relation.translation_part, move)):
            peer = evo_metrics.RPE(kind, delta=delta, delta_unit=evo_metrics.Unit.frames, all_pairs=True)
            peer.process_data((reference, other))
            assert np.mean(peer.error) == pytest.approx(ours.mean(), abs=1e-9)


@pytest.mark.parametrize("protocol", BOTH)
def test_k9_a_later_camera_is_a_worse_camera(protocol):
    truth = loop(961)
    values = []
    for late in (0, 1, 2, 4, 8, 16):
        shifted = truth[np.maximum(np.arange(961) - late, 0)]
        values.append(triple(protocol, shifted, truth)[0])
    assert values[0] == pytest.approx(0, abs=1e-9)
    assert np.all(np.diff(values) > 0)


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize("fps", [8.0, 16.0, 24.0, 25.0, 30.0])
def test_k10_the_frame_rate_trap(protocol, fps):
    truth = Trajectory(loop(961, fps=16.0), fps=16.0)
    video = loop(int(60 * fps) + 1, fps=fps)
    times = np.arange(len(video)) / fps
    picked = sample_times(times, 60.0)
    score = score_poses(protocol, video[picked], truth_at(truth, times[picked]), times[picked])
    # The truth itself is stored at 16 poses a second; between them its interpolation differs from the exact loop.
    assert score.rot_err_deg < 0.02 and score.trans_err < 1e-3
    assert len(score.windows_rot_deg) == 6
    if fps > 16:
        by_index = min(len(video), 961)
        trap = triple(protocol, *relative_pair(video[:by_index:4], truth.c2w[:by_index:4]))
        assert trap[0] > 10


def test_k11_float32_poses_are_enough():
    rng = np.random.default_rng(11)
    truth = loop()
    estimate = poses(
        truth[:, :3, :3] @ Rotation.from_rotvec(0.1 * rng.normal(size=(241, 3))).as_matrix(), truth[:, :3, 3] * 0.4
    )
    full = triple("code-v1", estimate, truth)
    half = triple("code-v1", estimate.astype(np.float32), truth.astype(np.float32))
    assert abs(full[0] - half[0]) < 0.03
    assert abs(full[1] - half[1]) < 1e-4


def test_k12_three_degrees_stay_three_degrees():
    frames = 200
    truth = poses(np.tile(np.eye(3), (frames, 1, 1)), loop(frames)[:, :3, 3])
    sign = np.tile([1.0, -1.0], frames // 2)
    estimate = poses(turn("Y", 3.1 * sign), truth[:, :3, 3])
    value = triple("code-v1", estimate, truth)[0]
    assert json.loads(json.dumps({"rot_err_deg": value}))["rot_err_deg"] == pytest.approx(3.1, abs=1e-9)


def test_first_frame_protocol_keeps_the_rotation_and_fits_the_scale():
    truth = relative_pair(loop(), loop())[1]
    turned = turn("Y", 7.0)
    estimate = truth.copy()
    estimate[1:, :3, :3] = truth[1:, :3, :3] @ turned
    estimate[:, :3, 3] *= 4
    found = align("first-frame", estimate, truth)
    assert found.scale == pytest.approx(0.25)
    assert triple("first-frame", estimate, truth)[0] == pytest.approx(7 * 240 / 241)


def test_angles_are_exact_at_both_ends():
    eye = np.eye(3)
    for degrees in (1e-7, 1e-3, 90.0, 179.9999999, 180.0):
        assert rotation_angle_deg(turn("Z", degrees), eye) == pytest.approx(degrees, rel=1e-7)


def test_nearest_frames_by_time():
    assert nearest_frames(np.arange(5) / 8, np.array([0.0, 0.06, 0.07, 0.5, 9.0])).tolist() == [0, 0, 1, 4, 4]
    assert nearest_frames(np.array([0.0]), np.array([0.0, 3.0])).tolist() == [0, 0]
    # 60 s at 30 fps sampled four times a second, each frame once.
    assert len(sample_times(np.arange(1801) / 30, 60.0)) == 241
    assert len(sample_times(np.arange(960) / 16, 60.0)) == 240


def test_bad_input_is_one_line():
    truth = loop(9)
    nan = truth.copy()
    nan[4, 0, 3] = np.nan
    for estimate, message in ((nan, "pose 4"), (truth[:5], "shapes"), (truth[:1], "shapes")):
        with pytest.raises(ValueError, match=message) as caught:
            relative_pair(estimate, truth)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="at least 2"):
        relative_pair(truth[:1], truth[:1])
    with pytest.raises(ValueError, match="protocol is 'sim3'"):
        align("sim3", truth, truth)
    with pytest.raises(ValueError, match="after the path's end"):
        truth_at(Trajectory(truth), np.array([5.0]))


def test_dropping_the_first_frame_is_the_same_for_both():
    truth = loop(81, seconds=20.0)
    estimate = truth.copy()
    estimate[0, :3, :3] = estimate[0, :3, :3] @ turn("Y", 20.0)
    times = np.arange(81) / 4
    assert score_poses("first-frame", estimate, truth, times).rot_err_deg > 15
    assert score_poses("first-frame", estimate, truth, times, drop_first=True).rot_err_deg < 1e-6
