"""From tracks to a camera for every frame: keyframes, map, bundle adjustment, the frames between, and doubts.

What cannot be seen is flagged, not invented: a camera that stands still gets identity poses ("static_camera"), one that
only turns gets no translation ("pure_rotation"), a focal length that the motion does not show is shared by all frames
("focal_unobservable"). A map that misses its tracks by more than a tracker does ("poor_fit"), and a clip that several
maps explain equally well ("ambiguous"), are flagged too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pose_annotation.adjust import State, adjust, covariance, lens_from_intrinsics, residuals
from pose_annotation.lens_prior import LEVELS, LensPrior, freedom, lens_rows
from pose_annotation.mapping import Map
from pose_annotation.relinking import Pictures, find_again, pictures_of
from pose_annotation.rotations import interpolate_poses
from pose_annotation.starts import Unsolvable, best_map
from pose_annotation.threads import one_thread
from pose_annotation.tracking import choose_keyframes
from pose_annotation.turning import UNSURE_LOG_F, solve_turning
from pose_annotation.two_view import widest_angle_deg
from pose_annotation.types import Array, CameraTrack, Ints, Observations, Tracks

LEAST_RISE = 1.03
FOV_LIMITS_DEG = (25.0, 120.0)
MOST_RMSE_PX = 0.4  # at 640 pixels width or less; a right map of a sharp video has half of it


@dataclass(frozen=True)
class SolveConfig:
    """How to solve.

    Args:
        level: Which lens parameters are free: "fixed", "shared_f", "per_frame_f", "per_frame_f_pp" or "full".
        start_focal: First guess of the focal length in picture widths, when no intrinsics are given.
        keyframe_flow: Median motion between keyframes, in picture widths.
        dense_frames: Up to this many frames all are adjusted together; longer clips adjust keyframes, then the rest.
        most_keyframes: Keyframes are thinned to this number.
        depth_weight: Weight of log depth against squared pixels.
        relinks: How often lost points are searched again, where there are pictures.
        prior: Beliefs about the lens.
    """

    level: str = "per_frame_f"
    start_focal: float = 0.9
    keyframe_flow: float = 0.03
    dense_frames: int = 120
    most_keyframes: int = 150
    depth_weight: float = 20.0
    relinks: int = 2
    prior: LensPrior = field(default_factory=LensPrior)

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            raise ValueError(f"lens level is {self.level!r}; allowed: {', '.join(LEVELS)}; example: 'per_frame_f'")


@one_thread()
def solve_camera(
    tracks: Tracks,
    fps: float,
    intrinsics: Array | None = None,
    depth: Array | None = None,
    config: SolveConfig | None = None,
    frames: NDArray[np.uint8] | None = None,
) -> CameraTrack:
    """Solve the camera of a clip from tracks.

    Args:
        fps: Frames per second, for the motion threshold of a static camera.
        frames: (f, H, W, 3) or (f, H, W) the pictures, where points that were lost are searched again; None: nowhere.
        intrinsics: (4,) or (f, 4) fx, fy, cx, cy px to start from; with level "fixed" they are kept.
        depth: (m,) metric or relative depth at every observation of the tracks, nan where unknown.

    Raises Unsolvable when too little moves together, ValueError for shapes that do not fit. Reference: annotate.md 2.4.
    """
    config = config or SolveConfig()
    config = replace(config, prior=replace(config.prior, fps=fps))
    start = _start_lens(tracks, intrinsics, config)
    if depth is not None and depth.shape != tracks.frame.shape:
        raise ValueError(f"depth has shape {depth.shape}; allowed: one value an observation, {tracks.frame.shape}")
    if tracks.frames < 2 or len(tracks.frame) < 40:
        raise Unsolvable(f"{len(tracks.frame)} tracked points in {tracks.frames} frames; allowed: a textured clip")
    speed = flow_speed(tracks, fps)
    if speed < 0.5 * tracks.size[1] / 640.0:
        return _static(tracks, start)
    keyframes = _keyframes(tracks, config)
    if depth is None:
        turning = solve_turning(tracks, keyframes, start, config.level, config.prior)
        if turning is not None:
            return turning
    found, ambiguous = best_map(tracks, keyframes, start, depth, config)
    level = config.level
    flags: set[str] = {"ambiguous"} if ambiguous else set()
    solved, found = _finish(found, level, config, frames)
    focal_std = solved.focal_std
    if level != "fixed" and not (np.nanmax(focal_std) <= UNSURE_LOG_F and _lens_matters(found, config)):
        flags.add("focal_unobservable")
        believing = replace(config, prior=_belief(config.prior, start, solved))
        solved, found = _finish(found, "shared_f", believing, None)
        solved = replace(solved, focal_std=focal_std)
    fov = 2 * np.degrees(np.arctan(tracks.size[1] / (2 * solved.intrinsics[:, 0])))
    if level != "fixed" and (fov.min() < FOV_LIMITS_DEG[0] or fov.max() > FOV_LIMITS_DEG[1]):
        flags.add("focal_unobservable")
    if (solved.inlier_ratio < 0.3).any():
        flags.add("dynamic_dominant")
    if depth is None and solved.extra["parallax_deg"] < 2.0:
        flags.add("low_parallax")
    if depth is None and solved.extra["rmse_px"] > MOST_RMSE_PX * max(1.0, tracks.size[1] / 640.0):
        flags.add("poor_fit")
    return replace(solved, flags=tuple(sorted(flags | set(solved.flags))))


def _belief(prior: LensPrior, start: Array, solved: CameraTrack) -> LensPrior:
    """A belief in the lens to start from, as strong as the evidence that a lens needs to count as seen.

    Where the tracks do not show the lens, their noise picks one, and another one when the clip is played backwards. So
    a lens a fifth from the first guess has to explain the tracks better by as much as `_lens_matters` asks for.
    """
    if prior.log_f is not None:
        return prior
    energy = 0.5 * solved.extra["observations"] * solved.extra["rmse_px"] ** 2
    weight = 2.0 * (LEAST_RISE - 1.0) * energy / np.log(1.2) ** 2
    return replace(prior, focal=float(weight), log_f=float(np.mean(np.log(start[..., 0]))))


def _lens_matters(found: Map, config: SolveConfig) -> bool:
    """Whether a lens that is a fifth longer or shorter explains the keyframes clearly worse, all else solved again.

    A dolly without any turn fits every focal length; the Hessian at a noisy solution does not show it.
    """
    costs = []
    for factor in (1.0, 1.2, 1.0 / 1.2):
        trial = found.copy()
        trial.lens[:, 0] += np.log(factor)
        costs.append(trial.refine("fixed", config.prior, 8, 1.0, 1e-4))
    return min(costs[1:]) > LEAST_RISE * costs[0]


def flow_speed(tracks: Tracks, fps: float) -> float:
    """Median motion of the tracked points in pixels per second: the larger of short and long steps.

    Long steps (about a second) keep slow motion above the tracker's noise.
    """
    speeds = []
    step = max(1, min(round(fps), tracks.frames - 1))
    for first in range(0, tracks.frames - step, max(1, step // 2)):
        _, a, b = tracks.pair(first, first + step)
        if len(a) >= 8:
            speeds.append(float(np.median(np.linalg.norm(b - a, axis=1))) * fps / step)
    return float(np.median(speeds)) if speeds else np.inf


def _start_lens(tracks: Tracks, intrinsics: Array | None, config: SolveConfig) -> Array:
    height, width = tracks.size
    if intrinsics is None:
        if config.level == "fixed":
            raise ValueError(
                "lens level 'fixed' needs intrinsics; allowed: fx, fy, cx, cy in pixels; example: 600 600 640 360"
            )
        focal = config.start_focal * width
        return np.array([focal, focal, width / 2.0, height / 2.0])
    values = np.asarray(intrinsics, dtype=np.float64)
    if (
        values.shape not in ((4,), (tracks.frames, 4))
        or not np.isfinite(values).all()
        or not (values[..., :2] > 0).all()
    ):
        raise ValueError(
            f"intrinsics have shape {values.shape}; allowed: (4,) or ({tracks.frames}, 4) positive fx, fy, cx, cy in "
            "pixels; example: 600 600 640 360"
        )
    return values


def _keyframes(tracks: Tracks, config: SolveConfig) -> Ints:
    flow = config.keyframe_flow * tracks.size[1]
    chosen = choose_keyframes(tracks, flow)
    while len(chosen) > config.most_keyframes:
        flow *= 1.3
        chosen = choose_keyframes(tracks, flow)
    return chosen


def _static(tracks: Tracks, start: Array) -> CameraTrack:
    n, nan = tracks.frames, np.full(tracks.frames, np.nan)
    return CameraTrack(
        np.tile(np.eye(4), (n, 1, 1)), np.broadcast_to(start, (n, 4)).copy(), tracks.size, nan, np.full((n, 6), np.nan),
        nan, np.ones(n), np.zeros(n, bool), np.zeros((0, 3)), ("focal_unobservable", "static_camera"),
    )  # fmt: skip


class _Dense(NamedTuple):
    """All frames between the keyframes, ready to be adjusted."""

    whole: Map
    is_keyframe: NDArray[np.bool_]


def _finish(found: Map, level: str, config: SolveConfig, frames: NDArray[np.uint8] | None) -> tuple[CameraTrack, Map]:
    """Adjust keyframes at the level wanted, fill in every frame, adjust again where affordable, and measure."""
    for limit in (8.0, 3.3, 2.5):
        found.reject(limit)
        found.place_points()
    grow = "fixed" if level == "fixed" else "shared_f"
    found.refine(grow, config.prior, 10, 1.0, 1e-5)
    found.reject(2.5)
    found.refine(level, config.prior, 15, 1.0, 1e-6)
    if frames is not None:
        found = _relinked(found, pictures_of(frames), level, config)
    tracks = found.view.tracks
    dense = _infill(found, tracks, level, config)
    whole = dense.whole
    if tracks.frames <= config.dense_frames:
        whole.place_points()
        whole.reject(4.0)
        whole.refine(level, config.prior, 10, 1.0, 1e-4)
        if whole.view.depth is None:
            # The cameras are good now; the points, placed when they were rough, may not be.
            whole.place_again()
            whole.refine(level, config.prior, 10, 1.0, 1e-4)
        whole.reject(2.5)
        whole.place_points()
        whole.refine(level, config.prior, 20, 1.0, 1e-7)
    return _measure(whole, found, dense.is_keyframe, level, config), found


def _relinked(found: Map, picture: Pictures, level: str, config: SolveConfig) -> Map:
    """The map with its lost points found again and adjusted to them; a better map finds more, so more than once."""
    for _ in range(config.relinks):
        found, count = find_again(found, picture)
        if not count:
            break
        found.refine(level, config.prior, 8, 1.0, 1e-5)
        found.reject(2.5)
    return found


def _infill(found: Map, tracks: Tracks, level: str, config: SolveConfig) -> _Dense:
    """Every frame between the keyframes: interpolate, then fit pose and lens to the points of the map, 64 at a time."""
    everything = np.arange(tracks.frames)
    places = np.flatnonzero(found.known)
    key = found.frames[places]
    is_key = np.zeros(tracks.frames, bool)
    is_key[key] = True
    turn, shift = interpolate_poses(
        key.astype(float), found.rotation[places], found.translation[places], everything.astype(float)
    )
    lens = np.stack([np.interp(everything, key, column) for column in found.lens[places].T], -1)
    whole = Map(
        found.view, everything, turn, shift, lens, np.ones(tracks.frames, bool), found.world.copy(), found.placed.copy()
    )
    rows, _, track = whole.observations(placed=True)
    frame = tracks.frame[rows]
    centre = np.array([tracks.size[1] / 2.0, tracks.size[0] / 2.0])
    for low in range(0, tracks.frames, 64):
        span = np.arange(max(0, low - 2), min(tracks.frames, low + 66))
        if is_key[span].all():
            continue
        inside = (frame >= span[0]) & (frame <= span[-1])
        ids, local = np.unique(track[inside], return_inverse=True)
        problem = replace(
            whole.problem(2.0)[0], frame=frame[inside] - span[0], point=local, xy=tracks.xy[rows[inside]], z=None
        )
        state = State(whole.rotation[span], whole.translation[span], whole.lens[span], whole.world[ids])
        settled = is_key[span] | (span < low)
        each = level if level in ("fixed", "shared_f") else "per_frame_f"
        free = freedom(
            len(span), "fixed" if each == "shared_f" else each, fixed_poses=np.flatnonzero(settled), points=False
        )
        free.columns[settled, 6:] = -1
        free = replace(free, columns=_renumbered(free.columns))
        prior = lens_rows(config.prior, span.astype(float), centre, tracks.size, each)
        state, _ = adjust(state, problem, free, prior, 8, 1e-5)
        whole.rotation[span], whole.translation[span], whole.lens[span] = state.rotation, state.translation, state.lens
    return _Dense(whole, is_key)


def _renumbered(columns: Ints) -> Ints:
    used = np.unique(columns[columns >= 0])
    out = np.full_like(columns, -1)
    out[columns >= 0] = np.searchsorted(used, columns[columns >= 0])
    return out


def _measure(whole: Map, found: Map, is_keyframe: NDArray[np.bool_], level: str, config: SolveConfig) -> CameraTrack:
    """World at frame 0, unit of length, residuals and deviations."""
    problem, _, ids, _rows = whole.problem(1.0)
    state = State(whole.rotation, whole.translation, whole.lens, whole.world[ids])
    r, y = residuals(state, problem)
    error = np.linalg.norm(r, axis=1)
    n, tracks = len(whole.frames), whole.view.tracks
    seen = np.bincount(problem.frame, minlength=n)
    with np.errstate(invalid="ignore", divide="ignore"):
        rmse = np.sqrt(np.bincount(problem.frame, error**2, n) / seen)
    tracked = np.bincount(tracks.frame, minlength=n)
    noise = max(float(np.median(error)) / 1.1774, 0.02) if len(error) else float("nan")
    deviation = _deviations(found if n > config.dense_frames else whole, n, level, config) * noise
    first = np.eye(4)
    first[:3, :3], first[:3, 3] = whole.rotation[0], whole.translation[0]
    c2w = first @ state.c2w
    c2w[0] = np.eye(4)
    points = state.points @ first[:3, :3].T + first[:3, 3]
    angles = widest_angle_deg(state.points, whole.centres, problem.frame, problem.point)
    extra = {
        "observations": float(len(error)),
        "points": float(len(ids)),
        "keyframes": float(is_keyframe.sum()),
        "rmse_px": float(np.sqrt(np.mean(error**2))) if len(error) else float("nan"),
        "parallax_deg": float(np.median(angles)) if len(angles) else 0.0,
    }
    solved = CameraTrack(
        c2w, state.intrinsics, tracks.size,
        deviation[:, 6],
        deviation[:, :6],
        rmse, np.minimum(seen / np.maximum(tracked, 1), 1.0),
        is_keyframe, points, (), problem.z is not None, extra, Observations(problem.frame, problem.point, problem.xy),
    )  # fmt: skip
    if problem.z is not None or not len(y):
        return solved
    # Without depth the unit is free: the median depth of everything seen becomes 1.
    return solved.scaled(1.0 / float(np.median(y[:, 2])))


def _deviations(solved: Map, frames: int, level: str, config: SolveConfig) -> Array:
    """Standard deviations (frames, 11) for a pixel noise of 1, interpolated between the frames of the map."""
    problem, places, ids, _ = solved.problem(1.0)
    turn, shift = solved.rotation[places], solved.translation[places]
    # The first frame at the origin, so that the fixed distance is the one between two cameras.
    offset = -turn[0].T @ shift[0]
    state = State(turn, shift + turn @ offset, solved.lens[places], solved.world[ids] - offset)
    far = int(np.linalg.norm(state.translation, axis=1).argmax())
    depth = problem.z is not None
    free = freedom(len(places), level, scale_frame=far if not depth and far else None, depth=depth)
    at, tracks = solved.frames[places].astype(float), solved.view.tracks
    centre = np.array([tracks.size[1] / 2.0, tracks.size[0] / 2.0])
    prior = lens_rows(config.prior, at, centre, tracks.size, level, depth=depth)
    deviation = covariance(state, problem, free, prior)
    return np.stack([np.interp(np.arange(frames), at, column) for column in deviation.T], -1)


__all__ = ["SolveConfig", "Unsolvable", "flow_speed", "lens_from_intrinsics", "solve_camera"]
