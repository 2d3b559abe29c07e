"""Generating the videos of a split with a world model, scene by scene, going on where an earlier call stopped."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from camera_control.files import replacing

from sana_wm_cli.bench_split import open_split

if TYPE_CHECKING:
    import numpy as np
    from sana_wm_core.pipeline import WorldPipeline
    from wm_bench.splits import BenchScene, Split


class Shard(NamedTuple):
    """Every `of`-th scene from `number`; machines that share a folder take one each."""

    number: int
    of: int


class Sampling(NamedTuple):
    """What decides a video besides model and scene; None is the model's own."""

    steps: int | None
    seed: int


class Job(NamedTuple):
    """All that a machine must know to make its part of the videos; plain values, so that it can travel."""

    model: str
    device: str
    split: str
    data: Path | None
    scenes: str | None
    seconds: float | None
    out: Path
    sampling: Sampling
    baselines: bool


def parse_shard(text: str | None) -> Shard:
    """0/8 is the first of eight parts. Raises ValueError for anything that is no part."""
    if text is None:
        return Shard(0, 1)
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise ValueError(f"--shard is {text!r}; allowed: I/N with I from 0 to N - 1; example: 0/8")
    return Shard(int(number), int(count))


def make_videos(job: Job, split: Split, shard: Shard, report: Callable[[str], None]) -> dict[str, Path]:
    """Make a part of a job's videos and return the folders by method, the model's own first.

    Renders and stills cost little and are made only by a call that makes everything.
    """
    pipeline = load_model(job.model, job.device)
    name, out = Path(job.model).name, job.out
    own = pipeline.defaults
    folders = {
        name: generate_split(pipeline, split, out / name / "videos", name, job.sampling, shard=shard, report=report)
    }
    if job.baselines:
        from wm_bench.baselines import shuffled_paths, write_baseline

        other = f"{name}-shuffled"
        folders[other] = generate_split(
            pipeline, split, out / other / "videos", other, job.sampling, shuffled_paths(split), shard, report
        )
        if shard.of == 1:
            for kind in ("render", "still") if split.truth is not None else ("still",):
                folders[kind] = write_baseline(kind, split, out / kind / "videos", (own.height, own.width), own.fps)
                write_info(folders[kind], {"model": kind, "fps": own.fps})
    return folders


def make_part(part: tuple[Job, Shard]) -> int:
    """Make one part of a job on whatever machine this runs on; returns how many scenes it has."""
    job, shard = part
    split = open_split(job.split, job.data, job.scenes, job.seconds)
    make_videos(job, split, shard, lambda scene: None)
    return len(list(split.scenes)[shard.number :: shard.of])


def pilot(split: Split) -> Split:
    """The first scene of a split, alone."""
    return dataclasses.replace(split, scenes=list(split.scenes)[:1])


def seconds_of(folder: Path, scene_id: str) -> float:
    """How long a scene took to generate when it was generated."""
    note = json.loads((folder / f"{scene_id}_generation.json").read_text(encoding="utf-8"))
    return float(note["seconds"])


def load_model(model: str, device: str) -> WorldPipeline:
    """A world model on its device, as `sana-wm generate` loads it."""
    import torch
    from sana_wm_core.layouts import open_world

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return open_world(model, device=torch.device(device)).pipeline
    except RuntimeError as error:
        raise ValueError(f"--device {device} cannot be used ({error}); allowed: auto, cpu, cuda, cuda:1") from None


def weights_digest(pipeline: WorldPipeline) -> dict[str, str]:
    """SHA-256 of everything the model was read from."""
    from sana_wm_cli.record import digest

    return {name: digest(path) for name, path in sorted(pipeline.sources.items())}


def generate_split(
    pipeline: WorldPipeline,
    split: Split,
    folder: Path,
    name: str,
    sampling: Sampling,
    paths: dict[str, np.ndarray] | None = None,
    shard: Shard | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write ID_generated.mkv, lossless, for every scene of a split, and method_info.json.

    A video is kept when it was made from the same weights, scene, path and sampling. `paths` replaces the camera of
    scenes by other poses (f, 4, 4), which is how the shuffled baseline is made.
    """
    import hashlib

    from wm_bench.cache import content_key
    from wm_bench.video import write_lossless

    folder.mkdir(parents=True, exist_ok=True)
    weights, own = weights_digest(pipeline), pipeline.defaults
    info = {
        "model": name,
        "fps": own.fps,
        "resolution": f"{own.width}x{own.height}",
        "steps": own.steps if sampling.steps is None else sampling.steps,
        "seed": sampling.seed,
        "dtype": str(pipeline.dtype).removeprefix("torch."),
        "weights_sha256": weights,
    }
    write_info(folder, info)
    number, count = shard or Shard(0, 1)
    for scene in list(split.scenes)[number::count]:
        c2w = scene.c2w if paths is None else paths[scene.id]
        about = {**info, "scene": scene.fingerprint(), "path": hashlib.sha256(c2w.tobytes()).hexdigest()}
        key = content_key(about)
        video, note = folder / f"{scene.id}_generated.mkv", folder / f"{scene.id}_generation.json"
        if video.is_file() and _made_from(note) == key:
            continue
        if report is not None:
            report(scene.id)
        start = time.perf_counter()
        write_lossless(video, _make(pipeline, split, scene, c2w, sampling), own.fps)
        _write_json(note, {"key": key, "seconds": round(time.perf_counter() - start, 3), **about})
    return folder


def _make(pipeline: WorldPipeline, split: Split, scene: BenchScene, c2w: np.ndarray, sampling: Sampling) -> np.ndarray:
    """Frames (f, H, W, 3) uint8 of one scene, along poses at the scene's rate."""
    import numpy as np
    from camera_control.trajectory import Trajectory
    from PIL import Image

    own = pipeline.defaults
    size = (own.height, own.width)
    times = np.arange(round(scene.duration_s * own.fps) + 1) / own.fps
    poses = Trajectory(c2w, fps=scene.fps).at(np.minimum(times, scene.duration_s))[0]
    clip = pipeline(
        Image.fromarray(split.first_frame(scene, size)),
        scene.prompt,
        c2w=poses,
        intrinsics=scene.intrinsics(size)[0],
        frames=len(poses),
        steps=sampling.steps,
        seed=sampling.seed,
    )
    return clip.video


def _made_from(note: Path) -> str | None:
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found.get("key") if isinstance(found, dict) else None


def write_info(folder: Path, info: dict[str, Any]) -> None:
    """Write method_info.json, from which a score takes the method's name."""
    _write_json(folder / "method_info.json", info)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
