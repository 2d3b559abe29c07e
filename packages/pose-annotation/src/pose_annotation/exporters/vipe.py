"""ViPE's folder of artifacts, written and read: poses, lenses per frame, camera types, the clip, the residual."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from camera_control.files import replacing

from pose_annotation.exporters import AnnotatedClip
from pose_annotation.outputs import read_arrays, write_arrays, write_text
from pose_annotation.types import Array, Ints


class VipeCamera(NamedTuple):
    """Camera-to-world poses (m, 4, 4) and fx, fy, cx, cy (m, 4) of the frames `inds` (m,) of a video."""

    c2w: Array
    intrinsics: Array
    inds: Ints


def export(clips: list[AnnotatedClip], out: Path) -> list[Path]:
    """`rgb/`, `pose/`, `intrinsics/` and `vipe/` by clip; the residual is the real one, in pixels."""
    written = []
    for clip in clips:
        inds = np.arange(len(clip.c2w))
        files = [out / "pose" / f"{clip.name}.npz", out / "intrinsics" / f"{clip.name}.npz"]
        write_arrays(files[0], data=clip.c2w.astype(np.float32), inds=inds)
        write_arrays(files[1], data=clip.intrinsics.astype(np.float32), inds=inds)
        types = out / "intrinsics" / f"{clip.name}_camera.txt"
        write_text(types, "".join(f"{i}: PINHOLE\n" for i in inds))
        with replacing(out / "rgb" / f"{clip.name}.mp4") as temporary:
            shutil.copyfile(clip.video, temporary)
        # ViPE takes this file for "done" and reads it with pickle; these bytes are {"ba_residual": number}.
        residual = float(clip.record["scores"].get("rmse_px") or 0.0)
        with replacing(out / "vipe" / f"{clip.name}_info.pkl") as temporary:
            temporary.write_bytes(f"(dVba_residual\nF{residual!r}\ns.".encode("ascii"))
        written += [*files, types, out / "rgb" / f"{clip.name}.mp4", out / "vipe" / f"{clip.name}_info.pkl"]
    return written


def read(root: str | Path, name: str) -> VipeCamera:
    """The camera that ViPE stored for a video; its pickled file is not opened.

    Raises ValueError for missing files, other camera models than PINHOLE, and tables that do not fit together.
    """
    root = Path(root)
    pose, lens = (read_arrays(root / kind / f"{name}.npz") for kind in ("pose", "intrinsics"))
    for table in (pose, lens):
        if "data" not in table or "inds" not in table or len(table["data"]) != len(table["inds"]):
            raise ValueError(f"{root}: {name} has no data and inds of one length; allowed: ViPE's artifacts")
    types = root / "intrinsics" / f"{name}_camera.txt"
    kinds = (
        {line.split(":")[-1].strip() for line in types.read_text().splitlines() if line} if types.is_file() else set()
    )
    if kinds - {"PINHOLE"}:
        raise ValueError(f"{types.name} has camera {sorted(kinds - {'PINHOLE'})[0]}; allowed: PINHOLE")
    if pose["data"].shape[1:] != (4, 4) or lens["data"].shape[1] < 4 or not np.array_equal(pose["inds"], lens["inds"]):
        raise ValueError(f"{root}: poses and lenses of {name} do not belong together; allowed: ViPE's artifacts")
    return VipeCamera(
        pose["data"].astype(np.float64), lens["data"][:, :4].astype(np.float64), pose["inds"].astype(np.int64)
    )
