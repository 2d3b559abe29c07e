"""nerfstudio, TUM, and the camera files that the benchmark reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from camera_control.files import replacing

from pose_annotation.exporters import AnnotatedClip
from pose_annotation.opencv import cv2
from pose_annotation.outputs import write_arrays
from pose_annotation.video import Video


def export_nerfstudio(clips: list[AnnotatedClip], out: Path) -> list[Path]:
    """`NAME/transforms.json` with a lens per frame where it changes, and the pictures it names."""
    written = []
    for clip in clips:
        write_pictures(clip, out / clip.name / "images")
        written += clip.trajectory.save(out / clip.name / "transforms.json")
    return written


def write_pictures(clip: AnnotatedClip, folder: Path) -> None:
    """The clip's frames as frame_00001.png and so on."""
    for number, picture in enumerate(Video(clip.video, fps=float(clip.record["fps"])), 1):
        data = cv2.imencode(".png", cv2.cvtColor(picture.rgb, cv2.COLOR_RGB2BGR))[1]
        with replacing(folder / f"frame_{number:05d}.png") as temporary:
            temporary.write_bytes(data.tobytes())


def export_tum(clips: list[AnnotatedClip], out: Path) -> list[Path]:
    """`NAME.txt`: time, position and quaternion of every frame; no lens."""
    return [path for clip in clips for path in clip.trajectory.save(out / f"{clip.name}.txt")]


def export_bench(clips: list[AnnotatedClip], out: Path) -> list[Path]:
    """`NAME.npz` with c2w (f, 4, 4), intrinsics (f, 3, 3), fps and num_frames, as SANA-WM-Bench has them."""
    written = []
    for clip in clips:
        matrix = np.tile(np.eye(3), (len(clip.c2w), 1, 1))
        matrix[:, 0, 0], matrix[:, 1, 1] = clip.intrinsics[:, 0], clip.intrinsics[:, 1]
        matrix[:, :2, 2] = clip.intrinsics[:, 2:]
        path = out / f"{clip.name}.npz"
        write_arrays(
            path, c2w=clip.c2w, intrinsics=matrix, fps=np.array(clip.record["fps"]), num_frames=np.array(len(matrix))
        )
        written.append(path)
    return written
