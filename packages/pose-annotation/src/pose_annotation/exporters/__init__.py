"""Other programs' files: SANA's training sidecars, COLMAP, nerfstudio, TUM, ViPE, and the bench's own camera files.

Every format has a reader here or in camera-control, and a test that reads back what was written.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from camera_control.trajectory import Trajectory
from numpy.typing import NDArray

from pose_annotation.judging import read_records
from pose_annotation.outputs import read_arrays, read_lines
from pose_annotation.types import Array, Ints


@dataclass(frozen=True, eq=False)
class AnnotatedClip:
    """A finished clip: its record, its camera, and where its pictures lie."""

    record: dict[str, Any]
    c2w: Array
    intrinsics: Array
    points: Array
    seen_frame: Ints
    seen_point: Ints
    seen_xy: NDArray[np.float64]
    video: Path

    @property
    def name(self) -> str:
        """The clip's id."""
        return str(self.record["id"])

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return int(self.record["height"]), int(self.record["width"])

    @property
    def trajectory(self) -> Trajectory:
        """The camera as camera-control knows it."""
        return Trajectory(self.c2w, self.intrinsics, float(self.record["fps"]), self.size)


def read_clips(root: str | Path, *, every: bool = False) -> list[AnnotatedClip]:
    """The kept clips of an annotated folder, in order; with `every`, all that have a camera.

    Raises ValueError for a folder without records or without verdicts.
    """
    root = Path(root)
    records = {record["id"]: record for record in read_records(root) if record["status"] == "ok"}
    if not every:
        verdicts = read_lines(root / "verdicts.jsonl", "verdicts")
        kept = {verdict["id"] for verdict in verdicts if verdict["kept"]}
        records = {name: record for name, record in records.items() if name in kept}
    clips = []
    for name, record in records.items():
        arrays = read_arrays(root / "cameras" / f"{name}.npz")
        seen = (arrays["seen_frame"].astype(np.int64), arrays["seen_point"].astype(np.int64))
        xy, video = arrays["seen_xy"].astype(np.float64), root / "clips" / f"{name}.mp4"
        clips.append(AnnotatedClip(record, arrays["c2w"], arrays["intrinsics"], arrays["points"], *seen, xy, video))
    return clips


def export_folder(root: str | Path, out: str | Path, form: str, *, every: bool = False) -> list[Path]:
    """Write the clips of an annotated folder in another program's form; returns what was written.

    Raises ValueError for an unknown form, for a folder without clips, and for `out` that is not empty.
    """
    from pose_annotation.exporters import colmap, plain, sana, vipe

    forms: dict[str, Callable[[list[AnnotatedClip], Path], list[Path]]] = {
        "sana": sana.export, "colmap": colmap.export, "nerfstudio": plain.export_nerfstudio,
        "tum": plain.export_tum, "bench": plain.export_bench, "vipe": vipe.export,
    }  # fmt: skip
    if form not in forms:
        raise ValueError(f"form is {form!r}; allowed: {', '.join(forms)}; example: --to colmap")
    clips, out = read_clips(root, every=every), Path(out)
    if not clips:
        raise ValueError(f"{root} has no kept clip; allowed: at least one, or --all; example: annotate judge {root}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is not empty; allowed: a new or empty folder; example: --out export-{form}")
    return forms[form](clips, out)
