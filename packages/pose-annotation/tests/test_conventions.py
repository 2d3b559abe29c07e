"""Which pixel is where and which way a pose goes: against OpenCV, pycolmap, and pictures with known depth."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pose_annotation.opencv import cv2
from pose_annotation.pipeline import _followed
from pose_annotation.rotations import exp_rotation
from pose_annotation.types import CameraTrack

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_tracks import path
from textured_room import render


def project(points, lens):
    """Pixels with the corner as origin, as everywhere in this package."""
    return lens[:2] * points[:, :2] / points[:, 2:] + lens[2:]


def test_half_the_picture_has_half_the_lens_and_half_the_pixels():
    c2w, k = path(3, "zoom")
    nan = np.full((3, 6), np.nan)
    nothing = np.zeros((0, 3))
    whole = CameraTrack(c2w, k, (192, 320), nan[:, 0], nan, nan[:, 0], np.ones(3), np.zeros(3, bool), nothing)
    half = _followed(whole, (192, 320), (96, 160))
    assert np.array_equal(half.intrinsics, 0.5 * k) and half.size == (96, 160)
    points = np.random.default_rng(0).uniform((-2, -1, 2), (2, 1, 9), (50, 3))
    for before, after in zip(whole.intrinsics, half.intrinsics, strict=True):
        assert np.abs(0.5 * project(points, before) - project(points, after)).max() < 1e-9
    there_and_back = _followed(replace(half), (96, 160), (192, 320))
    assert np.array_equal(there_and_back.intrinsics, k)


def test_opencv_counts_from_the_middle_of_the_first_pixel_and_colmap_from_its_corner():
    lens = np.array([240.0, 236.0, 161.3, 95.2])
    points = np.random.default_rng(0).uniform((-2, -1, 2), (2, 1, 9), (50, 3))
    fx, fy, cx, cy = lens - np.array([0, 0, 0.5, 0.5])
    matrix = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    seen = cv2.projectPoints(points, np.zeros(3), np.zeros(3), matrix, np.zeros(4))[0].reshape(-1, 2)
    assert np.abs(seen + 0.5 - project(points, lens)).max() < 1e-9
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is an extra")
    camera = pycolmap.Camera(model="PINHOLE", width=320, height=192, params=lens)
    there = np.array([camera.img_from_cam(point) for point in points]).reshape(-1, 2)
    assert np.abs(there - project(points, lens)).max() < 1e-9


def test_an_axis_through_the_middle_stays_there_when_a_picture_is_shrunk():
    """Half a pixel off anywhere and a symmetric picture would move."""
    picture = np.zeros((64, 64), np.uint8)
    picture[30:34, 30:34] = 255  # centred on 32.0, 32.0 from the corner
    for size in (32, 16, 128):
        small = cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA if size < 64 else cv2.INTER_CUBIC)
        rows, columns = np.mgrid[:size, :size] + 0.5
        middle = [float((part * small).sum() / small.sum()) for part in (columns, rows)]
        assert np.allclose(middle, size / 2, atol=1e-6)


def test_poses_take_the_camera_into_the_world_and_not_back():
    """As measured on a rendered capture in annotate.md 7.5: 95 % of depths agree read one way, 4 % the other."""
    clip = render("fly", 40, (60, 100), samples=1, count=12)
    rows, columns = np.mgrid[:60, :100] + 0.5

    def agreement(c2w):
        first, second = clip.c2w[0], clip.c2w[11]
        fx, fy, cx, cy = clip.intrinsics[0]
        z = clip.depth[0]
        here = np.stack([(columns - cx) / fx * z, (rows - cy) / fy * z, z], -1).reshape(-1, 3)
        move = np.linalg.inv(second) @ first if c2w else second @ np.linalg.inv(first)
        there = here @ move[:3, :3].T + move[:3, 3]
        pixel = np.floor(project(there, clip.intrinsics[11])).astype(int)
        inside = (there[:, 2] > 0) & (pixel >= 0).all(1) & (pixel[:, 0] < 100) & (pixel[:, 1] < 60)
        seen = clip.depth[11][pixel[inside, 1], pixel[inside, 0]]
        return float((np.abs(seen / there[inside, 2] - 1) < 0.05).mean())

    assert agreement(True) > 0.9 and agreement(False) < 0.5


def test_a_turn_to_the_right_is_positive_about_the_axis_that_points_down():
    turned = exp_rotation(np.array([0.0, np.radians(30), 0.0]))
    assert np.allclose(turned @ [0, 0, 1], [0.5, 0, np.cos(np.radians(30))])
