"""The camera of one clip: solved from tracks, from another program, or taken from a given path; then its metres."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from camera_control.geometry import relative_to_first
from camera_control.trajectory import Trajectory
from numpy.typing import NDArray

from pose_annotation.backends import Depth, PoseBackend, identity
from pose_annotation.scale import (
    ratio_of_depths,
    require_maps,
    sample_depth,
    scale_by_distance,
    scale_by_height,
    scale_of_given_path,
)
from pose_annotation.settings import Request, Settings
from pose_annotation.solve import SolveConfig, solve_camera
from pose_annotation.store import (
    StageStore,
    camera_from_arrays,
    camera_to_arrays,
    tracks_from_arrays,
    tracks_to_arrays,
)
from pose_annotation.types import Array, CameraTrack
from pose_annotation.video import Video
from pose_annotation.windows import Window

if TYPE_CHECKING:
    from pose_annotation.pipeline import Tools


@dataclass(frozen=True, eq=False)
class GivenPath:
    """A camera path of the whole video, in time."""

    path: Trajectory

    @staticmethod
    def load(file: Path) -> GivenPath:
        """Read any camera file that camera-control reads. Raises ValueError when it has no intrinsics or size."""
        path = Trajectory.load(file)
        if path.intrinsics is None or path.image_size is None:
            raise ValueError(f"{file} has no intrinsics or no image size; allowed: .npz or transforms.json with both")
        return GivenPath(path)

    def camera(self, times_s: Array, size: tuple[int, int]) -> CameraTrack:
        """The camera at these times, its lens for pictures of (height, width) `size`."""
        if times_s[-1] > self.path.times_s[-1] + 1.0 / self.path.fps:
            raise ValueError(
                f"the given path ends at {self.path.times_s[-1]:.2f} s, the clip at {times_s[-1]:.2f} s; allowed: a "
                "path of the whole video"
            )
        c2w, lens = self.path.at(np.minimum(times_s, self.path.times_s[-1]))
        assert lens is not None and self.path.image_size is not None
        scale = np.array([size[1] / self.path.image_size[1], size[0] / self.path.image_size[0]])
        n = len(times_s)
        nan = np.full((n, 6), np.nan)
        return CameraTrack(
            relative_to_first(c2w), lens * np.concatenate([scale, scale]), size, nan[:, 0], nan, nan[:, 0], np.ones(n),
            np.zeros(n, bool), np.zeros((0, 3)),
        )  # fmt: skip


def find_camera(
    frames: NDArray[np.uint8], window: Window, inputs: list[Any], request: Request, settings: Settings, tools: Tools,
    store: StageStore, video: Video, path: GivenPath | None,
) -> tuple[CameraTrack, dict[str, Any]]:  # fmt: skip
    """The camera of `frames` (f, h, w, 3), and what was found about its scale. Raises Unsolvable."""
    size = (int(frames.shape[1]), int(frames.shape[2]))
    start = None
    if request.intrinsics is not None:
        ratio = np.array([size[1] / video.source_size[1], size[0] / video.source_size[0]])
        start = np.array(request.intrinsics) * np.concatenate([ratio, ratio])
    scale: dict[str, Any] = {"method": "none"}
    if path is not None:
        given = path.camera(window.times_s, size)
        start = given.intrinsics
        if tools.depth is None:
            return _hinted(given, scale, request, window)
    here = [*inputs, list(size)]
    if tools.pose is not None and tools.depth is None and path is None:
        camera = _elsewhere(frames, video.fps, start, here, tools.pose, store)
        return (camera, {"method": tools.pose.name}) if camera.metric else _hinted(camera, scale, request, window)
    depth = None if tools.depth is None else _depth(frames, window, here, request, tools, store, start)
    arrays = store.arrays(
        "tracks", [*here, identity(tools.tracker)], lambda: tracks_to_arrays(tools.tracker.track(frames))
    )
    tracks = tracks_from_arrays(arrays)
    z: Array | None = None
    if depth is not None:
        z = sample_depth(np.asarray(depth.z, np.float64), tracks)
        scale = {"method": "depth" if depth.metric else "relative depth"}
        if depth.scale_raw is not None and depth.scale is not None:
            scale |= {"raw": depth.scale_raw, "used": depth.scale}
    level = "fixed" if path is not None else settings.level_of(request.intrinsics is not None)
    config = SolveConfig(level=level)

    parts = [config.level, start, request.depth, identity(tools.tracker), identity(tools.depth)]
    camera = camera_from_arrays(
        store.arrays(
            "camera",
            [*here, *[_named(part) for part in parts]],
            lambda: camera_to_arrays(solve_camera(tracks, video.fps, start, z, config, frames)),
        )
    )
    if depth is not None:
        camera = replace(camera, metric=depth.metric)
    if path is not None:
        assert z is not None
        depths = float(np.nanmedian(z)), ratio_of_depths(given, tracks, z)
        factor = scale_of_given_path(given.c2w, camera.c2w, *depths)
        return given.scaled(factor, metric=camera.metric), scale | {"method": "given path", "factor": factor}
    if camera.metric:
        return camera, scale
    return _hinted(camera, scale, request, window)


def _elsewhere(
    frames: NDArray[np.uint8], fps: float, start: Array | None, here: list[Any], pose: PoseBackend, store: StageStore
) -> CameraTrack:
    """The camera that another program finds."""
    inputs = [*here, _named(start), identity(pose)]
    return camera_from_arrays(store.arrays("camera", inputs, lambda: camera_to_arrays(pose.solve(frames, fps, start))))


def _named(part: object) -> object:
    return part.tolist() if isinstance(part, np.ndarray) else part if isinstance(part, dict) else str(part)


def _depth(
    frames: NDArray[np.uint8], window: Window, here: list[Any], request: Request, tools: Tools, store: StageStore,
    start: Array | None,
) -> Depth:  # fmt: skip
    backend = tools.depth
    assert backend is not None

    def infer() -> dict[str, NDArray[Any]]:
        lens = None if start is None else start.reshape(-1, 4)[0]
        found = backend.infer(frames, window.first, lens)
        require_maps(found.z.shape, len(frames), (int(frames.shape[1]), int(frames.shape[2])))
        nan = np.full(len(frames), np.nan)
        return {
            "z": found.z.astype(np.float32), "metric": np.array(found.metric),
            "raw": nan if found.scale_raw is None else found.scale_raw,
            "used": nan if found.scale is None else found.scale,
        }  # fmt: skip

    kept = store.arrays("depth", [*here, identity(backend), str(request.depth), _named(start)], infer)
    fused = bool(np.isfinite(kept["raw"]).any())
    return Depth(kept["z"], bool(kept["metric"]), kept["raw"] if fused else None, kept["used"] if fused else None)


def _hinted(
    camera: CameraTrack, scale: dict[str, Any], request: Request, window: Window
) -> tuple[CameraTrack, dict[str, Any]]:
    """Metres from what the user knows; a hint that does not fit this clip leaves it without, and says why."""
    if "static_camera" in camera.flags or "pure_rotation" in camera.flags:
        return camera, scale
    try:
        if request.scale_factor is not None:
            return camera.scaled(request.scale_factor, metric=True), {"method": "scale factor"}
        if request.known_distance is not None:
            first, second, metres = request.known_distance
            at = [_frame_at(window.times_s, time_s) for time_s in (first, second)]
            return scale_by_distance(camera, at[0], at[1], metres), {"method": "known distance"}
        if request.camera_height is not None:
            camera, share = scale_by_height(camera, request.camera_height)
            return camera, {"method": "camera height", "ground_share": share}
    except ValueError as error:
        return camera, {"method": "none", "reason": str(error)}
    return camera, scale


def _frame_at(times_s: Array, time_s: float) -> int:
    frame = int(np.abs(times_s - time_s).argmin())
    if abs(float(times_s[frame]) - time_s) > 0.1:
        raise ValueError(f"second {time_s:g} is not in this clip ({times_s[0]:.2f} to {times_s[-1]:.2f} s)")
    return frame
