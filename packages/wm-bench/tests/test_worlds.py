"""The procedural worlds: geometry against known answers, exact depth, determinism, captions, paths and the
dataset on disk."""

from __future__ import annotations

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
from wm_bench.worlds import CATEGORIES, make_scene, render
from wm_bench.worlds import textures as tx
from wm_bench.worlds.dataset import FIRST_TRAIN_SEED, plan, write_dataset
from wm_bench.worlds.paths import CLEARANCE_M, KINDS, MAX_TURN_DEG, sample_path
from wm_bench.worlds.scene import Builder, Light, Material, look

SIZE = (48, 80)
GREY = Material(tx.PLAIN, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
LIGHT = Light(
    (0.0, -0.8, -0.6), (1, 1, 1), (0.3,) * 3, (0.3,) * 3, (0.2, 0.4, 0.9, 0.7, 0.8, 0.9, 1, 1, 1, 1, 1, 1, 0.4), 0.0
)
CAMERA_VERBS = re.compile(
    r"\b(camera|pan|pans|panning|zoom\w*|dolly|tilt\w*|orbit\w*|moves?|moving|turns?|turning|view|shot|flies|walk\w*|forward)\b",
    re.I,
)


def _one_of_each():
    b = Builder()
    b.box(-2.0, 5.0, (1.0, 2.0, 1.0), GREY)
    b.ellipsoid(0.0, 1.6, 6.0, (0.5, 0.5, 0.5), GREY)
    b.frustum(2.0, 5.0, (0.5, 0.5), 3.0, GREY)
    return b.scene("game", 0, "A test.", GREY, LIGHT, look(0, 1.6, 0, 0))


def test_depth_of_plane_box_sphere_and_cylinder_is_exact():
    scene = _one_of_each()
    size = (81, 121)
    k = np.array([60.0, 60.0, 60.5, 40.5], np.float32)
    depth = render(scene, scene.start_pose()[None], k, size).depth[0]
    assert depth[40, 60] == pytest.approx(5.5, abs=1e-4)  # sphere front, through the optical axis
    # Rows below the horizon see the ground at z = height * fy / (row + 0.5 - cy), as long as nothing stands before it.
    rows = np.arange(70, 81)
    np.testing.assert_allclose(depth[rows, 60], 1.6 * 60 / (rows - 40), rtol=1e-5)
    assert depth[40, 36] == pytest.approx(4.5, abs=1e-4)  # box front face, z-depth not ray length
    ray_x = (84 - 60) / 60
    along = np.roots([ray_x**2 + 1, -2 * (2 * ray_x + 5), 4 + 25 - 0.25]).real.min()
    assert depth[40, 84] == pytest.approx(along, abs=1e-3)
    assert np.isinf(depth[0, 60])


def test_distance_query_known_answers():
    scene = _one_of_each()
    points = np.array(
        [[0, -1.6, 5.0], [0, -1.6, 6.0], [-2, -3.0, 5.0], [-2, -1, 5.0], [2, -1.5, 4.0], [9, -0.7, -9]], np.float32
    )
    np.testing.assert_allclose(scene.distance(points), [0.5, -0.5, 1.0, -0.5, 0.5, 0.7], atol=1e-5)


@pytest.mark.parametrize("category", CATEGORIES)
def test_same_seed_same_bytes_and_other_seed_other_world(category):
    def draw(seed, **options):
        scene = make_scene(category, seed)
        return render(scene, sample_path(scene, 1, 9)[::4], scene.default_intrinsics(SIZE), SIZE, **options)

    torch.manual_seed(1)
    first = draw(5, workers=1)
    torch.manual_seed(2)
    second = draw(5, workers=2)
    assert np.array_equal(first.rgb, second.rgb)
    assert np.array_equal(first.depth, second.depth)
    assert not np.array_equal(first.rgb, draw(6).rgb)


@pytest.mark.parametrize("category", CATEGORIES)
def test_dense_path_draws_the_same_picture(category):
    from wm_bench.worlds.render import _frame, _trace_dense
    from wm_bench.worlds.world import World

    scene = make_scene(category, 4)
    k = scene.default_intrinsics(SIZE)
    plain = render(scene, scene.start_pose()[None], k, SIZE)
    world = World(scene, torch.device("cpu"))
    rgb, depth = _frame(world, torch.from_numpy(scene.start_pose()), tuple(map(float, k)), SIZE, _trace_dense)
    assert np.abs(rgb.astype(int) - plain.rgb[0]).max() <= 2
    np.testing.assert_allclose(depth, plain.depth[0], rtol=1e-4)


@pytest.mark.parametrize("category", CATEGORIES)
def test_depth_and_colour_agree_between_two_poses(category):
    scene = make_scene(category, 11)
    k = scene.default_intrinsics(SIZE)
    poses = sample_path(scene, 3, 17, "strafe-right")[[0, 8]]
    out = render(scene, poses, k, SIZE)
    i, j = np.mgrid[: SIZE[0], : SIZE[1]]
    z = out.depth[0]
    camera = np.stack(((j + 0.5 - k[2]) / k[0] * z, (i + 0.5 - k[3]) / k[1] * z, z, np.ones_like(z)), -1)
    seen = np.isfinite(z)
    there = camera[seen] @ (np.linalg.inv(poses[1]) @ poses[0]).T
    u = np.floor(there[:, 0] / there[:, 2] * k[0] + k[2]).astype(int)
    v = np.floor(there[:, 1] / there[:, 2] * k[1] + k[3]).astype(int)
    inside = (u >= 0) & (u < SIZE[1]) & (v >= 0) & (v < SIZE[0])
    u, v, expected = u[inside], v[inside], there[inside, 2]
    close = np.abs(out.depth[1][v, u] - expected) < 0.06 * expected + 0.02
    assert close.mean() > 0.85
    colour = np.abs(out.rgb[1][v, u].astype(int) - out.rgb[0][seen][inside]).mean(1)
    still = np.abs(out.rgb[1].astype(int) - out.rgb[0])[seen].mean()
    assert np.median(colour[close]) < 8
    assert colour[close].mean() < 0.8 * still


@pytest.mark.parametrize("category", CATEGORIES)
def test_captions_are_scene_static_and_scenes_are_small(category):
    for seed in range(30):
        scene = make_scene(category, seed)
        assert not CAMERA_VERBS.search(scene.caption), scene.caption
        assert 60 < len(scene.caption) < 500
        assert scene.primitive_count <= 42
        assert scene.distance(scene.start_pose()[None, :3, 3])[0] > CLEARANCE_M


@pytest.mark.parametrize("category", CATEGORIES)
def test_point_cloud_lies_on_surfaces(category):
    scene = make_scene(category, 2)
    points = scene.point_cloud(400)
    assert points.shape == (400, 3)
    # Points may lie inside another solid (negative), never outside every one.
    assert scene.distance(points).max() < 0.02


@pytest.mark.parametrize("category", CATEGORIES)
def test_paths_start_at_the_start_pose_keep_clear_and_stay_smooth(category):
    for seed, kind in enumerate((*KINDS, None, None)):
        scene = make_scene(category, 100 + seed)
        path = sample_path(scene, seed, 65, kind)
        assert path.shape == (65, 4, 4)
        assert path.dtype == np.float32
        assert np.array_equal(path[0], scene.start_pose())
        assert scene.distance(path[:, :3, 3]).min() > CLEARANCE_M
        rotation = path[:, :3, :3].astype(np.float64)
        assert np.abs(rotation @ rotation.transpose(0, 2, 1) - np.eye(3)).max() < 1e-5
        step = np.linalg.norm(np.diff(path[:, :3, 3], axis=0), axis=1)
        turn = np.degrees(
            np.arccos(
                np.clip((np.trace(rotation[1:] @ rotation[:-1].transpose(0, 2, 1), axis1=1, axis2=2) - 1) / 2, -1, 1)
            )
        )
        assert step.max() < 0.12
        assert turn.max() < 1.5
        assert np.abs(np.diff(step)).max() < 0.03
        yaw = np.degrees(np.unwrap(np.arctan2(path[:, 0, 2], path[:, 2, 2])))
        assert np.ptp(yaw) <= MAX_TURN_DEG + 0.1
        assert np.abs(path[:, 1, 3] - path[0, 1, 3]).max() < 1e-5


def test_kinds_go_where_their_name_says():
    scene = dataclasses.replace(
        _one_of_each(), boxes=torch.zeros(0, 8), ellipsoids=torch.zeros(0, 6), frusta=torch.zeros(0, 6)
    )
    end = {kind: sample_path(scene, 0, 33, kind)[-1] for kind in KINDS}
    assert end["forward"][2, 3] > 1
    assert end["backward"][2, 3] < -1
    assert end["strafe-left"][0, 3] < -1
    assert end["strafe-right"][0, 3] > 1
    assert end["yaw-left"][0, 2] < -0.1
    assert end["yaw-right"][0, 2] > 0.1
    assert end["forward-yaw-right"][0, 2] > 0.1
    assert end["arc-right"][0, 3] > 0.5
    assert end["arc-right"][0, 2] < -0.05


def test_bad_input_is_named_in_one_line():
    scene = _one_of_each()
    pose, k = scene.start_pose()[None], scene.default_intrinsics(SIZE)
    broken = pose.copy()
    broken[0, 0, 3] = np.nan
    calls = [
        (lambda: make_scene("space", 1), "space"),
        (lambda: make_scene("game", -1), "-1"),
        (lambda: render(scene, pose[0], k, SIZE), r"\(4, 4\)"),
        (lambda: render(scene, broken, k, SIZE), "NaN"),
        (lambda: render(scene, pose, k[:3], SIZE), "intrinsics"),
        (lambda: render(scene, pose, k, (4, 4)), "size"),
        (lambda: sample_path(scene, 0, 1), "frames"),
        (lambda: sample_path(scene, 0, 9, "roll"), "roll"),
        (lambda: scene.distance(np.zeros(3)), "points"),
        (lambda: scene.point_cloud(0), "count"),
        (lambda: plan(0, 65, SIZE, 0, "train", CATEGORIES, "mp4"), "clips"),
        (lambda: plan(1, 64, SIZE, 0, "train", CATEGORIES, "mp4"), "8k"),
        (lambda: plan(1, 65, SIZE, 0, "train", ("sea",), "mp4"), "sea"),
        (lambda: plan(1, 65, SIZE, 0, "exam", CATEGORIES, "mp4"), "exam"),
    ]
    for call, word in calls:
        with pytest.raises(ValueError, match=word) as caught:
            call()
        assert "\n" not in str(caught.value)
        assert "e.g." in str(caught.value)


def test_dataset_has_manifest_resumes_and_repeats(tmp_path):
    import av

    manifest = write_dataset(tmp_path / "a", 2, 9, (32, 48), 0, categories=("game", "indoor"))
    entries = [json.loads(line) for line in manifest.read_text().splitlines()]
    assert [e["category"] for e in entries] == ["game", "indoor"]
    first = entries[0]
    assert first["raw_frames"] == 9
    assert first["captions"]["static"]
    assert first["seed"] >= FIRST_TRAIN_SEED
    c2w = np.load(manifest.parent / first["pose_path"], allow_pickle=False)
    intrinsics = np.load(manifest.parent / first["intrinsics_path"], allow_pickle=False)
    assert c2w.shape == (9, 4, 4)
    assert intrinsics.shape == (9, 4)
    with av.open(str(manifest.parent / first["video_path"])) as container:
        video = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    scene = make_scene("game", first["seed"])
    truth = render(scene, c2w, intrinsics, (32, 48)).rgb
    assert 10 * np.log10(255**2 / np.mean((video.astype(float) - truth) ** 2)) > 28

    clip = manifest.parent / first["video_path"]
    stamp = clip.stat().st_mtime_ns
    again = write_dataset(tmp_path / "a", 2, 9, (32, 48), 0, categories=("game", "indoor"))
    assert clip.stat().st_mtime_ns == stamp
    assert again.read_text() == manifest.read_text()
    other = write_dataset(tmp_path / "b", 1, 9, (32, 48), 0, categories=("game",))
    assert json.loads(other.read_text())["sha256"] == first["sha256"]
    assert not list((tmp_path / "a").rglob("*.tmp"))
    held_out = plan(8, 9, (32, 48), 0, "val", CATEGORIES, "mp4")
    assert max(r["scene_seed"] for r in held_out) < FIRST_TRAIN_SEED
