"""Submissions whose place in any ranking is known: the exact render, a picture that never moves, spoilt renders."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from camera_control.files import replacing
from camera_control.trajectory import Trajectory
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from wm_bench.cache import content_key
from wm_bench.splits.model import BenchScene, Split
from wm_bench.video import write_lossless

Frames = NDArray[np.uint8]
Poses = NDArray[np.float64]
VERSION = "baselines-1"
KINDS = ("render", "still", "lag", "turned", "blur", "flicker", "swap")


def write_baseline(
    kind: str,
    split: Split,
    folder: Path,
    size: tuple[int, int],
    fps: float = 16.0,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write a lossless video and its true camera per scene.

    Kinds: "render" (the truth), "still" (first frame repeated), "lag" (half a second late), "turned" (the camera turns
    aside by up to 10 degrees), "blur" (softer and softer), "flicker" (brightness jumps), "swap" (the picture jumps to
    the mirror image after half the time). Needs known geometry; only "still" does without. What an earlier call wrote
    for the same scene, size and rate stays.
    """
    if kind not in KINDS:
        raise ValueError(f"baseline is {kind!r}; allowed: {', '.join(KINDS)}; example: 'render'")
    if split.truth is None and kind != "still":
        raise ValueError(f"{split.name} has no geometry to render {kind!r} from; allowed: 'still'")
    folder.mkdir(parents=True, exist_ok=True)
    for scene in split.scenes:
        video, note = folder / f"{scene.id}.mkv", folder / f"{scene.id}_baseline.json"
        key = content_key([VERSION, kind, split.revision.partition(":")[0], scene.fingerprint(), size, fps])
        if video.is_file() and note.is_file() and note.read_text(encoding="utf-8") == json.dumps({"key": key}):
            continue
        frames, poses = make_baseline(kind, split, scene, size, fps)
        write_lossless(video, frames, fps)
        Trajectory(poses, fps=fps).save(folder / f"{scene.id}_poses.npz")
        with replacing(note) as temporary:
            temporary.write_text(json.dumps({"key": key}), encoding="utf-8")
        if report is not None:
            report(scene.id)
    return folder


def make_baseline(
    kind: str, split: Split, scene: BenchScene, size: tuple[int, int], fps: float
) -> tuple[Frames, Poses]:
    """Frames (n, H, W, 3) and the camera (n, 4, 4) they really show, at any frame rate."""
    count = round(scene.duration_s * fps) + 1
    times = np.minimum(np.arange(count) / fps, scene.duration_s)
    path = scene.trajectory(size)
    poses = path.at(times)[0]
    if kind == "still":
        first = split.first_frame(scene, size)
        return np.broadcast_to(first, (count, *first.shape)).copy(), np.repeat(poses[:1], count, axis=0)
    assert split.truth is not None
    if kind == "lag":
        late = np.maximum(times - 0.5, 0.0)
        return split.truth(scene, late, size).rgb, path.at(late)[0]
    if kind == "turned":
        return _turned(split, scene, size, times)
    frames = split.truth(scene, times, size).rgb
    if kind == "blur":
        sigma = np.linspace(0.0, 2.0, count)
        frames = np.stack([gaussian_filter(f, (s, s, 0)) for f, s in zip(frames, sigma, strict=True)])
    elif kind == "flicker":
        gain = np.where(np.arange(count) % 2, 0.85, 1.0)
        gain[0] = 1.0
        frames = np.round(frames * gain[:, None, None, None]).astype(np.uint8)
    elif kind == "swap":
        frames = frames.copy()
        frames[count // 2 :] = frames[count // 2 :, :, ::-1]
    return frames, poses


def shuffled_paths(split: Split) -> dict[str, Poses]:
    """For every scene, the path of another scene with another camera plan, begun at the scene's own first pose.

    Where a split holds one plan only (a short run), the donor is a scene of the whole split. A model that follows its
    camera must score worse on these.
    """
    from wm_bench.splits.procedural import bench_scene, scene_ids

    donors = list(split.scenes)
    if len({scene.template for scene in donors}) < 2:
        if split.source != "procedural":
            raise ValueError(
                f"{split.name} has one camera plan only; allowed: scenes of two plans; example: --scenes 8"
            )
        whole = split.name.partition("[")[0]
        number = int(donors[0].id.rpartition("_")[2])
        plans = [i for i in scene_ids() if (int(i.rpartition("_")[2]) - number) % 10 == 3]
        donors = [bench_scene(whole, scene_id) for scene_id in plans[:1]]
    paths = {}
    for place, scene in enumerate(split.scenes):
        turned = donors[place % len(donors) :] + donors[: place % len(donors)]
        donor = next(other for other in turned if other.template != scene.template)
        moved = np.linalg.inv(donor.c2w[0]) @ donor.c2w
        paths[scene.id] = np.asarray(scene.c2w[0] @ moved[: len(scene.c2w)], dtype=np.float64)
    return paths


def _turned(split: Split, scene: BenchScene, size: tuple[int, int], times: NDArray[np.float64]) -> tuple[Frames, Poses]:
    """Render from a camera that turns away evenly, to 10 degrees at the end."""
    assert split.truth is not None
    aside = np.linspace(0.0, 10.0, len(scene.c2w))
    turns = Rotation.from_rotvec(np.multiply.outer(aside, [0.0, 1.0, 0.0]), degrees=True).as_matrix()
    c2w = scene.c2w.copy()
    c2w[:, :3, :3] = scene.c2w[:, :3, :3] @ turns
    away = dataclasses.replace(scene, c2w=c2w)
    return split.truth(away, times, size).rgb, away.trajectory().at(times)[0]
