"""Metres, end to end: a rendered walk through a room of known size, annotated with every hint a user can give."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from pose_annotation.align import compare_paths
from pose_annotation.backends import Depth
from pose_annotation.backends.given import GivenDepth
from pose_annotation.backends.scaled import ScaledDepth
from pose_annotation.outputs import read_arrays, write_video
from pose_annotation.pipeline import Tools, annotate_video
from pose_annotation.rotations import angle_deg
from pose_annotation.scale import ratio_of_depths, scale_of_given_path
from pose_annotation.settings import Request, Settings
from pose_annotation.types import CameraTrack

sys.path.insert(0, str(Path(__file__).parent))
import tiny_videos as tiny
from synthetic_tracks import path, tracks
from textured_room import render

FRAMES, SIZE, UNIT = 17, (120, 200), 3.7


@pytest.fixture(scope="module")
def room(tmp_path_factory):
    """A quarter of the room's walk as a video, its truth, and stages shared by the runs below."""
    folder = tmp_path_factory.mktemp("room")
    clip = render("fly", 4 * FRAMES, SIZE, count=FRAMES)
    write_video(folder / "walk.mp4", clip.frames, 16.0)
    np.savez(folder / "metres.npz", depth=clip.depth)
    np.savez(folder / "units.npz", depth=clip.depth / UNIT)
    return folder, clip


def annotate(room, name, tools=None, **known):
    """The record, the camera and its errors of one run; the lens is given and kept."""
    folder, clip = room
    request = Request(folder / "walk.mp4", intrinsics=tuple(clip.intrinsics[0]), **known)
    out = folder / name
    row = annotate_video(request, out, Settings(), tools, cache=folder / "stages")
    record = json.loads((out / "records" / f"{row['clips'][0]}.json").read_text())
    camera = read_arrays(out / "cameras" / f"{row['clips'][0]}.npz")
    return record, camera, compare_paths(camera["c2w"], np.linalg.inv(clip.c2w[0]) @ clip.c2w)


def test_without_a_hint_the_unit_is_the_scenes_and_is_said_to_be(room):
    record, camera, errors = annotate(room, "plain")
    assert np.allclose(camera["intrinsics"], room[1].intrinsics[0])  # a lens that is given is kept
    assert record["mode"] == "default" and not record["metric"] and not bool(camera["metric"])
    assert record["scale"] == {"method": "none"} and abs(errors.scale - 1) > 0.2
    assert errors.ate < 0.05 and errors.step_deg < 0.2


def test_a_known_distance_makes_metres(room):
    _, clip = room
    metres = float(np.linalg.norm(clip.c2w[0, :3, 3] - clip.c2w[16, :3, 3]))
    record, _, errors = annotate(room, "distance", known_distance=(0.0, 1.0, metres))
    assert record["metric"] and record["scale"]["method"] == "known distance"
    assert errors.scale == pytest.approx(1.0, abs=0.05) and errors.metric_ate < 0.05
    outside, _, _ = annotate(room, "outside", known_distance=(0.0, 9.0, metres))
    assert not outside["metric"] and "second 9 is not in this clip" in outside["scale"]["reason"]


def test_the_cameras_height_makes_metres(room):
    _, clip = room
    height = float(np.median(1.5 - clip.c2w[:, 1, 3]))  # the floor lies at y = 1.5
    record, _, errors = annotate(room, "height", camera_height=height)
    assert record["metric"] and record["scale"]["method"] == "camera height"
    assert record["scale"]["ground_share"] > 0.1 and errors.scale == pytest.approx(1.0, abs=0.1)


def test_given_depth_is_mode_gt_depth_and_metric(room):
    folder, _ = room
    tools = Tools(depth=GivenDepth(folder / "metres.npz"))
    record, _, errors = annotate(room, "depth", tools, depth=folder / "metres.npz")
    assert record["mode"] == "gt_depth" and record["metric"] and record["scale"]["method"] == "depth"
    assert errors.metric_ate < 0.03 and errors.scale == pytest.approx(1.0, abs=0.02)


class Metres:
    """A metric model for tests: the true depth, with a tenth of the frames far off."""

    name, version, weights_id, licence = "metres", "1", "w", "CC0"

    def __init__(self, depth):
        self.depth, self.asked = depth, 0

    def infer(self, frames, first, intrinsics):
        self.asked += len(frames)
        z = self.depth[first : first + len(frames)].copy()
        return Depth(np.where((first + np.arange(len(z)))[:, None, None] % 10 == 3, 1.5 * z, z), True)


def test_given_depth_in_its_own_unit_gets_one_scale_a_clip_from_a_metric_model(room):
    folder, clip = room
    model = Metres(clip.depth)
    scaled = ScaledDepth(GivenDepth(folder / "units.npz", metric=False), model)
    record, camera, errors = annotate(room, "units", Tools(depth=scaled), depth=folder / "units.npz")
    assert record["mode"] == "gt_depth" and record["metric"] and model.asked == FRAMES
    assert (
        np.allclose(camera["scale"], UNIT, rtol=1e-4) and record["tools"]["depth"]["name"] == "given*metres:one_scale"
    )
    assert errors.metric_ate < 0.03 and 0 < record["scores"]["scale_variation"] < 0.3


def test_a_given_path_gets_its_metres_from_depth_by_the_best_four_fifths(room, tmp_path):
    folder, clip = room
    given = clip.c2w.copy()
    given[:, :3, 3] /= UNIT
    file = tiny.path_file(tmp_path / "path.npz", given, clip.intrinsics, SIZE)
    tools = Tools(depth=GivenDepth(folder / "metres.npz"))
    record, camera, errors = annotate(room, "path", tools, depth=folder / "metres.npz", poses=file)
    assert record["mode"] == "gt_pose" and record["metric"] and record["scale"]["method"] == "given path"
    assert record["scale"]["factor"] == pytest.approx(UNIT, rel=0.02)
    # The path is kept as given; only its unit changes.
    assert errors.ate < 1e-9 and errors.scale == pytest.approx(1.0, abs=0.02)
    assert angle_deg(camera["c2w"][:, :3, :3], (np.linalg.inv(clip.c2w[0]) @ clip.c2w)[:, :3, :3]).max() < 1e-6


def test_a_path_too_short_for_its_scene_takes_the_ratio_of_depths():
    c2w, k = path(16, "side")
    c2w[:, :3, 3] *= 0.3
    seen, _, z = tracks(c2w, k, 300, noise_px=0.05)
    nan = np.full((16, 6), np.nan)
    given = CameraTrack(c2w, k, seen.size, nan[:, 0], nan, nan[:, 0], np.ones(16), np.zeros(16, bool), nan[:, :3])
    ratio = ratio_of_depths(given, seen, 2.5 * z)
    assert ratio == pytest.approx(2.5, rel=0.02)
    noisy = c2w.copy()
    noisy[:, :3, 3] += np.random.default_rng(0).normal(0, 0.05, (16, 3))
    assert scale_of_given_path(c2w, noisy, 6.5, ratio) == ratio
    assert scale_of_given_path(c2w, noisy, 0.1, ratio) != ratio
    assert ratio_of_depths(given.scaled(1e-4), seen, z) is None
