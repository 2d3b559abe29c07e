"""A folder of videos beside a split: which file is which scene, and everything that is wrong with it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wm_bench.splits.model import BenchScene, Split
from wm_bench.video import SUFFIXES, BrokenVideo, VideoInfo, decode, probe

_NAME = re.compile(r"^(?P<id>.+_\d{3})(?:_generated)?$")
_THUMB = (24, 40)
_FPS = (4.0, 240.0)
_SMALLEST_PX = 32
# A first frame this much nearer (in root mean square) to another scene's picture is that scene's.
_SWAP = 0.5


class Finding(NamedTuple):
    """One line about a submission. A scene with an error is not scored; a warning is only told."""

    level: Literal["error", "warning"]
    scene: str  # "" for the whole folder
    code: str
    message: str


class Submission(NamedTuple):
    """Videos by scene id, those without an error only; the method's own words; all findings."""

    folder: Path
    method: str
    info: dict[str, Any]
    videos: dict[str, VideoInfo]
    findings: list[Finding]


def read_submission(folder: Path, split: Split, report: Callable[[str], None] | None = None) -> Submission:
    """Match the videos of a folder to the scenes of a split and check each; nothing is written there.

    A scene's file is called ID_generated.mp4 or ID.mp4 (also .mkv, .webm, .mov, .npy). Raises ValueError only when the
    folder does not exist; everything else is a finding.
    """
    if not folder.is_dir():
        raise ValueError(f"no folder {folder}; allowed: a folder with one video a scene; example: results/mine")
    findings: list[Finding] = []
    info = _method_info(folder, findings)
    files = _files(folder, split, findings)
    found: dict[str, VideoInfo] = {}
    for scene in split.scenes:
        if report is not None:
            report(scene.id)
        choices = files.get(scene.id, [])
        if not choices:
            findings.append(Finding("error", scene.id, "missing", "no video"))
        elif len(choices) > 1:
            names = ", ".join(sorted(p.name for p in choices))
            findings.append(Finding("error", scene.id, "duplicate-file", f"more than one video: {names}"))
        else:
            video = _check(choices[0], scene, info, findings)
            if video is not None:
                found[scene.id] = video
    _check_together(found, findings)
    _check_first_frames(found, split, findings)
    bad = {f.scene for f in findings if f.level == "error"}
    method = str(info.get("model") or folder.resolve().name)
    return Submission(folder, method, info, {k: v for k, v in found.items() if k not in bad}, findings)


def _method_info(folder: Path, findings: list[Finding]) -> dict[str, Any]:
    """method_info.json of the folder or the one above, as the released layout has it."""
    for place in (folder, folder.parent):
        path = place / "method_info.json"
        if path.is_file():
            try:
                info = json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, OSError):
                info = None
            if not isinstance(info, dict):
                findings.append(Finding("warning", "", "method-info", "method_info.json is not a JSON object"))
                return {}
            return info
    return {}


def _files(folder: Path, split: Split, findings: list[Finding]) -> dict[str, list[Path]]:
    known = {scene.id for scene in split.scenes}
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith(".") or not path.is_file():
            continue
        match = _NAME.match(path.stem)
        scene_id = match["id"] if match else path.stem
        if scene_id in known:
            files.setdefault(scene_id, []).append(path)
        elif not path.stem.endswith("_poses"):
            findings.append(Finding("warning", "", "unknown-scene", f"{path.name} is no scene of {split.name}"))
    return files


def _check(path: Path, scene: BenchScene, info: dict[str, Any], findings: list[Finding]) -> VideoInfo | None:
    def error(code: str, message: str) -> None:
        findings.append(Finding("error", scene.id, code, message))

    try:
        video = probe(path)
    except BrokenVideo as broken:
        error("unreadable", str(broken))
        return None
    before = len(findings)
    height, width = video.size
    source = scene.source_size[1] / scene.source_size[0]
    kept = min(width / height, source) / max(width / height, source)
    if min(video.size) < _SMALLEST_PX or kept < 0.5:
        error("wrong-size", f"{width}x{height} px; allowed: at least {_SMALLEST_PX} px and about {source:.2f} to 1")
    declared = _resolution(info.get("resolution"))
    if declared is not None and declared != video.size:
        error("wrong-size", f"{width}x{height} px, but method_info.json says {declared[1]}x{declared[0]}")
    if not _FPS[0] <= video.fps <= _FPS[1]:
        error("wrong-fps", f"{video.fps:g} frames per second; allowed: {_FPS[0]:g} to {_FPS[1]:g}")
    elif isinstance(info.get("fps"), (int, float)) and abs(float(info["fps"]) - video.fps) > 0.02 * video.fps:
        error("wrong-fps", f"{video.fps:g} frames per second, but method_info.json says {info['fps']:g}")
    steps = np.diff(video.times_s)
    step = 1.0 / max(video.fps, 1e-6)
    if len(steps) and steps.min() <= 0:
        error("bad-times", "two frames have the same time")
    elif len(steps) and steps.max() > 4 * step + 1e-6:
        error("bad-times", f"no frame for {steps.max():.2f} s")
    elif len(steps) and steps.max() > 1.5 * step:
        findings.append(
            Finding("warning", scene.id, "variable-rate", f"steps of {steps.min():.3f}-{steps.max():.3f} s")
        )
    # 960 frames of the released manifest and 961 of a generator are both whole.
    rest = scene.duration_s - float(video.times_s[-1])
    slack = max(step, 1.0 / scene.fps) + 1e-3
    if rest > slack:
        error("too-short", f"{video.times_s[-1] + step:.2f} s of {scene.duration_s:g} s")
    elif -rest > slack:
        findings.append(Finding("warning", scene.id, "too-long", f"{-rest:.2f} s beyond the path are not scored"))
    return video if len(findings) == before or findings[-1].level == "warning" else None


def _resolution(value: Any) -> tuple[int, int] | None:
    """(height, width) from "1280x704", [704, 1280] or nothing; upstream writes width first in text."""
    if isinstance(value, str) and (match := re.fullmatch(r"(\d+)\s*[xX]\s*(\d+)", value)):
        return int(match[2]), int(match[1])
    if isinstance(value, list) and len(value) == 2 and all(isinstance(v, int) for v in value):
        return value[0], value[1]
    return None


def _check_together(found: dict[str, VideoInfo], findings: list[Finding]) -> None:
    """Faults that only show beside the other videos: the same file twice, one odd size or frame rate."""
    by_hash: dict[str, list[str]] = {}
    for scene_id, video in found.items():
        by_hash.setdefault(video.sha256, []).append(scene_id)
    for ids in by_hash.values():
        for scene_id in ids if len(ids) > 1 else ():
            others = ", ".join(i for i in ids if i != scene_id)
            findings.append(Finding("error", scene_id, "duplicate-content", f"the same file as {others}"))
    if len(found) < 3:
        return
    for code, values in (
        ("wrong-size", {i: f"{v.size[1]}x{v.size[0]} px" for i, v in found.items()}),
        ("wrong-fps", {i: f"{v.fps:g} frames per second" for i, v in found.items()}),
    ):
        (usual, count), *_ = Counter(values.values()).most_common()
        for scene_id, value in values.items():
            if value != usual and count > len(values) / 2:
                findings.append(Finding("error", scene_id, code, f"{value}, the other videos have {usual}"))


def _check_first_frames(found: dict[str, VideoInfo], split: Split, findings: list[Finding]) -> None:
    """Find swapped ids: a first frame that is another scene's picture, and one that is nobody's."""
    pictures = {scene.id: _thumb(split.first_frame(scene, (90, 160))) for scene in split.scenes}
    for scene_id, video in found.items():
        try:
            first = _thumb(next(decode(video.path)))
        except (BrokenVideo, StopIteration):
            findings.append(Finding("error", scene_id, "unreadable", "the first frame cannot be decoded"))
            continue
        off = {other: float(np.sqrt(np.mean((first - picture) ** 2))) for other, picture in pictures.items()}
        nearest = min(off, key=lambda other: off[other])
        if nearest != scene_id and off[nearest] < _SWAP * off[scene_id]:
            findings.append(Finding("error", scene_id, "swapped", f"the first frame is that of {nearest}"))
        elif first.std() < 1.0:
            findings.append(Finding("warning", scene_id, "blank", "the first frame has one colour"))
        elif off[scene_id] > 50.0:
            findings.append(Finding("warning", scene_id, "first-frame", "the first frame is not the picture given"))


def _thumb(frame: NDArray[np.uint8]) -> NDArray[np.float64]:
    small = Image.fromarray(frame).resize(_THUMB[::-1], Image.Resampling.BOX)
    return np.asarray(small, dtype=np.float64)
