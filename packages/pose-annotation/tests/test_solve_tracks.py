"""Cameras from exact tracks: known answers, and what must be flagged instead of invented."""

import sys
from pathlib import Path

import numpy as np
import pytest
from pose_annotation import solve, starts
from pose_annotation.align import compare_paths
from pose_annotation.lens_prior import LensPrior, lens_rows
from pose_annotation.rotations import angle_deg, exp_rotation
from pose_annotation.solve import SolveConfig, Unsolvable, solve_camera
from pose_annotation.types import Tracks
from threadpoolctl import threadpool_info, threadpool_limits

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_tracks import path, tracks


def aligned_ate(estimate, truth):
    """Root mean square distance of centres (f, 3) after the best similarity."""
    x, y = estimate - estimate.mean(0), truth - truth.mean(0)
    u, d, vt = np.linalg.svd(y.T @ x)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    scale = np.trace(np.diag(d) @ sign) / (x**2).sum()
    return float(np.sqrt((((scale * x @ (u @ sign @ vt).T) - y) ** 2).sum(1).mean()))


@pytest.mark.parametrize("kind", ["fly", "zoom"])
def test_a_moving_camera_with_a_lens_per_frame(kind):
    c2w, k = path(24, kind)
    seen, _, _ = tracks(c2w, k, 300, noise_px=0.1)
    camera = solve_camera(seen, 16.0)
    assert camera.flags == () and not camera.metric
    assert np.array_equal(camera.c2w[0], np.eye(4)) and len(camera) == 24
    assert aligned_ate(camera.c2w[:, :3, 3], c2w[:, :3, 3]) < 0.01
    assert angle_deg(camera.c2w[:, :3, :3], c2w[:, :3, :3]).max() < 0.2
    assert np.abs(camera.intrinsics[:, 0] / k[:, 0] - 1).max() < 0.006
    assert np.nanmax(camera.rmse_px) < 0.2 and camera.inlier_ratio.min() > 0.5
    assert np.nanmax(camera.focal_std) < 0.01


def test_a_camera_that_only_turns_gets_no_translation():
    c2w, k = path(24, "rot")
    seen, _, _ = tracks(c2w, k, 300, noise_px=0.1)
    camera = solve_camera(seen, 16.0)
    assert camera.flags == ("pure_rotation",)
    assert np.array_equal(camera.c2w[:, :3, 3], np.zeros((24, 3)))
    assert angle_deg(camera.c2w[:, :3, :3], c2w[:, :3, :3]).max() < 0.1
    assert np.abs(camera.intrinsics[:, 0] / k[:, 0] - 1).max() < 0.005


def test_a_camera_that_stands_still_is_flagged_even_when_things_move():
    c2w, k = path(24, "still")
    seen, _, _ = tracks(c2w, k, 300, noise_px=0.1)
    walking = seen.track < 60
    xy = seen.xy + np.where(walking, 1.5 * seen.frame, 0.0)[:, None] * np.array([1.0, 0.2])
    camera = solve_camera(Tracks(seen.frame, seen.track, xy, 24, seen.size), 16.0)
    assert camera.flags == ("focal_unobservable", "static_camera")
    assert np.array_equal(camera.c2w, np.tile(np.eye(4), (24, 1, 1)))


def test_a_sideways_step_leaves_the_focal_length_open_and_says_so():
    c2w, k = path(20, "side")
    seen, _, _ = tracks(c2w, k, 300, noise_px=0.2)
    camera = solve_camera(seen, 16.0)
    assert "focal_unobservable" in camera.flags
    assert np.ptp(camera.intrinsics[:, 0]) < 1e-6  # shared, not a wobble per frame
    known = solve_camera(seen, 16.0, k[0], config=SolveConfig(level="fixed"))
    assert "focal_unobservable" not in known.flags and aligned_ate(known.c2w[:, :3, 3], c2w[:, :3, 3]) < 0.01


@pytest.mark.parametrize("kind", ["fly", "rot"])
def test_depths_make_it_metric_and_solve_pure_turns(kind):
    c2w, k = path(16, kind)
    seen, _, z = tracks(c2w, k, 300, noise_px=0.1)
    rng = np.random.default_rng(0)
    noisy = np.where(rng.random(len(z)) < 0.1, np.nan, z * np.exp(rng.normal(0, 0.02, len(z))))
    camera = solve_camera(seen, 16.0, depth=noisy)
    assert camera.metric and "pure_rotation" not in camera.flags
    assert np.linalg.norm(camera.c2w[:, :3, 3] - c2w[:, :3, 3], axis=1).max() < 0.03
    assert angle_deg(camera.c2w[:, :3, :3], c2w[:, :3, :3]).max() < 0.2
    assert np.abs(camera.intrinsics[:, 0] / k[:, 0] - 1).max() < 0.01


def test_moving_things_do_not_pull_the_camera():
    c2w, k = path(24, "fly")
    seen, _, _ = tracks(c2w, k, 400, noise_px=0.1)
    moving = seen.track < 100
    xy = seen.xy + np.where(moving, 2.5 * seen.frame, 0.0)[:, None] * np.array([0.7, -0.7])
    camera = solve_camera(Tracks(seen.frame, seen.track, xy, 24, seen.size), 16.0)
    assert aligned_ate(camera.c2w[:, :3, 3], c2w[:, :3, 3]) < 0.02


def test_keyframes_and_filled_frames_agree_when_the_clip_is_too_long_to_adjust_at_once():
    c2w, k = path(40, "fly")
    seen, _, _ = tracks(c2w, k, 300, noise_px=0.1)
    camera = solve_camera(seen, 16.0, config=SolveConfig(dense_frames=10))
    assert 3 < camera.is_keyframe.sum() < 40
    assert aligned_ate(camera.c2w[:, :3, 3], c2w[:, :3, 3]) < 0.02
    assert np.nanmax(camera.rmse_px) < 0.3


def test_a_rough_first_map_is_not_taken_for_the_answer(monkeypatch):
    """As a moving dog did: a start from one pair explained 94 % of the tracks within 1.5 px and was 70 degrees off."""
    c2w, k = path(20, "fly")
    seen, _, _ = tracks(c2w, k, 300, noise_px=0.1)
    grow, asked = starts.build, []

    def unlucky(view, frames, lens, prior, level, rank=0):
        asked.append(rank)
        found = grow(view, frames, lens, prior, level, rank)
        if rank == 0:
            found.rotation[found.known] = exp_rotation(np.array([0, 0.003, 0])) @ found.rotation[found.known]
        return found

    monkeypatch.setattr(starts, "build", unlucky)
    camera = solve_camera(seen, 16.0)
    assert asked == [0, 1] and camera.flags == ()
    assert angle_deg(camera.c2w[:, :3, :3], c2w[:, :3, :3]).max() < 0.2


def test_a_map_that_misses_its_tracks_is_flagged():
    c2w, k = path(12, "fly")
    for noise, poor in ((0.1, False), (0.7, True)):
        seen, _, _ = tracks(c2w, k, 150, noise_px=noise)
        assert ("poor_fit" in solve_camera(seen, 16.0).flags) == poor


def test_two_maps_that_explain_the_clip_equally_are_flagged(monkeypatch):
    c2w, k = path(12, "fly")
    seen, _, _ = tracks(c2w, k, 150, noise_px=0.1)
    once = starts.attempt

    def blurred(tracks, keyframes, lens, depth, config, rank=0):
        found = once(tracks, keyframes, lens, depth, config, rank)
        if rank == 1:
            turned = exp_rotation(np.linspace(0, 0.1, found.found.known.sum())[:, None] * [0.0, 1.0, 0.0])
            found.found.rotation[found.found.known] = turned @ found.found.rotation[found.found.known]
        return found._replace(sharp=0.7)

    monkeypatch.setattr(starts, "attempt", blurred)
    assert "ambiguous" in solve_camera(seen, 16.0).flags


def test_points_and_observations_that_a_rough_map_spoiled_are_judged_again(monkeypatch):
    c2w, k = path(24, "fly")
    seen, _, _ = tracks(c2w, k, 300, noise_px=0.1)
    good = solve_camera(seen, 16.0)
    fill = solve._infill

    def spoil(*arguments):
        dense = fill(*arguments)
        far = np.arange(len(dense.whole.world)) % 4 == 0
        dense.whole.world[far] *= 50.0
        dense.whole.view.alive[::3] = False
        return dense

    monkeypatch.setattr(solve, "_infill", spoil)
    camera = solve_camera(seen, 16.0)
    assert camera.extra["observations"] > 0.98 * good.extra["observations"]
    assert angle_deg(camera.c2w[:, :3, :3], good.c2w[:, :3, :3]).max() < 0.01


def test_linear_algebra_runs_on_one_thread_and_then_on_as_many_as_before(monkeypatch):
    def threads():
        return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}

    c2w, k = path(10, "still")
    seen, _, _ = tracks(c2w, k, 100)
    inside = []
    monkeypatch.setattr(solve, "flow_speed", lambda *_: inside.append(threads()) or 0.0)
    with threadpool_limits(2, user_api="blas"):
        solve_camera(seen, 16.0)
        assert threads() == {2}
    assert inside == [{1}]


def test_equal_tracks_give_equal_bits():
    c2w, k = path(12, "fly")
    seen, _, _ = tracks(c2w, k, 200, noise_px=0.2)
    first, second = (solve_camera(seen, 16.0) for _ in range(2))
    assert np.array_equal(first.c2w, second.c2w) and np.array_equal(first.intrinsics, second.intrinsics)


def test_mistakes_are_one_line():
    c2w, k = path(12, "fly")
    seen, _, z = tracks(c2w, k, 100)
    with pytest.raises(ValueError, match=r"intrinsics have shape \(3,\); allowed: \(4,\) or \(12, 4\)"):
        solve_camera(seen, 16.0, np.ones(3))
    with pytest.raises(ValueError, match="depth has shape"):
        solve_camera(seen, 16.0, depth=z[:-1])
    with pytest.raises(ValueError, match="needs intrinsics"):
        solve_camera(seen, 16.0, config=SolveConfig(level="fixed"))
    with pytest.raises(ValueError, match="lens level is 'zoom'"):
        SolveConfig(level="zoom")
    with pytest.raises(Unsolvable, match="tracked points"):
        solve_camera(seen.keep(seen.frame < 0), 16.0)
    rng = np.random.default_rng(0)
    noise = Tracks(seen.frame, seen.track, rng.uniform(0, 190, seen.xy.shape), 12, seen.size)
    noise = noise.keep(np.isin(noise.frame, (0, 5, 11)) & (noise.track < 60))
    with pytest.raises(Unsolvable, match="no two views of the clip fit together"):
        solve_camera(noise, 16.0)


def test_a_dolly_without_any_turn_fits_every_lens_and_says_so():
    c2w, k = path(20, "side")
    c2w[:, :3, 3] = np.stack([np.zeros(20), np.zeros(20), np.linspace(0, 2, 20)], 1)
    seen, _, z = tracks(c2w, k, 300, noise_px=0.2)
    for depth in (None, z * np.exp(np.random.default_rng(0).normal(0, 0.02, len(z)))):
        assert "focal_unobservable" in solve_camera(seen, 16.0, depth=depth).flags


def test_a_lens_that_nothing_shows_is_the_first_guess_and_the_same_backwards():
    """As a clip with little motion did: its noise picked 1.63 picture widths, and 1.05 when it was played backwards."""
    c2w, k = path(20, "side")
    for seed, start in ((0, None), (1, None), (0, np.array([400.0, 400.0, 160.0, 96.0]))):
        seen, _, _ = tracks(c2w, k, 300, noise_px=0.2, seed=seed)
        back = Tracks(19 - seen.frame, seen.track, seen.xy, 20, seen.size)
        found = [solve_camera(clip, 16.0, start) for clip in (seen, back)]
        assert all("focal_unobservable" in camera.flags for camera in found)
        focal = [float(camera.intrinsics[0, 0]) for camera in found]
        assert abs(np.log(focal[0] / focal[1])) < 0.02
        assert abs(np.log(focal[0] / (288.0 if start is None else 400.0))) < 0.1


def test_a_zoom_is_as_likely_at_any_frame_rate():
    costs = []
    for fps in (16.0, 8.0, 48.0):
        n = round(4 * fps) + 1
        matrix, target = lens_rows(LensPrior(fps=fps), np.arange(n) * 1.0, np.zeros(2), (96, 160), "per_frame_f")
        curve = np.zeros((n, 11))
        curve[:, 6] = 0.1 * np.sin(np.arange(n) / fps)
        costs.append(float(np.sum((matrix @ curve.ravel() - target) ** 2)))
    assert np.allclose(costs, costs[0], rtol=0.05) and costs[0] > 0.1


def test_depth_maps_that_are_wrong_as_a_whole_do_not_bend_the_path():
    c2w, k = path(24)
    seen, _, z = tracks(c2w, k, 300, noise_px=0.1)
    wrong = np.exp(0.05 * np.sin(np.linspace(0, 2 * np.pi, 24)))[seen.frame]
    camera = solve_camera(seen, 16.0, depth=z * wrong)
    errors = compare_paths(camera.c2w, c2w)
    length = np.linalg.norm(np.diff(c2w[:, :3, 3], axis=0), axis=1).sum()
    # With one scale for all maps the path is off by 0.14 % of its length, and 4 % too long.
    assert errors.ate < 0.0008 * length and abs(errors.scale - 1.0) < 0.02
