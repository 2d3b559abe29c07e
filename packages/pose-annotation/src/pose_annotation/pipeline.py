"""One video to clips with cameras: decode once, cut, score, track, solve, scale, caption, write; resumable."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from camera_control.geometry import crop_intrinsics, crop_plan
from numpy.typing import NDArray

from pose_annotation.backends import DepthBackend, PoseBackend, ScoreBackend, TrackBackend, identity
from pose_annotation.cameras import GivenPath, find_camera
from pose_annotation.captions import Captioner, NoCaptioner, write_caption
from pose_annotation.opencv import cv2
from pose_annotation.outputs import digest_of, read_json, write_array, write_arrays, write_json, write_video
from pose_annotation.overview import draw_overview, draw_unsolved
from pose_annotation.scores import camera_scores, picture_scores
from pose_annotation.settings import VERSION, Request, Settings
from pose_annotation.solve import Unsolvable
from pose_annotation.store import StageStore
from pose_annotation.tracking import KltTracker
from pose_annotation.types import Array, CameraTrack
from pose_annotation.video import Video, file_digest, require_length, working_size
from pose_annotation.windows import Window, WindowCutter

SCHEMA = 2


@dataclass(frozen=True)
class Tools:
    """What does the work; the defaults need no weights. Without `pose`, tracks are adjusted by our own solver.

    A `pose` backend works from pictures alone and cannot be joined with `depth`. Scores of `scorers` add to our own
    and replace those of the same name.
    """

    tracker: TrackBackend = field(default_factory=KltTracker)
    captioner: Captioner = field(default_factory=NoCaptioner)
    depth: DepthBackend | None = None
    pose: PoseBackend | None = None
    scorers: tuple[ScoreBackend, ...] = ()

    def __post_init__(self) -> None:
        if self.pose is not None and self.depth is not None:
            raise ValueError(
                f"depth {self.depth.name} with poses by {self.pose.name}; allowed: depth with our own poses, or neither"
            )

    def as_json(self) -> dict[str, Any]:
        """Names, versions, weights and licences, for records and keys."""
        parts = {"tracks": self.tracker, "depth": self.depth, "pose": self.pose, "caption": self.captioner}
        named: dict[str, Any] = {name: identity(part) for name, part in parts.items()}  # type: ignore[arg-type]
        return named | {"scores": [identity(part) for part in self.scorers]}


@dataclass(frozen=True, eq=False)
class _Job:
    request: Request
    settings: Settings
    tools: Tools
    out: Path
    store: StageStore
    video: Video
    name: str
    digest: str
    key: str
    path: GivenPath | None


def annotate_video(
    request: Request, out: str | Path, settings: Settings | None = None, tools: Tools | None = None,
    cache: Path | None = None, report: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:  # fmt: skip
    """Annotate one video into a folder and return its row: id, status, clips, and what had to be worked out.

    Writes per clip `records/ID.json` (last; its presence means done), `cameras/ID.npz`, `poses/ID.npy`,
    `intrinsics/ID.npy`, `clips/ID.mp4` and `overview/ID.html`, and one `videos/NAME.json`. What is there already for
    the same video, settings and tools is not made again. Verdicts and the manifest are `judge_folder`'s.

    Raises ValueError: the video is broken, or the folder holds the same video under other settings.
    """
    settings, tools, out = settings or Settings(), tools or Tools(), Path(out)
    video = Video(request.video, fps=settings.fps, width=_decode_width(settings))
    digest = file_digest(request.video)
    name = f"{_slug(request.video.stem)}-{digest[:8]}"
    key = digest_of([VERSION, digest, settings.as_json(), request.as_json(), tools.as_json()])
    index = out / "videos" / f"{name}.json"
    store = StageStore(cache or out / "stages")
    if index.is_file():
        row = read_json(index)
        _require_same(row, key, index)
        if all((out / "records" / f"{clip}.json").is_file() for clip in row["clips"]):
            return {**row, "worked": {}}
    path = GivenPath.load(request.poses) if request.poses is not None else None
    job = _Job(request, settings, tools, out, store, video, name, digest, key, path)
    cutter, clips = WindowCutter(settings.rule), []
    for window in cutter.cut(video):
        clips.append(_annotate_window(job, window, report))
    require_length(video, cutter.frames)
    row = {
        "id": name, "video": request.video.name, "sha256": digest, "key": key, "status": "ok", "clips": clips,
        "frames": cutter.frames, "fps": video.fps, "native_fps": video.native_fps,
        "source_size": list(video.source_size), "notes": sorted(video.notes),
        "scene_starts": cutter.cuts, "settings": settings.as_json(),
    }  # fmt: skip
    write_json(index, row)
    return {**row, "worked": dict(store.worked)}


def _require_same(stored: dict[str, Any], key: str, path: Path) -> None:
    if stored.get("key") != key:
        raise ValueError(
            f"{path} was made with other settings; allowed: the same ones, or another --out; example: --out new"
        )


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")[:60] or "video"


def _decode_width(settings: Settings) -> int:
    # A crop to another shape may use less than the whole width, so some pixels in reserve.
    wanted = settings.width if settings.size is None else 2 * settings.size[1]
    return max(wanted, settings.solve_width)


def _annotate_window(job: _Job, window: Window, report: Callable[[str], None]) -> str:
    clip = f"{job.name}-s{window.scene:03d}-w{window.number:02d}"
    record = job.out / "records" / f"{clip}.json"
    if record.is_file():
        # A run that was stopped has records but no row for the video yet.
        _require_same(read_json(record), job.key, record)
        return clip
    # The camera first: depths or a path that do not fit must leave nothing behind.
    inputs = [job.digest, window.first, len(window.frames), job.video.fps, list(window.frames.shape[1:3])]
    solved: CameraTrack | None = None
    reason = ""
    scale: dict[str, Any] = {}
    size = working_size((window.frames.shape[1], window.frames.shape[2]), job.settings.solve_width)
    try:
        solved, scale = find_camera(
            _resized(window.frames, size), window, inputs, job.request, job.settings, job.tools, job.store,
            job.video, job.path,
        )  # fmt: skip
    except Unsolvable as error:
        reason = str(error)
    pictures = _stored(window.frames, job.settings)
    write_video(job.out / "clips" / f"{clip}.mp4", pictures, job.video.fps)
    source_width = job.video.source_size[1]
    scores = job.store.values(
        "scores", inputs, lambda: picture_scores(window.frames, job.video.fps, window.motion, source_width)
    )
    for scorer in job.tools.scorers:
        scores = scores | job.store.values(
            "scored", [*inputs, identity(scorer)], partial(scorer.score, window.frames, job.video.fps, source_width)
        )
    caption = job.store.values(
        "caption", [*inputs, identity(job.tools.captioner)],  # type: ignore[arg-type]
        lambda: write_caption(job.tools.captioner, window.frames),
    )  # fmt: skip
    height, width = pictures.shape[1:3]
    entry: dict[str, Any] = {
        "schema": SCHEMA, "id": clip, "key": job.key,
        "status": "ok" if solved is not None else "unsolved", "reason": reason,
        "video": {
            "name": job.request.video.name, "sha256": job.digest, "scene": window.scene, "window": window.number,
            "first_frame": window.first, "start_s": window.times_s[0], "end_s": window.times_s[-1],
            "native_fps": job.video.native_fps, "size": list(job.video.source_size),
        },
        "source": job.request.source, "split": job.request.split, "licence": job.request.licence,
        "mode": job.request.mode, "fps": job.video.fps, "frames": len(pictures), "height": height, "width": width,
        "solved_size": list(size), "tools": job.tools.as_json(),
        "settings": job.settings.as_json() | {"level": job.settings.level_of(job.request.intrinsics is not None)},
        "caption": caption, "scores": scores, "flags": [], "metric": False, "scale": scale,
        # Of the pixels, not of the file: the encoder's bytes are not always the same.
        "pixels_sha256": hashlib.sha256(pictures.tobytes()).hexdigest(),
    }  # fmt: skip
    if solved is not None:
        camera = _followed(solved, (window.frames.shape[1], window.frames.shape[2]), (height, width))
        entry["scores"] = {**scores, **camera_scores(camera, scale.get("raw"))}
        entry["flags"], entry["metric"] = list(camera.flags), camera.metric
        entry["camera"] = camera.extra
        _write_camera(job, clip, camera, window, scale)
        draw_overview(job.out / "overview" / f"{clip}.html", entry, camera, pictures)
    else:
        draw_unsolved(job.out / "overview" / f"{clip}.html", entry)
    write_json(record, entry)
    report(f"{clip}: {len(pictures)} frames, {', '.join(entry['flags']) or 'no doubts'}{reason and ': ' + reason}")
    return clip


def _stored(frames: NDArray[np.uint8], settings: Settings) -> NDArray[np.uint8]:
    """The pictures as they are stored: whole and at most `width` wide, or cropped to `size`."""
    source = (int(frames.shape[1]), int(frames.shape[2]))
    if settings.size is None:
        size = working_size(source, settings.width)
        return _resized(frames, (size[0] // 2 * 2, size[1] // 2 * 2))
    whole, (top, left) = crop_plan(source, settings.size)
    large = _resized(frames, whole)
    return large[:, top : top + settings.size[0], left : left + settings.size[1]]


def _resized(frames: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    if (int(frames.shape[1]), int(frames.shape[2])) == size:
        return frames
    smaller = size[0] < frames.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, (size[1], size[0]), interpolation=method) for frame in frames])


def _followed(camera: CameraTrack, whole: tuple[int, int], stored: tuple[int, int]) -> CameraTrack:
    """The camera of the stored pictures: its lens follows the resize and, where the shape differs, the crop."""
    scale = np.array([whole[1] / camera.size[1], whole[0] / camera.size[0]])
    lens = crop_intrinsics(camera.intrinsics * np.concatenate([scale, scale]), whole, stored)
    # A pixel goes where the principal point would: by the ratio of focal lengths, and the crop's offset.
    (height, width), (top, left) = crop_plan(whole, stored)
    factor = scale * np.array([width / whole[1], height / whole[0]])
    seen = camera.seen._replace(xy=camera.seen.xy * factor - np.array([left, top]))
    return replace(camera, intrinsics=lens, size=stored, seen=seen)


def _write_camera(job: _Job, clip: str, camera: CameraTrack, window: Window, scale: dict[str, Any]) -> None:
    nan = np.full(len(camera), np.nan)
    lens_std: Array = np.full((len(camera), 4), np.nan)
    lens_std[:, :2] = camera.intrinsics[:, :2] * camera.focal_std[:, None]
    write_arrays(
        job.out / "cameras" / f"{clip}.npz",
        c2w=camera.c2w, intrinsics=camera.intrinsics, timestamps=window.times_s, fps=np.array(job.video.fps),
        width=np.array(camera.size[1]), height=np.array(camera.size[0]), pose_std=camera.pose_std, intr_std=lens_std,
        rmse_px=camera.rmse_px, inlier_ratio=camera.inlier_ratio, is_keyframe=camera.is_keyframe,
        points=camera.points, seen_frame=camera.seen.frame.astype(np.int32),
        seen_point=camera.seen.point.astype(np.int32), seen_xy=camera.seen.xy.astype(np.float32),
        metric=np.array(camera.metric), schema=np.array(SCHEMA),
        scale_raw=np.asarray(scale.get("raw", nan), np.float64), scale=np.asarray(scale.get("used", nan), np.float64),
    )  # fmt: skip
    write_array(job.out / "poses" / f"{clip}.npy", camera.c2w)
    write_array(job.out / "intrinsics" / f"{clip}.npy", camera.intrinsics)
