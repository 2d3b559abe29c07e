"""Training and benchmark clips on disk: video, exact poses, intrinsics and one manifest line a clip
(training.md 7.3)."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch

from wm_bench.worlds import CATEGORIES, make_scene, render
from wm_bench.worlds.paths import sample_path

FPS = 16
# Scenes below this seed belong to held-out splits; no training clip ever uses them.
FIRST_TRAIN_SEED = 10_000
SPLITS = ("train", "val")
FORMATS = ("mp4", "npz")
VERSION = 1


def write_video(path: Path, frames: np.ndarray, fps: int = FPS, crf: int = 10) -> None:
    """Write uint8 (f, H, W, 3) as an H.264 yuv420p MP4, through a temporary name in the same folder."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with av.open(str(temporary), "w", format="mp4") as container:
            stream: Any = container.add_stream("libx264", rate=Fraction(fps))
            stream.height, stream.width = frames.shape[1:3]
            stream.pix_fmt = "yuv420p"
            # The bytes of a clip must depend neither on the machine's core count nor on what memory held before; x264's
            # macroblock tree lets them.
            stream.options = {"crf": str(crf), "preset": "medium", "threads": "1", "x264-params": "mbtree=0"}
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
            container.mux(stream.encode())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _save_array(path: Path, **arrays: np.ndarray) -> None:
    """Save one .npy (a single array named 'array') or a compressed .npz through a temporary name."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            if path.suffix == ".npy":
                np.save(file, arrays["array"], allow_pickle=False)
            else:
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _save_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def plan(
    clips: int, frames: int, size: tuple[int, int], seed: int, split: str, categories: Sequence[str], form: str
) -> list[dict[str, Any]]:
    """The recipe of every clip: which scene, which path, which files. Raises ValueError on impossible requests."""
    if clips < 1:
        raise ValueError(f"clips is {clips}; allowed are integers >= 1, e.g. 400")
    if frames < 9 or (frames - 1) % 8:
        raise ValueError(f"frames is {frames}; allowed are 8k + 1 with k >= 1, e.g. 65")
    if min(size) < 16 or size[0] % 2 or size[1] % 2:
        raise ValueError(f"size is {size}; allowed is (H, W) with both even and >= 16, e.g. (96, 160)")
    if seed < 0:
        raise ValueError(f"seed is {seed}; allowed are integers >= 0, e.g. 0")
    if split not in SPLITS:
        raise ValueError(f"split is {split!r}; allowed are {', '.join(SPLITS)}, e.g. 'train'")
    if form not in FORMATS:
        raise ValueError(f"form is {form!r}; allowed are {', '.join(FORMATS)}, e.g. 'mp4'")
    unknown = [c for c in categories if c not in CATEGORIES]
    if unknown or not categories:
        raise ValueError(f"category is {(unknown or [''])[0]!r}; allowed are {', '.join(CATEGORIES)}, e.g. 'indoor'")
    recipes = []
    for i in range(clips):
        category, turn = categories[i % len(categories)], i // len(categories)
        scene_seed = (
            FIRST_TRAIN_SEED + 1_000_000 * seed + turn if split == "train" else (1000 * seed + turn) % FIRST_TRAIN_SEED
        )
        recipes.append(
            {
                "id": f"{split}-{category}-{scene_seed:08d}",
                "category": category,
                "scene_seed": scene_seed,
                "path_seed": seed,
                "split": split,
                "frames": frames,
                "size": list(size),
                "form": form,
                "version": VERSION,
            }
        )
    return recipes


def write_clip(out: Path, recipe: dict[str, Any], compile: bool = False) -> dict[str, Any]:
    """Render one clip and write its files; returns its manifest entry, kept beside the clip so that a rerun
    can skip it."""
    note = out / "entries" / f"{recipe['id']}.json"
    if note.exists():
        entry = json.loads(note.read_text())
        if entry["recipe"] == recipe and (out / entry["video_path"]).exists():
            return entry
    scene = make_scene(recipe["category"], recipe["scene_seed"])
    height, width = recipe["size"]
    c2w = sample_path(scene, recipe["path_seed"], recipe["frames"])
    intrinsics = np.broadcast_to(scene.default_intrinsics((height, width)), (len(c2w), 4))
    rgb = render(scene, c2w, intrinsics, (height, width), compile=compile).rgb
    name = recipe["id"]
    paths = {
        "video_path": f"clips/{name}.{recipe['form']}",
        "pose_path": f"poses/{name}.npy",
        "intrinsics_path": f"intrinsics/{name}.npy",
    }
    if recipe["form"] == "mp4":
        write_video(out / paths["video_path"], rgb)
    else:
        _save_array(out / paths["video_path"], rgb=rgb)
    _save_array(out / paths["pose_path"], array=c2w)
    _save_array(out / paths["intrinsics_path"], array=np.ascontiguousarray(intrinsics))
    entry = {
        "id": name,
        "source": "procedural-worlds",
        "split": recipe["split"],
        **paths,
        "fps": FPS,
        "raw_frames": len(c2w),
        "height": height,
        "width": width,
        "pose_unit": "m",
        "metric_scale": 1.0,
        "captions": {"static": scene.caption},
        "category": recipe["category"],
        "seed": recipe["scene_seed"],
        "weight": 1.0,
        "licence": "Apache-2.0",
        "sha256": hashlib.sha256((out / paths["video_path"]).read_bytes()).hexdigest(),
        "recipe": recipe,
    }
    _save_text(note, json.dumps(entry))
    return entry


def _one_thread() -> None:
    torch.set_num_threads(1)


def _entries(out: Path, recipes: list[dict[str, Any]], workers: int, compile: bool) -> Iterator[dict[str, Any]]:
    if workers == 1:
        for recipe in recipes:
            yield write_clip(out, recipe, compile)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        yield from pool.map(write_clip, [out] * len(recipes), recipes, [compile] * len(recipes))


def write_dataset(
    out: str | Path,
    clips: int,
    frames: int = 65,
    size: tuple[int, int] = (96, 160),
    seed: int = 0,
    *,
    split: str = "train",
    categories: Sequence[str] = CATEGORIES,
    form: str = "mp4",
    workers: int = 1,
    compile: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Render clips into a folder and return the path of its `manifest.jsonl`.

    Clip i shows category i modulo their number, every clip another scene. `frames` is 8k + 1, `size` (H, W);
    `form` is "mp4"
    (H.264, nearly lossless) or "npz" (exact bytes, array `rgb`). Finished clips are kept when the call is
    repeated, so an
    interrupted run goes on where it stopped. `workers` processes draw side by side; `progress(done, clips)` is
    called after
    each clip. Held-out scenes (split "val") never share a seed with training scenes. Raises ValueError on
    impossible requests.
    """
    out = Path(out)
    recipes = plan(clips, frames, size, seed, split, categories, form)
    for folder in ("clips", "poses", "intrinsics", "entries"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    lines = []
    for entry in _entries(out, recipes, max(1, workers), compile):
        lines.append(json.dumps(entry))
        if progress is not None:
            progress(len(lines), clips)
    _save_text(out / "manifest.jsonl", "\n".join(lines) + "\n")
    return out / "manifest.jsonl"
