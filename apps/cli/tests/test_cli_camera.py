"""`sana-wm camera`: the four commands end to end, and their errors."""

import json
import subprocess
import sys

import numpy as np
import pytest
from camera_control import action_string_to_c2w
from camera_control.trajectory import Trajectory
from PIL import Image
from sana_wm_cli.camera import app
from typer.testing import CliRunner


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ok(*arguments):
    result = run(*arguments)
    assert result.exception is None, repr(result.exception)
    return result.output


def error(*arguments):
    result = run(*arguments)
    assert isinstance(result.exception, ValueError), repr(result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_plan_check_convert_draw(tmp_path):
    out = tmp_path / "path.npz"
    assert "81 frames, 5.0 s at 16 fps, 4.00 units" in ok("plan", "w-40, lw-40", "--out", out)
    np.testing.assert_allclose(Trajectory.load(out).c2w, action_string_to_c2w("w-40,lw-40"))
    text = ok("check", out)
    assert text.count("ok ") == 5 and "70.0 to 70.0 degrees across" in text
    for name in ("model", "transforms.json", "t.txt", "p.npy", "back.npz"):
        ok("convert", out, tmp_path / name)
        assert "error" not in ok("check", tmp_path / name)
    Image.new("RGB", (128, 72), (40, 90, 160)).save(tmp_path / "street.png")
    ok("draw", tmp_path / "model", "--over", tmp_path / "street.png", "--out", tmp_path / "over.png")
    ok("draw", out, "--out", tmp_path / "top.png")
    assert (tmp_path / "over.png").stat().st_size > 5000 and (tmp_path / "top.png").stat().st_size > 5000


def test_plan_takes_dialects_and_both_spellings(tmp_path):
    for flags in (
        ("--translation_speed", 0.1, "--rotation_speed_deg", 2),
        ("--translation-speed", 0.1, "--rotation-speed-deg", 2),
    ):
        ok("plan", "w-4,a-4", "--dialect", "sana-v2", "--no-smooth", *flags, "--out", tmp_path / "a.npz")
        c2w = Trajectory.load(tmp_path / "a.npz").c2w
        assert c2w[4, 2, 3] == pytest.approx(0.4, abs=1e-4)
        assert np.degrees(np.arctan2(-c2w[-1, 0, 2], c2w[-1, 2, 2])) == pytest.approx(8.0, abs=1e-4)


def test_plan_families(tmp_path):
    out = tmp_path / "a.npz"
    report = ok("plan", "--family", "orbit", "--set", "radius=4", "--set", "frames=25", "--out", out, "--json")
    assert json.loads(report)["frames"] == 25
    ok("plan", "--family", "fly-through", "--set", "waypoints=0,0,0 0,0,4 1,0,6", "--set", "ease=no", "--out", out)
    assert len(Trajectory.load(out)) == 161
    assert "unknown family 'helix'; allowed: orbit, spiral" in error("plan", "--family", "helix", "--out", out)
    assert "does not fit orbit; allowed: radius, angle_deg" in error("plan", "--family", "orbit", "--set", "speed=1")
    assert "is not understood" in error("plan", "--family", "orbit", "--set", "frames=many")
    assert "exactly one" in error("plan", "w-8", "--family", "orbit")
    assert "exactly one" in error("plan")


@pytest.mark.parametrize(
    ("action", "says"),
    [
        ("", "action string is empty"),
        ("w-0", "non-positive duration '0'"),
        ("w--8", "unknown keys ['-']"),
        ("x-8", "unknown keys ['x']; allowed: adijklsw"),
        ("w", "expected '<keys>-<duration>'"),
    ],
)
def test_bad_actions_write_nothing(tmp_path, action, says):
    assert says in error("plan", action, "--out", tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


def bad_pose(frame, matrix):
    c2w = np.tile(np.eye(4, dtype=np.float32), (9, 1, 1))
    c2w[frame, :3, :3] = matrix
    return c2w


@pytest.mark.parametrize(
    ("poses", "says"),
    [
        (np.zeros((9, 3, 4)), "shape (9, 3, 4); allowed: (F, 4, 4)"),
        (bad_pose(2, np.nan), "frame 2 holds NaN"),
        (bad_pose(3, np.eye(3) * 1.2), "frame 3 is not orthonormal"),
        (bad_pose(4, np.diag([1, -1, 1])), "frame 4 is left-handed"),
        (bad_pose(0, np.eye(3))[:8], "path has 8 frames; allowed: at least 9"),
    ],
)
def test_check_refuses_bad_poses(tmp_path, poses, says):
    np.save(tmp_path / "p.npy", poses)
    assert says in error("check", tmp_path / "p.npy")


def test_check_knows_the_lens(tmp_path):
    ok("plan", "w-16", "--out", tmp_path / "p.npz", "--fov-deg", 130)
    assert "field of view is 130.0" in error("check", tmp_path / "p.npz")
    ok("check", tmp_path / "p.npz", "--fov-deg", 90)
    np.save(tmp_path / "k.npy", np.array([5000.0, 5000, 640, 352]))
    assert "allowed: 25 to 120" in error("check", tmp_path / "p.npz", "--intrinsics", tmp_path / "k.npy")
    np.save(tmp_path / "k.npy", np.ones(5))
    assert "shape (5,); allowed: (4,)" in error("check", tmp_path / "p.npz", "--intrinsics", tmp_path / "k.npy")
    findings = json.loads(ok("check", tmp_path / "p.npz", "--size", "704x1280", "--fov-deg", "70", "--json"))[
        "findings"
    ]
    assert [found["level"] for found in findings] == ["ok", "ok", "ok", "ok", "ok"]
    assert "is not understood; allowed: HEIGHTxWIDTH" in error("check", tmp_path / "p.npz", "--size", "wide")


def test_convert_between_dialects(tmp_path):
    result = CliRunner().invoke(app, ["convert", "w-80,jw-40", "-", "--from", "sana-v1", "--to", "sana-v2"])
    assert result.stdout == "w-80,wa-40\n"
    assert "--dialect sana-v2 --translation-speed 0.05 --rotation-speed-deg 1.2 --no-smooth" in result.stderr
    (tmp_path / "in.txt").write_text("w-3, right-1\n")
    ok("convert", tmp_path / "in.txt", tmp_path / "out.txt", "--from", "worldplay", "--to", "sana-v1")
    assert (tmp_path / "out.txt").read_text() == "w-12,l-4\n"
    assert "cannot go from 'sana-v1' to 'sglang' without loss" in error(
        "convert", "d-8", "-", "--from", "sana-v1", "--to", "sglang"
    )
    lossy = json.loads(ok("convert", "d-8", "-", "--from", "sana-v1", "--to", "sglang", "--allow-loss", "--json"))
    assert lossy["text"] == "d-8" and lossy["loss_free"] is False and lossy["angle_error_deg"] > 3
    ok("plan", "w-8", "--out", tmp_path / "p.npz")
    assert "poses cannot become keys" in error("convert", tmp_path / "p.npz", "-", "--to", "sana-v1")


def test_convert_actions_to_files_and_resample(tmp_path):
    ok("convert", "w-16", tmp_path / "a.json", "--from", "sana-v1", "--fov-deg", 70, "--size", "96x160", "--frames", 33)
    path = Trajectory.load(tmp_path / "a.json")
    assert len(path) == 33 and path.fps == pytest.approx(32.0) and path.image_size == (96, 160)
    ok("convert", tmp_path / "a.json", tmp_path / "b.npz", "--resample-fps", 16, "--relative")
    assert len(Trajectory.load(tmp_path / "b.npz")) == 17
    assert "needs intrinsics and the image size" in error("convert", "w-16", tmp_path / "c.json", "--from", "sana-v1")
    assert "unknown camera format 'usd'" in error("convert", tmp_path / "a.json", tmp_path / "c", "--to", "usd")


def test_draw_refuses_bad_pictures(tmp_path):
    ok("plan", "w-16", "--out", tmp_path / "p.npz")
    (tmp_path / "empty.png").write_bytes(b"")
    assert "cannot read the picture" in error("draw", tmp_path / "p.npz", "--over", tmp_path / "empty.png")
    assert "no such camera file" in error("draw", tmp_path / "nowhere.npz")


def test_help_needs_no_heavy_import():
    code = (
        "import sys; import sana_wm_cli.camera;"
        "heavy = [m for m in ('torch', 'matplotlib', 'scipy', 'numpy') if m in sys.modules];"
        "sys.exit('loaded ' + ', '.join(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "plan" in ok("--help") and "worldplay" in ok("plan", "--help").replace("\n", " ")
