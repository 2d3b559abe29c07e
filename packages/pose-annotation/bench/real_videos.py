"""Self-consistency on real video, where nobody knows the truth: forwards, backwards, and at half the frame rate.

    python packages/pose-annotation/bench/real_videos.py walk.mp4 --width 448

One JSON line a video: registered frames, reprojection error, flags, focal length in picture widths, and how far the
backward and the half-rate solutions are from the forward one in degrees between neighbouring frames and over the clip.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from pose_annotation.align import average_rotation
from pose_annotation.rotations import angle_deg
from pose_annotation.solve import SolveConfig, solve_camera
from pose_annotation.tracking import KltTracker
from pose_annotation.types import CameraTrack
from pose_annotation.video import read_clip


def solve(frames: np.ndarray, fps: float, relinks: int) -> CameraTrack:
    """The camera of frames (f, H, W, 3)."""
    return solve_camera(KltTracker().track(frames), fps, config=SolveConfig(relinks=relinks), frames=frames)


def disagreement_deg(one: CameraTrack, other: CameraTrack, pick: np.ndarray) -> dict[str, float]:
    """Angles between the relative rotations of two solutions; frame i of `other` is frame pick[i] of `one`."""
    a, b = one.c2w[pick, :3, :3], other.c2w[:, :3, :3]
    steps = angle_deg(np.swapaxes(a[:-1], 1, 2) @ a[1:], np.swapaxes(b[:-1], 1, 2) @ b[1:])
    whole = angle_deg(np.swapaxes(a[:1], 1, 2) @ a, np.swapaxes(b[:1], 1, 2) @ b)
    # Aligned at frame 0, that frame's own error moves all others; the mean rotation spreads it.
    aligned = angle_deg(average_rotation(a @ np.swapaxes(b, 1, 2)) @ b, a)
    return {
        "step_deg_max": float(steps.max()), "clip_deg_max": float(whole.max()),
        "aligned_deg_max": float(aligned.max()), "aligned_deg_mean": float(aligned.mean()),
    }  # fmt: skip


def main() -> None:
    """Run the videos and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--width", type=int, default=448)
    parser.add_argument("--relinks", type=int, default=SolveConfig().relinks, help="Rounds of finding lost points.")
    parser.add_argument("--seconds", type=float, help="Only the first seconds.")
    options = parser.parse_args()
    for path in options.videos:
        start = time.process_time()
        clip = read_clip(path, width=options.width, end_s=options.seconds)
        forward = solve(clip.frames, clip.fps, options.relinks)
        spent = time.process_time() - start
        backward = solve(np.ascontiguousarray(clip.frames[::-1]), clip.fps, options.relinks)
        half = solve(np.ascontiguousarray(clip.frames[::2]), clip.fps / 2, options.relinks)
        n, focal = len(clip), forward.intrinsics[:, 0] / clip.size[1]
        line = {
            "video": path.name, "frames": n, "registered": int((forward.inlier_ratio > 0).sum()),
            "rmse_px": forward.extra.get("rmse_px"), "flags": list(forward.flags), "cpu_s": round(spent, 2),
            "focal_widths": [round(float(v), 4) for v in np.percentile(focal, (0, 50, 100))],
            "backward": disagreement_deg(forward, backward, np.arange(n)[::-1]),
            "half_rate": disagreement_deg(forward, half, np.arange(n)[::2]),
        }  # fmt: skip
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
