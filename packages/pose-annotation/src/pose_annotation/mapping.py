"""Build the map: cameras of the keyframes and the points they see, one view after the other."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from pose_annotation.adjust import Problem, State, adjust, lens_from_intrinsics, residuals
from pose_annotation.lens_prior import LensPrior, freedom, lens_rows
from pose_annotation.two_view import Pair, rays, relative_pose, resect, triangulate, widest_angle_deg
from pose_annotation.types import Array, Ints, Tracks

_LEAST_ANGLE_DEG = 1.0


@dataclass(eq=False)
class View:
    """Observations of the clip with the depth at each (nan where unknown), in the order of the tracks."""

    tracks: Tracks
    depth: Array | None = None
    depth_weight: float = 20.0
    alive: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if not len(self.alive):
            self.alive = np.ones(len(self.tracks.frame), dtype=bool)


@dataclass(eq=False)
class Map:
    """Cameras of `frames` (n,) of the clip, and the points (by track number) that are known so far."""

    view: View
    frames: Ints
    rotation: Array
    translation: Array
    lens: Array
    known: NDArray[np.bool_]  # (n,) frames whose camera is solved
    world: Array  # (tracks, 3)
    placed: NDArray[np.bool_]  # (tracks,)

    @staticmethod
    def empty(view: View, frames: Ints, intrinsics: Array) -> Map:
        """A map with nothing solved; `intrinsics` (4,) or (n, 4) is the lens to start from."""
        n, count = len(frames), view.tracks.count
        return Map(
            view, frames, np.tile(np.eye(3), (n, 1, 1)), np.zeros((n, 3)),
            lens_from_intrinsics(np.broadcast_to(intrinsics, (n, 4))), np.zeros(n, bool),
            np.zeros((count, 3)), np.zeros(count, bool),
        )  # fmt: skip

    def copy(self) -> Map:
        """The same map, to be changed without changing this one."""
        arrays = {
            name: getattr(self, name).copy() for name in ("rotation", "translation", "lens", "known", "world", "placed")
        }
        return replace(self, view=replace(self.view, alive=self.view.alive.copy()), **arrays)

    def observations(self, *, placed: bool | None) -> tuple[Ints, Ints, Ints]:
        """Rows of the tracks in solved frames: row (m,), place of the frame in this map (m,), track (m,)."""
        tracks, place = self.view.tracks, np.full(self.view.tracks.frames, -1)
        place[self.frames[self.known]] = np.flatnonzero(self.known)
        where = place[tracks.frame]
        rows = np.flatnonzero((where >= 0) & self.view.alive)
        if placed is not None:
            rows = rows[self.placed[tracks.track[rows]] == placed]
        return rows, where[rows], tracks.track[rows]

    @property
    def intrinsics(self) -> Array:
        """(n, 4) fx, fy, cx, cy."""
        return State(self.rotation, self.translation, self.lens, self.world[:0]).intrinsics

    @property
    def centres(self) -> Array:
        """(n, 3) camera centres."""
        return -np.einsum("nji,nj->ni", self.rotation, self.translation)

    def place_points(self, least_views: int = 2, limit_px: float = 4.0) -> int:
        """Place tracks that the solved cameras now see well enough; returns how many were added.

        With depths a point needs one view; its ray is then cut at the depth.
        """
        rows, frame, track = self.observations(placed=False)
        if not len(rows):
            return 0
        ids, local = np.unique(track, return_inverse=True)
        xy, k = self.view.tracks.xy[rows], self.intrinsics[frame]
        normalised = rays(xy, k)
        world, ok = triangulate(self.rotation, self.translation, normalised, frame, local, len(ids))
        ok &= np.bincount(local, minlength=len(ids)) >= least_views
        ok &= widest_angle_deg(world, self.centres, frame, local) > _LEAST_ANGLE_DEG
        if self.view.depth is not None:
            lifted, has = self._lift(rows, frame, local, normalised, len(ids))
            world, ok = np.where(has[:, None], lifted, world), ok | has
        y = np.einsum("mij,mj->mi", self.rotation[frame], world[local]) + self.translation[frame]
        error = np.linalg.norm(k[:, :2] * y[:, :2] / np.maximum(y[:, 2:], 1e-6) + k[:, 2:] - xy, axis=1)
        worst = np.zeros(len(ids))
        np.maximum.at(worst, local, np.where(y[:, 2] > 1e-3, error, np.inf))
        if self.view.depth is None:
            ok &= worst < limit_px
        self.world[ids[ok]], self.placed[ids[ok]] = world[ok], True
        return int(ok.sum())

    def _lift(
        self, rows: Ints, frame: Ints, local: Ints, normalised: Array, count: int
    ) -> tuple[Array, NDArray[np.bool_]]:
        assert self.view.depth is not None
        z = self.view.depth[rows] * np.exp(-self.lens[frame, 4])
        seen = np.flatnonzero(np.isfinite(z))[::-1]
        y = np.concatenate([normalised[seen], np.ones((len(seen), 1))], 1) * z[seen, None]
        at = np.einsum("mji,mj->mi", self.rotation[frame[seen]], y - self.translation[frame[seen]])
        world, has = np.zeros((count, 3)), np.zeros(count, bool)
        world[local[seen]], has[local[seen]] = at, True
        return world, has

    def register(self, index: int) -> bool:
        """Solve the camera of one more frame from points it sees; False when too few agree."""
        tracks, unit = self.view.tracks, max(1.0, self.view.tracks.size[1] / 640.0)
        rows = np.flatnonzero((tracks.frame == self.frames[index]) & self.view.alive)
        rows = rows[self.placed[tracks.track[rows]]]
        solved = resect(self.world[tracks.track[rows]], tracks.xy[rows], self.intrinsics[index], 3.0 * unit)
        if solved is None or solved[2].sum() < max(12, 0.25 * len(rows)):
            return False
        self.rotation[index], self.translation[index] = solved[0], solved[1]
        self.known[index] = True
        return True

    def problem(self, huber_px: float) -> tuple[Problem, Ints, Ints, Ints]:
        """The observations of placed points as a problem over the solved frames and compact point numbers.

        Also: solved frames' places in the map, track numbers of the points, rows of the tracks.
        """
        rows, frame, track = self.observations(placed=True)
        tracks = self.view.tracks
        views = np.bincount(track, minlength=tracks.count)
        enough = views[track] >= (1 if self.view.depth is not None else 2)
        rows, frame, track = rows[enough], frame[enough], track[enough]
        ids, local = np.unique(track, return_inverse=True)
        places = np.flatnonzero(self.known)
        compact = np.full(len(self.known), -1)
        compact[places] = np.arange(len(places))
        z = None if self.view.depth is None else self.view.depth[rows]
        problem = Problem(compact[frame], local, tracks.xy[rows], z, self.view.depth_weight, huber_px)
        return problem, places, ids, rows

    def refine(
        self, level: str, prior: LensPrior, iterations: int, huber_px: float = 1.0, tolerance: float = 1e-6,
        anchor: int | None = None,
    ) -> float:  # fmt: skip
        """Bundle-adjust all solved frames and placed points; returns the energy.

        `anchor` is the frame (place in the map) whose pose stays; the first solved one if None.
        """
        problem, places, ids, _ = self.problem(huber_px)
        if level == "shared_f":
            # The increments are shared, so the values must be before.
            self.lens[places, 0] = self.lens[places, 0].mean()
        state = State(self.rotation[places], self.translation[places], self.lens[places], self.world[ids])
        held = 0 if anchor is None else int(np.searchsorted(places, anchor))
        # Camera centres relative to the held one: the farthest fixes the scale.
        state, shift = _centred(state, held)
        far = int(np.linalg.norm(state.translation, axis=1).argmax())
        depth = problem.z is not None
        scale_frame = far if not depth and far != held else None
        free = freedom(len(places), level, fixed_poses=np.array([held]), scale_frame=scale_frame, depth=depth)
        centre = np.array([self.view.tracks.size[1] / 2.0, self.view.tracks.size[0] / 2.0])
        times = self.frames[places].astype(float)
        rows = lens_rows(prior, times, centre, self.view.tracks.size, level, depth=depth)
        state, cost = adjust(state, problem, free, rows, iterations, tolerance)
        state = _uncentred(state, shift)
        self.rotation[places], self.translation[places] = state.rotation, state.translation
        self.lens[places], self.world[ids] = state.lens, state.points
        unseen = ~self.known
        if unseen.any() and len(places):
            # Frames to come start from the lens of the nearest solved frame.
            nearest = np.abs(self.frames[unseen][:, None] - self.frames[places][None]).argmin(1)
            self.lens[unseen] = state.lens[nearest]
        return cost

    def place_again(self) -> None:
        """Place all points anew from all their observations, as if none had been placed or thrown out before.

        A point that was placed from rough cameras can lie where no small step leads away from, and hold its cameras
        there; what a rough map threw out may fit this one. A track with one wrong observation is left out.
        """
        self.view.alive[:] = True
        self.placed[:] = False
        self.place_points()

    def reject(self, limit_px: float, moving_share: float = 0.4, moving_px: float = 2.5) -> int:
        """Drop observations beyond `limit_px`, and whole tracks that disagree for much of their life.

        Returns how many observations were dropped.
        """
        problem, places, ids, rows = self.problem(1.0)
        state = State(self.rotation[places], self.translation[places], self.lens[places], self.world[ids])
        r, y = residuals(state, problem)
        error = np.where(y[:, 2] > 1e-3, np.linalg.norm(r, axis=1), np.inf)
        far = np.bincount(problem.point, error > max(moving_px, limit_px), len(ids))
        share = far / np.maximum(np.bincount(problem.point, minlength=len(ids)), 1)
        bad = (error > limit_px) | (share > moving_share)[problem.point]
        self.view.alive[rows[bad]] = False
        left = np.bincount(problem.point[~bad], minlength=len(ids))
        needed = 1 if self.view.depth is not None else 2
        self.placed[ids[left < needed]] = False
        return int(bad.sum())


def _centred(state: State, held: int) -> tuple[State, Array]:
    shift = -state.rotation[held].T @ state.translation[held]
    translation = state.translation + state.rotation @ shift
    return State(state.rotation, translation, state.lens, state.points - shift), shift


def _uncentred(state: State, shift: Array) -> State:
    translation = state.translation - state.rotation @ shift
    return State(state.rotation, translation, state.lens, state.points + shift)


def best_pair(
    view: View, frames: Ints, intrinsics: Array, reach: int = 8, rank: int = 0
) -> tuple[int, int, Pair] | None:
    """The two keyframes (places in `frames`) whose relative pose is best determined; None when none is.

    With `rank` the second or third choice, each with another first keyframe.
    """
    best = dict[int, tuple[int, int, Pair]]()
    for i in range(0, len(frames), max(1, len(frames) // 8)):
        for j in range(i + 1, min(i + 1 + reach, len(frames))):
            if (j - i) not in (1, 2, 4, 7):
                continue
            common, a, b = view.tracks.pair(int(frames[i]), int(frames[j]))
            if len(common) < 40:
                continue
            pair = relative_pose(a, b, intrinsics)
            if pair is not None and (i not in best or pair.score > best[i][2].score):
                best[i] = (i, j, pair)
    ranked = sorted(best.values(), key=lambda found: -found[2].score)
    return ranked[rank] if rank < len(ranked) else None


def build(view: View, frames: Ints, intrinsics: Array, prior: LensPrior, level: str, rank: int = 0) -> Map | None:
    """Cameras of all keyframes from nothing but tracks (and depths, when the view has them); None when it fails.

    `level` is "fixed" for a known lens, else one focal length is shared while the map grows. `rank` picks the pair of
    views to start from, without depths.
    """
    growing = Map.empty(view, frames, intrinsics)
    if view.depth is not None:
        growing.known[0] = True
        start = 0
    else:
        found = best_pair(view, frames, growing.intrinsics[0], rank=rank)
        if found is None:
            return None
        i, j, pair = found
        growing.rotation[j], growing.translation[j] = pair.rotation, pair.translation
        growing.known[[i, j]] = True
        start = i
    unit = max(1.0, view.tracks.size[1] / 640.0)
    shared = "fixed" if level == "fixed" else "shared_f"
    if growing.place_points() < 12:
        return None
    if view.depth is None:
        growing.refine("fixed", prior, 10, 2.0, 1e-4, start)
    failed = np.zeros(len(frames), bool)
    since = 0
    while True:
        waiting = np.flatnonzero(~growing.known & ~failed)
        if not len(waiting):
            break
        known = np.flatnonzero(growing.known)
        gap = np.abs(waiting[:, None] - known[None]).min(1)
        index = int(waiting[gap.argmin()])
        if not growing.register(index):
            failed[index] = True
            continue
        failed[:] = False
        since += 1
        growing.place_points()
        if since % 3 == 0 or growing.known.sum() <= 5:
            growing.refine(shared if growing.known.sum() > 3 else "fixed", prior, 6, unit, 1e-3, start)
            growing.reject(3.0 * unit)
    if growing.known.sum() < 2:
        return None
    growing.refine(shared, prior, 15, 2.0 * unit, 1e-5, start)
    return growing
