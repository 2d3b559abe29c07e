"""Points that were lost and are seen again: found where they are, nowhere else, and worth a loop's drift."""

import sys
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from camera_control.geometry import invert_rigid
from pose_annotation.adjust import lens_from_intrinsics
from pose_annotation.align import compare_paths
from pose_annotation.mapping import Map, View
from pose_annotation.relinking import RelinkConfig, candidates, find_again, pictures_of
from pose_annotation.rotations import exp_rotation
from pose_annotation.solve import SolveConfig, solve_camera
from pose_annotation.tracking import KltTracker
from pose_annotation.types import Tracks

sys.path.insert(0, str(Path(__file__).parent))
from textured_room import render

SIZE, SMALL = (144, 240), (96, 160)


@lru_cache(maxsize=1)
def walk():
    return render("fly", 40, SIZE, samples=2, count=14)


@lru_cache(maxsize=1)
def lost():
    """An exact map of the first five frames' points, which are tracked there only, and their true pixels everywhere."""
    clip = walk()
    seen = KltTracker().track(clip.frames[:1])
    row, column = (np.floor(seen.xy[:, i]).astype(int) for i in (1, 0))
    k = clip.intrinsics[0]
    z = clip.depth[0, row, column].astype(float)
    # The depth belongs to the middle of a pixel; a patch across an edge of the furniture has two.
    corners = [(i, j) for i in (-5, 0, 5) for j in (-5, 0, 5)]
    near = np.stack([clip.depth[0, np.clip(row + i, 0, 143), np.clip(column + j, 0, 239)] for i, j in corners])
    flat = np.ptp(near, axis=0) < 0.3 * z
    here = np.stack([(seen.xy[:, 0] - k[2]) / k[0] * z, (seen.xy[:, 1] - k[3]) / k[1] * z, z], 1)[flat]
    world = here @ clip.c2w[0, :3, :3].T + clip.c2w[0, :3, 3]
    w2c = invert_rigid(clip.c2w)
    y = np.einsum("fij,pj->fpi", w2c[:, :3, :3], world) + w2c[:, None, :3, 3]
    uv = clip.intrinsics[:, None, :2] * y[..., :2] / y[..., 2:] + clip.intrinsics[:, None, 2:]
    inside = (uv > 7).all(-1) & (uv < np.array([233, 137])).all(-1)
    frame, point = np.nonzero(inside & (np.arange(14) < 5)[:, None])
    tracks = Tracks(frame, point, uv[frame, point], 14, SIZE)
    n = tracks.count
    known = Map(
        View(tracks), np.arange(14), w2c[:, :3, :3].copy(), w2c[:, :3, 3].copy(),
        lens_from_intrinsics(clip.intrinsics), np.ones(14, bool), world[:n], np.ones(n, bool),
    )  # fmt: skip
    return known, uv


def added(known, again):
    old = len(known.view.tracks.frame)
    tracks = again.view.tracks
    return tracks.frame[old:], tracks.track[old:], tracks.xy[old:]


def test_lost_points_are_found_where_they_are_and_never_twice_in_a_frame():
    known, uv = lost()
    again, count = find_again(known, pictures_of(walk().frames))
    frame, track, xy = added(known, again)
    assert count == len(frame) > 400 and frame.min() == 5 and again.view.alive.all()
    error = np.linalg.norm(xy - uv[frame, track], axis=1)
    assert np.median(error) < 0.2 and np.percentile(error, 95) < 1.0
    everything = again.view.tracks
    assert len(np.unique(everything.frame * everything.count + everything.track)) == len(everything.frame)
    assert np.array_equal(everything.xy[: len(known.view.tracks.xy)], known.view.tracks.xy)
    same, _ = find_again(known, pictures_of(walk().frames))
    assert np.array_equal(same.view.tracks.xy, everything.xy)


def test_a_camera_that_is_off_by_two_pixels_does_not_take_them_along():
    known, uv = lost()
    bent = known.copy()
    bent.rotation[5:] = exp_rotation(np.array([0.004, 0.017, 0.0])) @ bent.rotation[5:]
    again, _ = find_again(bent, pictures_of(walk().frames))
    frame, track, xy = added(known, again)
    assert len(frame) > 300
    assert np.median(np.linalg.norm(xy - uv[frame, track], axis=1)) < 0.2


@pytest.mark.parametrize("pictures", ["another room", "turned around", "grey"])
def test_what_is_not_there_is_not_found(pictures):
    known, _ = lost()
    frames = walk().frames.copy()
    if pictures == "another room":
        frames[5:] = render("fly", 40, SIZE, samples=1, seed=3, count=14).frames[5:]
    else:
        frames[5:] = frames[5:, ::-1, ::-1] if pictures == "turned around" else 128
    _, count = find_again(known, pictures_of(frames))
    wanted = len(candidates(known, RelinkConfig()).track)
    assert wanted > 800 and count < 0.01 * wanted


def test_points_behind_the_camera_far_turned_away_or_hardly_known_are_not_searched():
    known, _ = lost()
    config = RelinkConfig()
    assert len(candidates(known, RelinkConfig(least_views=6)).track) == 0
    turned = known.copy()
    turned.rotation[5:] = exp_rotation(np.array([0, np.pi, 0])) @ turned.rotation[5:]
    turned.translation[5:] = turned.translation[5:] * np.array([-1.0, 1, -1])
    assert len(candidates(turned, config).track) == 0
    few = candidates(known, RelinkConfig(most=20))
    assert np.bincount(few.target).max() == 20
    nothing, count = find_again(turned, pictures_of(walk().frames))
    assert count == 0 and nothing is turned


def test_their_depth_is_unknown():
    known, _ = lost()
    depth = np.ones(len(known.view.tracks.frame))
    metric = Map(
        View(known.view.tracks, depth), known.frames, known.rotation, known.translation, known.lens, known.known,
        known.world, known.placed,
    )  # fmt: skip
    again, count = find_again(metric, pictures_of(walk().frames))
    assert (
        count and np.isnan(again.view.depth[len(depth) :]).all() and np.isfinite(again.view.depth[: len(depth)]).all()
    )


def test_there_and_back_again_drifts_less():
    clip = render("loop", 36, SMALL, samples=1)
    seen = KltTracker().track(clip.frames)
    errors = []
    for rounds in (0, 2):
        config = SolveConfig(level="shared_f", relinks=rounds)
        camera = solve_camera(seen, 16.0, config=config, frames=clip.frames)
        errors.append(compare_paths(camera.c2w, clip.c2w).ate)
        assert camera.flags == ()
    assert errors[1] < 0.8 * errors[0]
    again = solve_camera(seen, 16.0, config=SolveConfig(level="shared_f"), frames=clip.frames)
    assert np.array_equal(again.c2w, camera.c2w) and np.array_equal(again.intrinsics, camera.intrinsics)
