"""Scoring one video against one scene: everything that looks at frames, in a single pass over the file."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm_bench.metrics.likeness import psnr_db, ssim
from wm_bench.metrics.lpips import Lpips
from wm_bench.metrics.quality import PROXIES, Flicker, drift, frame_proxies, window_means
from wm_bench.metrics.warping import Camera, warp
from wm_bench.poses.sampling import nearest_frames, sample_times
from wm_bench.splits.model import BenchScene, Split, Truth
from wm_bench.video import BrokenVideo, VideoInfo, decode

VERSION = "frames-1"


@dataclass(frozen=True)
class FrameRules:
    """How frames are picked and compared; part of every frame number's identity."""

    every_s: float = 0.5  # between frames compared with the render
    height_px: int = 144  # frames are brought to at most this height before they meet the render
    warp_s: float = 1.0  # between the frames of a warp pair
    pairs: int = 5  # revisit pairs a scene, best first


def frame_rules(rules: FrameRules) -> dict[str, Any]:
    """The rules as plain values."""
    return {"version": VERSION, **asdict(rules)}


def score_frames(
    video: VideoInfo, scene: BenchScene, split: Split, rules: FrameRules, lpips: Lpips | None
) -> dict[str, Any]:
    """Numbers, windows and curves of one clip; NaN where a number has nothing to stand on, with the reason.

    Raises BrokenVideo when the file stops early.
    """
    picks = sample_times(video.times_s, scene.duration_s, rules.every_s)
    pairs = _revisit_frames(video, scene, rules)
    size = reference_size(video.size, rules.height_px)
    wanted = set(picks.tolist()) | {i for pair in pairs for i in pair}
    kept, proxies, flicker = _walk(video, wanted, set(picks.tolist()))
    small = np.stack([_resize(kept[i], size) for i in picks.tolist()])
    times = video.times_s[picks]
    out: dict[str, Any] = {"values": {}, "reasons": {}, "windows": {}, "curves": {"times_s": times.tolist()}}
    values, reasons = out["values"], out["reasons"]
    values["flicker_tf"] = flicker.value

    lens = _scaled_lens(scene, video.size, size)
    truth = split.truth(scene, np.minimum(times, scene.duration_s), size, lens) if split.truth is not None else None
    _proxies(out, np.stack([proxies[i] for i in picks.tolist()]), truth, times, scene)
    _revisits(out, [(kept[a], kept[b]) for a, b in pairs], lpips)
    if truth is None:
        for name in ("ref_psnr_db", "ref_ssim", "drift_ref_psnr_db", "warp_psnr_db", "warp_gap_db"):
            reasons[name] = "the scene's geometry is unknown"
        for name in ("revisit_warp_psnr_db", "revisit_warp_gap_db"):
            reasons[name] = "the scene's geometry is unknown"
        return out
    _reference(out, small, truth, times, scene)
    poses = scene.trajectory().at(np.minimum(times, scene.duration_s))[0]
    cameras = [Camera(pose, lens, depth) for pose, depth in zip(poses, truth.depth, strict=True)]
    step = max(1, round(rules.warp_s / rules.every_s))
    _warps(out, small, truth, cameras, step)
    _warped_revisits(out, video, scene, split, pairs, kept, size, lens)
    return out


def reference_size(size: tuple[int, int], height_px: int) -> tuple[int, int]:
    """The size at which a video meets the render: its own shape, at most `height_px` high."""
    height, width = size
    if height <= height_px:
        return height, width
    return height_px, max(8, round(width * height_px / height))


def _scaled_lens(scene: BenchScene, size: tuple[int, int], small: tuple[int, int]) -> NDArray[np.float64]:
    rows, columns = small[0] / size[0], small[1] / size[1]
    return scene.intrinsics(size)[0] * np.array([columns, rows, columns, rows])


def _resize(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.BOX))


def _revisit_frames(video: VideoInfo, scene: BenchScene, rules: FrameRules) -> list[tuple[int, int]]:
    """Video frames of the best stored pairs, mapped by time; a pair that falls on one frame is left out."""
    mapped = []
    for pair in scene.pairs[: rules.pairs]:
        a, b = nearest_frames(video.times_s, np.array([pair.frame_a, pair.frame_b]) / scene.fps).tolist()
        if a != b:
            mapped.append((a, b))
    return mapped


def _walk(
    video: VideoInfo, wanted: set[int], picked: set[int]
) -> tuple[dict[int, NDArray[np.uint8]], dict[int, NDArray[np.float64]], Flicker]:
    kept: dict[int, NDArray[np.uint8]] = {}
    proxies: dict[int, NDArray[np.float64]] = {}
    flicker, count = Flicker(), 0
    for number, frame in enumerate(decode(video.path)):
        flicker.add(frame)
        count += 1
        if number in wanted:
            kept[number] = frame
        if number in picked:
            proxies[number] = frame_proxies(frame)
    if count < len(video):
        raise BrokenVideo(f"only {count} of {len(video)} frames can be decoded")
    return kept, proxies, flicker


def _proxies(
    out: dict[str, Any], raw: NDArray[np.float64], truth: Truth | None, times: NDArray[np.float64], scene: BenchScene
) -> None:
    """Ratios to the render at the same instants, scaled so that frame 0 is 1; to frame 0 without a render.

    The scaling takes out what size and codec do to every frame alike.
    """
    ratio = raw / np.maximum(raw[:1], 1e-9)
    if truth is not None:
        exact = np.stack([frame_proxies(frame) for frame in truth.rgb])
        ratio = ratio / np.maximum(exact / np.maximum(exact[:1], 1e-9), 1e-9)
    for column, name in enumerate(PROXIES):
        out["values"][name] = float(ratio[:, column].mean())
        out["windows"][name] = window_means(ratio[:, column], times, scene.duration_s)
    out["curves"]["proxy.sharpness"] = ratio[:, 0].tolist()
    _drift(out, "drift_sharpness", out["windows"]["proxy.sharpness"])


def _drift(out: dict[str, Any], name: str, windows: list[float]) -> None:
    if len(windows) > 1:
        out["values"][name] = drift(windows)
    else:
        out["reasons"][name] = "needs at least 20 s"


def _reference(
    out: dict[str, Any], small: NDArray[np.uint8], truth: Truth, times: NDArray[np.float64], scene: BenchScene
) -> None:
    psnr = np.array([psnr_db(a, b) for a, b in zip(small, truth.rgb, strict=True)])
    alike = np.array([ssim(a, b) for a, b in zip(small, truth.rgb, strict=True)])
    out["curves"]["ref_psnr_db"] = psnr.tolist()
    # Frame 0 is the picture that was given; it says nothing about the model.
    out["values"]["ref_psnr_db"], out["values"]["ref_ssim"] = float(psnr[1:].mean()), float(alike[1:].mean())
    out["windows"]["ref_psnr_db"] = window_means(psnr[1:], times[1:], scene.duration_s)
    _drift(out, "drift_ref_psnr_db", out["windows"]["ref_psnr_db"])


def _revisits(
    out: dict[str, Any], frames: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]], lpips: Lpips | None
) -> None:
    out["pairs"] = len(frames)
    if not frames:
        for name in ("revisit_psnr_db", "revisit_ssim", "revisit_lpips"):
            out["reasons"][name] = "no stored pair lies within the clip"
        return
    out["values"]["revisit_psnr_db"] = float(np.mean([psnr_db(a, b) for a, b in frames]))
    out["values"]["revisit_ssim"] = float(np.mean([ssim(a, b) for a, b in frames]))
    if lpips is not None:
        out["values"]["revisit_lpips"] = float(np.mean([lpips(a, b) for a, b in frames]))


def _warps(out: dict[str, Any], small: NDArray[np.uint8], truth: Truth, cameras: list[Camera], step: int) -> None:
    ours, exact = [], []
    for a in range(0, len(cameras) - step, step):
        value, best = _warp_pair(
            small[a], small[a + step], truth.rgb[a], truth.rgb[a + step], cameras[a], cameras[a + step]
        )
        ours.append(value)
        exact.append(best)
    if not np.isfinite(ours).any():
        for name in ("warp_psnr_db", "warp_gap_db"):
            out["reasons"][name] = "no two frames see the same surface"
        return
    out["curves"]["warp_psnr_db"] = [None if np.isnan(v) else v for v in ours]
    out["values"]["warp_psnr_db"] = float(np.nanmean(ours))
    out["values"]["warp_gap_db"] = float(np.nanmean(np.array(ours) - np.array(exact)))


def _warp_pair(
    a: NDArray[np.uint8],
    b: NDArray[np.uint8],
    true_a: NDArray[np.uint8],
    true_b: NDArray[np.uint8],
    from_: Camera,
    to: Camera,
) -> tuple[float, float]:
    """PSNR of a warped onto b, for the video and for the render, over the same pixels; NaN when too few are shared."""
    moved, mask = warp(a, from_, to)
    if mask.mean() < 0.05:
        return float("nan"), float("nan")
    return psnr_db(moved, b, mask), psnr_db(warp(true_a, from_, to)[0], true_b, mask)


def _warped_revisits(
    out: dict[str, Any],
    video: VideoInfo,
    scene: BenchScene,
    split: Split,
    pairs: list[tuple[int, int]],
    kept: dict[int, NDArray[np.uint8]],
    size: tuple[int, int],
    lens: NDArray[np.float64],
) -> None:
    ours, exact = [], []
    assert split.truth is not None
    for a, b in pairs:
        times = np.minimum(video.times_s[[a, b]], scene.duration_s)
        truth = split.truth(scene, times, size, lens)
        poses = scene.trajectory().at(times)[0]
        first, second = (Camera(poses[i], lens, truth.depth[i]) for i in (0, 1))
        small = [_resize(kept[i], size) for i in (a, b)]
        value, best = _warp_pair(small[0], small[1], truth.rgb[0], truth.rgb[1], first, second)
        if np.isfinite(value):
            ours.append(value)
            exact.append(best)
    if ours:
        out["values"]["revisit_warp_psnr_db"] = float(np.mean(ours))
        out["values"]["revisit_warp_gap_db"] = float(np.mean(np.array(ours) - np.array(exact)))
    else:
        for name in ("revisit_warp_psnr_db", "revisit_warp_gap_db"):
            out["reasons"][name] = "no stored pair lies within the clip"
