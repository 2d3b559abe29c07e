"""sana-wm annotate from the command line: a video in, a folder the trainer reads out, mistakes in one line."""

import importlib.util
import json
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from sana_wm_cli.main import app
from typer.testing import CliRunner


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """18 frames of a picture that slides."""
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(20, 235, (6, 14, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    path = tmp_path_factory.mktemp("video") / "slide.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(16))
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(18):
            picture = np.ascontiguousarray(wide[:, 2 * i : 2 * i + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def run(*arguments):
    return CliRunner().invoke(app, ["annotate", *map(str, arguments)])


def test_a_video_becomes_a_folder_that_is_judged_exported_and_measured(video, tmp_path):
    out = tmp_path / "out"
    first = run(video, "--out", out, "--intrinsics", "120,120,80,48", "--json")
    assert first.exit_code == 0, first.output
    row = json.loads(first.output.splitlines()[-1])
    assert row["status"] == "ok" and len(row["clips"]) == 1 and row["worked"]
    again = run(video, "--out", out, "--intrinsics", "120,120,80,48", "--json")
    assert json.loads(again.output.splitlines()[-1])["worked"] == {}
    wide = tmp_path / "wide.toml"
    wide.write_text("[camera]\n[flags]\nreject = []\n[source.video]\nvmaf_motion = [0, 1000]\n")
    judged = run("judge", out, "--policy", wide)
    assert judged.exit_code == 0 and "1 of 1 clips kept" in judged.output
    assert run("export", out, "--to", "bench", "--out", tmp_path / "b").exit_code == 0
    camera = next((tmp_path / "b").glob("*.npz"))
    measured = run("eval", camera, camera)
    assert measured.exit_code == 0 and "rotation after averaging" in measured.output


def test_view_saves_a_recording_or_says_what_is_missing(video, tmp_path, monkeypatch):
    out, file = tmp_path / "out", tmp_path / "slide.rrd"
    assert run(video, "--out", out, "--intrinsics", "120,120,80,48").exit_code == 0
    if importlib.util.find_spec("rerun") is not None:
        shown = run("view", out, "--save", file)
        assert shown.exit_code == 0 and "1 clips; open it with: rerun" in shown.output, shown.output
        assert file.stat().st_size > 10_000
        file.unlink()
    monkeypatch.setitem(sys.modules, "rerun", None)
    cases = [
        (["view", out, "--save", file], "rerun is not installed; allowed: uv pip install 'pose-annotation[rerun]'"),
        (["view", out, "--save", tmp_path / "slide.mp4"], "allowed: a file that ends in .rrd"),
        (["view", out, "--clip", "other"], "clip is 'other'; allowed: slide-"),
        (["view", tmp_path / "gone"], "holds no records"),
    ]
    for arguments, message in cases:
        result = run(*arguments)
        assert result.exit_code == 2 and message in result.output, (arguments, result.output)
        assert len(result.output.strip().splitlines()) == 1
    assert not file.exists()


def test_mistakes_exit_with_2_in_one_line_and_write_nothing(video, tmp_path):
    out, empty = tmp_path / "out", tmp_path / "empty.mp4"
    empty.touch()
    cases = [
        ([tmp_path / "gone.mp4"], "no such video"),
        ([empty], "is empty"),
        ([video, "--intrinsics", "1,2"], "4 numbers with commas"),
        ([video, "--source", "tv"], "source is 'tv'; allowed"),
        ([video, "--lens", "zoomy"], "lens level is 'zoomy'"),
        ([video, "--size", "96"], "HEIGHTxWIDTH"),
        ([video, "--window", "5,6,7"], "windows are 5 to 6"),
        ([video, "--depth", tmp_path / "no.npz"], "cannot read"),
        ([video, "--captions", "vllm"], "allowed: URL,MODEL"),
        ([video, "--known-distance", "0,1"], "3 numbers"),
        ([video, "--camera-height", "1.6", "--scale-factor", "2"], "allowed: one of them"),
    ]
    for arguments, message in cases:
        result = run(*arguments, "--out", out)
        assert result.exit_code == 2 and message in result.output, (arguments, result.output)
        assert len(result.output.strip().splitlines()) == 1 and "Traceback" not in result.output
    first = run("--out", out, empty)
    assert first.exit_code == 2 and "is empty" in first.output
    assert not out.exists()
    for arguments, message in (
        (["judge", tmp_path], "holds no records"),
        (["export", tmp_path, "--to", "tum", "--out", out], "holds no records"),
        (["eval", tmp_path / "a.npz", tmp_path / "b.npz"], "no such camera file"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and message in result.output
