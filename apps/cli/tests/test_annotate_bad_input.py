"""Bad input to sana-wm annotate: one clear line, exit code 2, and a folder that holds results stays as it was."""

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from sana_wm_cli.main import app
from typer.testing import CliRunner

LENS = ("--intrinsics", "120,120,80,48")


def run(*arguments):
    return CliRunner().invoke(app, ["annotate", *map(str, arguments)])


def write(path, frames, seed=0):
    """A picture that slides for some frames."""
    rng = np.random.default_rng(seed)
    wide = np.kron(rng.integers(20, 235, (6, 14, 3)), np.ones((16, 16, 1))).astype(np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(16))
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuv420p"
        for i in range(frames):
            picture = np.ascontiguousarray(wide[:, 2 * i : 2 * i + 160])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def sound(path):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(8):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder of inputs, and a folder of finished results."""
    root = tmp_path_factory.mktemp("bad")
    write(root / "good.mp4", 18)
    write(root / "other.mp4", 18, seed=3)
    write(root / "short.mp4", 8)
    (root / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    (root / "cut.mp4").write_bytes((root / "good.mp4").read_bytes()[:2000])
    (root / "empty.mp4").touch()
    sound(root / "sound.mp4")
    np.savez(root / "tall.npz", depth=np.ones((18, 80, 48), np.float32))
    np.savez(root / "few.npz", depth=np.ones((5, 48, 80), np.float32))
    (root / "text.npz").write_text("no arrays")
    done = run(root / "good.mp4", "--out", root / "out", *LENS)
    assert done.exit_code == 0, done.output
    return root


def contents(folder):
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in sorted(folder.rglob("*")) if path.is_file()}


CLIPS = {
    "unreadable": (["noise.mp4"], "noise.mp4 cannot be read"),
    "truncated": (["cut.mp4"], "cut.mp4 cannot be read"),
    "no bytes": (["empty.mp4"], "empty.mp4 is empty (0 bytes)"),
    "not there": (["gone.mp4"], "no such video"),
    "a folder": (["."], "no such video"),
    "no video stream": (["sound.mp4"], "sound.mp4 has no video stream"),
    "fewer than 9 frames": (["short.mp4"], "has 8 frames at 16 fps; allowed: at least 9"),
    "lens of two numbers": (["other.mp4", "--intrinsics", "120,80"], "--intrinsics is '120,80'; allowed: 4 numbers"),
    "lens of zero": (["other.mp4", "--intrinsics", "0,120,80,48"], "allowed: fx fy cx cy in pixels"),
    "depth of another size": (["other.mp4", "--depth", "tall.npz"], "depth maps are 80x48, the pictures 96x160"),
    "depth of fewer frames": (["other.mp4", "--depth", "few.npz"], "depth has 5 maps, the video needs 17"),
    "depth that is none": (["other.mp4", "--depth", "text.npz"], "text.npz is no .npz"),
    "results of other settings": (["good.mp4", "--solve-width", "128", *LENS], "was made with other settings; allowed"),
    "passes without weights": (["other.mp4", "--scores", "dover:gone.onnx"], "no weights at gone.onnx"),
    "an unknown pass": (["other.mp4", "--scores", "vlm"], "--scores is 'vlm'; allowed: dover:FILE.onnx"),
}


@pytest.mark.parametrize("case", CLIPS)
def test_one_video(files, case, monkeypatch, tmp_path):
    monkeypatch.chdir(files)
    arguments, message = CLIPS[case]
    before = contents(files / "out")
    result = run(*arguments, "--out", "out")
    assert result.exit_code == 2 and message in result.output, result.output
    assert len(result.output.strip().splitlines()) == 1 and "Traceback" not in result.output
    assert contents(files / "out") == before
    if case != "results of other settings":
        fresh = run(*arguments, "--out", tmp_path / "fresh")
        assert fresh.exit_code == 2 and not (tmp_path / "fresh").exists()


MANIFESTS = {
    "a video twice": ([{"video": "good.mp4"}, {"video": "./good.mp4"}], "row 2: good.mp4 is in row 1 too"),
    "a lens of three numbers": ([{"video": "good.mp4", "intrinsics": [1, 2, 3]}], "row 1: intrinsics are"),
    "an unknown column": ([{"video": "good.mp4", "sauce": "x"}], "row 1: field 'sauce' is unknown"),
    "no rows": ([], "is empty; allowed: at least one row"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest(files, case, tmp_path):
    rows, message = MANIFESTS[case]
    manifest = files / "rows.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = contents(files / "out")
    for out in (files / "out", tmp_path / "fresh"):
        result = run("run", manifest, "--out", out)
        assert result.exit_code == 2 and message in result.output, result.output
        assert len(result.output.strip().splitlines()) == 1
    assert contents(files / "out") == before and not (tmp_path / "fresh").exists()


def test_a_folder_of_another_run_or_of_something_else(files, tmp_path):
    manifest = files / "all.jsonl"
    manifest.write_text('{"video": "sound.mp4"}\n')
    assert run("run", manifest, "--out", tmp_path / "run").exit_code == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("keep")
    before = contents(tmp_path)
    for arguments, message in (
        (["run", manifest, "--out", tmp_path / "run", "--fps", "8"], "is of a run with fps 16.0, this one has 8.0"),
        (["run", manifest, "--out", tmp_path / "mine"], "holds files of something else"),
        (["export", files / "out", "--to", "tum", "--all", "--out", tmp_path / "mine"], "is not empty"),
    ):
        result = run(*arguments)
        assert result.exit_code == 2 and message in result.output, result.output
    assert contents(tmp_path) == before
