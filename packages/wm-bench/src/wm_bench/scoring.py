"""Scoring a folder of videos: per scene, per category, with the identity and coverage of every number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wm_bench.cache import Cache
from wm_bench.camera_following import PoseRules, pose_rules, score_camera, score_floor
from wm_bench.clips import FrameRules, frame_rules, reference_size, score_frames
from wm_bench.estimators import Estimator, Unavailable, get_estimator
from wm_bench.metrics import vbench_run
from wm_bench.metrics.catalogue import FRAMES, OUTSIDE, POSE
from wm_bench.metrics.lpips import Lpips
from wm_bench.metrics.vmaf import VERSION as vmaf_version
from wm_bench.metrics.vmaf import Vmaf
from wm_bench.sheet import ClipResult, Sheet, build_sheet, identity
from wm_bench.splits.model import BenchScene, Split
from wm_bench.submission import Finding, Submission, read_submission
from wm_bench.video import BrokenVideo, VideoInfo

Timings = dict[str, dict[str, float]]

_VBENCH = "needs VBench in its own environment; give --vbench-python"
_SHORT = "needs at least 20 s"


@dataclass(frozen=True)
class Options:
    """What to measure. Estimators are specs such as "pycolmap" or "command:..."."""

    estimators: tuple[str, ...] = ("pycolmap",)
    poses: PoseRules = field(default_factory=PoseRules)
    frames: FrameRules = field(default_factory=FrameRules)
    lpips_weights: Path | None = None
    floors: bool = True
    vbench_python: Path | None = None
    ffmpeg: Path | None = None


def score_folder(
    folder: Path | Submission,
    split: Split,
    options: Options | None = None,
    cache: Cache | None = None,
    report: Callable[[str], None] | None = None,
    timings: Timings | None = None,
) -> Sheet:
    """Score every whole video of a folder against a split and put all of it on one sheet.

    The folder is only read. A scene whose video is missing or broken has no number and a finding that says why. The
    same bytes give the same sheet, bit for bit; how long it took goes into `timings`, seconds by scene and work, and
    next to nothing where a kept result was used.
    """
    options, cache = options or Options(), cache or Cache(None)
    tell = report or (lambda line: None)
    submission = folder if isinstance(folder, Submission) else read_submission(folder, split)
    estimators, unavailable = _estimators(options.estimators)
    lpips, no_lpips = _lpips(options.lpips_weights)
    vmaf, no_vmaf = _vmaf(options.ffmpeg, split)
    results: dict[str, ClipResult] = {}
    timings = {} if timings is None else timings
    findings = list(submission.findings)
    for scene in split.scenes:
        if scene.id not in submission.videos:
            continue
        tell(scene.id)
        video = submission.videos[scene.id]
        try:
            results[scene.id] = _score_clip(video, scene, split, estimators, options, lpips, cache, timings)
            if vmaf is not None:
                with _timed(timings, scene, "vmaf"):
                    _add_vmaf(results[scene.id], video, scene, split, vmaf, options, cache)
        except BrokenVideo as broken:
            findings.append(Finding("error", scene.id, "truncated", str(broken)))
    for scene_id, result in results.items():
        findings += [Finding("error", scene_id, "pose-failed", reason) for reason in _failures(result)]
    identities = _identities(split, estimators, options, lpips)
    if vmaf is not None:
        identities["vmaf"] = identity("vmaf", split, _vmaf_rules(options), vmaf.id, vmaf.version, "built in")
    outside = _add_vbench(results, submission, split, options, cache, identities)
    return build_sheet(
        split,
        submission._replace(findings=findings),
        results,
        identities,
        {**unavailable, **no_lpips, **no_vmaf, **outside},
    )


def _failures(result: ClipResult) -> list[str]:
    return sorted({reason for name, reason in result.reasons.items() if "@" in name})


def _estimators(specs: Sequence[str]) -> tuple[list[Estimator], dict[str, str]]:
    found: list[Estimator] = []
    missing: dict[str, str] = {}
    for spec in specs:
        try:
            estimator = get_estimator(spec)
        except Unavailable as reason:
            missing[f"rot_err_deg@{spec.partition(':')[0]}"] = str(reason)
            continue
        if any(estimator.id == other.id for other in found):
            raise ValueError(f"estimator {estimator.id!r} is named twice; allowed: each once; example: oracle,pycolmap")
        found.append(estimator)
    return found, missing


def _lpips(path: Path | None) -> tuple[Lpips | None, dict[str, str]]:
    try:
        return Lpips(path), {}
    except Unavailable as reason:
        return None, {"revisit_lpips": str(reason)}


def _vmaf(ffmpeg: Path | None, split: Split) -> tuple[Vmaf | None, dict[str, str]]:
    if split.truth is None:
        return None, {"vmaf": "the scenes' geometry is unknown"}
    try:
        return Vmaf(ffmpeg), {}
    except Unavailable as reason:
        return None, {"vmaf": str(reason)}


def _vmaf_rules(options: Options) -> dict[str, Any]:
    return {"version": vmaf_version, "height_px": options.frames.height_px}


def _add_vmaf(
    result: ClipResult,
    video: VideoInfo,
    scene: BenchScene,
    split: Split,
    vmaf: Vmaf,
    options: Options,
    cache: Cache,
) -> None:
    assert split.truth is not None
    key = {"rules": _vmaf_rules(options), "ffmpeg": vmaf.version, "video": video.sha256, "scene": scene.fingerprint()}
    kept = cache.get(key)
    if kept is None:
        try:
            kept = {"vmaf": vmaf(video, scene, split.truth, reference_size(video.size, options.frames.height_px))}
        except Unavailable as reason:
            result.reasons["vmaf"] = str(reason)
            return
        cache.put(key, kept)
    result.values |= kept


def _add_vbench(
    results: dict[str, ClipResult],
    submission: Submission,
    split: Split,
    options: Options,
    cache: Cache,
    identities: dict[str, dict[str, Any]],
) -> dict[str, str]:
    """Put VBench's numbers into the results; returns the names that stay without one, with the reason."""
    names = [name for name in OUTSIDE if name != "vmaf"]
    missing = dict.fromkeys(names, _VBENCH)
    if options.vbench_python is None or not results:
        return missing
    try:
        videos = {scene: submission.videos[scene] for scene in results}
        found = vbench_run.run_vbench(options.vbench_python, videos, split, cache)
    except Unavailable as reason:
        return dict.fromkeys(names, str(reason))
    for scene, values in found.values.items():
        results[scene].values |= values
        for name in vbench_run.WINDOWED:
            if name not in values:
                results[scene].reasons[name] = _SHORT
    for name in vbench_run.NAMES:
        rules = {"version": vbench_run.VERSION}
        identities[name] = identity(name, split, rules, "vbench", found.version, found.weights_sha256)
    return {}


def _score_clip(
    video: VideoInfo,
    scene: BenchScene,
    split: Split,
    estimators: list[Estimator],
    options: Options,
    lpips: Lpips | None,
    cache: Cache,
    timings: Timings,
) -> ClipResult:
    key = {
        "frames": frame_rules(options.frames),
        "video": video.sha256,
        "scene": scene.fingerprint(),
        "truth": split.truth is not None,
        "lpips": lpips.weights_sha256 if lpips is not None else "none",
    }
    kept = cache.get(key)
    if kept is None:
        with _timed(timings, scene, "frames"):
            kept = score_frames(video, scene, split, options.frames, lpips)
        cache.put(key, kept)
    result = ClipResult(dict(kept["values"]), dict(kept["reasons"]), dict(kept["windows"]), dict(kept["curves"]))
    result.pairs = int(kept["pairs"])
    result.size, result.fps, result.frames, result.sha256 = video.size, video.fps, len(video), video.sha256
    for estimator in estimators:
        with _timed(timings, scene, estimator.id):
            _add_camera(result, video, scene, estimator, options, cache)
        if options.floors and split.truth is not None:
            with _timed(timings, scene, f"{estimator.id} floor"):
                _add_floor(result, video, scene, split, estimator, options, cache)
    return result


@contextmanager
def _timed(timings: Timings, scene: BenchScene, work: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    timings.setdefault(scene.id, {})[work] = round(time.perf_counter() - start, 3)


def _add_camera(
    result: ClipResult,
    video: VideoInfo,
    scene: BenchScene,
    estimator: Estimator,
    options: Options,
    cache: Cache,
) -> None:
    try:
        found = score_camera(video, scene, estimator, options.poses, cache)
    except (ValueError, Unavailable) as error:
        for name in pose_names(estimator.id, options.poses):
            result.reasons[name] = str(error)
    else:
        result.values |= found["values"]
        result.windows |= found["windows"]
        result.curves |= found["curves"]
        result.paths[estimator.id] = found["path"]
        for protocol, flags in found["flags"].items():
            result.flags[f"{protocol}/{estimator.id}"] = flags


def _add_floor(
    result: ClipResult,
    video: VideoInfo,
    scene: BenchScene,
    split: Split,
    estimator: Estimator,
    options: Options,
    cache: Cache,
) -> None:
    try:
        found = score_floor(video.size, scene, split, estimator, options.poses, cache)
    except (ValueError, Unavailable) as error:
        result.floor_reasons[estimator.id] = str(error)
        return
    result.floors |= found["values"]
    if estimator.id in result.paths and estimator.id != "oracle":
        result.paths[estimator.id]["floor"] = found["path"]["estimate"]


def pose_names(estimator_id: str, rules: PoseRules) -> list[str]:
    """Names of all camera numbers of an estimator."""
    names = [f"{n}@{p}/{estimator_id}" for p in rules.protocols for n in POSE if n != "registered"]
    return [*names, f"registered@{estimator_id}"]


def _identities(
    split: Split, estimators: list[Estimator], options: Options, lpips: Lpips | None
) -> dict[str, dict[str, Any]]:
    known: dict[str, dict[str, Any]] = {}
    for name in FRAMES:
        known[name] = identity(
            name, split, frame_rules(options.frames), "wm-bench" if name != "revisit_lpips" else Lpips.id,
            "1", lpips.weights_sha256 if name == "revisit_lpips" and lpips is not None else "none",
        )  # fmt: skip
    for estimator in estimators:
        for name in pose_names(estimator.id, options.poses):
            protocol = name.partition("@")[2].partition("/")[0] if "/" in name else "none"
            rules = {**pose_rules(options.poses), "protocols": protocol}
            known[name] = identity(name, split, rules, estimator.id, estimator.version, estimator.weights_sha256)
    return known


__all__ = ["Options", "Submission", "pose_names", "score_folder"]
