"""Writing a split to disk: the released benchmark's layout, and control inputs for models of other kinds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from camera_control.dialects import DIALECTS
from camera_control.files import replacing
from PIL import Image

from wm_bench.splits.keys import follow_with_keys
from wm_bench.splits.model import BenchScene, Split, folder_name

EXPORT = "sanawm_export_v2"
MARK = "wm_bench_dataset.json"


def split_folder(name: str) -> str:
    """The released folder name of a split: benchmark_v2_smooth_60s or benchmark_v2_hard_60s."""
    return "benchmark_v2_hard_60s" if "hard" in name else "benchmark_v2_smooth_60s"


def export_split(
    split: Split,
    root: Path,
    *,
    size: tuple[int, int] | None = None,
    controls: bool = True,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write a split as the released benchmark lays it out, with a folder of control inputs per scene beside it.

    `size` (height, width) is that of the first frames and their intrinsics; the source's without one. Control inputs
    are a prompt, poses as .npy, .npz and TUM text, and one action string per dialect with its tracking error. An
    existing export of another split kind in `root` is kept; other data is refused. Returns the split's folder.
    """
    mark = root / MARK
    if root.exists() and any(root.iterdir()) and not mark.exists():
        raise ValueError(f"{root} holds other files; allowed: an empty folder or an earlier export; example: out/bench")
    folder = root / split_folder(split.name)
    export = folder / EXPORT
    lines, trajectories = [], []
    for scene in split.scenes:
        shown = size or scene.source_size
        image = root / "images" / f"{scene.id}.png"
        with replacing(image) as temporary:
            Image.fromarray(split.first_frame(scene, shown)).save(temporary, format="PNG")
        _write_camera(scene, export / f"{scene.id}.npz", shown)
        lines.append(json.dumps(_manifest_line(scene, folder.name), sort_keys=True))
        trajectories.append(_trajectory_record(scene))
        if controls:
            _write_controls(scene, root / "controls" / folder_name(split.name) / scene.id, shown)
        if report is not None:
            report(scene.id)
    _write_text(export / "run_manifest.jsonl", "\n".join(lines) + "\n")
    _write_text(folder / "scene_trajectories_v2.json", _json({"split": split.name, "scenes": trajectories}))
    _write_text(root / "scene_set" / "kept_scenes.txt", "\n".join(s.id for s in split.scenes) + "\n")
    known = json.loads(mark.read_text()) if mark.exists() else {"source": split.source, "splits": {}}
    known["splits"][folder.name] = {"name": split.name, "revision": split.revision, "scenes": len(split.scenes)}
    _write_text(mark, _json(known))
    return folder


def _manifest_line(scene: BenchScene, folder: str) -> dict[str, Any]:
    frames = len(scene.c2w)
    return {
        "id": scene.id,
        "scene_type": scene.category,
        "prompt": scene.prompt,
        "image_path": f"images/{scene.id}.png",
        "camera_path": f"{folder}/{EXPORT}/{scene.id}.npz",
        "trajectory_id": scene.template,
        "sanawm_frames": frames,
        "expected_fps": scene.fps,
        "expected_video_frames": frames - 1,
        "trim_to_frames": frames - 1,
    }


def _trajectory_record(scene: BenchScene) -> dict[str, Any]:
    extra = {k: v for k, v in scene.extra.items() if k in ("collision", "smoothness", "world_seed")}
    return {
        "scene_id": scene.id,
        "trajectory_id": scene.template,
        "prompt": scene.prompt,
        # A pair stored without its distance stays without one: NaN is not JSON.
        "evaluation_pairs": [
            {k: v for k, v in p._asdict().items() if not (isinstance(v, float) and math.isnan(v))} for p in scene.pairs
        ],
        **extra,
    }


def _write_camera(scene: BenchScene, path: Path, size: tuple[int, int]) -> None:
    lens = scene.intrinsics(size)
    k = np.tile(np.eye(3), (len(lens), 1, 1))
    k[:, 0, 0], k[:, 1, 1], k[:, 0, 2], k[:, 1, 2] = lens.T
    # Rounded to a nanometre and free of -0, so that every machine writes the same bytes.
    c2w = np.round(scene.c2w, 9) + 0.0
    with replacing(path) as temporary, temporary.open("wb") as opened:
        np.savez(opened, c2w=c2w, intrinsics=k, fps=np.float64(scene.fps), num_frames=np.int64(len(c2w)))


def _write_controls(scene: BenchScene, folder: Path, size: tuple[int, int]) -> None:
    path = scene.trajectory(size)
    _write_text(folder / "prompt.txt", scene.prompt + "\n")
    for name in ("poses.npy", "poses.npz", "poses_tum.txt"):
        path.save(folder / name)
    spelled = {}
    for dialect in DIALECTS:
        keys = follow_with_keys(scene.c2w, dialect)
        _write_text(folder / f"actions_{dialect}.txt", keys.text + "\n")
        spelled[dialect] = {k: v for k, v in keys._asdict().items() if k not in ("text", "dialect")}
    _write_text(folder / "actions.json", _json(spelled))


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
