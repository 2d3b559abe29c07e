"""Reading the released benchmark (SANA-WM-Bench) or anything laid out like it, checked before use.

Layout, hashes and rules: benchmark specification 1.1 to 1.6. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from camera_control.geometry import crop_plan, fov_deg, intrinsics_to_vec4
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wm_bench.splits.model import CATEGORIES, BenchScene, Split, revision_of
from wm_bench.splits.revisits import RevisitPair, read_pair

FOLDERS = {"simple_60s": "benchmark_v2_smooth_60s", "hard_60s": "benchmark_v2_hard_60s"}
ALIASES = {"simple": "simple_60s", "hard": "hard_60s"}
REVISION = "0e5279250e7a531b83ce4e9ee2870fab7003be0b"
SHA256 = {
    "scene_set/kept_scenes.txt": "5a7a7540d930509d375955f44ab1aec06f6b771d3d3f3454f68c3f1dc83aa8c3",
    "benchmark_v2_smooth_60s/sanawm_export_v2/run_manifest.jsonl": (
        "21b2e821fb1b7df6c1e394e9016737bddfa93c2108177fed0f26cb6051e0a84f"
    ),
    "benchmark_v2_smooth_60s/scene_trajectories_v2.json": (
        "c00f8a02949596f8dbf40e6eebcad6517abe1458cd861ee00fde2f5fa52358bd"
    ),
    "benchmark_v2_hard_60s/sanawm_export_v2/run_manifest.jsonl": (
        "8856504c0419d7c1307644253b1acbb923509b51a607c5023e01930a80ed3895"
    ),
    "benchmark_v2_hard_60s/scene_trajectories_v2.json": (
        "e816e7e2f9f6bb2ceac8aa18b9d4da0b113b9ee9733521a13d57280426f03835"
    ),
}
SCENES = 80
_KNOWN = {"id", "scene_type", "prompt", "image_path", "camera_path", "trajectory_id"}


class Released(NamedTuple):
    """A split read from disk and everything that is wrong with it, one line each."""

    split: Split
    violations: list[str]


def load_released(root: Path, name: str, scenes: Sequence[str] | None = None, seconds: float | None = None) -> Split:
    """Read a split (simple_60s or hard_60s; simple and hard mean the same) of a local copy of the benchmark.

    Raises ValueError naming the first violations when a scene that is asked for is broken; a copy with fewer than 80
    scenes is accepted and can never have a headline.
    """
    split, violations = read_released(root, name)
    broken = [v for v in violations if not v.startswith("count: ")]
    if scenes is not None:
        broken = [v for v in broken if any(v.startswith(f"{scene}: ") for scene in scenes)]
    if broken or not split.scenes:
        broken = broken or violations
        raise ValueError(f"{root} has {len(broken)} violations, first: {'; '.join(broken[:3])}; see `bench verify`")
    used = [split.scene(s) for s in sorted(scenes)] if scenes is not None else list(split.scenes)
    if seconds is not None and seconds < used[0].duration_s:
        used = [scene.cut(seconds) for scene in used]
        name = f"{split.name}[0-{seconds:g}s]"
    else:
        name = split.name
    prefix = split.revision.partition(":")[0]
    return Split(name, "sana", revision_of(prefix, used), used, split.first_frame, None, SCENES)


def read_released(root: Path, name: str) -> Released:
    """Read what can be read and list all violations of the layout, not only the first.

    The revision starts with the published commit when the five known hashes fit, otherwise with "unverified".
    """
    name = ALIASES.get(name, name)
    if name not in FOLDERS:
        raise ValueError(f"split is {name!r}; allowed: simple_60s, hard_60s, simple, hard; example: 'simple_60s'")
    folder = root / FOLDERS[name]
    manifest = folder / "sanawm_export_v2" / "run_manifest.jsonl"
    if not manifest.is_file():
        raise ValueError(f"no {manifest.relative_to(root)} in {root}; allowed: a copy of SANA-WM-Bench")
    bad: list[str] = []
    lines = _manifest(manifest, bad)
    details = _details(folder / "scene_trajectories_v2.json", bad)
    _compare_ids(root, lines, details, bad)
    scenes = []
    for line in lines:
        scene = _scene(root, line, details.get(line["id"], {}), bad)
        if scene is not None:
            scenes.append(scene)
    prefix = f"SANA-WM-Bench@{REVISION[:12]}" if hashes_fit(root, name) else "unverified"
    images = {line["id"]: root / str(line.get("image_path", "")) for line in lines}

    def first_frame(scene: BenchScene, size: tuple[int, int]) -> NDArray[np.uint8]:
        return open_frame(images[scene.id], size)

    ordered = sorted(scenes, key=lambda s: s.id)
    return Released(Split(name, "sana", revision_of(prefix, ordered), ordered, first_frame, None, SCENES), bad)


def hashes_fit(root: Path, name: str) -> bool:
    """Whether the files of a split are byte for byte those of the published revision."""
    wanted = {p: h for p, h in SHA256.items() if p.startswith(("scene_set", FOLDERS[ALIASES.get(name, name)]))}
    return all(
        (root / p).is_file() and hashlib.sha256((root / p).read_bytes()).hexdigest() == h for p, h in wanted.items()
    )


def open_frame(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture filled and centre-cropped to (height, width), uint8 RGB."""
    try:
        with Image.open(path) as opened:
            picture = opened.convert("RGB")
    except (OSError, UnidentifiedImageError):
        raise ValueError(f"cannot read the picture {path.name}; allowed: a PNG or JPEG file") from None
    (height, width), (top, left) = crop_plan((picture.height, picture.width), size)
    if (height, width) != (picture.height, picture.width):
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return np.asarray(picture)[top : top + size[0], left : left + size[1]].copy()


def _manifest(path: Path, bad: list[str]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not isinstance(line, dict) or not isinstance(line.get("id"), str):
            bad.append(f"manifest line {number}: not a JSON object with an id")
        elif any(line["id"] == other["id"] for other in lines):
            bad.append(f"{line['id']}: named twice in the manifest")
        else:
            lines.append(line)
    return lines


def _details(path: Path, bad: list[str]) -> dict[str, dict[str, Any]]:
    try:
        scenes = json.loads(path.read_text(encoding="utf-8"))["scenes"]
        return {str(scene["scene_id"]): scene for scene in scenes}
    except (OSError, ValueError, KeyError, TypeError) as error:
        bad.append(f"{path.name}: unreadable ({type(error).__name__}), so that there are no revisit pairs")
        return {}


def _compare_ids(root: Path, lines: list[dict[str, Any]], details: dict[str, Any], bad: list[str]) -> None:
    ids = {line["id"] for line in lines}
    kept_file = root / "scene_set" / "kept_scenes.txt"
    kept = set(kept_file.read_text().split()) if kept_file.is_file() else set()
    if not kept:
        bad.append("scene_set/kept_scenes.txt: missing or empty")
    for scene_id in sorted(ids ^ kept if kept else ()):
        bad.append(f"{scene_id}: only in {'the manifest' if scene_id in ids else 'kept_scenes.txt'}")
    for scene_id in sorted(ids ^ set(details) if details else ()):
        bad.append(f"{scene_id}: only in {'the manifest' if scene_id in ids else 'scene_trajectories_v2.json'}")
    counts = Counter(scene_id.rpartition("_")[0] for scene_id in ids)
    wanted = SCENES // len(CATEGORIES)
    for category in sorted(set(counts) | set(CATEGORIES)):
        if counts[category] != wanted or category not in CATEGORIES:
            bad.append(f"count: {category} has {counts[category]} scenes, the benchmark has {wanted}")


def _scene(root: Path, line: dict[str, Any], detail: dict[str, Any], bad: list[str]) -> BenchScene | None:
    scene_id = line["id"]
    before = len(bad)
    missing = sorted(key for key in _KNOWN - {"scene_type"} if not isinstance(line.get(key), str))
    if missing:
        bad.append(f"{scene_id}: the manifest lacks {', '.join(missing)}")
        return None
    image, camera = root / line["image_path"], root / line["camera_path"]
    size = (0, 0)
    try:
        with Image.open(image) as opened:
            size = (opened.height, opened.width)
    except (OSError, UnidentifiedImageError):
        bad.append(f"{scene_id}: no readable picture {line['image_path']}")
    if detail and detail.get("trajectory_id") != line["trajectory_id"]:
        bad.append(
            f"{scene_id}: trajectory {line['trajectory_id']} in the manifest, {detail.get('trajectory_id')} "
            "in the trajectories file"
        )
    c2w, lens, fps = _camera(scene_id, camera, size, bad)
    pairs = _pairs(scene_id, detail, len(c2w), fps, bad)
    if len(bad) > before:
        return None
    extra = {k: v for k, v in line.items() if k not in _KNOWN} | {
        k: v for k, v in detail.items() if k not in ("scene_id", "trajectory_id", "evaluation_pairs", "prompt")
    }
    category = str(line.get("scene_type") or scene_id.rpartition("_")[0])
    return BenchScene(
        scene_id, category, line["trajectory_id"], line["prompt"], c2w, lens, size, fps, tuple(pairs), extra
    )


def _camera(
    scene_id: str, path: Path, size: tuple[int, int], bad: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    nothing = np.zeros((0, 4, 4)), np.zeros((0, 4)), 16.0
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            c2w = archive["c2w"].astype(np.float64)
            k = archive["intrinsics"].astype(np.float64)
            fps = float(archive["fps"]) if "fps" in archive else 16.0
    except Exception as error:  # a broken archive raises many kinds; the kind is what the line says
        bad.append(f"{scene_id}: cannot read {path.name} ({type(error).__name__})")
        return nothing
    problems = []
    if c2w.ndim != 3 or c2w.shape[1:] != (4, 4) or len(c2w) < 2:
        problems.append(f"c2w is {c2w.shape}, not (n, 4, 4)")
    elif not np.isfinite(c2w).all():
        problems.append("c2w holds NaN or infinity")
    else:
        r = c2w[:, :3, :3]
        if np.abs(c2w[:, 3] - [0, 0, 0, 1]).max() > 1e-6:
            problems.append("the last row of a pose is not 0 0 0 1")
        if np.abs(np.linalg.det(r) - 1).max() > 1e-4 or np.abs(r.transpose(0, 2, 1) @ r - np.eye(3)).max() > 1e-3:
            problems.append("a rotation is not a rotation")
    if fps != 16.0:
        problems.append(f"fps is {fps:g}, not 16")
    try:
        lens = intrinsics_to_vec4(k, max(len(c2w), 1))
        if lens[:, :2].min() <= 0:
            problems.append("a focal length is not positive")
        elif min(size) > 0:
            view = fov_deg(lens, size)
            if view.min() < 25 or view.max() > 120:
                problems.append(f"the field of view is {view.min():.0f} to {view.max():.0f} degrees, not 25 to 120")
    except ValueError as error:
        problems.append(str(error))
        lens = np.zeros((len(c2w), 4))
    bad.extend(f"{scene_id}: {problem}" for problem in problems)
    return nothing if problems else (c2w, lens, fps)


def _pairs(scene_id: str, detail: dict[str, Any], frames: int, fps: float, bad: list[str]) -> list[RevisitPair]:
    pairs = []
    for entry in detail.get("evaluation_pairs", []):
        try:
            pair = read_pair(entry, fps)
        except (KeyError, TypeError, ValueError):
            bad.append(f"{scene_id}: a revisit pair is not two frame numbers")
            continue
        if pair.frame_a == pair.frame_b or not all(0 <= f < frames for f in pair[:2]):
            bad.append(f"{scene_id}: revisit pair {pair.frame_a}, {pair.frame_b} is not inside {frames} frames")
        pairs.append(pair)
    # Upstream sorts by quality before it keeps five; a stable sort keeps the file's order among equals.
    return sorted(pairs, key=lambda p: p.quality_score)
