"""Roll-out: golden poses per dialect, an independent stepwise roll-out, diffusers, inertia, conversion."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from camera_control import DIALECTS, action_string_to_c2w, parse_actions
from camera_control.convert import convert_actions

HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "golden" / "trajectories.json").read_text())
SGLANG = json.loads((HERE / "golden" / "sglang_action_table.json").read_text())

_spec = importlib.util.spec_from_file_location("stepwise_rollout", HERE / "stepwise_rollout.py")
assert _spec is not None and _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)
stepwise = _module.stepwise


@pytest.mark.parametrize(("dialect", "script"), [(d, s) for d, scripts in GOLDEN.items() for s in scripts])
def test_golden_trajectories(dialect, script):
    poses = action_string_to_c2w(script, dialect=dialect)
    for frame, expected in GOLDEN[dialect][script].items():
        np.testing.assert_allclose(poses[int(frame), :3], expected, atol=1e-6, err_msg=f"frame {frame}")


def test_every_dialect_has_golden_trajectories():
    assert set(GOLDEN) == set(DIALECTS)


@pytest.mark.parametrize("script", list(SGLANG))
def test_sglang_table_of_the_streaming_goldens(script):
    poses = action_string_to_c2w(script, dialect="sglang")
    for frame, expected in SGLANG[script].items():
        np.testing.assert_allclose(poses[int(frame)], expected, atol=1e-7, err_msg=f"frame {frame}")


def test_known_last_poses_of_the_specification():
    script = "w-80,jw-40,w-40,lw-60,w-100"
    v1, v2 = action_string_to_c2w(script), action_string_to_c2w(script, dialect="sana-v2")
    np.testing.assert_allclose(v1[-1, :3, 3], [-0.815778, 0, 14.42293], atol=1e-5)
    assert np.degrees(np.arctan2(v1[-1, 0, 2], v1[-1, 2, 2])) == pytest.approx(24.0, abs=1e-4)
    np.testing.assert_allclose(v2[-1, :3, 3], [0.53107, 0, 7.999992], atol=1e-5)
    np.testing.assert_array_equal(v2[-1, :3, :3], np.eye(3))


@pytest.mark.parametrize("dialect", ["sana-v1", "sana-v2", "sglang", "diffusers"])
def test_random_scripts_equal_the_stepwise_roll_out(dialect):
    random = np.random.default_rng(7)
    for _ in range(12):
        segments = ["".join(random.choice(list("wasdijkl"), random.integers(0, 4), replace=False)) for _ in range(5)]
        script = ",".join(f"{keys or 'none'}-{random.integers(1, 60)}" for keys in segments)
        speed, degrees = random.uniform(0.01, 0.2), random.uniform(0.1, 6.0)
        np.testing.assert_allclose(
            action_string_to_c2w(script, speed, degrees, dialect),
            stepwise(script, dialect, speed, degrees),
            atol=2e-6,
            err_msg=script,
        )


@pytest.mark.parametrize("speeds", [(0.05, 1.2), (0.11, 5.0), (0.02, 17.0)])
def test_default_dialect_equals_diffusers(speeds):
    cam_utils = pytest.importorskip("diffusers.pipelines.sana_wm.cam_utils")
    for script in ("w-80,jw-40,w-40,lw-60,w-100", "i-90,wi-3,k-200,wdkl-7,none-4,-5", "adws-3,jl-2,ik-3,wjk-31"):
        theirs = cam_utils.action_string_to_c2w(script, translation_speed=speeds[0], rotation_speed_deg=speeds[1])
        np.testing.assert_allclose(action_string_to_c2w(script, *speeds), theirs, atol=1e-6, err_msg=script)


def test_pitch_limit_refuses_in_v1_and_clamps_in_v2():
    def pitch(script, dialect):
        rotation = action_string_to_c2w(script, dialect=dialect)[-1]
        return np.degrees(np.arcsin(-rotation[1, 2]))

    assert pitch("i-200", "sana-v1") == pytest.approx(84.0, abs=1e-3)
    assert pitch("k-200", "sana-v1") == pytest.approx(-84.0, abs=1e-3)
    assert pitch("i-200", "sana-v2") == pytest.approx(60.0, abs=1e-3)


def test_inertia_eases_out_and_can_be_switched_off():
    steps = parse_actions("w-4,none-8", "sana-v2").to_c2w()[:, 2, 3]
    ease = np.diff(np.diff(steps)[3:])
    assert (ease < 0).all()
    sharp = parse_actions("w-4,none-8", "sana-v2", smooth=False).to_c2w()[:, 2, 3]
    np.testing.assert_allclose(np.diff(sharp)[4:], 0.0, atol=1e-7)


@pytest.mark.parametrize(
    ("script", "source", "target", "text"),
    [
        ("w-80,jw-40,dk-9", "sana-v1", "sana-v2", "w-80,wa-40,lk-9"),
        ("w-3, right-1", "worldplay", "sana-v1", "w-12,l-4"),
        ("w-12,l-4", "sana-v1", "worldplay", "w-3,right-1"),
        ("wjk-9", "sana-v1", "sglang", "wjk-9"),
        ("lw-8,jd-3", "sana-v1", "diffusers", "wl-8,dj-3"),
    ],
)
def test_loss_free_conversion(script, source, target, text):
    result = convert_actions(script, source, target)
    assert result.loss_free and result.text == text
    again = parse_actions(
        result.text,
        result.dialect,
        translation_speed=result.translation_speed,
        rotation_speed_deg=result.rotation_speed_deg,
        smooth=result.smooth,
    )
    np.testing.assert_allclose(again.to_c2w(), parse_actions(script, source).to_c2w(), atol=2e-5)


@pytest.mark.parametrize(
    ("script", "source", "target", "says"),
    [
        ("w-8,none-8", "sana-v2", "sana-v1", "has no inertia"),
        ("d-8", "sana-v1", "sglang", "a strafe turns by 0.4 of a yaw step"),
        ("d-8", "sglang", "sana-v1", "a strafe turns by 0 of a yaw step"),
        ("i-80", "sana-v1", "sana-v2", "pitch limit 60 degrees, not 85"),
        ("w-8", "sglang", "diffusers", "speeds are fixed at 0.05"),
    ],
)
def test_lossy_conversion_says_why_with_numbers(script, source, target, says):
    with pytest.raises(ValueError) as caught:
        convert_actions(script, source, target)
    assert says in str(caught.value) and "units and" in str(caught.value)
    result = convert_actions(script, source, target, allow_loss=True)
    assert not result.loss_free and result.position_error + result.angle_error_deg > 0
