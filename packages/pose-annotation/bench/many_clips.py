"""Throughput of the pool, and that nothing is lost: many small clips, a tenth of them broken on purpose.

    python packages/pose-annotation/bench/many_clips.py --clips 200 --workers 2 --out out/many
    python packages/pose-annotation/bench/many_clips.py --clips 200 --workers 2 --out out/many-ray --executor ray

Prints one JSON line for the first run and one for the same run again, which has nothing left to do.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
from pose_annotation.runner import run_manifest
from pose_annotation.settings import Settings

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import tiny_videos as tiny

BROKEN = ("truncated", "empty", "one", "sound", "noise")
ODD = ("uneven", "turned", "ten_bit", "grey", "odd_size")


def make(folder: Path, clips: int, frames: int) -> Path:
    """Write the clips, every twentieth broken and every twentieth odd but sound, and their manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(clips):
        kind = BROKEN[number // 20 % 5] if number % 20 == 7 else ODD[number // 20 % 5] if number % 20 == 13 else "plain"
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
    elif kind == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(20_000))
    elif kind == "turned":
        tiny.rotated(path, frames)
    elif kind == "uneven":
        rng = np.random.default_rng(0)
        tiny.write(path, frames, times=np.cumsum(rng.integers(40, 90, len(frames))).tolist())
    else:
        formats = {"ten_bit": "yuv420p10le", "grey": "gray", "odd_size": "yuv444p"}
        used = frames[:1] if kind == "one" else frames[:, :95, :159] if kind == "odd_size" else frames
        tiny.write(path, used, pix_fmt=formats.get(kind, "yuv420p"))
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def main() -> None:
    """Make the clips, run twice, print the numbers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--frames", type=int, default=18)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--executor", default="local")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    manifest = make(options.out / "videos", options.clips, options.frames)
    for _ in range(2):
        start = time.perf_counter()
        summary = run_manifest(
            manifest, options.out / "clips", Settings(), workers=options.workers, executor=options.executor
        )
        spent = time.perf_counter() - start
        rows = sum(summary.statuses.values())
        line = {
            "executor": options.executor, "workers": options.workers, "videos": options.clips, "rows": rows,
            "lost": options.clips - rows, "statuses": summary.statuses, "worked": summary.worked,
            "seconds": round(spent, 1), "videos_per_s": round(summary.worked / spent, 3), "digest": summary.digest[:16],
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
