"""Throughput of the pool, and that nothing is lost: many small clips, a tenth of them odd or broken on purpose.

    python packages/pose-annotation/bench/many_clips.py --clips 200 --workers 2 --out out/many
    python packages/pose-annotation/bench/many_clips.py --clips 200 --workers 2 --out out/many --executor ray
    python packages/pose-annotation/bench/many_clips.py --clips 200 --workers 2 --out out/many --kill 3   # kill -9
    python packages/pose-annotation/bench/many_clips.py --clips 16 --every 2 --out out/few     # all eight kinds

Prints one JSON line for the first run, one for each odd or broken clip with its row, and one for the same run again,
which has nothing left to do. With --kill the run is made once more into a folder of its own, ended so many times by
SIGKILL of all its processes, gone on with, and must come to the same digest. With one --out both executors read the
same videos and must print the same digest.
Truncated, empty, one frame and sound only are broken; uneven times, turned, ten bit and grey are read as they are meant
and noted.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from pose_annotation.runner import run_manifest
from pose_annotation.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import tiny_videos as tiny

KINDS = ("truncated", "uneven", "empty", "turned", "one", "ten_bit", "sound", "grey")
BROKEN = ("truncated", "empty", "one", "sound")


def make(folder: Path, clips: int, frames: int, every: int) -> Path:
    """Write the clips, every tenth (or so) of the next odd or broken kind, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(clips):
        kind = KINDS[number // every % len(KINDS)] if number % every == every - 1 else "plain"
        path = folder / f"{number:04d}_{kind}.mp4"
        if not path.exists():
            write(path, kind, tiny.sliding(frames, step=1 + number % 4, seed=number))
        rows.append(json.dumps({"video": path.name, "licence": "CC0"}))
    (folder / "manifest.jsonl").write_text("\n".join(rows) + "\n")
    return folder / "manifest.jsonl"


def write(path: Path, kind: str, frames: np.ndarray) -> None:
    """One clip of a kind."""
    if kind == "sound":
        tiny.audio_only(path)
    elif kind == "empty":
        path.touch()
    elif kind == "turned":
        tiny.rotated(path, frames)
    elif kind == "uneven":
        rng = np.random.default_rng(0)
        tiny.write(path, frames, times=np.cumsum(rng.integers(40, 90, len(frames))).tolist())
    else:
        formats = {"ten_bit": "yuv420p10le", "grey": "gray"}
        tiny.write(path, frames[:1] if kind == "one" else frames, pix_fmt=formats.get(kind, "yuv420p"))
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def main() -> None:
    """Make the clips, run twice, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--frames", type=int, default=18)
    parser.add_argument("--every", type=int, default=10, help="One clip of so many is odd or broken.")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="local")
    parser.add_argument("--kill", type=int, default=0, help="Also run into another folder, killed so many times.")
    parser.add_argument("--only", type=Path, help="Only run into this folder and say nothing; what --kill kills.")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    manifest = make(options.out / "videos", options.clips, options.frames, options.every)
    if options.only is not None:
        run_manifest(manifest, options.only, Settings(), workers=options.workers, executor=options.executor)
        return
    results = options.out / f"clips-{options.executor}"
    digest = run(options, manifest, results)["digest"]
    show_odd(results / "rows.jsonl")
    again = run(options, manifest, results)
    if again["worked"] or again["digest"] != digest:
        raise SystemExit(f"the second run worked on {again['worked']} videos and came to {again['digest']}")
    if options.kill:
        killed = options.out / f"killed-{options.executor}"
        rows = kill(options, killed)
        last = run(options, manifest, killed)
        print(json.dumps({"kills": len(rows), "rows_at_each": rows, "same_digest": last["digest"] == digest}))
        if last["digest"] != digest:
            raise SystemExit("a run that was killed came to other results")


def run(options: argparse.Namespace, manifest: Path, results: Path) -> dict[str, object]:
    """One run; prints and returns what it came to."""
    start = time.perf_counter()
    summary = run_manifest(manifest, results, Settings(), workers=options.workers, executor=options.executor)
    spent = time.perf_counter() - start
    rows = sum(summary.statuses.values())
    line: dict[str, object] = {
        "executor": options.executor, "workers": options.workers, "videos": options.clips, "rows": rows,
        "lost": options.clips - rows, "statuses": summary.statuses, "worked": summary.worked,
        "seconds": round(spent, 1), "videos_per_s": round(summary.worked / spent, 3),
        "digest": summary.digest[:16],
    }  # fmt: skip
    print(json.dumps(line), flush=True)
    return line


def kill(options: argparse.Namespace, results: Path) -> list[int]:
    """Start the run again and again in a process group of its own and kill the group; rows written at each kill."""
    rows = []
    for number in range(options.kill):
        goal = options.clips * (number + 1) // (options.kill + 1)
        command = [sys.executable, __file__, "--out", str(options.out), "--only", str(results)]
        for name in ("clips", "frames", "every", "workers", "executor"):
            command += [f"--{name}", str(getattr(options, name))]
        child = subprocess.Popen(command, start_new_session=True)
        while child.poll() is None and len(list((results / "rows").glob("*.json"))) < goal:
            time.sleep(0.05)
        if child.poll() is not None:
            raise SystemExit(f"the run to be killed ended by itself with exit code {child.returncode}")
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        rows.append(len(list((results / "rows").glob("*.json"))))
    return rows


def show_odd(rows: Path) -> None:
    """Print the rows of odd and broken clips, and stop when one did not end as its kind should."""
    for row in map(json.loads, rows.read_text(encoding="utf-8").splitlines()):
        kind = Path(row["video"]).stem.split("_", 1)[1]
        if kind == "plain":
            continue
        said = row["reason"] or ", ".join(row.get("notes", []))
        print(json.dumps({"video": row["video"], "status": row["status"], "said": said}), flush=True)
        if (row["status"] == "broken") != (kind in BROKEN) or not said:
            raise SystemExit(f"{row['video']} ended as {row['status']}: {said!r}")


if __name__ == "__main__":
    main()
