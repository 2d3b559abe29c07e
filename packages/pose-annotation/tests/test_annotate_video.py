"""A whole video through the pipeline: what is written, that it is resumed, and what is refused."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pose_annotation.backends.given import GivenDepth
from pose_annotation.judging import judge_folder, read_records
from pose_annotation.outputs import read_arrays
from pose_annotation.pipeline import Tools, _followed, _stored, annotate_video
from pose_annotation.policy import load_policy
from pose_annotation.settings import Request, Settings, request_from_row
from pose_annotation.types import CameraTrack
from pose_annotation.video import BrokenVideo

sys.path.insert(0, str(Path(__file__).parent))
import tiny_videos as tiny


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    frames = np.concatenate([tiny.sliding(18), tiny.sliding(18, seed=4)])
    return tiny.write(tmp_path_factory.mktemp("video") / "My Walk!.mp4", frames)


@pytest.fixture(scope="module")
def done(video, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, annotate_video(Request(video), out)


def test_every_scene_becomes_a_clip_in_the_trainers_layout(done, video):
    out, row = done
    assert row["status"] == "ok" and len(row["clips"]) == 2 and row["scene_starts"] == [0, 18]
    for clip, frames, start in zip(row["clips"], (17, 17), (0, 18), strict=True):
        assert clip.startswith("My-Walk-") and clip.endswith("-w00")
        record = json.loads((out / "records" / f"{clip}.json").read_text())
        assert record["frames"] == frames and record["video"]["first_frame"] == start
        assert record["tools"]["tracks"]["name"] == "klt" and record["settings"]["level"] == "per_frame_f"
        camera = read_arrays(out / "cameras" / f"{clip}.npz")
        assert camera["c2w"].shape == (frames, 4, 4) and np.array_equal(camera["c2w"][0], np.eye(4))
        assert camera["intrinsics"].shape == camera["intr_std"].shape == (frames, 4) and camera["schema"] == 2
        assert camera["timestamps"][0] == pytest.approx(start / 16)
        assert np.array_equal(np.load(out / "poses" / f"{clip}.npy"), camera["c2w"])
        page = (out / "overview" / f"{clip}.html").read_text()
        assert page.count("data:image") == 7 and clip in page and "pure_rotation" in page


def test_running_again_does_nothing_and_a_lost_record_is_made_from_stored_stages(done, video):
    out, row = done
    assert annotate_video(Request(video), out)["worked"] == {}
    record = out / "records" / f"{row['clips'][0]}.json"
    before = record.read_bytes()
    record.unlink()
    assert annotate_video(Request(video), out)["worked"] == {}
    assert record.read_bytes() == before


def test_two_runs_write_the_same_bytes(done, video, tmp_path):
    out, row = done
    annotate_video(Request(video), tmp_path)
    for kind, suffix in (("records", "json"), ("cameras", "npz"), ("overview", "html")):
        for clip in row["clips"]:
            name = f"{kind}/{clip}.{suffix}"
            assert (out / name).read_bytes() == (tmp_path / name).read_bytes(), name


def test_a_folder_of_other_settings_is_left_alone(done, video):
    out, row = done
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match="made with other settings; allowed"):
        annotate_video(Request(video), out, Settings(solve_width=320))
    index = next((out / "videos").iterdir())
    row_text = index.read_text()
    index.unlink()  # as after a run that was stopped
    try:
        with pytest.raises(ValueError, match="made with other settings; allowed"):
            annotate_video(Request(video, source="miradata"), out)
    finally:
        index.write_text(row_text)
        before.pop(index)
    now = {p: p.stat().st_mtime_ns for p in out.rglob("*") if p.is_file()}
    now.pop(index)
    assert before == now
    assert row["clips"]


def test_another_threshold_changes_verdicts_without_other_work(done, tmp_path):
    out, _row = done
    before = {p: p.read_bytes() for p in (out / "records").iterdir()}
    strict = judge_folder(out, load_policy(mode="strict"))
    assert strict.clips == 2 and strict.kept == 0
    wide = tmp_path / "wide.toml"
    wide.write_text("[camera]\n[flags]\nreject = []\n[source.video]\nvmaf_motion = [0, 1000]\n")
    assert judge_folder(out, load_policy(wide)).kept == 2
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    assert [row["raw_frames"] for row in rows] == [17, 17] and rows[0]["pose_unit"] == "scene"
    for row in rows:
        assert all((out / row[name]).is_file() for name in ("video_path", "pose_path", "intrinsics_path"))
        assert row["captions"] == {"static": ""} and row["caption_source"] == "none"
    assert before == {p: p.read_bytes() for p in (out / "records").iterdir()}
    with pytest.raises(ValueError, match="holds no records"):
        judge_folder(tmp_path / "nowhere")


def test_a_crop_moves_the_lens_with_the_picture():
    frames = np.zeros((2, 96, 160, 3), np.uint8)
    nan = np.full((2, 6), np.nan)
    lens = np.tile([120.0, 120.0, 80.0, 48.0], (2, 1))
    whole = CameraTrack(
        np.tile(np.eye(4), (2, 1, 1)),
        lens,
        (96, 160),
        nan[:, 0],
        nan,
        nan[:, 0],
        np.ones(2),
        nan[:, 0] > 0,
        nan[:, :3],
    )
    assert _stored(frames, Settings(size=(64, 64))).shape == (2, 64, 64, 3)
    # 96 x 160 becomes 64 x 107 and loses 21 or 22 columns on either side.
    square = _followed(whole, (96, 160), (64, 64))
    assert square.size == (64, 64) and np.allclose(square.intrinsics[:, 3], 32)
    assert np.allclose(square.intrinsics[:, :2], 120 * 2 / 3, rtol=0.005)
    assert np.abs(square.intrinsics[:, 2] - 32).max() <= 0.5
    half = _followed(replace(whole, size=(48, 80), intrinsics=lens / 2), (96, 160), (96, 160))
    assert np.allclose(half.intrinsics, lens)


def test_a_given_path_is_kept_and_needs_the_whole_video(video, tmp_path):
    c2w = np.tile(np.eye(4), (36, 1, 1))
    c2w[:, 0, 3] = 0.1 * np.arange(36)
    lens = np.tile([120.0, 120, 80, 48], (36, 1))
    path = tiny.path_file(tmp_path / "path.npz", c2w, lens, (96, 160))
    row = annotate_video(Request(video, poses=path, scale_factor=2.0), tmp_path / "out")
    camera = read_arrays(tmp_path / "out" / "cameras" / f"{row['clips'][1]}.npz")
    assert bool(camera["metric"]) and np.allclose(np.diff(camera["c2w"][:, 0, 3]), 0.2)
    assert read_records(tmp_path / "out")[0]["mode"] == "gt_pose"
    short = tiny.path_file(tmp_path / "short.npz", c2w[:20], lens[:20], (96, 160))
    with pytest.raises(ValueError, match="the given path ends at"):
        annotate_video(Request(video, poses=short), tmp_path / "other")


def test_given_depth_makes_a_clip_metric(video, tmp_path):
    file = tmp_path / "depth.npz"
    np.savez(file, depth=np.full((36, 48, 80), 5.0, np.float32))
    tools = Tools(depth=GivenDepth(file))
    annotate_video(Request(video, depth=file), tmp_path / "out", tools=tools)
    records = read_records(tmp_path / "out")
    assert all(r["metric"] and r["scale"]["method"] == "depth" for r in records)
    assert records[0]["tools"]["depth"]["weights_id"] == tools.depth.weights_id
    np.savez(tmp_path / "few.npz", depth=np.ones((30, 48, 80), np.float32))
    with pytest.raises(ValueError, match="depth has 30 maps, the video needs 35"):
        annotate_video(Request(video), tmp_path / "b", tools=Tools(depth=GivenDepth(tmp_path / "few.npz")))
    np.savez(tmp_path / "tall.npz", depth=np.ones((36, 80, 48), np.float32))
    with pytest.raises(ValueError, match="depth maps are 80x48, the pictures 96x160"):
        annotate_video(Request(video), tmp_path / "c", tools=Tools(depth=GivenDepth(tmp_path / "tall.npz")))


def test_bad_requests_are_one_line(tmp_path):
    with pytest.raises(BrokenVideo, match="no such video"):
        annotate_video(Request(tmp_path / "gone.mp4"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for values, message in (
        ({"intrinsics": [1, 2, 3]}, "intrinsics are .* allowed: fx fy cx cy"),
        ({"split": "test"}, "split is 'test'; allowed: train, val"),
        ({"camera_height": 1.6, "scale_factor": 2}, "scale_factor and camera_height are given"),
        ({"colour": 1}, "field 'colour' is unknown"),
        ({"camera_height": "tall"}, "camera_height is 'tall'; allowed: numbers"),
        ({"video": 3}, "video is 3; allowed: a file name"),
    ):
        with pytest.raises(ValueError, match=message):
            request_from_row({"video": "a.mp4", **values}, tmp_path)
    for values, message in (({"fps": 0}, "fps is 0"), ({"width": 3}, "width is 3"), ({"size": (5, 64)}, "size is")):
        with pytest.raises(ValueError, match=message):
            Settings(**values)
    with pytest.raises(ValueError, match="has no array 'depth'"):
        np.savez(tmp_path / "x.npz", z=np.ones(3))
        GivenDepth(tmp_path / "x.npz")
