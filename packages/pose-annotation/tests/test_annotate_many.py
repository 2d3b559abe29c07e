"""A manifest of good and broken videos: rows for all, resuming, kill -9, the same digest in the end."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from pose_annotation.policy import load_policy
from pose_annotation.runner import read_manifest, run_manifest
from pose_annotation.settings import Settings

sys.path.insert(0, str(Path(__file__).parent))
import failing_tools
import tiny_videos as tiny


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three sound videos with known paths, four broken ones, and a manifest of all."""
    folder = tmp_path_factory.mktemp("videos")
    c2w = np.tile(np.eye(4), (18, 1, 1))
    c2w[:, 2, 3] = 0.05 * np.arange(18)
    tiny.path_file(folder / "path.npz", c2w, np.tile([120.0, 120, 80, 48], (18, 1)), (96, 160))
    rows = []
    for seed in range(3):
        tiny.write(folder / f"good{seed}.mp4", tiny.sliding(18, seed=seed))
        rows.append({"video": f"good{seed}.mp4", "poses": "path.npz", "scale_factor": 2.0, "licence": "CC0"})
    (folder / "empty.mp4").touch()
    tiny.audio_only(folder / "sound.mp4")
    tiny.write(folder / "one.mp4", tiny.sliding(1))
    rows += [{"video": name} for name in ("empty.mp4", "sound.mp4", "one.mp4", "gone.mp4")]
    (folder / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def finished(videos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    return out, run_manifest(videos / "all.jsonl", out, workers=2)


def test_all_videos_have_a_row_and_the_broken_say_why(finished):
    out, summary = finished
    assert summary.statuses == {"broken": 4, "ok": 3} and summary.worked == 7
    rows = {row["video"]: row for row in map(json.loads, (out / "rows.jsonl").read_text().splitlines())}
    assert len(rows) == 7 and rows["good1.mp4"]["clips"] and rows["good1.mp4"]["frames"] == 18
    for name, reason in (
        ("empty", "is empty"),
        ("sound", "no video stream"),
        ("one", "has 1 frame"),
        ("gone", "no such"),
    ):
        assert rows[f"{name}.mp4"]["status"] == "broken" and reason in rows[f"{name}.mp4"]["reason"]
        assert rows[f"{name}.mp4"]["error"] == "BrokenVideo"
    assert summary.judgement.clips == 3


def test_running_again_is_no_work_and_a_mended_file_is(finished, videos):
    out, summary = finished
    stamps = {p: p.stat().st_mtime_ns for p in (out / "records").iterdir()}
    again = run_manifest(videos / "all.jsonl", out, workers=2)
    assert again.worked == 0 and again.digest == summary.digest and again.statuses == summary.statuses
    assert stamps == {p: p.stat().st_mtime_ns for p in (out / "records").iterdir()}
    data = (videos / "sound.mp4").read_bytes()
    try:
        (videos / "sound.mp4").write_bytes(b"x")
        assert run_manifest(videos / "all.jsonl", out).worked == 1
    finally:
        (videos / "sound.mp4").write_bytes(data)
    assert run_manifest(videos / "all.jsonl", out).digest == summary.digest


def test_killed_anywhere_and_gone_on_with_gives_the_same_digest(finished, videos, tmp_path):
    """Killed when the first stage, clip, record and row appear, one after the other in the same folder."""
    _, summary = finished
    out = tmp_path / "out"
    code = (
        "from pose_annotation.runner import run_manifest; import sys\n"
        "if __name__ == '__main__': run_manifest(sys.argv[1], sys.argv[2])"
    )
    script = tmp_path / "go.py"
    script.write_text(code)
    for pattern in ("stages/*/*", "clips/*.mp4", "records/*.json", "rows/*.json"):
        before = len(list(out.glob(pattern)))
        process = subprocess.Popen(
            [sys.executable, str(script), str(videos / "all.jsonl"), str(out)], start_new_session=True
        )
        limit = time.monotonic() + 240
        while len(list(out.glob(pattern))) == before and process.poll() is None and time.monotonic() < limit:
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.returncode == -signal.SIGKILL and not (out / "rows.jsonl").exists(), pattern
    after = run_manifest(videos / "all.jsonl", out, workers=2)
    assert after.worked > 0 and after.digest == summary.digest
    assert run_manifest(videos / "all.jsonl", out, workers=2).worked == 0


def test_crashes_hangs_and_bugs_are_rows_and_are_tried_again_three_times(videos, tmp_path):
    rows = []
    for name in ("crash", "hang", "bug"):
        (tmp_path / f"{name}.mp4").write_bytes((videos / "good0.mp4").read_bytes())
        rows.append(json.dumps({"video": f"{name}.mp4"}))
    manifest, out = tmp_path / "m.jsonl", tmp_path / "out"
    manifest.write_text("\n".join(rows))
    for attempt in (1, 3, 3):
        summary = run_manifest(manifest, out, tools=failing_tools.by_name, workers=3, timeout_s=15)
        assert summary.statuses == {"crashed": 1, "error": 1, "timeout": 1}
        kept = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
        assert [row["attempt"] for row in kept] == [attempt] * 3
        if attempt == 1:
            assert kept[0]["reason"] == "the worker ended with exit code 7"
            assert (kept[2]["error"], kept[2]["reason"]) == ("RuntimeError", "a bug in a backend")
            for row in (out / "rows").iterdir():  # the second try, without its long wait
                row.write_text(row.read_text().replace('"attempt": 1', '"attempt": 2'))
    assert summary.worked == 0


class FakeRay(types.ModuleType):
    """The part of Ray's public interface that the executor uses, in this process."""

    def __init__(self):
        super().__init__("ray")
        self.data = types.ModuleType("ray.data")
        self.data.from_items = self.from_items
        self.calls = []

    def is_initialized(self):
        return False

    def init(self, **options):
        self.calls.append(options)

    def from_items(self, items, override_num_blocks):
        assert override_num_blocks == len(items)
        return types.SimpleNamespace(map=lambda fn, **o: types.SimpleNamespace(iter_rows=lambda: map(fn, items)))


def test_ray_runs_the_same_stages_and_gives_the_same_digest(finished, videos, tmp_path, monkeypatch):
    _, summary = finished
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake)
    monkeypatch.setitem(sys.modules, "ray.data", fake.data)
    found = run_manifest(videos / "all.jsonl", tmp_path / "out", executor="ray", workers=2)
    assert found.digest == summary.digest and fake.calls[0]["num_cpus"] == 2


def test_odd_but_sound_videos_say_in_their_row_what_was_odd(tmp_path):
    frames, rows = tiny.sliding(18), []
    tiny.write(tmp_path / "ten.mp4", frames, pix_fmt="yuv420p10le")
    tiny.write(tmp_path / "grey.mp4", frames, pix_fmt="gray")
    tiny.rotated(tmp_path / "turned.mp4", frames)
    tiny.write(tmp_path / "uneven.mp4", frames, times=np.cumsum([40, 90] * 9).tolist())
    tiny.write(tmp_path / "plain.mp4", frames)
    notes = {
        "ten": ["yuv420p10le"], "grey": ["grey pictures"], "turned": ["turned by 270 degrees"],
        "uneven": ["uneven frame times"], "plain": [],
    }  # fmt: skip
    rows = [{"video": f"{name}.mp4"} for name in notes]
    (tmp_path / "m.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_manifest(tmp_path / "m.jsonl", tmp_path / "out", Settings(level="shared_f"), workers=2)
    found = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert {Path(row["video"]).stem: row["notes"] for row in found} == notes
    assert all(row["status"] == "ok" and row["clips"] for row in found)


def test_the_real_ray_gives_the_same_digest_too(finished, videos, tmp_path):
    """In a process of its own, so that Ray's threads and warnings stay there."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is an extra")
    _, summary = finished
    code = (
        "from pose_annotation.runner import run_manifest; import sys\n"
        "print(run_manifest(sys.argv[1], sys.argv[2], executor='ray', workers=2).digest)"
    )
    command = [sys.executable, "-c", code, str(videos / "all.jsonl"), str(tmp_path / "out")]
    # Ray lowers its workers' priority; on a busy machine they would wait for ever.
    calm = {**os.environ, "RAY_worker_niceness": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, env=calm)
    assert done.returncode == 0 and summary.digest in done.stdout, done.stderr[-2000:]


def test_bad_manifests_and_folders_are_one_line_and_nothing_is_written(videos, finished, tmp_path):
    out, _ = finished
    cases = {
        "": "is empty",
        "{": "line 1 is not JSON",
        "[1]": "line 1 is no object",
        '{"video": "a.mp4"}\n{"video": "./a.mp4"}': "row 2: a.mp4 is in row 1 too",
        '{"video": "a.mp4", "sauce": "x"}': "row 1: field 'sauce' is unknown",
        '{"video": "a.mp4", "source": "tv"}': "source is 'tv'; allowed",
    }
    for text, message in cases.items():
        (tmp_path / "m.jsonl").write_text(text)
        with pytest.raises(ValueError, match=message):
            run_manifest(tmp_path / "m.jsonl", tmp_path / "new")
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match=r"is of a run with fps 16.0, this one has 8.0; allowed"):
        run_manifest(videos / "all.jsonl", out, Settings(fps=8.0))
    with pytest.raises(ValueError, match="holds files of something else"):
        run_manifest(videos / "all.jsonl", videos)
    with pytest.raises(ValueError, match="executor is 'slurm'"):
        run_manifest(videos / "all.jsonl", out, executor="slurm")
    with pytest.raises(ValueError, match="cannot read manifest"):
        read_manifest(tmp_path / "gone.jsonl")
    (tmp_path / "m.csv").write_text('video,camera_height,intrinsics\nb.mp4,1.6,"[9, 9, 5, 5]"\n')
    (request,) = read_manifest(tmp_path / "m.csv")
    assert request.camera_height == 1.6 and request.intrinsics == (9, 9, 5, 5) and request.video == tmp_path / "b.mp4"
    assert load_policy().mode == "lenient"
