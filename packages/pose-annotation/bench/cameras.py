"""Accuracy and processor time of the solver on the textured room, with pycolmap in the same table.

    python packages/pose-annotation/bench/cameras.py --cases B1,B2,B3,B4 --repeats 5 --pycolmap --cache out/room

One JSON line a run: registered frames, ATE and metric ATE in cm, rotation and one-frame errors, focal error, processor
seconds, and a digest of the camera's bytes. Cases are the bars of annotate.md 7.4.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pose_annotation.align import compare_paths
from pose_annotation.fuse import fuse_depth
from pose_annotation.scale import sample_depth
from pose_annotation.solve import SolveConfig, Unsolvable, solve_camera
from pose_annotation.tracking import KltTracker

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from textured_room import RenderedClip, render

# name: scene, frames, lens level, with depth
CASES = {
    "B1": ("fly", 60, "shared_f", False),
    "B1f": ("fly", 60, "per_frame_f", False),
    "B2": ("fly_zoom", 60, "per_frame_f", False),
    "B3": ("fly_zoom", 60, "per_frame_f", True),
    "B3fly": ("fly", 60, "per_frame_f", True),
    "B4rot": ("rot", 60, "per_frame_f", True),
    "B4dz": ("dz", 60, "per_frame_f", True),
    "loop": ("loop", 90, "shared_f", False),
    "loopf": ("loop", 90, "per_frame_f", False),
    "side": ("side", 60, "shared_f", False),
    "B6a": ("fly", 240, "shared_f", False),
    "B6b": ("fly", 961, "shared_f", False),
}
GROUPS = {"B4": ["B4rot", "B4dz"], "B6": ["B6a", "B6b"]}


def scene(kind: str, frames: int, size: tuple[int, int], cache: Path | None, samples: int = 2) -> RenderedClip:
    """Render a scene, or read it from the cache."""
    drawn = "" if samples == 2 else f"_{samples}"
    file = None if cache is None else cache / f"{kind}_{frames}_{size[0]}x{size[1]}{drawn}.npz"
    if file is not None and file.is_file():
        with np.load(file, allow_pickle=False) as kept:
            return RenderedClip(kept["frames"], kept["c2w"], kept["intrinsics"], kept["depth"])
    clip = render(kind, frames, size, samples)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savez(file, **clip._asdict())
    return clip


def estimated_depth(depth: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A relative and a metric estimate (f, h, w) with the errors of annotate.md 2.2 and 7.3.

    Relative: 0.37 times the truth, drifting by 5 %, with smooth noise of 2 %. Metric: 8 % jitter a frame, a tenth of
    the frames 1.5 times too far, 3 % of the pixels far away.
    """
    rng = np.random.default_rng(seed)
    n, height, width = depth.shape
    drift = 1.0 + 0.05 * np.sin(np.linspace(0, 2 * np.pi, n) + 1.0)
    small = rng.normal(0, 1, (n, height // 16 + 2, width // 16 + 2))
    smooth = np.repeat(np.repeat(small, 16, 1), 16, 2)[:, :height, :width]
    relative = 0.37 * drift[:, None, None] * depth * np.exp(0.02 * smooth)
    jitter = np.exp(rng.normal(0, 0.08, n)) * np.where(rng.random(n) < 0.1, 1.5, 1.0)
    metric = depth * jitter[:, None, None]
    metric = np.where(rng.random(depth.shape) < 0.03, metric * rng.uniform(2, 6, depth.shape), metric)
    return relative, metric


def solve_ours(
    clip: RenderedClip, level: str, with_depth: bool, relinks: int
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], int]:
    """c2w, intrinsics, flags and registered frames."""
    tracks = KltTracker().track(clip.frames)
    z = None
    if with_depth:
        fused, _, _ = fuse_depth(*estimated_depth(clip.depth.astype(np.float64)))
        z = sample_depth(fused, tracks)
    camera = solve_camera(tracks, 16.0, depth=z, config=SolveConfig(level=level, relinks=relinks), frames=clip.frames)
    registered = int((camera.inlier_ratio > 0).sum())
    return camera.c2w, camera.intrinsics, camera.flags, registered


def solve_pycolmap(clip: RenderedClip, level: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """c2w and intrinsics of the registered frames, and their numbers; matched in sequence, mapped incrementally."""
    import pycolmap
    from PIL import Image

    pycolmap.logging.minloglevel = 3
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "images").mkdir()
        names = [f"{i:05d}.png" for i in range(len(clip.frames))]
        for name, frame in zip(names, clip.frames, strict=True):
            Image.fromarray(frame).save(root / "images" / name, compress_level=1)
        mode = pycolmap.CameraMode.SINGLE if level == "shared_f" else pycolmap.CameraMode.PER_IMAGE
        reader = pycolmap.ImageReaderOptions()
        reader.camera_model = "SIMPLE_PINHOLE"
        pycolmap.extract_features(root / "db", root / "images", camera_mode=mode, reader_options=reader)
        pairing = pycolmap.SequentialPairingOptions()
        pairing.overlap = 10
        pycolmap.match_sequential(root / "db", pairing_options=pairing)
        models = pycolmap.incremental_mapping(root / "db", root / "images", root)
        if not models:
            return np.zeros((0, 4, 4)), np.zeros((0, 4)), np.zeros(0, int)
        best = max(models.values(), key=lambda model: model.num_reg_images())
        poses, lenses, numbers = [], [], []
        for image in best.images.values():
            pose = image.cam_from_world() if callable(image.cam_from_world) else image.cam_from_world
            w2c = np.vstack([pose.matrix(), [0, 0, 0, 1]])
            f, cx, cy = best.cameras[image.camera_id].params
            poses.append(np.linalg.inv(w2c))
            lenses.append([f, f, cx, cy])
            numbers.append(names.index(image.name))
        order = np.argsort(numbers)
        return np.array(poses)[order], np.array(lenses)[order], np.array(numbers)[order]


def row(clip: RenderedClip, c2w: np.ndarray, lens: np.ndarray, numbers: np.ndarray) -> dict[str, object]:
    """Errors of the registered frames against the truth."""
    out: dict[str, object] = {"registered": len(numbers), "frames": len(clip.frames)}
    if len(numbers) < 3:
        return out
    truth = clip.c2w[numbers]
    errors = compare_paths(c2w, truth)
    focal = np.abs(lens[:, 0] / clip.intrinsics[numbers, 0] - 1.0)
    spread = np.linalg.norm(c2w[:, :3, 3] - c2w[:, :3, 3].mean(0), axis=1).max()
    return out | {
        "ate_cm": 100 * errors.ate, "metric_ate_cm": 100 * errors.metric_ate, "rotation_deg": errors.rotation_deg,
        "rpe_cm": 100 * errors.step, "rpe_deg": errors.step_deg, "scale": errors.scale,
        "focal_mean_pct": 100 * float(focal.mean()), "focal_max_pct": 100 * float(focal.max()),
        "spread_cm": 100 * float(spread),
    }  # fmt: skip


def main() -> None:
    """Run the cases and print one JSON line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="B1,B2,B3,B4")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--pycolmap", action="store_true")
    parser.add_argument("--relinks", type=int, default=SolveConfig().relinks, help="Rounds of finding lost points.")
    parser.add_argument("--frames", type=int, help="Fewer frames, to try the script.")
    parser.add_argument("--size", default="192x320")
    parser.add_argument("--samples", type=int, default=2, help="Rays a pixel of the renderer, squared.")
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--out", type=Path, help="Append the lines to this file too.")
    options = parser.parse_args()
    height, width = (int(v) for v in options.size.split("x"))
    names = [name for part in options.cases.split(",") for name in GROUPS.get(part, [part])]
    for name in names:
        if name not in CASES:
            raise SystemExit(f"case is {name!r}; allowed: {', '.join([*CASES, *GROUPS])}; example: --cases B1,B4")
        kind, frames, level, with_depth = CASES[name]
        clip = scene(kind, options.frames or frames, (height, width), options.cache, options.samples)
        for repeat in range(options.repeats):
            for solver in ("ours", *(["pycolmap"] if options.pycolmap else [])):
                start, found = time.process_time(), {}
                try:
                    if solver == "ours":
                        c2w, lens, flags, registered = solve_ours(clip, level, with_depth, options.relinks)
                        digest = hashlib.sha256(c2w.tobytes() + lens.tobytes()).hexdigest()[:16]
                        found = row(clip, c2w, lens, np.arange(len(c2w)))
                        found |= {"registered": registered, "flags": list(flags), "digest": digest}
                    else:
                        found = row(clip, *solve_pycolmap(clip, level))
                except Unsolvable as error:
                    found = {"registered": 0, "error": str(error)}
                line = {"case": name, "scene": kind, "solver": solver, "lens": level}
                # pycolmap takes no depth: in those cases it has to do without.
                line |= {
                    "depth": with_depth and solver == "ours",
                    "repeat": repeat,
                    "cpu_s": round(time.process_time() - start, 2),
                }
                line |= {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}
                line["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
                text = json.dumps(line)
                print(text, flush=True)
                if options.out is not None:
                    with options.out.open("a", encoding="utf-8") as stream:
                        stream.write(text + "\n")


if __name__ == "__main__":
    main()
