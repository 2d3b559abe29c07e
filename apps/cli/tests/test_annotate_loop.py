"""The loop closes: a rendered world becomes a video, the video an annotated dataset, on which the pocket trains."""

import json

import numpy as np
import pytest
from camera_control.geometry import relative_to_first
from pose_annotation.outputs import write_video
from pose_annotation.rotations import angle_deg
from sana_wm_cli.main import app
from typer.testing import CliRunner
from wm_bench.worlds import make_scene, render
from wm_bench.worlds.paths import sample_path

FRAMES, SIZE = 17, (96, 160)


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, (arguments, result.output, result.exception)
    return result.output


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A short walk through a procedural room: video, poses and lens."""
    scene = make_scene("indoor", 10_003)
    c2w = sample_path(scene, 0, FRAMES)
    lens = np.broadcast_to(scene.default_intrinsics(SIZE), (FRAMES, 4))
    path = tmp_path_factory.mktemp("world") / "room.mp4"
    write_video(path, render(scene, c2w, lens, SIZE).rgb, 16.0)
    return path, relative_to_first(c2w.astype(np.float64)), lens[0]


def test_render_annotate_encode_and_one_training_step(rendered, tmp_path):
    video, truth, lens = rendered
    out = tmp_path / "clips"
    wide = tmp_path / "wide.toml"
    wide.write_text("[camera]\n[flags]\nreject = []\n[source.video]\nvmaf_motion = [0, 1000]\n")
    given = ",".join(f"{value:.6f}" for value in lens)
    options = ("--size", "96x160", "--window", "17,17,16", "--intrinsics", given, "--policy", wide, "--json")
    row = json.loads(run("annotate", video, "--out", out, *options).splitlines()[-1])
    assert row["kept"] == 1 and row["reasons"] == {}
    c2w = np.load(out / "poses" / f"{row['clips'][0]}.npy")
    # 160 pixels wide and 17 frames long: the directions come back to within half a degree.
    assert angle_deg(c2w[:, :3, :3], truth[:, :3, :3]).max() < 0.5

    run("data", "encode", out, "--no-augment")
    from sana_wm_core.training.data import LatentClips

    clips = LatentClips(out)
    batch = clips.batch([0])
    assert len(clips) == 1 and batch.latents.shape[2] == 3 and batch.camera.shape == (1, 3, 20)
    assert np.allclose(batch.camera[0, :, :16].reshape(3, 4, 4).numpy(), c2w[::8], atol=1e-4)
    changes = ("train.iterations=1", "train.batch=1", "train.window=3", "train.compile=false", "train.log_every=1")
    sets = [part for change in changes for part in ("--set", change)]
    said = run("train", "world", "--data", out, "--out", tmp_path / "run", *sets)
    assert "1 clips" in said
    (metrics,) = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert metrics["iteration"] == 1 and 0 < metrics["loss"] < 100
