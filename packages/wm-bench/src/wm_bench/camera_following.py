"""Scoring one video's camera: estimate poses, compare by time under every protocol, and know the estimator's floor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wm_bench.cache import Cache
from wm_bench.estimators import Estimator, PoseEstimate, PoseRequest
from wm_bench.poses.protocols import align, relative_pair
from wm_bench.poses.sampling import sample_times, truth_at
from wm_bench.poses.score import score_poses
from wm_bench.splits.model import BenchScene, Split
from wm_bench.video import VideoInfo, read_frames

VERSION = "poses-1"


@dataclass(frozen=True)
class PoseRules:
    """How poses are sampled and compared; part of every pose number's identity."""

    every_s: float = 0.25
    protocols: tuple[str, ...] = ("code-v1", "paper-sim3", "first-frame")
    drop_first: bool = False
    min_registered: float = 0.9


def pose_rules(rules: PoseRules) -> dict[str, Any]:
    """The rules as plain values."""
    return {"version": VERSION, **asdict(rules), "protocols": list(rules.protocols)}


def score_camera(
    video: VideoInfo, scene: BenchScene, estimator: Estimator, rules: PoseRules, cache: Cache
) -> dict[str, Any]:
    """Values, windows and curves of a clip's camera, keyed "name@protocol/estimator".

    Raises ValueError, in one line, when the estimator cannot place enough frames.
    """
    picks = sample_times(video.times_s, scene.duration_s, rules.every_s)
    times = video.times_s[picks]
    lens = scene.trajectory(video.size).at(np.minimum(times, scene.duration_s))[1]
    assert lens is not None
    key = {
        "poses": VERSION,
        "video": video.sha256,
        "sidecar": _sidecar(video.path) if estimator.id == "oracle" else "",
        "indices": picks.tolist(),
        "lens": np.round(lens, 6).tolist()[:1],
        "estimator": [estimator.id, estimator.version, estimator.weights_sha256],
    }

    def request() -> PoseRequest:
        # The oracle reads poses, and decoding a minute of video for it would be for nothing.
        frames = _NO_FRAMES if estimator.id == "oracle" else read_frames(video.path, picks)
        return PoseRequest(frames, lens, times, picks, video.path)

    estimate = _estimate(estimator, key, request, cache)
    return _compare(estimate, scene, times, estimator.id, rules)


def score_floor(
    size: tuple[int, int], scene: BenchScene, split: Split, estimator: Estimator, rules: PoseRules, cache: Cache
) -> dict[str, Any]:
    """What the same estimator makes of the exact render of the scene, at the submission's size: its floor.

    The oracle's floor is zero by definition. Raises ValueError without known geometry or when the estimator fails.
    """
    if split.truth is None:
        raise ValueError("the scene's geometry is unknown, so there is no render to estimate from")
    count = int(np.floor(scene.duration_s / rules.every_s + 1e-6)) + 1
    times = np.arange(count, dtype=np.float64) * rules.every_s
    picks = np.arange(count, dtype=np.int64)
    path = scene.trajectory(size)
    poses, lens = path.at(times)
    assert lens is not None
    if estimator.id == "oracle":
        return _compare(PoseEstimate(poses, np.ones(count, dtype=bool)), scene, times, estimator.id, rules)
    render_truth = split.truth

    def request() -> PoseRequest:
        return PoseRequest(render_truth(scene, times, size).rgb, lens, times, picks, Path("render"))

    key = {
        "floor": VERSION,
        "scene": scene.fingerprint(),
        "size": list(size),
        "every_s": rules.every_s,
        "estimator": [estimator.id, estimator.version, estimator.weights_sha256],
    }
    estimate = _estimate(estimator, key, request, cache)
    return _compare(estimate, scene, times, estimator.id, rules)


def _estimate(
    estimator: Estimator, key: dict[str, Any], request: Callable[[], PoseRequest], cache: Cache
) -> PoseEstimate:
    kept = cache.get(key)
    if kept is None:
        asked = request()
        # The same pictures are estimated once: the render's video and its floor hold the same frames.
        same = {"pictures": _pictures(asked), "estimator": key["estimator"]}
        kept = cache.get(same) if len(asked.frames) else None
        if kept is None:
            try:
                found = estimator.estimate(asked)
                kept = {"c2w": found.c2w.tolist(), "registered": found.registered.tolist()}
            except ValueError as error:
                kept = {"failed": str(error)}
            if len(asked.frames):
                cache.put(same, kept)
        cache.put(key, kept)
    if "failed" in kept:
        raise ValueError(kept["failed"])
    return PoseEstimate(np.array(kept["c2w"]), np.array(kept["registered"], dtype=bool))


def _pictures(request: PoseRequest) -> str:
    """SHA-256 of all an estimator may look at: frames, lens, and times to a hundredth of a second."""
    total = hashlib.sha256(repr(request.frames.shape).encode())
    total.update(np.ascontiguousarray(request.frames).tobytes())
    total.update((np.round(request.intrinsics, 6) + 0.0).astype("<f8").tobytes())
    total.update((np.round(request.times_s, 2) + 0.0).astype("<f8").tobytes())
    return total.hexdigest()


_NO_FRAMES = np.zeros((0, 1, 1, 3), np.uint8)


def _sidecar(video: Path) -> str:
    path = video.with_name(f"{video.stem.removesuffix('_generated')}_poses.npz")
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"


def _compare(
    estimate: PoseEstimate, scene: BenchScene, times: NDArray[np.float64], name: str, rules: PoseRules
) -> dict[str, Any]:
    placed = estimate.registered
    share = float(placed.mean())
    if share < rules.min_registered or placed.sum() < 3:
        needed = f"{100 * rules.min_registered:.0f} %"
        raise ValueError(f"{name} placed only {100 * share:.0f} % of the frames; needed: {needed}")
    truth = truth_at(scene.trajectory(), times)[placed]
    poses, times = estimate.c2w[placed], times[placed]
    out: dict[str, Any] = {"values": {f"registered@{name}": share}, "windows": {}, "curves": {}, "flags": {}}
    for protocol in rules.protocols:
        score = score_poses(protocol, poses, truth, times, drop_first=rules.drop_first)
        tag = f"@{protocol}/{name}"
        for key, value in (
            ("rot_err_deg", score.rot_err_deg),
            ("trans_err_m", score.trans_err),
            ("cam_mc", score.cam_mc),
            ("rel_rot_deg", score.relative_rot_deg),
            ("rel_trans_m", score.relative_trans),
            ("rot_slope_deg_per_min", score.rot_slope_deg_per_min),
        ):
            if np.isfinite(value):
                out["values"][key + tag] = value
        out["windows"]["rot_err_deg" + tag] = list(score.windows_rot_deg)
        out["curves"]["rot_err_deg" + tag] = [round(float(v), 4) for v in score.errors.rotation_deg]
        if score.flags:
            out["flags"][protocol] = list(score.flags)
    out["curves"][f"pose_times_s@{name}"] = times[1 if rules.drop_first else 0 :].tolist()
    out["path"] = _drawn_path(poses, truth)
    return out


def _drawn_path(poses: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, Any]:
    """Ground plan of both paths, positions laid over each other as near as they go, at most 121 points.

    For pictures only, and whatever protocols are scored: the released one moves positions by rotation errors.
    """
    ours, true = relative_pair(poses, truth)
    aligned = align("paper-sim3", ours, true).c2w
    every = max(1, len(true) // 120)
    return {
        name: np.round(path[::every, [0, 2], 3], 4).tolist() for name, path in (("estimate", aligned), ("truth", true))
    }
