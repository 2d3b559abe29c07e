"""A finished annotation folder with exact cameras, written directly, for the tests of what reads one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pose_annotation.outputs import write_array, write_arrays, write_json, write_lines, write_video
from pose_annotation.types import Array
from synthetic_tracks import path, tracks
from tiny_videos import sliding

SIZE = (96, 160)


def write_folder(root: Path, clips: int = 2, frames: int = 17) -> dict[str, tuple[Array, Array]]:
    """Write `clips` kept clips, each with a zoom, and return their true cameras by id."""
    truth = {}
    for number in range(clips):
        name = f"walk-0000{number}-s000-w00"
        c2w, lens = path(frames, "zoom")
        lens = lens * 0.5
        c2w[:, :3, 3] *= 1.0 + number
        seen, world, _ = tracks(c2w, lens, 60, noise_px=0.0, size=SIZE)
        # Points that no frame sees have no row, as in a solved camera.
        used, point = np.unique(seen.track, return_inverse=True)
        truth[name] = (c2w, lens)
        nan = np.full(frames, np.nan)
        write_arrays(
            root / "cameras" / f"{name}.npz", c2w=c2w, intrinsics=lens, timestamps=np.arange(frames) / 16,
            fps=np.array(16.0), width=np.array(160), height=np.array(96), rmse_px=nan, points=world[used],
            seen_frame=seen.frame, seen_point=point, seen_xy=seen.xy, metric=np.array(True), schema=np.array(2),
        )  # fmt: skip
        write_array(root / "poses" / f"{name}.npy", c2w)
        write_array(root / "intrinsics" / f"{name}.npy", lens)
        write_video(root / "clips" / f"{name}.mp4", sliding(frames, SIZE), 16.0)
        scores = {
            "vmaf_motion": 7.5, "flow": 12.0, "saturation": 80.0, "rmse_px": 0.25, "blank_share": 0.0, "dover": None,
            "fov_x_min": 60.0, "fov_x_max": 72.0, "fov_y_min": 40.0, "fov_y_max": 47.0, "focal_mismatch": 0.0,
            "largest_step": 1.5, "largest_turn_deg": 2.0, "finite": 1.0,
        }  # fmt: skip
        record = {
            "id": name, "status": "ok", "reason": "", "source": "video", "split": "train", "licence": "CC0",
            "fps": 16.0, "frames": frames, "height": 96, "width": 160, "metric": True, "flags": [], "scores": scores,
            "caption": {"text": "A room.", "source": "server:qwen3 vl", "accepted": True}, "pixels_sha256": "0" * 64,
        }  # fmt: skip
        write_json(root / "records" / f"{name}.json", record)
    write_lines(root / "verdicts.jsonl", [{"id": name, "kept": True, "reasons": []} for name in truth])
    return truth
