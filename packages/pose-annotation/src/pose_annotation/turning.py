"""A camera that only turns: rotations and focal length, without inventing a translation."""

from __future__ import annotations

import itertools

import numpy as np

from pose_annotation.adjust import Problem, State, adjust, covariance, lens_from_intrinsics, residuals
from pose_annotation.lens_prior import LensPrior, freedom, lens_rows
from pose_annotation.rotations import interpolate_poses
from pose_annotation.two_view import rays, turn_between
from pose_annotation.types import Array, CameraTrack, Ints, Tracks

UNSURE_LOG_F = 0.1  # standard deviation of log focal length above which it counts as unknown
_TYPICAL_PX, _WORST_PX = 0.5, 1.5


def solve_turning(tracks: Tracks, keyframes: Ints, start: Array, level: str, prior: LensPrior) -> CameraTrack | None:
    """The camera as rotations only, when they alone explain the tracks; None when there is parallax.

    They explain the tracks when the median error is below 0.5 px and the 90th percentile below 1.5 px at 640 px width.
    The flags say "pure_rotation", and "focal_unobservable" when the turn is too small to show the lens; points lie on a
    sphere of radius 1 and mean directions only.
    """
    lens = np.broadcast_to(start, (tracks.frames, 4))
    rough = _chain(tracks, keyframes, lens)
    scale = max(tracks.size[1] / 640.0, 0.5)
    shared = "fixed" if level == "fixed" else "shared_f"
    few = _fit(tracks, keyframes, rough, lens[keyframes], shared, prior, 20)
    if few is None or np.median(few[1]) > _TYPICAL_PX * scale or np.percentile(few[1], 90) > _WORST_PX * scale:
        return None
    everything = np.arange(tracks.frames)
    turn, _ = interpolate_poses(
        keyframes.astype(float), few[0].rotation, np.zeros((len(keyframes), 3)), everything.astype(float)
    )
    wanted = level if level in ("fixed", "shared_f") else "per_frame_f"
    found = np.stack([np.interp(everything, keyframes, column) for column in few[0].intrinsics.T], -1)
    fitted = _fit(tracks, everything, turn, found, wanted, prior, 25)
    if fitted is None:
        return None
    state, error, frame, focal_std = fitted
    n = tracks.frames
    c2w = np.tile(np.eye(4), (n, 1, 1))
    c2w[:, :3, :3] = np.swapaxes(state.rotation, 1, 2)
    c2w = np.linalg.inv(c2w[0]) @ c2w
    c2w[0] = np.eye(4)
    seen = np.bincount(frame, minlength=n)
    rmse = np.sqrt(np.bincount(frame, error**2, n) / np.maximum(seen, 1))
    ratio = np.bincount(frame, error < 2.5, n) / np.maximum(seen, 1)
    key = np.zeros(n, bool)
    key[keyframes] = True
    extra = {"observations": float(len(error)), "rmse_px": float(np.sqrt(np.mean(error**2))), "parallax_deg": 0.0}
    sure = wanted == "fixed" or float(focal_std.max()) <= UNSURE_LOG_F
    flags = ("pure_rotation",) if sure else ("focal_unobservable", "pure_rotation")
    nan = np.full((n, 6), np.nan)
    points = state.points @ state.rotation[0].T
    return CameraTrack(
        c2w, state.intrinsics, tracks.size, focal_std, nan, rmse, ratio, key, points, flags, False, extra
    )


def _chain(tracks: Tracks, keyframes: Ints, lens: Array) -> Array:
    """World-to-camera rotations (k, 3, 3) of the keyframes, each from the one before."""
    turns = [np.eye(3)]
    for before, after in itertools.pairwise(keyframes):
        _, a, b = tracks.pair(int(before), int(after))
        if len(a) < 8:
            turns.append(turns[-1])
            continue
        turns.append(turn_between(_unit(rays(a, lens[before])), _unit(rays(b, lens[after]))) @ turns[-1])
    return np.stack(turns)


def _unit(normalised: Array) -> Array:
    ray = np.concatenate([normalised, np.ones((len(normalised), 1))], 1)
    return ray / np.linalg.norm(ray, axis=1, keepdims=True)


def _fit(
    tracks: Tracks, frames: Ints, rotation: Array, intrinsics: Array, level: str, prior: LensPrior, iterations: int
) -> tuple[State, Array, Ints, Array] | None:
    """Adjust rotations, lens and directions; also the error (m,) of every observation, its frame (m,), and the
    standard deviation of log focal length (n,)."""
    place = np.full(tracks.frames, -1)
    place[frames] = np.arange(len(frames))
    rows = np.flatnonzero(place[tracks.frame] >= 0)
    views = np.bincount(tracks.track[rows], minlength=tracks.count)
    rows = rows[views[tracks.track[rows]] >= 2]
    if len(rows) < 40:
        return None
    ids, point = np.unique(tracks.track[rows], return_inverse=True)
    frame = place[tracks.frame[rows]]
    ray = _unit(rays(tracks.xy[rows], intrinsics[frame]))
    directions = np.zeros((len(ids), 3))
    directions[point[::-1]] = np.einsum("mji,mj->mi", rotation[frame], ray)[::-1]
    state = State(rotation, np.zeros((len(frames), 3)), lens_from_intrinsics(intrinsics), directions)
    problem = Problem(frame, point, tracks.xy[rows])
    centre = np.array([tracks.size[1] / 2.0, tracks.size[0] / 2.0])
    beliefs = lens_rows(prior, frames.astype(float), centre, tracks.size, level)
    free = freedom(len(frames), level, translations=False)
    state, _ = adjust(state, problem, free, beliefs, iterations, 1e-6)
    r, _ = residuals(state, problem)
    error = np.linalg.norm(r, axis=1)
    noise = max(float(np.median(error)) / 1.1774, 0.02)
    deviation = covariance(state, problem, free, beliefs)[:, 6] * noise
    return state, error, frame, deviation
