"""What an annotation run is asked to do, and what its user knows about each video."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from pose_annotation.lens_prior import LEVELS
from pose_annotation.windows import WindowRule

VERSION = 5  # of the stages; another one makes stored results stale


@dataclass(frozen=True)
class Settings:
    """One run's settings; equal for all its videos.

    Args:
        fps: Frame rate of the clips; slower videos keep their own.
        width: Pictures are stored this wide at most.
        size: (height, width) to crop and resize the stored clips to instead; None keeps the shape.
        solve_width: Pictures are at most this wide where the camera is solved.
        rule: Lengths of clips.
        level: Which lens parameters are free; None = none of a lens that is given, one focal length a frame of others.
    """

    fps: float = 16.0
    width: int = 640
    size: tuple[int, int] | None = None
    solve_width: int = 448
    rule: WindowRule = field(default_factory=WindowRule)
    level: str | None = None

    def __post_init__(self) -> None:
        if self.level is not None and self.level not in LEVELS:
            raise ValueError(f"lens level is {self.level!r}; allowed: {', '.join(LEVELS)}; example: 'per_frame_f'")
        if not (math.isfinite(self.fps) and 1 <= self.fps <= 240):
            raise ValueError(f"fps is {self.fps}; allowed: 1 to 240; example: 16")
        for name in ("width", "solve_width"):
            if not 64 <= getattr(self, name) <= 4096:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: 64 to 4096 pixels; example: 640")
        if self.size is not None and (min(self.size) < 32 or self.size[0] % 2 or self.size[1] % 2):
            raise ValueError(f"size is {self.size}; allowed: (height, width), even, from 32; example: (96, 160)")

    def level_of(self, lens_is_given: bool) -> str:
        """The level at which a video is solved."""
        return self.level or ("fixed" if lens_is_given else "per_frame_f")

    def as_json(self) -> dict[str, Any]:
        """The settings as plain values, for records and keys."""
        return asdict(self)


@dataclass(frozen=True)
class Request:
    """One video and what is known about it.

    Args:
        video: The file.
        source: Name of the source in the policy table.
        split: "train" or "val".
        licence: Recorded as given.
        intrinsics: fx, fy, cx, cy in pixels of the upright source picture; kept or started from, by the lens level.
        depth: Folder or file with a depth map for every frame of the clips, for mode "gt_depth".
        poses: A camera path file of the whole video, for mode "gt_pose".
        scale_factor, known_distance, camera_height: What makes the path metric without depth: metres per unit; (second
            of one moment, second of another, metres between them); metres above the ground.
    """

    video: Path
    source: str = "video"
    split: str = "train"
    licence: str = "unknown"
    intrinsics: tuple[float, float, float, float] | None = None
    depth: Path | None = None
    poses: Path | None = None
    scale_factor: float | None = None
    known_distance: tuple[float, float, float] | None = None
    camera_height: float | None = None

    def __post_init__(self) -> None:
        if self.split not in ("train", "val"):
            raise ValueError(f"split is {self.split!r}; allowed: train, val; example: 'train'")
        if self.intrinsics is not None and not (
            len(self.intrinsics) == 4
            and all(math.isfinite(v) for v in self.intrinsics)
            and min(self.intrinsics[:2]) > 0
        ):
            raise ValueError(
                f"intrinsics are {list(self.intrinsics)}; allowed: fx fy cx cy in pixels; example: 900 900 640 360"
            )
        if self.known_distance is not None and len(self.known_distance) != 3:
            raise ValueError(
                f"known distance is {list(self.known_distance)}; allowed: second, second, metres; example: 0 2.5 1.8"
            )
        given = [n for n in ("scale_factor", "known_distance", "camera_height") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; allowed: one of them; example: camera_height 1.6")

    @property
    def mode(self) -> str:
        """What is given and kept: the paper's "gt_pose", "gt_depth", or "default" for neither."""
        return "gt_pose" if self.poses is not None else "gt_depth" if self.depth is not None else "default"

    def as_json(self) -> dict[str, Any]:
        """What decides the result, without the file's place."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "video"}
        return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def request_from_row(row: Mapping[str, Any], folder: Path) -> Request:
    """A request from a manifest row; relative paths count from `folder`. Raises ValueError for bad fields."""
    known = {f.name for f in fields(Request)}
    unknown = sorted(set(row) - known)
    if unknown:
        raise ValueError(f"field {unknown[0]!r} is unknown; allowed: {', '.join(sorted(known))}; example: 'video'")
    if not isinstance(row.get("video"), str) or not row["video"]:
        raise ValueError(f"video is {row.get('video')!r}; allowed: a file name; example: 'walk.mp4'")
    values: dict[str, Any] = {}
    for name, value in row.items():
        if value is None:
            continue
        try:
            if name in ("video", "depth", "poses"):
                values[name] = folder / str(value)
            elif name in ("intrinsics", "known_distance"):
                values[name] = tuple(float(v) for v in value)
            elif name in ("scale_factor", "camera_height"):
                values[name] = float(value)
            else:
                values[name] = str(value)
        except (TypeError, ValueError):
            raise ValueError(f"{name} is {value!r}; allowed: numbers; example: [900, 900, 640, 360]") from None
    return Request(**values)
