"""Frames of the best and worst clips beside what should be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm_bench.metrics.catalogue import metric_of, title_of
from wm_bench.poses.sampling import nearest_frames
from wm_bench.report.tables import number
from wm_bench.sheet import Sheet
from wm_bench.splits.model import Split
from wm_bench.video import VideoInfo, read_frames

FRAMES = 6
_HEIGHT = 108


class ClipStrip(NamedTuple):
    """A few frames (k, H, W, 3) of a clip at instants in seconds, and the exact render at the same instants."""

    scene: str
    words: str
    times_s: list[float]
    frames: NDArray[np.uint8]
    truth: NDArray[np.uint8] | None


def pick_strips(sheet: Sheet, split: Split, videos: Mapping[str, VideoInfo], each: int = 2) -> list[ClipStrip]:
    """The worst and best clips by the first of reference PSNR, camera rotation and revisits that has numbers.

    Ties go to the earlier id. A clip is in the list once.
    """
    name = _deciding(sheet)
    if name is None:
        return []
    sign = 1.0 if metric_of(name).better == "higher" else -1.0
    scored = {s: r["values"][name] for s, r in sheet["scenes"].items() if r["values"].get(name) is not None}
    order = sorted(scored, key=lambda s: (sign * scored[s], s))
    worst = order[:each]
    best = [s for s in reversed(order[-each:]) if s not in worst]
    labelled = [("worst", s) for s in worst] + [("best", s) for s in best]
    what, unit = title_of(name), metric_of(name).unit
    return [
        _strip(f"{word}: {what} {number(scored[s])} {unit}".rstrip(), split, s, videos[s])
        for word, s in labelled
        if s in videos
    ]


def _deciding(sheet: Sheet) -> str | None:
    wanted = ["ref_psnr_db", *sorted(n for n in sheet["metrics"] if n.startswith("rot_err_deg@")), "revisit_psnr_db"]
    return next((n for n in wanted if "mean" in sheet["metrics"].get(n, {})), None)


def _strip(words: str, split: Split, scene_id: str, video: VideoInfo) -> ClipStrip:
    scene = split.scene(scene_id)
    wanted = np.linspace(0.0, min(float(video.times_s[-1]), scene.duration_s), FRAMES)
    picks = np.unique(nearest_frames(video.times_s, wanted))
    times = np.minimum(video.times_s[picks], scene.duration_s)
    size = (_HEIGHT, max(8, round(video.size[1] * _HEIGHT / video.size[0])))
    frames = np.stack([_resize(f, size) for f in read_frames(video.path, picks)])
    truth = split.truth(scene, times, size).rgb if split.truth is not None else None
    return ClipStrip(scene_id, words, [round(float(t), 3) for t in times], frames, truth)


def _resize(frame: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    return np.asarray(Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS))
