"""sana-wm annotate export, view and eval: other programs' files, the rerun viewer, one path against another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def export(
    folder: Annotated[Path, typer.Argument(help="Folder written by sana-wm annotate.")],
    to: Annotated[str, typer.Option("--to", help="sana, colmap, nerfstudio, tum, bench or vipe.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder.")],
    every: Annotated[bool, typer.Option("--all", help="Also clips that were not kept.")] = False,
) -> None:
    """Write the kept clips for another program.

    Example: sana-wm annotate export walk --to colmap --out walk-colmap
    """
    from pose_annotation.exporters import export_folder

    written = export_folder(folder, out, to, every=every)
    typer.echo(f"{out}: {len(written)} files")


def view(
    folder: Annotated[Path, typer.Argument(help="Folder written by sana-wm annotate.")],
    clip: Annotated[str | None, typer.Option("--clip", help="Only the clip of this id.")] = None,
    save: Annotated[Path | None, typer.Option("--save", help="Write a recording (.rrd) and open no window.")] = None,
    kept: Annotated[bool, typer.Option("--kept", help="Leave out the clips that were rejected.")] = False,
) -> None:
    """Look at poses, lenses and points in the rerun viewer (extra pose-annotation[rerun]).

    Example: sana-wm annotate view walk --save walk.rrd
    """
    from pose_annotation.viewing import view_folder

    shown = view_folder(folder, clip=clip, save=save, every=not kept)
    typer.echo(f"{save or folder}: {len(shown)} clips{f'; open it with: rerun {save}' if save else ''}")


def evaluate(
    estimate: Annotated[Path, typer.Argument(help="Camera path: .npz, .npy, TUM .txt, .json, or a COLMAP folder.")],
    truth: Annotated[Path, typer.Argument(help="The path to measure against.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line instead of text.")] = False,
) -> None:
    """Say how far a path is from another: positions after a similarity, rotations, steps, focal length."""
    import numpy as np
    from camera_control.trajectory import Trajectory
    from pose_annotation.align import compare_paths

    found, known = Trajectory.load(estimate), Trajectory.load(truth)
    errors = compare_paths(found.c2w, known.c2w)._asdict()
    if found.intrinsics is not None and known.intrinsics is not None and found.image_size and known.image_size:
        # Lenses are compared in picture widths, so that the sizes may differ.
        ratio = (found.intrinsics[:, 0] / found.image_size[1]) / (known.intrinsics[:, 0] / known.image_size[1])
        errors["focal_max_percent"] = float(100 * np.abs(ratio - 1).max())
    if as_json:
        typer.echo(json.dumps(errors))
        return
    names = {
        "ate": "positions after a similarity, rms",
        "metric_ate": "positions after a rigid motion, rms",
        "rotation_deg": "rotation after averaging, degrees",
        "step": "one-frame translation, rms",
        "step_deg": "one-frame rotation, degrees, rms",
        "scale": "scale of the truth over the estimate",
        "focal_max_percent": "focal length, worst frame, %",
    }
    for name, value in errors.items():
        typer.echo(f"{value:12.5g}  {names[name]}")
