"""VBench from its own environment: one subprocess for a whole submission, since its pins clash with everything."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from wm_bench.cache import Cache
from wm_bench.estimators import Unavailable
from wm_bench.metrics.quality import WINDOW_S
from wm_bench.metrics.vbench import DIMENSIONS, quality_score
from wm_bench.splits.model import Split
from wm_bench.video import VideoInfo, decode, write_lossless_mp4

VERSION = "vbench-2"
WINDOWED = ("imaging_quality_first", "imaging_quality_last", "drift_imaging_quality")
NAMES = (*DIMENSIONS, *WINDOWED, "vbench_quality")


class VbenchResult(NamedTuple):
    """Values {scene: {name: value}} and what they were made with."""

    values: dict[str, dict[str, float]]
    version: str
    weights_sha256: str


def run_vbench(python: Path, videos: Mapping[str, VideoInfo], split: Split, cache: Cache) -> VbenchResult:
    """Score videos in all nine dimensions; imaging quality also over the first and last ten seconds.

    The windows are cut by seconds and written without loss. Raises Unavailable when that Python cannot run VBench.
    """
    if not python.is_file():
        raise Unavailable(f"no Python at {python}")
    key = {
        "vbench": VERSION,
        "environment": _environment(python),
        "videos": {name: [v.sha256, split.scene(name).prompt] for name, v in videos.items()},
        "seconds": [split.scene(name).duration_s for name in videos],
    }
    kept = cache.get(key)
    if kept is None:
        with tempfile.TemporaryDirectory(prefix="wm-bench-windows-") as folder:
            kept = _score(python, videos, split, Path(folder))
        cache.put(key, kept)
    return VbenchResult(kept["values"], kept["version"], kept["weights_sha256"])


def _score(python: Path, videos: Mapping[str, VideoInfo], split: Split, folder: Path) -> dict[str, Any]:
    prompts = {name: split.scene(name).prompt for name in videos}
    whole = {name: str(video.path.resolve()) for name, video in videos.items()}
    answer = _ask(python, {"videos": whole, "prompts": prompts, "dimensions": list(DIMENSIONS)})
    values: dict[str, dict[str, float]] = {name: {} for name in videos}
    for dimension, found in answer["values"].items():
        for name, value in found.items():
            values[name][dimension] = value
    windows: dict[str, str] = {}
    for name, video in videos.items():
        duration_s = split.scene(name).duration_s
        if duration_s >= 2 * WINDOW_S:
            windows |= _windows(name, video, duration_s, folder)
    if windows:
        named = {key: prompts[key.rpartition("~")[0]] for key in windows}
        job = {"videos": windows, "prompts": named, "dimensions": ["imaging_quality"]}
        quality = _ask(python, job)["values"]["imaging_quality"]
        for name in {key.rpartition("~")[0] for key in windows}:
            first, last = quality[f"{name}~first"], quality[f"{name}~last"]
            values[name] |= dict(zip(WINDOWED, (first, last, first - last), strict=True))
    for own in values.values():
        overall = quality_score(own)
        if overall is not None:
            own["vbench_quality"] = 100.0 * overall
    return {"values": values, "version": answer["version"], "weights_sha256": answer["weights_sha256"]}


def _windows(name: str, video: VideoInfo, duration_s: float, folder: Path) -> dict[str, str]:
    last = WINDOW_S * (int((duration_s + 1e-6) // WINDOW_S) - 1)
    starts = {"first": 0.0, "last": last}
    frames: dict[str, list[np.ndarray]] = {key: [] for key in starts}
    for time, frame in zip(video.times_s, decode(video.path), strict=False):
        for key, start in starts.items():
            if start <= time < start + WINDOW_S:
                frames[key].append(frame)
    out = {}
    for key, kept in frames.items():
        path = folder / f"{name}~{key}.mp4"
        write_lossless_mp4(path, np.stack(kept), video.fps)
        out[f"{name}~{key}"] = str(path)
    return out


def _environment(python: Path) -> str:
    """What tells one VBench from another before it runs: its version there, or why there is none."""
    ask = "from importlib.metadata import version; print(version('vbench'))"
    done = subprocess.run([str(python), "-c", ask], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(f"{python} has no vbench package")
    return done.stdout.strip()


def _ask(python: Path, job: dict[str, Any]) -> dict[str, Any]:
    # Run as text from an empty folder: started as a file, it would find this folder's vbench.py before the package.
    worker = Path(__file__).with_name("vbench_worker.py").read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="wm-bench-vbench-") as empty:
        done = subprocess.run(
            [str(python), "-c", worker], input=json.dumps(job), capture_output=True, text=True, check=False, cwd=empty
        )
    try:
        answer = json.loads(done.stdout) if done.returncode == 0 else None
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"VBench failed with exit code {done.returncode}: {last}")
    return answer
