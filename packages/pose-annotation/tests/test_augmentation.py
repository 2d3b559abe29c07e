"""Candidate paths around a capture: near it, smooth, and tested against the points they would show."""

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from camera_control.geometry import require_rotations
from camera_control.trajectory import Trajectory
from pose_annotation.augmentation import FAMILIES, candidate_paths, coverage, covered_paths
from pose_annotation.rotations import exp_rotation

sys.path.insert(0, str(Path(__file__).parent))
from textured_room import render

LENS = np.array([60.0, 60.0, 64.0, 36.0])


def capture(frames=30):
    """Cameras on a circle of radius 2 that look outwards, at the walls of a room of radius 6."""
    angle = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    c2w = np.tile(np.eye(4), (frames, 1, 1))
    c2w[:, :3, :3] = exp_rotation(angle[:, None] * [0, 1, 0])
    c2w[:, :3, 3] = 2.0 * np.stack([np.sin(angle), 0 * angle, np.cos(angle)], 1)
    return Trajectory(c2w, LENS, 16.0, (72, 128))


def wall(part=1.0):
    """Points on the cylinder around, all of it or a part."""
    rng = np.random.default_rng(0)
    angle, height = rng.uniform(0, 2 * np.pi * part, 40_000), rng.uniform(-5, 5, 40_000)
    return np.stack([6 * np.sin(angle), height, 6 * np.cos(angle)], 1)


def test_forty_paths_of_all_families_stay_near_the_capture_and_are_smooth():
    shot = capture()
    found = candidate_paths(shot, 97, seed=1)
    counts = Counter(c.family for c in found)
    assert len(found) == 40 and counts["spline"] == 10 and set(counts) == {"spline", *FAMILIES}
    for candidate in found:
        path = candidate.path
        assert len(path) == 97
        require_rotations(path.c2w)
        gap = np.linalg.norm(path.c2w[:, None, :3, 3] - shot.c2w[None, :, :3, 3], axis=-1).min(1)
        assert gap.max() <= 1.0 + 1e-9, candidate.family  # half the capture's reach of 2
        assert path.steps.max() < 1.0 and path.turns_deg.max() < 25
    again = candidate_paths(shot, 97, seed=1)
    assert all(np.array_equal(a.path.c2w, b.path.c2w) for a, b in zip(found, again, strict=True))
    other = candidate_paths(shot, 97, seed=2)
    assert not np.array_equal(found[0].path.c2w, other[0].path.c2w)


def test_coverage_counts_points_and_tiles():
    shot = capture()
    whole = coverage(wall(), shot, every=1)
    assert whole.passed and whole.good_share == 1.0 and whole.empty_tiles.max() < 0.2
    half = coverage(wall(0.5), shot, every=1)
    assert not half.passed and 0.3 < half.good_share < 0.65
    assert half.empty_tiles.max() == 1.0 and half.visible.min() == 0
    assert not coverage(np.zeros((0, 3)), shot).passed
    few = coverage(wall()[:300], shot)
    assert not few.passed and few.empty_tiles.min() > 0.65


def test_only_covered_paths_are_kept_and_begin_at_the_identity():
    kept = covered_paths(capture(), wall(), 65)
    assert len(kept) >= 20 and all(np.array_equal(c.path.c2w[0], np.eye(4)) for c in kept)
    assert len(covered_paths(capture(), wall(0.2), 65)) < len(kept)


def test_paths_around_a_rendered_room_show_what_its_pictures_showed():
    """A procedural scene as a point cloud: the depth of ten pictures of a walk, lifted into the world."""
    clip = render("fly", 10, (60, 100), samples=1)
    cloud, shot = clip.points(), Trajectory(clip.c2w, clip.intrinsics, 16.0, (60, 100))
    assert coverage(cloud, shot, every=1).passed
    kept = covered_paths(shot, cloud, 65)
    assert len(kept) >= 20 and {c.family for c in kept} >= {"spline", "dolly"}
    away = Trajectory(clip.c2w @ np.diag([-1.0, 1, -1, 1]), clip.intrinsics, 16.0, (60, 100))
    assert not coverage(cloud[cloud[:, 2] > 6], away, every=1).passed


def test_captures_that_will_not_do_are_one_line():
    shot = capture()
    with pytest.raises(ValueError, match="a capture of 3 cameras; allowed: four or more"):
        candidate_paths(shot[:3])
    with pytest.raises(ValueError, match="at one place"):
        candidate_paths(Trajectory(np.tile(np.eye(4), (9, 1, 1)), LENS, 16.0, (72, 128)))
    with pytest.raises(ValueError, match="frames is 3"):
        candidate_paths(shot, 3)
    with pytest.raises(ValueError, match="the path has no lens"):
        coverage(wall(), Trajectory(shot.c2w))
