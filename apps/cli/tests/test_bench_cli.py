"""sana-wm bench on a tiny stand-in model: run, score, compare, baseline and speed, and their exit codes."""

import json
import sys
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import sana_wm_core.loading
import torch
from sana_wm_cli import bench_generate
from sana_wm_cli.main import app
from sana_wm_core.pipeline import Defaults
from typer.testing import CliRunner
from wm_bench.baselines import shuffled_paths
from wm_bench.splits import load_procedural

SPLIT = ["--scenes", "indoor_001,outdoor_city_002", "--seconds", "1"]
CHEAP = ["--estimator", "none", "--no-cache"]


class Pan:
    """A world model that moves its picture aside as the camera turns: cheap, seeded and a little wrong."""

    defaults = Defaults(32, 48, 17, 16, 2, 1.0, 2.0, 70.0, 0.05, 1.2)
    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, weights):
        self.sources = {"weights": weights}

    def to(self, device):
        return self

    def __call__(self, picture, prompt, *, c2w, intrinsics, frames, steps=None, seed=0):
        assert prompt and len(c2w) == frames and intrinsics.shape == (4,)
        grain = np.random.default_rng(seed + (steps or 2)).integers(0, 3, np.shape(picture), dtype=np.uint8)
        aside = np.round(intrinsics[0] * c2w[:, 0, 2]).astype(int)
        shown = [np.roll(np.asarray(picture) // 2 + grain, -int(x), axis=1) for x in aside]
        return SimpleNamespace(video=np.stack(shown))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    path.write_bytes(b"toy")
    return path


@pytest.fixture(scope="module", autouse=True)
def toy(weights):
    """The pocket world replaced by a pan over its first picture, 32x48 pixels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sana_wm_core.loading, "_load_pocket", lambda folder: Pan(weights))
        yield


def call(*arguments):
    return CliRunner().invoke(app, ["bench", *map(str, arguments)])


def refused(result, *words):
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    assert all(word in lines[0] for word in words), lines[0]


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    out = tmp_path_factory.mktemp("bench") / "out"
    result = call("run", *SPLIT, *CHEAP, "--baselines", "--out", out, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return out, result


def test_run_makes_scores_and_ranks(ran):
    out, result = ran
    for method in ("pocket", "pocket-shuffled", "render", "still"):
        assert (out / method / "report" / "report.html").stat().st_size > 10_000
        sheet = json.loads((out / method / "report" / "score.json").read_text())
        assert sheet["coverage"]["scored"] == 2 and not sheet["coverage"]["headline"]
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["method"] == "pocket" and line["metrics"]["ref_psnr_db"]["mean"] < 30
    ranking = (out / "ranking.md").read_text()
    assert "| ref_psnr_db | render 100.0, still " in ranking and (out / "ranking.html").is_file()
    gaps = {(r["metric"], r["ahead"], r["behind"]): r for r in json.loads((out / "ranking.json").read_text())["gaps"]}
    best = gaps["ref_psnr_db", "render", "pocket"]
    assert best["verdict"] == "yes" and best["n"] == 2 and 0 < best["low"] <= best["gap"] <= best["high"]
    # This toy shows the truth less than a picture that never moves, and the ladder says so.
    assert gaps["ref_psnr_db", "pocket", "still"]["verdict"] == "no"
    assert gaps["revisit_psnr_db", "still", "pocket"]["verdict"] == "not measured"
    assert (out / "pocket-and-render" / "compare.html").is_file()
    info = json.loads((out / "pocket" / "videos" / "method_info.json").read_text())
    assert info["resolution"] == "48x32" and len(info["weights_sha256"]["weights"]) == 64


def test_a_second_run_goes_on_where_the_first_stopped(ran):
    out, _ = ran
    videos = out / "pocket" / "videos"
    before = {p.name: p.stat().st_mtime_ns for p in videos.glob("*.mkv")}
    (videos / "indoor_001_generated.mkv").unlink()
    again = call("run", *SPLIT, *CHEAP, "--out", out)
    assert again.exit_code == 0 and again.stderr.count("generating ") == 1 and "generating indoor_001" in again.stderr
    after = {p.name: p.stat().st_mtime_ns for p in videos.glob("*.mkv")}
    assert after["outdoor_city_002_generated.mkv"] == before["outdoor_city_002_generated.mkv"]
    # Other steps are another video.
    assert call("run", *SPLIT, *CHEAP, "--out", out, "--steps", "1").stderr.count("generating ") == 2


def test_shards_share_the_work(tmp_path):
    made = []
    for part in ("0/2", "1/2"):
        result = call("run", *SPLIT, *CHEAP, "--out", tmp_path, "--shard", part)
        assert result.exit_code == 0 and not (tmp_path / "pocket" / "report").exists()
        made.append(sorted(p.name for p in (tmp_path / "pocket" / "videos").glob("*.mkv")))
    assert [len(names) for names in made] == [1, 2]
    for bad in ("2/2", "1", "a/b"):
        refused(call("run", *SPLIT, "--shard", bad), "--shard", "0/8")


class FakeRay(ModuleType):
    """The part of Ray's public interface that sharing uses, in this process; tasks run when they are waited for."""

    def __init__(self):
        super().__init__("ray")
        self.options, self.started = {}, []

    def is_initialized(self):
        return bool(self.started)

    def init(self, **options):
        self.started.append(options)

    def remote(self, **options):
        self.options = options
        return lambda work: SimpleNamespace(remote=lambda part: partial(work, part))

    def wait(self, references, num_returns):
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference):
        return reference()


def test_ray_shares_the_work_and_tells_what_failed(tmp_path, monkeypatch):
    alone = ["run", *SPLIT, *CHEAP, "--steps", "1"]
    assert call(*alone, "--out", tmp_path / "alone").exit_code == 0
    shared = [*alone, "--ray"]
    monkeypatch.setitem(sys.modules, "ray", None)  # whether or not it is installed here
    refused(call(*shared, "2", "--out", tmp_path / "none"), "Ray is not installed", "wm-bench[ray]")
    refused(call(*shared, "2", "--shard", "0/2"), "--ray 2", "--shard 0/2")
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    result = call(*shared, "5", "--out", tmp_path / "a")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "part 0 of 2: 1 scene\n" in result.stderr and "part 1 of 2: 1 scene\n" in result.stderr
    assert "generating" not in result.stderr and fake.options["num_gpus"] == 0 and len(fake.started) == 1
    videos = sorted((tmp_path / "alone" / "pocket" / "videos").glob("*.mkv"))
    assert len(videos) == 2
    for video in videos:
        assert (tmp_path / "a" / "pocket" / "videos" / video.name).read_bytes() == video.read_bytes()

    def too_busy(**options):
        raise Exception("Ray's log\nThe current node timed out during startup.")

    late = FakeRay()
    late.init = too_busy
    monkeypatch.setitem(sys.modules, "ray", late)
    words = ("Ray did not start (The current node timed out during startup.)", "RAY_ADDRESS")
    refused(call(*shared, "2", "--out", tmp_path / "late"), *words)
    monkeypatch.setitem(sys.modules, "ray", fake)
    make = bench_generate._make

    def breaking(pipeline, split, scene, *rest):
        if scene.id == "indoor_001":
            raise RuntimeError("no memory left")
        return make(pipeline, split, scene, *rest)

    monkeypatch.setattr(bench_generate, "_make", breaking)
    refused(call(*shared, "2", "--out", tmp_path / "b"), "1 of 2 parts failed", "no memory left")
    assert [p.name for p in (tmp_path / "b" / "pocket" / "videos").glob("*.mkv")] == ["outdoor_city_002_generated.mkv"]


def test_an_estimate_is_made_from_one_scene(tmp_path):
    result = call("run", *SPLIT, *CHEAP, "--estimate", "--baselines", "--out", tmp_path)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "2 scenes of 17 frames" in result.stdout and "measured on indoor_001" in result.stdout
    assert "twice and four times" in result.stdout and " h in one process here" in result.stdout
    assert len(list((tmp_path / "pocket" / "videos").glob("*.mkv"))) == 1


def test_score_reports_what_is_missing(ran, tmp_path):
    out, _ = ran
    result = call(
        "score", out / "render" / "videos", "--scenes", "3", "--seconds", "1", *CHEAP, "--out", tmp_path / "report"
    )
    assert result.exit_code == 3
    assert "missing" in result.stderr and "Partial coverage" in result.stdout
    assert (tmp_path / "report" / "scores.csv").is_file()


def test_score_uses_poses_beside_the_video(ran, tmp_path):
    out, _ = ran
    videos = out / "render" / "videos"
    options = ["--estimator", "oracle", "--cache", tmp_path / "cache", "--json"]
    result = call("score", videos, *SPLIT, *options, "--out", tmp_path / "a")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout.splitlines()[-1])
    assert line["metrics"]["rot_err_deg@code-v1/oracle"]["mean"] < 1e-5
    again = call("score", videos, *SPLIT, *options, "--out", tmp_path / "b")
    assert again.exit_code == 0
    for name in ("score.json", "scores.csv", "summary.md", "report.html"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    # An estimator that cannot run here is told, and is no zero.
    absent = call("score", videos, *SPLIT, "--estimator", "pi3x", "--no-cache", "--out", tmp_path / "c")
    assert absent.exit_code == 4 and "unavailable" in absent.stdout
    # Sheets with and without poses have frame numbers in common, compared pair by pair.
    both = call("compare", tmp_path / "a", tmp_path / "c", "--out", tmp_path / "d", "--json")
    assert both.exit_code == 0 and json.loads(both.stdout.splitlines()[-1])["rows"]
    assert (tmp_path / "d" / "compare.html").is_file()


def test_wrong_input_is_one_line(ran, tmp_path):
    out, _ = ran
    videos = out / "render" / "videos"
    refused(call("score", tmp_path / "nowhere", *SPLIT, *CHEAP), "no folder")
    refused(call("score", videos, *SPLIT, *CHEAP, "--out", videos / "report"), "lies inside")
    refused(call("score", videos, *SPLIT, "--estimator", "mast3r", "--out", tmp_path / "x"), "mast3r", "pycolmap")
    refused(call("score", videos, "--split", "proc", *CHEAP), "proc_simple_60s")
    refused(call("score", videos, *SPLIT, *CHEAP, "--every", "0"), "--every")
    refused(call("compare", tmp_path, tmp_path), "no score sheet")
    refused(call("baseline", "noise", tmp_path / "n", *SPLIT), "noise", "render")
    refused(call("speed", "--streaming", "--steps", "3", "--seconds", "1"), "--steps")


def test_baseline_writes_videos_and_poses(tmp_path):
    result = call("baseline", "still", tmp_path / "v", *SPLIT, "--size", "32x48")
    assert result.exit_code == 0, result.output
    made = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "v").iterdir()}
    assert sorted(Path(name).suffix for name in made) == [".json", ".json", ".mkv", ".mkv", ".npz", ".npz"]
    # A second call writes what is absent or was made for another size, and nothing else.
    (tmp_path / "v" / "indoor_001.mkv").unlink()
    again = call("baseline", "still", tmp_path / "v", *SPLIT, "--size", "32x48")
    assert again.stderr.count("writing") == 1 and "writing indoor_001" in again.stderr
    assert (tmp_path / "v" / "outdoor_city_002.mkv").stat().st_mtime_ns == made["outdoor_city_002.mkv"]
    assert call("baseline", "still", tmp_path / "v", *SPLIT, "--size", "32x64").stderr.count("writing") == 2


def test_shuffled_paths_are_other_plans_from_the_same_start():
    for ids in (["indoor_001", "outdoor_city_002"], ["indoor_001", "outdoor_city_001"]):
        split = load_procedural("proc_simple_60s", ids, 2.0)
        paths = shuffled_paths(split)
        for scene in split.scenes:
            assert paths[scene.id].shape == scene.c2w.shape
            np.testing.assert_allclose(paths[scene.id][0], scene.c2w[0], atol=1e-9)
            assert np.linalg.norm(paths[scene.id][-1] - scene.c2w[-1]) > 0.01


def test_speed_prints_its_definition(tmp_path):
    result = call("speed", "--seconds", "1", "--runs", "2", "--json", "--out", tmp_path / "speed.json")
    assert result.exit_code == 0, (result.output, result.exception)
    record = json.loads(result.stdout.splitlines()[-1])
    assert record["frames"] == 17 and record["runs"] == 2 and record["run_s"] > 0
    assert record["definition"].startswith("A run starts with inputs in memory")
    assert "frames in memory; loading and file writing are outside" in result.stdout
    assert record == json.loads((tmp_path / "speed.json").read_text())
