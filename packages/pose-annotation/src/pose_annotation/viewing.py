"""Look at annotated clips in the rerun viewer: pictures, cameras with their lens, the points, the path, the curves.

rerun comes with the extra pose-annotation[rerun]; only its public logging interface is used. Each clip has a space of
its own, in scene units or metres, OpenCV axes (x right, y down, z ahead).
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from camera_control.files import replacing

from pose_annotation.exporters import AnnotatedClip, read_clips
from pose_annotation.opencv import cv2
from pose_annotation.outputs import read_arrays
from pose_annotation.video import read_clip

_INSTALL = "uv pip install 'pose-annotation[rerun]'"


def view_folder(out: str | Path, *, clip: str | None = None, save: Path | None = None, every: bool = True) -> list[str]:
    """Show the clips of an annotated folder, or `save` them as a recording that `rerun FILE.rrd` opens.

    Args:
        clip: Only the clip of this id.
        every: Also clips that were not kept.

    Returns the ids of the clips shown. Raises ValueError when rerun is not installed, when the folder or the clip is
    not there, and when `save` does not end in .rrd; the file is written whole or not at all.
    """
    if save is not None and save.suffix != ".rrd":
        raise ValueError(f"--save is {save}; allowed: a file that ends in .rrd; example: --save walk.rrd")
    clips = read_clips(out, every=every)
    if clip is not None:
        names = [found.name for found in clips]
        if clip not in names:
            raise ValueError(f"clip is {clip!r}; allowed: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}")
        clips = [found for found in clips if found.name == clip]
    rerun = _rerun()
    if save is None:
        recording = _recording(rerun, Path(out))
        recording.spawn()
        _log_all(rerun, recording, clips, Path(out))
    else:
        with replacing(save) as temporary:
            recording = _recording(rerun, Path(out))
            recording.save(str(temporary))
            _log_all(rerun, recording, clips, Path(out))
            recording.disconnect()
    return [found.name for found in clips]


def _rerun() -> Any:
    try:
        return importlib.import_module("rerun")
    except ImportError:
        raise ValueError(f"rerun is not installed; allowed: {_INSTALL}, or open overview/*.html instead") from None


def _recording(rerun: Any, out: Path) -> Any:
    return rerun.RecordingStream("sana-wm-annotate", recording_id=out.resolve().name or "clips")


def _log_all(rerun: Any, recording: Any, clips: list[AnnotatedClip], out: Path) -> None:
    for found in clips:
        log_clip(rerun, recording, found, read_arrays(out / "cameras" / f"{found.name}.npz"))
    recording.flush()


def log_clip(rerun: Any, recording: Any, clip: AnnotatedClip, camera: dict[str, Any]) -> None:
    """Log one clip: `world` with points, path and the moving camera with its pictures; curves of lens and error."""
    root, (height, width) = clip.name, clip.size
    centres = clip.c2w[:, :3, 3]
    recording.log(f"{root}/world", rerun.ViewCoordinates.RDF, static=True)
    recording.log(f"{root}/world/path", rerun.LineStrips3D([centres.astype(np.float32)]), static=True)
    if len(clip.points):
        # The nearest 99 %: one point near the horizon would make the rest a dot.
        far = np.linalg.norm(clip.points - centres.mean(0), axis=1)
        near = clip.points[far <= np.percentile(far, 99)]
        recording.log(f"{root}/world/points", rerun.Points3D(near.astype(np.float32)), static=True)
    doubts = ", ".join(clip.record["flags"]) or "none"
    recording.log(f"{root}/notes", rerun.TextDocument(f"doubts: {doubts}"), static=True)
    frames = read_clip(clip.video, fps=float(clip.record["fps"])).frames
    if len(frames) != len(clip.c2w):
        raise ValueError(f"{clip.video} has {len(frames)} frames, its camera {len(clip.c2w)}; allowed: as written")
    reach = max(float(np.linalg.norm(np.ptp(centres, axis=0))), 1e-3)
    for number, (frame, pose, lens) in enumerate(zip(frames, clip.c2w, clip.intrinsics, strict=True)):
        recording.set_time("frame", sequence=number)
        recording.set_time("seconds", duration=number / float(clip.record["fps"]))
        recording.log(f"{root}/world/camera", rerun.Transform3D(translation=pose[:3, 3], mat3x3=pose[:3, :3]))
        matrix = np.array([[lens[0], 0, lens[2]], [0, lens[1], lens[3]], [0, 0, 1.0]])
        pinhole = rerun.Pinhole(
            image_from_camera=matrix, resolution=[width, height], camera_xyz=rerun.ViewCoordinates.RDF,
            image_plane_distance=0.1 * reach,
        )  # fmt: skip
        recording.log(f"{root}/world/camera", pinhole)
        data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 85])[1]
        recording.log(
            f"{root}/world/camera/picture", rerun.EncodedImage(contents=data.tobytes(), media_type="image/jpeg")
        )
        curves = {"focal_px": lens[0], "rmse_px": camera["rmse_px"][number]}
        for name, value in curves.items():
            if np.isfinite(value):
                recording.log(f"{root}/curves/{name}", rerun.Scalars(float(value)))
    recording.reset_time()
