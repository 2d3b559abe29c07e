"""Floors of estimators: every camera plan once, errors and seconds of exact renders, failures told."""

import json
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation
from wm_bench.camera_following import PoseRules
from wm_bench.estimators import PoseEstimate
from wm_bench.estimators.oracle import Oracle
from wm_bench.floors import floor_scenes, floors_markdown, measure_floors, write_floors
from wm_bench.splits.procedural import bench_scene, category_of

SIZE = (36, 64)


class Turned:
    """Knows the path of every scene and answers with every second pose turned by 2 degrees, to either side."""

    id, version, weights_sha256 = "turned", "1", "none"

    def __init__(self, split, placed=1.0):
        self.split, self.placed, self.asked = split, placed, []

    def estimate(self, request):
        self.asked.append(request)
        scene = self.split.scenes[len(self.asked) - 1]
        c2w = scene.trajectory().at(request.times_s)[0]
        turns = Rotation.from_rotvec([[0, 2.0 * (-1) ** i, 0] for i in range(len(c2w))], degrees=True)
        c2w[:, :3, :3] = c2w[:, :3, :3] @ turns.as_matrix()
        return PoseEstimate(c2w, np.arange(len(c2w)) < self.placed * len(c2w))


def test_every_camera_plan_is_there_once_and_every_category_five_times():
    chosen = [(split, scene) for split, ids in floor_scenes().items() for scene in ids]
    assert len({bench_scene(split, scene).template for split, scene in chosen[:3] + chosen[10:13]}) == 6
    numbers = [(split, int(scene.rpartition("_")[2])) for split, scene in chosen]
    assert len(chosen) == 20 and len(set(numbers)) == 20 and {n for _, n in numbers} == set(range(1, 11))
    categories = [category_of(scene) for _, scene in chosen]
    assert {categories.count(c) for c in categories} == {5}


def test_floors_are_the_errors_of_the_estimator_on_the_render(box_split, tmp_path):
    split = box_split(2, 4.0)
    turned, oracle = Turned(split), Oracle()
    floors = list(measure_floors(split, SIZE, [oracle, turned], PoseRules(every_s=0.5)))
    assert [x.estimator for x in floors] == ["oracle", "turned"] * 2
    for exact, off in zip(floors[::2], floors[1::2], strict=True):
        assert exact.rot_err_deg < 1e-5 and exact.trans_err_m < 1e-9 and exact.registered == 1.0
        # Nine poses turned left and right in turn: the best rotation lies a ninth of the way to the left.
        assert off.rot_err_deg == pytest.approx((5 * (2 - 2 / 9) + 4 * (2 + 2 / 9)) / 9, abs=1e-3)
        assert off.frames == 9 and off.extent_m == pytest.approx(np.ptp(split.scene(off.scene).c2w[:, :3, 3], 0).max())
    for request, scene in zip(turned.asked, split.scenes, strict=True):
        exact = split.truth(scene, request.times_s, SIZE).rgb
        np.testing.assert_array_equal(request.frames, exact)
    text = floors_markdown(floors)
    assert "- oracle 1: 2 of 2 scenes below 0.5 deg" in text
    assert "- turned 1: 0 of 2 scenes below 0.5 deg, median 1.975, worst 1.975" in text
    for path in write_floors(floors, SIZE, PoseRules(every_s=0.5), tmp_path):
        assert path.is_file()
    record = json.loads((tmp_path / "floors.json").read_text())
    assert [x["rot_err_deg"] for x in record["floors"]] == [x.rot_err_deg for x in floors]


def test_an_estimator_that_places_too_little_has_no_floor_and_says_so(box_split):
    split = box_split(1, 4.0)
    (floor,) = measure_floors(split, SIZE, [Turned(split, placed=0.6)], PoseRules(every_s=0.5))
    assert floor.rot_err_deg is None and "placed only" in floor.failure and floor.registered == pytest.approx(6 / 9)
    text = floors_markdown([floor])
    assert "0 of 1 scenes below" in text and f"failed: {floor.scene}" in text and "| turned placed only 67 %" in text


def test_rendering_is_not_in_the_seconds_and_is_done_once(box_split, monkeypatch):
    split = box_split(1, 4.0)
    drawn = []

    def slow(*arguments):
        drawn.append(arguments)
        return split.truth(*arguments)

    first, second = Turned(split), Turned(split)
    second.id = "again"
    floors = list(measure_floors(replace(split, truth=slow), SIZE, [first, second], PoseRules(every_s=1.0)))
    assert len(drawn) == 1 and len(floors) == 2 and all(0 <= x.cpu_s < 1 and 0 < x.wall_s < 5 for x in floors)
    with pytest.raises(ValueError, match="has no geometry"):
        next(iter(measure_floors(replace(split, truth=None), SIZE, [first])))
