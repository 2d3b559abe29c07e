"""Results of stages under the digest of everything they depend on, so that nothing is worked out twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pose_annotation.outputs import digest_of, read_arrays, read_json, write_arrays, write_json
from pose_annotation.settings import VERSION
from pose_annotation.types import CameraTrack, Observations, Tracks

_FIELDS = (
    "c2w", "intrinsics", "focal_std", "pose_std", "rmse_px", "inlier_ratio", "is_keyframe", "points",
)  # fmt: skip


@dataclass
class StageStore:
    """A folder `stage/key.npz|json`; `worked` counts the stages that had to run."""

    folder: Path
    worked: dict[str, int] = field(default_factory=dict)

    def arrays(self, stage: str, inputs: object, make: Callable[[], dict[str, NDArray[Any]]]) -> dict[str, Any]:
        """The stored arrays for these inputs, made and stored when they are not there or damaged."""
        path = self.folder / stage / f"{digest_of([VERSION, stage, inputs])}.npz"
        if path.is_file():
            try:
                return read_arrays(path)
            except ValueError:
                path.unlink()
        made = make()
        write_arrays(path, **made)
        self.worked[stage] = self.worked.get(stage, 0) + 1
        return made

    def values(self, stage: str, inputs: object, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The stored JSON object for these inputs, made and stored when it is not there or damaged."""
        path = self.folder / stage / f"{digest_of([VERSION, stage, inputs])}.json"
        if path.is_file():
            try:
                return read_json(path)
            except ValueError:
                path.unlink()
        write_json(path, make())
        self.worked[stage] = self.worked.get(stage, 0) + 1
        # Read back, so that the first run and all later ones see the same numbers.
        return read_json(path)


def tracks_to_arrays(tracks: Tracks) -> dict[str, NDArray[Any]]:
    """Tracks as plain arrays."""
    return {
        "frame": tracks.frame, "track": tracks.track, "xy": tracks.xy,
        "frames": np.array(tracks.frames), "size": np.array(tracks.size),
    }  # fmt: skip


def tracks_from_arrays(arrays: dict[str, NDArray[Any]]) -> Tracks:
    """The inverse of `tracks_to_arrays`."""
    size = (int(arrays["size"][0]), int(arrays["size"][1]))
    return Tracks(arrays["frame"], arrays["track"], arrays["xy"], int(arrays["frames"]), size)


def camera_to_arrays(camera: CameraTrack) -> dict[str, NDArray[Any]]:
    """A solved camera as plain arrays."""
    names = sorted(camera.extra)
    return {name: getattr(camera, name) for name in _FIELDS} | {
        "size": np.array(camera.size),
        "flags": np.array(camera.flags, dtype="U32"),
        "metric": np.array(camera.metric),
        "extra_names": np.array(names, dtype="U32"),
        "seen_frame": camera.seen.frame,
        "seen_point": camera.seen.point,
        "seen_xy": camera.seen.xy,
        "extra_values": np.array([camera.extra[name] for name in names], dtype=np.float64),
    }


def camera_from_arrays(arrays: dict[str, NDArray[Any]]) -> CameraTrack:
    """The inverse of `camera_to_arrays`."""
    extra = {str(n): float(v) for n, v in zip(arrays["extra_names"], arrays["extra_values"], strict=True)}
    fields = {name: arrays[name] for name in _FIELDS}
    size = (int(arrays["size"][0]), int(arrays["size"][1]))
    flags = tuple(str(flag) for flag in arrays["flags"])
    seen = Observations(arrays["seen_frame"], arrays["seen_point"], arrays["seen_xy"])
    return CameraTrack(**fields, size=size, flags=flags, metric=bool(arrays["metric"]), extra=extra, seen=seen)
