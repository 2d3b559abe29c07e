"""Forty malformed submissions: each is reported, none crashes, none is scored silently."""

import json
import shutil

import numpy as np
import pytest
from wm_bench.baselines import write_baseline
from wm_bench.camera_following import PoseRules
from wm_bench.scoring import Options, score_folder
from wm_bench.submission import read_submission
from wm_bench.video import decode, write_lossless

SIZE, FPS = (36, 64), 8.0
BAD = "indoor_001"
ORACLE = Options(estimators=("oracle",), poses=PoseRules(protocols=("paper-sim3",)))


@pytest.fixture(scope="module")
def split(box_split):
    return box_split(3, 4.0)


@pytest.fixture(scope="module")
def good(split, tmp_path_factory):
    return write_baseline("render", split, tmp_path_factory.mktemp("good") / "videos", SIZE, FPS)


@pytest.fixture(scope="module")
def frames(good):
    return np.stack(list(decode(good / f"{BAD}.mkv")))


def _video(folder):
    return folder / f"{BAD}.mkv"


def _poses(folder, edit):
    path = folder / f"{BAD}_poses.npz"
    with np.load(path) as archive:
        content = dict(archive)
    edit(content)
    np.savez(path, **content)


def _info(folder, **info):
    (folder / "method_info.json").write_text(json.dumps(info))


def _keep(folder, share):
    data = _video(folder).read_bytes()
    _video(folder).write_bytes(data[: int(len(data) * share)])


def _swap(folder, other="outdoor_city_001"):
    a, b = _video(folder), folder / f"{other}.mkv"
    a.rename(folder / "t"), b.rename(a), (folder / "t").rename(b)


def _npy(folder, array):
    _video(folder).unlink()
    np.save(folder / f"{BAD}.npy", array)


def _set(key, index, value):
    def edit(content):
        content[key][index] = value

    return edit


# name: (what is done to the folder, the code that must be reported)
BREAKS = {
    "no video": (lambda d, f: _video(d).unlink(), "missing"),
    "empty file": (lambda d, f: _video(d).write_bytes(b""), "unreadable"),
    "text file": (lambda d, f: _video(d).write_text("not a video"), "unreadable"),
    "random bytes": (lambda d, f: _video(d).write_bytes(np.random.default_rng(0).bytes(5000)), "unreadable"),
    "zero bytes": (lambda d, f: _video(d).write_bytes(bytes(4096)), "unreadable"),
    "header only": (lambda d, f: _keep(d, 0.02), None),
    "a tenth of the file": (lambda d, f: _keep(d, 0.1), None),
    "half of the file": (lambda d, f: _keep(d, 0.5), None),
    "nine tenths of the file": (lambda d, f: _keep(d, 0.9), None),
    "two files": (lambda d, f: shutil.copy(_video(d), d / f"{BAD}_generated.mkv"), "duplicate-file"),
    "two formats": (lambda d, f: np.save(d / f"{BAD}.npy", f), "duplicate-file"),
    "another scene's file": (lambda d, f: shutil.copy(d / "game_style_001.mkv", _video(d)), "duplicate-content"),
    "swapped ids": (lambda d, f: _swap(d), "swapped"),
    "swapped with the game": (lambda d, f: _swap(d, "game_style_001"), "swapped"),
    "half the frame rate": (lambda d, f: write_lossless(_video(d), f, 4.0), "wrong-fps"),
    "twice the frame rate": (lambda d, f: write_lossless(_video(d), f, 16.0), "too-short"),
    "1 frame per second": (lambda d, f: write_lossless(_video(d), f[:5], 1.0), "wrong-fps"),
    "declared 24 fps": (lambda d, f: _info(d, fps=24), "wrong-fps"),
    "half as long": (lambda d, f: write_lossless(_video(d), f[:16], FPS), "too-short"),
    "two frames short": (lambda d, f: write_lossless(_video(d), f[:-2], FPS), "too-short"),
    "one frame": (lambda d, f: write_lossless(_video(d), f[:1], FPS), "too-short"),
    "too long": (lambda d, f: write_lossless(_video(d), np.concatenate([f, f]), FPS), "too-long"),
    "smaller": (lambda d, f: write_lossless(_video(d), f[:, :32, :56], FPS), "wrong-size"),
    "larger": (lambda d, f: write_lossless(_video(d), f.repeat(2, 1).repeat(2, 2), FPS), "wrong-size"),
    "a thumbnail": (lambda d, f: write_lossless(_video(d), f[:, ::2, ::2], FPS), "wrong-size"),
    "upright": (lambda d, f: write_lossless(_video(d), f.transpose(0, 2, 1, 3), FPS), "wrong-size"),
    "declared 1280x704": (lambda d, f: _info(d, resolution="1280x704"), "wrong-size"),
    "declared as a list": (lambda d, f: _info(d, resolution=[704, 1280]), "wrong-size"),
    "method info broken": (lambda d, f: (d / "method_info.json").write_text("{"), "method-info"),
    "method info a list": (lambda d, f: (d / "method_info.json").write_text("[1]"), "method-info"),
    "unknown scene": (lambda d, f: shutil.copy(_video(d), d / "indoor_077.mkv"), "unknown-scene"),
    "misspelt scene": (lambda d, f: _video(d).rename(d / "indor_001.mkv"), "missing"),
    "black": (lambda d, f: write_lossless(_video(d), np.zeros_like(f), FPS), "blank"),
    "another first frame": (lambda d, f: write_lossless(_video(d), 255 - f, FPS), "first-frame"),
    "array of floats": (lambda d, f: _npy(d, f.astype(np.float32)), "unreadable"),
    "array without colour": (lambda d, f: _npy(d, f[..., 0]), "unreadable"),
    "array of nothing": (lambda d, f: _npy(d, f[:0]), "unreadable"),
    "pickled array": (lambda d, f: _npy(d, np.array([{"a": 1}], dtype=object)), "unreadable"),
    "no poses": (lambda d, f: (d / f"{BAD}_poses.npz").unlink(), "pose-failed"),
    "NaN poses": (lambda d, f: _poses(d, _set("c2w", (5, 0, 3), np.nan)), "pose-failed"),
    "infinite poses": (lambda d, f: _poses(d, _set("c2w", (5, 0, 3), np.inf)), "pose-failed"),
    "mirrored poses": (lambda d, f: _poses(d, _set("c2w", (5, 0), [-1, 0, 0, 0])), "pose-failed"),
    "too few poses": (lambda d, f: _poses(d, lambda c: c.update(c2w=c["c2w"][:9])), "pose-failed"),
    "poses of no shape": (lambda d, f: _poses(d, lambda c: c.update(c2w=np.zeros((4, 4)))), "pose-failed"),
    "poses not an archive": (lambda d, f: (d / f"{BAD}_poses.npz").write_bytes(b"PK"), "pose-failed"),
}  # fmt: skip
WARNINGS = {"too-long", "method-info", "unknown-scene", "blank", "first-frame"}


def test_there_are_more_than_forty():
    assert len(BREAKS) >= 40


@pytest.mark.parametrize("name", BREAKS)
def test_a_malformed_submission_is_reported(name, split, good, frames, tmp_path):
    spoil, code = BREAKS[name]
    folder = tmp_path / "videos"
    shutil.copytree(good, folder)
    spoil(folder, frames)
    sheet = score_folder(folder, split, ORACLE)
    found = {(f["level"], f["code"]) for f in sheet["findings"]}
    codes = {code for _, code in found}
    assert code in codes if code else codes & {"unreadable", "truncated", "too-short"}, found
    values = sheet["scenes"].get(BAD, {}).get("values", {})
    if code in WARNINGS:
        assert all(level == "warning" for level, c in found if c == code)
    elif code == "pose-failed":
        assert not any("@" in key for key in values) and "ref_psnr_db" in values
    else:
        assert not values and BAD in sheet["coverage"]["missing"]
    assert all("\n" not in f["message"] for f in sheet["findings"])
    json.dumps(sheet, allow_nan=False)


def test_a_good_submission_has_no_finding(split, good):
    submission = read_submission(good, split)
    assert submission.findings == [] and set(submission.videos) == {s.id for s in split.scenes}
    assert submission.method == "videos"


def test_a_variable_frame_rate_is_told_and_scored_by_time(split, frames, tmp_path):
    import av

    uneven_ms = [i * 125 + (80 if i % 4 == 0 and 0 < i < 32 else 0) for i in range(len(frames))]
    true = split.truth(split.scene(BAD), np.array(uneven_ms) / 1000, SIZE).rgb
    values = []
    for name, shown in (("true", true), ("even", frames)):
        path = tmp_path / name / f"{BAD}.mkv"
        path.parent.mkdir()
        with av.open(str(path), "w", format="matroska") as container:
            stream = container.add_stream("ffv1", rate=1000)
            stream.height, stream.width, stream.pix_fmt = 36, 64, "bgr0"
            for time, frame in zip(uneven_ms, shown, strict=True):
                picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
                picture.pts = time
                container.mux(stream.encode(picture))
            container.mux(stream.encode(None))
        sheet = score_folder(path.parent, split, ORACLE)
        assert any(f["code"] == "variable-rate" and f["scene"] == BAD for f in sheet["findings"])
        values.append(sheet["scenes"][BAD]["values"]["ref_psnr_db"])
    # Frames made for their own instants are the render's; frames made for even instants are not.
    assert values[0] == 100 and values[1] < 60


def test_no_folder_is_one_line(split, tmp_path):
    with pytest.raises(ValueError, match="no folder"):
        read_submission(tmp_path / "nowhere", split)
