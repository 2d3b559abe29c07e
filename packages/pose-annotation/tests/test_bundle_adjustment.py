"""Derivatives, elimination and the optimum of bundle adjustment, on exact data."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pose_annotation.adjust import (
    CAMERA,
    Problem,
    State,
    _parameters,
    _stepped,
    adjust,
    covariance,
    lens_from_intrinsics,
    linearise,
    normal_equations,
    robust_cost,
    schur,
)
from pose_annotation.lens_prior import LensPrior, freedom, lens_rows
from pose_annotation.rotations import angle_deg, exp_rotation, log_rotation

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_tracks import SIZE, path, tracks


def make(frames=8, kind="zoom", points=60, noise_px=0.0, depth=False):
    c2w, k = path(frames, kind)
    seen, world, z = tracks(c2w, k, points, noise_px)
    rotation = np.swapaxes(c2w[:, :3, :3], 1, 2)
    translation = -np.einsum("nij,nj->ni", rotation, c2w[:, :3, 3])
    state = State(rotation, translation, lens_from_intrinsics(k), world)
    problem = Problem(seen.frame, seen.track, seen.xy, z if depth else None, huber_px=1e3, huber_log_z=1e3)
    return state, problem, c2w, k


def shaken(state, seed=0, pose=0.02, lens=0.05, points=0.1):
    rng = np.random.default_rng(seed)
    step = np.zeros((len(state.rotation), CAMERA))
    step[1:, :6] = rng.normal(0, pose, (len(step) - 1, 6))
    step[:, 6] = lens
    return _stepped(state, step, rng.normal(0, points, state.points.shape))


@pytest.mark.parametrize("depth", [False, True])
def test_derivatives_match_central_differences(depth):
    state, problem, _, _ = make(4, points=20, noise_px=2.0, depth=depth)
    state = shaken(state)
    _, by_camera, by_point = linearise(state, problem)
    h = 1e-6

    def error(s):
        return linearise(s, problem)[0]

    for column in range(CAMERA):
        step = np.zeros((4, CAMERA))
        step[:, column] = h
        up, down = _stepped(state, step, 0 * state.points), _stepped(state, -step, 0 * state.points)
        numeric = (error(up) - error(down)) / (2 * h)
        scale = max(1.0, np.abs(numeric).max())
        assert np.abs(numeric - by_camera[:, :, column]).max() / scale < 1e-6, column
    for axis in range(3):
        move = np.zeros_like(state.points)
        move[:, axis] = h
        numeric = (
            error(replace(state, points=state.points + move)) - error(replace(state, points=state.points - move))
        ) / (2 * h)
        assert np.abs(numeric - by_point[:, :, axis]).max() / np.abs(numeric).max() < 1e-6


def test_elimination_equals_the_dense_step():
    state, problem, _, _ = make(5, points=40, noise_px=1.0)
    state = shaken(state)
    active = np.arange(CAMERA)
    normal = normal_equations(state, problem, active)
    reduced, right, inverse = schur(normal, problem, 0.01)
    reduced = reduced + np.eye(len(reduced)) * 1e-3
    camera = np.linalg.solve(reduced, -right)

    n, p = 5, len(state.points)
    r, jc, jp = linearise(state, problem)
    dense = np.zeros((r.size, n * CAMERA + 3 * p))
    for m in range(len(r)):
        i, q = problem.frame[m], problem.point[m]
        dense[2 * m : 2 * m + 2, i * CAMERA : (i + 1) * CAMERA] = jc[m]
        dense[2 * m : 2 * m + 2, n * CAMERA + 3 * q : n * CAMERA + 3 * q + 3] = jp[m]
    h, g = dense.T @ dense, dense.T @ r.ravel()
    h[np.arange(n * CAMERA), np.arange(n * CAMERA)] += 1e-3
    for q in range(p):
        block = slice(n * CAMERA + 3 * q, n * CAMERA + 3 * q + 3)
        h[block, block] += np.eye(3) * (0.01 * np.diag(h[block, block])[:, None] + 1e-12)
    step = np.linalg.solve(h, -g)
    assert np.abs(step[: n * CAMERA] - camera).max() / np.abs(camera).max() < 1e-9
    pull = np.zeros((p, 3))
    np.add.at(pull, problem.point, np.einsum("mcj,mc->mj", normal.w, camera.reshape(n, CAMERA)[problem.frame]))
    points = -np.einsum("pij,pj->pi", inverse, normal.point_gradient + pull)
    assert np.abs(step[n * CAMERA :].reshape(p, 3) - points).max() / np.abs(points).max() < 1e-9


def test_exact_tracks_give_the_exact_camera_with_a_lens_per_frame():
    state, problem, c2w, k = make(10, "zoom", points=150)
    start = shaken(state)
    free = freedom(10, "per_frame_f", scale_frame=9)
    rows = lens_rows(LensPrior(smooth_f=1.0), np.arange(10.0), np.array([160.0, 96.0]), SIZE, "per_frame_f")
    solved, cost = adjust(start, problem, free, rows, iterations=60, tolerance=1e-14)
    scale = np.linalg.norm(c2w[-1, :3, 3]) / np.linalg.norm(solved.c2w[-1, :3, 3])
    assert cost < 1e-3
    assert angle_deg(solved.c2w[:, :3, :3], c2w[:, :3, :3]).max() < 1e-3
    assert np.abs(solved.c2w[:, :3, 3] * scale - c2w[:, :3, 3]).max() < 1e-3
    assert np.abs(solved.intrinsics[:, 0] / k[:, 0] - 1).max() < 1e-3


def test_principal_point_and_aspect_are_recovered_when_freed():
    state, problem, _c2w, k = make(10, "fly", points=200)
    wrong = replace(state, lens=state.lens + np.array([0.03, 0.02, 4.0, -3.0, 0.0]))
    rows = lens_rows(LensPrior(aspect=0.0, centre=1e-6), np.arange(10.0), np.array([160.0, 96.0]), SIZE, "full")
    solved, _ = adjust(wrong, problem, freedom(10, "full", scale_frame=9), rows, iterations=80, tolerance=1e-14)
    assert np.abs(solved.intrinsics - k).max() < 0.05


def test_moving_the_world_changes_nothing_and_scaling_needs_the_depths_to_follow():
    state, problem, _, _ = make(5, points=50, noise_px=0.5, depth=True)
    turn, shift = exp_rotation(np.array([0.3, -0.2, 0.5])), np.array([1.0, -2.0, 0.5])
    moved = replace(
        state,
        rotation=state.rotation @ turn.T,
        translation=state.translation - np.einsum("nij,j->ni", state.rotation @ turn.T, shift),
        points=state.points @ turn.T + shift,
    )
    base = robust_cost(state, problem, None)
    assert robust_cost(moved, problem, None) == pytest.approx(base, rel=1e-9)
    large = replace(state, translation=state.translation * 3, points=state.points * 3)
    assert robust_cost(large, replace(problem, z=problem.z * 3), None) == pytest.approx(base, rel=1e-9)
    assert robust_cost(large, problem, None) > base + 1


def test_depths_fix_the_scale():
    state, problem, c2w, _ = make(8, "fly", points=150, depth=True)
    half = replace(state, translation=state.translation * 0.8, points=state.points * 0.8)
    solved, _ = adjust(half, problem, freedom(8, "shared_f"), iterations=60, tolerance=1e-14)
    assert np.abs(solved.c2w[:, :3, 3] - c2w[:, :3, 3]).max() < 1e-4


def test_focal_length_is_certain_when_the_camera_turns_and_not_when_it_stands_almost_still():
    deviations = []
    for kind, frames in (("fly", 8), ("side", 2)):
        state, problem, _, _ = make(frames, kind, points=100)
        deviations.append(
            covariance(state, problem, freedom(frames, "per_frame_f", scale_frame=frames - 1))[:, 6].max()
        )
    assert deviations[0] < 0.05 < 0.1 < deviations[1]


def test_huber_lets_outliers_be():
    state, problem, c2w, _k = make(8, "fly", points=150)
    xy = problem.xy.copy()
    xy[::17] += 40.0
    worst = []
    for limit_px in (1.0, 1e3):
        measured = replace(problem, xy=xy, huber_px=limit_px)
        start = shaken(state, pose=0.005, lens=0.0, points=0.02)
        solved, _ = adjust(start, measured, freedom(8, "fixed", scale_frame=7), iterations=40)
        worst.append(angle_deg(solved.c2w[:, :3, :3], c2w[:, :3, :3]).max())
    assert worst[0] < 0.3 and worst[0] < 0.2 * worst[1], worst


def test_rotation_maps_are_inverse_to_each_other_and_smooth_near_zero():
    omega = np.array([[1e-9, 0, 0], [0.1, -0.2, 0.3], [0, 0, 0], [1.0, 2.0, -1.0]])
    assert np.abs(log_rotation(exp_rotation(omega)) - omega).max() < 1e-9


def test_equal_input_gives_equal_bits():
    state, problem, _, _ = make(6, points=80, noise_px=0.3)
    results = [adjust(shaken(state), problem, freedom(6, "per_frame_f", scale_frame=5))[0] for _ in range(2)]
    assert all(
        np.array_equal(getattr(results[0], n), getattr(results[1], n))
        for n in ("rotation", "translation", "lens", "points")
    )


def test_unknown_lens_level_is_one_line():
    with pytest.raises(ValueError, match="lens level is 'zoomy'; allowed"):
        freedom(3, "zoomy")


def test_prior_does_not_touch_a_lens_that_changes_evenly():
    n = 6
    rows, target = lens_rows(
        LensPrior(aspect=0, centre=0), np.arange(n) * 2.0, np.array([160.0, 96.0]), SIZE, "per_frame_f"
    )
    even = np.zeros((n, CAMERA))
    even[:, 6] = 5.0 + 0.03 * np.arange(n)
    assert np.abs(rows @ even.ravel() - target).max() < 1e-9
    assert _parameters(make(3)[0]).shape == (3, CAMERA)
