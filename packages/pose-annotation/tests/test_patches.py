"""Patches: matched to a few hundredths of a pixel under a known affine warp, whatever the light does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from pose_annotation.opencv import cv2
from pose_annotation.patches import Patches, smoothed, stretch
from pose_annotation.tracking import KltTracker

sys.path.insert(0, str(Path(__file__).parent))
from textured_room import render

SIZE = (160, 200)


def _picture(seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.normal(0, 1, SIZE).astype(np.float32), (0, 0), 2.0)
    return np.clip(128 + 45 * noise / noise.std(), 0, 255).astype(np.uint8)


def _warped(picture: np.ndarray, shape: np.ndarray, shift: np.ndarray) -> np.ndarray:
    matrix = np.concatenate([shape, shift[:, None]], 1)
    return cv2.warpAffine(picture, matrix, SIZE[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)


@pytest.mark.parametrize(
    "shape", [np.eye(2), np.eye(2) * 1.25, np.array([[0.8, 0.1], [-0.05, 1.1]])], ids=["slide", "grow", "slant"]
)
def test_patches_are_found_where_the_warp_took_them_and_under_another_light(shape: np.ndarray) -> None:
    middle = np.array([100.0, 80.0])
    shift = middle - shape @ middle + (0.37, -0.61)
    first = _picture()
    second = np.clip(0.7 * _warped(first, shape, shift).astype(float) + 30, 0, 255).astype(np.uint8)
    start = np.stack(np.meshgrid(np.linspace(75, 125, 6), np.linspace(60, 100, 5)), -1).reshape(-1, 2)
    patches = Patches.cut(smoothed(first), start.astype(np.float32), 5)
    true = start @ shape.T + shift
    guess = (true + np.random.default_rng(1).uniform(-0.7, 0.7, true.shape)).astype(np.float32)
    near = np.tile(np.eye(2, dtype=np.float32), (len(start), 1, 1))
    match = patches.find(smoothed(second), guess, near, rounds=20)
    error = np.linalg.norm(match.xy - true, axis=1)
    assert np.median(error) < 0.05 and np.percentile(error, 90) < 0.15
    assert np.median(match.likeness) > 0.97
    assert np.median(np.abs(match.warp - shape)) < 0.05


def test_another_place_is_not_alike_and_no_patch_is_no_error() -> None:
    at = np.array([[60.0, 60.0], [120.0, 90.0]], np.float32)
    patches = Patches.cut(smoothed(_picture(0)), at, 5)
    eye = np.tile(np.eye(2, dtype=np.float32), (2, 1, 1))
    assert (patches.find(smoothed(_picture(1)), at, eye).likeness < 0.9).all()
    assert (patches.find(np.full(SIZE, 7.0, np.float32), at, eye).likeness < 0.9).all()
    none = Patches.cut(smoothed(_picture()), at[:0], 5)
    assert len(none.find(smoothed(_picture()), at[:0], eye[:0]).xy) == 0
    assert len(none.join(patches).keep(np.array([False, True])).values) == 1


def test_stretch_is_the_largest_change_of_size_either_way() -> None:
    warp = np.array([[[1, 0], [0, 1]], [[2, 0], [0, 1]], [[0.25, 0], [0, 1]], [[0, -1], [1, 0]]], np.float32)
    np.testing.assert_allclose(stretch(warp), [1, 2, 4, 1], rtol=1e-5)


def test_old_tracks_in_the_room_do_not_drift() -> None:
    clip = render("dz", 16, (96, 160))
    tracks = KltTracker().track(clip.frames)
    first = np.flatnonzero(tracks.frame == 0)
    column, row = (tracks.xy[first] - 0.5).round().astype(int).T
    z = clip.depth[0][row, column]
    k = clip.intrinsics[0]
    y = np.concatenate([(tracks.xy[first] - k[2:]) / k[:2], np.ones((len(first), 1))], 1) * z[:, None]
    move = np.linalg.inv(clip.c2w[-1]) @ clip.c2w[0]
    there = y @ move[:3, :3].T + move[:3, 3]
    last = clip.intrinsics[-1]
    expected = last[:2] * there[:, :2] / there[:, 2:] + last[2:]
    _, ia, ib = np.intersect1d(
        tracks.track[first], tracks.track[tracks.frame == 15], assume_unique=True, return_indices=True
    )
    error = np.linalg.norm(tracks.xy[tracks.frame == 15][ib] - expected[ia], axis=1)
    # Tracks that follow the flow from frame to frame are off by more than half a pixel in this room.
    assert len(error) > 30 and np.median(error) < 0.3
