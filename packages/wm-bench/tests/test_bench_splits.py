"""The procedural split: templates, splines, limits, collisions, revisit pairs; the same data every time."""

import numpy as np
import pytest
from camera_control import action_string_to_c2w
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from wm_bench.splits import load_procedural, pick_scenes, scene_ids
from wm_bench.splits.keys import follow_with_keys
from wm_bench.splits.planning import Rules, plan_path
from wm_bench.splits.procedural import RULES, bench_scene, truth, world_of
from wm_bench.splits.revisits import find_revisits
from wm_bench.splits.splines import catmull_rom, even_times, limit_turns, squad, turn_angles_deg
from wm_bench.splits.templates import HARD, SIMPLE

EACH = [(split, f"{category}_{n:03d}") for split, category, n in (
    ("proc_simple_60s", "indoor", 4), ("proc_simple_60s", "outdoor_city", 10), ("proc_simple_60s", "game_style", 8),
    ("proc_hard_60s", "indoor", 3), ("proc_hard_60s", "outdoor_nature", 7), ("proc_hard_60s", "outdoor_city", 4),
)]  # fmt: skip


def test_there_are_ten_and_ten_templates_of_eleven_to_fifteen_key_poses():
    assert len(SIMPLE) == len(HARD) == 10
    names = [t.name for t in SIMPLE + HARD]
    assert len(set(names)) == 20
    known = ("traj_01_gentle_arc", "traj_02_s_curve", "traj_10_room_explorer", "traj_hard_01_full_orbit",
             "traj_hard_02_staircase_ascent", "traj_hard_10_crane_shot")  # fmt: skip
    assert set(known) <= set(names)
    for template in SIMPLE + HARD:
        assert 11 <= len(template.keys) <= 15
        assert not template.keys[0].any()
        assert np.linalg.norm(template.keys[:, :3], axis=1).max() <= 1.0
    assert max(abs(t.keys[:, 4]).max() for t in SIMPLE) <= 10 < max(abs(t.keys[:, 4]).max() for t in HARD)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_splines_hit_their_keys_and_stay_rotations(seed):
    rng = np.random.default_rng(seed)
    points = np.cumsum(rng.normal(size=(7, 3)), axis=0)
    curve = catmull_rom(points, 16)
    np.testing.assert_allclose(curve[::16], points, atol=1e-12)
    # A curve without jumps: no sixteenth of a segment is as long as a quarter of the longest chord.
    assert (
        np.linalg.norm(np.diff(curve, axis=0), axis=1).max() < 2 * np.linalg.norm(np.diff(points, axis=0), axis=1).max()
    )
    keys = Rotation.from_euler("YX", rng.uniform(-60, 60, (7, 2)), degrees=True).as_matrix()
    turned = squad(keys, 16)
    np.testing.assert_allclose(turned[::16], keys, atol=1e-12)
    np.testing.assert_allclose(turned.transpose(0, 2, 1) @ turned, np.tile(np.eye(3), (len(turned), 1, 1)), atol=1e-12)


def test_squad_of_an_even_turn_is_even():
    keys = Rotation.from_rotvec(np.outer(np.arange(6) * 20.0, [0, 1, 0]), degrees=True).as_matrix()
    angles = turn_angles_deg(squad(keys, 32))[32:-32]
    np.testing.assert_allclose(angles, 20 / 32, rtol=1e-9)


def test_catmull_rom_of_a_straight_even_line_is_even():
    line = np.outer(np.arange(6.0), [1.0, 2.0, 3.0])
    steps = np.linalg.norm(np.diff(catmull_rom(line, 8), axis=0), axis=1)
    np.testing.assert_allclose(steps, np.sqrt(14) / 8, rtol=1e-9)


def test_even_times_obey_both_limits():
    steps, turns = np.full(100, 0.1), np.where(np.arange(100) < 20, 6.0, 0.0)
    times, speed = even_times(steps, turns, 60.0, 12.0)
    assert times[-1] == pytest.approx(60)
    assert (turns / np.diff(times)).max() <= 12.0 + 1e-9
    assert (steps / np.diff(times)).max() == pytest.approx(speed)
    with pytest.raises(ValueError, match="turns 1000 degrees"):
        even_times(steps, np.full(100, 10.0), 60.0, 12.0)


def test_a_turn_that_is_too_fast_arrives_later():
    wanted = Rotation.from_rotvec(np.outer([0, 0, 30, 30, 30, 30, 30.0], [0, 1, 0]), degrees=True).as_matrix()
    followed = limit_turns(wanted, 10.0)
    assert turn_angles_deg(followed).max() == pytest.approx(10)
    np.testing.assert_allclose(followed[-1], wanted[-1], atol=1e-12)


@pytest.mark.parametrize(("split", "scene_id"), EACH)
def test_paths_keep_the_rules(split, scene_id):
    scene = bench_scene(split, scene_id)
    stats = scene.extra["smoothness"]
    world = world_of(scene_id)
    assert scene.c2w.shape == (961, 4, 4)
    np.testing.assert_allclose(scene.c2w[0], world.start_pose(), atol=1e-5)
    assert stats["speed_max_m_s"] <= 0.4 * 1.02
    assert stats["turn_max_deg_s"] <= 12.0 + 1e-6
    assert world.distance(scene.c2w[:, :3, 3]).min() >= 0.3 - 1e-5
    assert stats["farthest_m"] > 0.3
    assert len(scene.pairs) >= 5
    assert scene.extra["collision"]["ok"]
    for pair in scene.pairs:
        a, b = scene.c2w[pair.frame_a], scene.c2w[pair.frame_b]
        angle = np.degrees(np.arccos(np.clip((np.trace(a[:3, :3].T @ b[:3, :3]) - 1) / 2, -1, 1)))
        assert pair.frame_a > 0 and pair.frame_b - pair.frame_a >= 160
        assert np.linalg.norm(a[:3, 3] - b[:3, 3]) == pytest.approx(pair.distance_m, abs=1e-5) and pair.distance_m < 0.5
        assert angle == pytest.approx(pair.angle_diff_deg, abs=1e-3) and pair.angle_diff_deg < 20
    assert [p.quality_score for p in scene.pairs] == sorted(p.quality_score for p in scene.pairs)


@pytest.mark.parametrize("split", ["proc_simple_60s", "proc_hard_60s"])
def test_all_eighty_scenes_fit_and_are_revisited(split):
    scenes = load_procedural(split).scenes
    assert min(len(scene.pairs) for scene in scenes) >= 5
    assert max(scene.extra["smoothness"]["speed_max_m_s"] for scene in scenes) <= 0.41
    assert max(scene.extra["smoothness"]["turn_max_deg_s"] for scene in scenes) <= 12.0 + 1e-6
    assert min(scene.extra["smoothness"]["farthest_m"] for scene in scenes) > 0.5
    assert len({scene.template for scene in scenes}) == 10


def test_a_collision_slows_the_path_down_and_is_told():
    start = np.eye(4)

    def wall(points):
        return 2.0 - points[:, 2]  # a wall 2 m ahead

    plan = plan_path(SIMPLE[2], start, 8.0, wall, Rules())
    speeds = [a["max_speed_m_s"] for a in plan.collision["attempts"]]
    assert len(speeds) > 1 and np.allclose(np.diff(np.log(speeds)), np.log(0.7), atol=1e-4)
    assert plan.c2w[:, 2, 3].max() <= 1.7 + 1e-6
    with pytest.raises(ValueError, match="does not fit"):
        plan_path(SIMPLE[2], start, 8.0, lambda points: np.full(len(points), 0.1), Rules())


def test_a_path_blocked_on_one_side_is_mirrored():
    plan = plan_path(SIMPLE[5], np.eye(4), 8.0, lambda points: 0.31 - np.maximum(points[:, 0], 0), Rules())
    assert plan.collision["mirrored"]
    assert plan.c2w[:, 0, 3].max() <= 0.02


def test_the_split_is_eighty_scenes_and_always_the_same():
    assert len(scene_ids()) == len(set(scene_ids())) == 80
    assert pick_scenes(4) == ["game_style_001", "indoor_001", "outdoor_city_001", "outdoor_nature_001"]
    split = load_procedural("proc_simple_60s", ["indoor_001"], seconds=4)
    bench_scene.cache_clear()
    again = load_procedural("proc_simple_60s", ["indoor_001"], seconds=4)
    assert split.revision == again.revision
    assert split.scenes[0].c2w.tobytes() == again.scenes[0].c2w.tobytes()
    assert len(split.scenes[0].c2w) == 65 and not split.scenes[0].pairs
    others = {load_procedural(name, ["indoor_001"], seconds).revision for name, seconds in (
        ("proc_simple_60s", None), ("proc_hard_60s", 4.0))}  # fmt: skip
    assert split.revision not in others and len(others) == 2


def test_truth_is_rendered_with_the_lens_of_the_picture():
    scene = bench_scene("proc_simple_60s", "outdoor_city_001")
    wide, square = truth(scene, np.zeros(1), (72, 128)), truth(scene, np.zeros(1), (72, 72))
    assert wide.rgb.shape == (1, 72, 128, 3) and wide.depth.dtype == np.float32
    # A square picture is the middle of the wide one.
    np.testing.assert_allclose(square.depth, wide.depth[:, :, 28:100], rtol=1e-4)
    assert np.abs(square.rgb.astype(int) - wide.rgb[:, :, 28:100]).mean() < 1
    between = truth(scene, np.array([0.5]) / 16, (72, 128)).depth[0]
    ends = truth(scene, np.array([0.0, 1.0]) / 16, (72, 128)).depth
    middle = np.isfinite(ends).all(0) & np.isfinite(between)
    assert np.median(np.abs(between[middle] - ends[:, middle].mean(0))) < 0.01


def test_revisits_of_a_still_camera_and_of_one_that_never_returns():
    still = np.tile(np.eye(4), (400, 1, 1))
    assert find_revisits(still, 16.0)[0][:2] == (4, 164)
    gone = still.copy()
    gone[:, 2, 3] = np.arange(400)
    assert find_revisits(gone, 16.0) == []


@pytest.mark.parametrize(("dialect", "metres", "degrees"), [
    ("sana-v1", 0.06, 1.0), ("sana-v2", 0.15, 3.0), ("diffusers", 0.2, 4.0), ("worldplay", 0.3, 4.0),
])  # fmt: skip
def test_action_strings_follow_the_path(dialect, metres, degrees):
    scene = bench_scene("proc_simple_60s", "game_style_006")
    keys = follow_with_keys(scene.c2w, dialect)
    assert keys.position_error_m < metres and keys.angle_error_deg < degrees
    speeds = (None, None) if dialect == "diffusers" else (keys.translation_speed, keys.rotation_speed_deg)
    driven = action_string_to_c2w(keys.text, *speeds, dialect=dialect)
    relative = (np.linalg.inv(scene.c2w[0]) @ scene.c2w)[: len(driven)]
    off = np.linalg.norm(driven[:, :3, 3] - relative[:, :3, 3], axis=1)
    assert len(driven) == 961
    assert off.mean() == pytest.approx(keys.position_error_m, abs=1e-3)


@pytest.mark.parametrize(("call", "message"), [
    (lambda: load_procedural("proc_easy"), "split is 'proc_easy'"),
    (lambda: load_procedural("proc_hard_60s", ["indoor_099"]), "unknown scene 'indoor_099'"),
    (lambda: load_procedural("proc_hard_60s", ["indoor_001"] * 2), "named twice"),
    (lambda: load_procedural("proc_hard_60s", ["indoor_001"], seconds=0.1), "seconds is 0.1"),
    (lambda: pick_scenes(0), "scenes is 0"),
])  # fmt: skip
def test_wrong_requests_are_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value) and "allowed" in str(caught.value)


def test_the_rules_are_the_papers():
    assert (RULES.max_speed_m_s, RULES.max_turn_deg_s, RULES.clearance_m, RULES.retries) == (0.4, 12.0, 0.3, 3)
    assert (RULES.travel_of_depth, RULES.retry_speed, RULES.duration_s, RULES.fps) == (0.6, 0.7, 60.0, 16.0)
