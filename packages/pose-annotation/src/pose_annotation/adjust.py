"""Bundle adjustment: poses, a lens per frame and points that best explain the tracks.

For frame i and point p seen at u, Y = R_i X_p + t_i and

    E = sum rho( | (fx Yx/Yz + cx, fy Yy/Yz + cy) - u | ) + w_z sum rho_z( log Yz + d - log z ) + |A theta - b|^2

with Huber rho. fx = exp(l), fy = exp(l + a), so that (l, a, cx, cy) are free per frame, and so is d, by
which log depth is wrong in the whole frame: depth maps err together far more than pixel by pixel. Levenberg-Marquardt;
points are eliminated by the Schur complement, whose products run as dense matrix products over blocks of points that
are seen close together in time; that is why no compiled kernel is needed. Reference: annotate.md 2.3, 2.4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import linalg, sparse

from pose_annotation.rotations import exp_rotation, skew
from pose_annotation.types import Array, Ints

CAMERA = 11  # rotation 3, translation 3, l, a, cx, cy, d
_BLOCK = 256  # points eliminated together


@dataclass(frozen=True, eq=False)
class Problem:
    """What was measured: point `point[m]` seen in frame `frame[m]` at `xy[m]` (m, 2) px, with depth `z[m]` or nan."""

    frame: Ints
    point: Ints
    xy: Array
    z: Array | None = None
    depth_weight: float = 20.0
    huber_px: float = 1.0
    huber_log_z: float = 0.1


@dataclass(frozen=True, eq=False)
class State:
    """What is solved for: world-to-camera rotation (n, 3, 3) and translation (n, 3), lens (n, 5) = l, a, cx, cy,
    and log scale d of the depth map; points (p, 3)."""

    rotation: Array
    translation: Array
    lens: Array
    points: Array

    @property
    def intrinsics(self) -> Array:
        """(n, 4) fx, fy, cx, cy in pixels."""
        fx = np.exp(self.lens[:, 0])
        return np.stack([fx, fx * np.exp(self.lens[:, 1]), self.lens[:, 2], self.lens[:, 3]], -1)

    @property
    def c2w(self) -> Array:
        """(n, 4, 4) camera-to-world."""
        out = np.tile(np.eye(4), (len(self.rotation), 1, 1))
        out[:, :3, :3] = np.swapaxes(self.rotation, 1, 2)
        out[:, :3, 3] = -np.einsum("nji,nj->ni", self.rotation, self.translation)
        return out


def lens_from_intrinsics(intrinsics: Array) -> Array:
    """(n, 5) l, a, cx, cy and d = 0 of (n, 4) fx, fy, cx, cy."""
    log_f = np.log(intrinsics[:, 0])
    return np.stack([log_f, np.log(intrinsics[:, 1]) - log_f, intrinsics[:, 2], intrinsics[:, 3], 0 * log_f], -1)


@dataclass(frozen=True, eq=False)
class Freedom:
    """Which camera parameters move: columns (n, 11) hold the index of the variable each follows, -1 for fixed ones.

    Frames with equal indices share a variable. `scale_frame` keeps that frame's distance to the origin, which fixes
    the scale of the map when nothing else does; None leaves the scale to the depths or to the damping.
    """

    columns: Ints
    scale_frame: int | None = None
    points_move: bool = True

    @property
    def variables(self) -> int:
        """Number of camera variables."""
        return int(self.columns.max()) + 1


def camera_points(state: State, problem: Problem) -> Array:
    """Points in their cameras (m, 3): Y = R X + t for every observation."""
    turned = np.einsum("mij,mj->mi", state.rotation[problem.frame], state.points[problem.point])
    return turned + state.translation[problem.frame]


def residuals(state: State, problem: Problem) -> tuple[Array, Array]:
    """Reprojection errors (m, 2) px and points in the camera (m, 3)."""
    y = camera_points(state, problem)
    k = state.intrinsics[problem.frame]
    depth = np.where(y[:, 2:] > 1e-3, y[:, 2:], 1e-3)
    return k[:, :2] * y[:, :2] / depth + k[:, 2:] - problem.xy, y


def robust_cost(state: State, problem: Problem, prior: tuple[sparse.csr_matrix, Array] | None) -> float:
    """The energy E; infinite when more than a tenth of the points lie behind their camera."""
    r, y = residuals(state, problem)
    behind = y[:, 2] <= 1e-3
    if behind.mean() > 0.1:
        return np.inf
    total = _huber(np.linalg.norm(r, axis=1), problem.huber_px).sum()
    if problem.z is not None:
        seen = np.isfinite(problem.z)
        e = np.log(np.maximum(y[seen, 2], 1e-3)) + state.lens[problem.frame[seen], 4] - np.log(problem.z[seen])
        total += problem.depth_weight * _huber(np.abs(e), problem.huber_log_z).sum()
    if prior is not None:
        matrix, target = prior
        total += 0.5 * float(np.sum((matrix @ _parameters(state).ravel() - target) ** 2))
    return float(total)


def _huber(x: Array, limit: float) -> Array:
    return np.where(x <= limit, 0.5 * x * x, limit * (x - 0.5 * limit))


def _parameters(state: State) -> Array:
    """(n, 11); pose increments are relative to the state itself and so read as zero."""
    out = np.zeros((len(state.lens), CAMERA))
    out[:, 6:] = state.lens
    return out


def linearise(state: State, problem: Problem) -> tuple[Array, Array, Array]:
    """Weighted residuals (m, r) and their derivatives by camera (m, r, 11) and point (m, r, 3); r = 2, or 3 with z.

    The weights are the square roots of Huber's, so that J'J is the Gauss-Newton matrix of E.
    """
    r, y = residuals(state, problem)
    k = state.intrinsics[problem.frame]
    z = np.where(y[:, 2] > 1e-3, y[:, 2], 1e-3)
    count = len(z)
    rows = 2 if problem.z is None else 3
    by_y = np.zeros((count, rows, 3))
    by_y[:, 0, 0], by_y[:, 1, 1] = k[:, 0] / z, k[:, 1] / z
    by_y[:, 0, 2], by_y[:, 1, 2] = -k[:, 0] * y[:, 0] / z**2, -k[:, 1] * y[:, 1] / z**2
    weight = np.minimum(1.0, problem.huber_px / np.maximum(np.linalg.norm(r, axis=1), 1e-12))
    scale = np.repeat(np.sqrt(weight)[:, None], rows, 1)
    error = np.zeros((count, rows))
    error[:, :2] = r
    if problem.z is not None:
        seen = np.isfinite(problem.z)
        e = np.where(seen, np.log(z) + state.lens[problem.frame, 4] - np.log(np.where(seen, problem.z, 1.0)), 0.0)
        by_y[:, 2, 2] = seen / z
        error[:, 2] = e
        scale[:, 2] = np.sqrt(
            problem.depth_weight * np.minimum(1.0, problem.huber_log_z / np.maximum(np.abs(e), 1e-12))
        )
    by_camera = np.zeros((count, rows, CAMERA))
    by_camera[:, :, :3] = -by_y @ skew(y)
    by_camera[:, :, 3:6] = by_y
    nx, ny = y[:, 0] / z, y[:, 1] / z
    by_camera[:, 0, 6], by_camera[:, 1, 6] = k[:, 0] * nx, k[:, 1] * ny
    by_camera[:, 1, 7] = k[:, 1] * ny
    by_camera[:, 0, 8] = by_camera[:, 1, 9] = 1.0
    if problem.z is not None:
        by_camera[:, 2, 10] = np.isfinite(problem.z)
    by_point = by_y @ state.rotation[problem.frame]
    behind = y[:, 2] <= 1e-3
    scale[behind] = 0.0
    return error * scale, by_camera * scale[..., None], by_point * scale[..., None]


def _sums(index: Ints, rows: int) -> sparse.csr_matrix:
    count = len(index)
    return sparse.csr_matrix((np.ones(count), (index, np.arange(count))), shape=(rows, count))


@dataclass(frozen=True, eq=False)
class Normal:
    """The Gauss-Newton system: camera blocks `u` (n, c, c), point blocks `v` (p, 3, 3), couplings `w` (m, c, 3)."""

    u: Array
    v: Array
    w: Array
    camera_gradient: Array
    point_gradient: Array


def normal_equations(state: State, problem: Problem, active: Ints) -> Normal:
    """Sum J'J and J'r by frame and by point, for the `active` camera columns only."""
    r, jc, jp = linearise(state, problem)
    jc = np.ascontiguousarray(jc[:, :, active])
    n, p, c, m = len(state.rotation), len(state.points), len(active), len(r)
    by_frame, by_point = _sums(problem.frame, n), _sums(problem.point, p)
    jct, jpt = np.swapaxes(jc, 1, 2), np.swapaxes(jp, 1, 2)
    return Normal(
        (by_frame @ (jct @ jc).reshape(m, c * c)).reshape(n, c, c),
        (by_point @ (jpt @ jp).reshape(m, 9)).reshape(p, 3, 3),
        jct @ jp,
        by_frame @ np.einsum("mrc,mr->mc", jc, r),
        by_point @ np.einsum("mrc,mr->mc", jp, r),
    )


def schur(normal: Normal, problem: Problem, damping: float) -> tuple[Array, Array, Array]:
    """Eliminate the points: reduced matrix (n c, n c), right side (n c,), and inverse point blocks (p, 3, 3)."""
    n, c = normal.camera_gradient.shape
    v = normal.v + np.eye(3) * (damping * np.einsum("pii->pi", normal.v)[:, None, :] + 1e-12)
    inverse = np.linalg.inv(v)
    half = np.linalg.cholesky(inverse)  # inverse = half half'
    reduced = np.zeros((n * c, n * c))
    for i in range(n):
        reduced[i * c : i * c + c, i * c : i * c + c] = normal.u[i]
    w = normal.w @ half[problem.point]
    order = np.lexsort((problem.frame, problem.point))
    frame, point, w = problem.frame[order], problem.point[order], w[order]
    starts = np.searchsorted(point, np.arange(len(v) + 1))
    # Points that appear together in time are eliminated together: their block then spans few frames.
    seen = np.diff(starts) > 0
    first = np.full(len(v), n)
    first[seen] = frame[starts[:-1][seen]]
    ranked = np.argsort(first, kind="stable")
    place = np.empty(len(v), dtype=np.int64)
    place[ranked] = np.arange(len(v))
    obs_place = place[point]
    by_place = np.argsort(obs_place, kind="stable")
    edges = np.searchsorted(obs_place[by_place], np.arange(0, len(v) + _BLOCK, _BLOCK))
    for low, high, base in zip(edges[:-1], edges[1:], range(0, len(v), _BLOCK), strict=False):
        if low == high:
            continue
        rows = by_place[low:high]
        f0, f1 = int(frame[rows].min()), int(frame[rows].max()) + 1
        block = np.zeros((f1 - f0, c, _BLOCK, 3))
        block[frame[rows] - f0, :, obs_place[rows] - base] = w[rows]
        flat = block.reshape((f1 - f0) * c, _BLOCK * 3)
        reduced[f0 * c : f1 * c, f0 * c : f1 * c] -= flat @ flat.T
    solved = np.einsum("pij,pj->pi", inverse, normal.point_gradient)
    coupled = np.einsum("mcj,mj->mc", normal.w, solved[problem.point])
    right = normal.camera_gradient - _sums(problem.frame, n) @ coupled
    return reduced, right.ravel(), inverse


def gather(freedom: Freedom, active: Ints) -> sparse.csr_matrix:
    """Matrix (n c, variables) that spreads the variables over the active camera columns."""
    columns = freedom.columns[:, active].ravel()
    moving = np.flatnonzero(columns >= 0)
    shape = (len(columns), freedom.variables)
    return sparse.csr_matrix((np.ones(len(moving)), (moving, columns[moving])), shape=shape)


def scale_row(state: State, freedom: Freedom, active: Ints) -> Array | None:
    """Derivative of the fixed frame's distance to the origin by the active columns (n c,); None without one."""
    if freedom.scale_frame is None:
        return None
    row = np.zeros((len(state.rotation), CAMERA))
    t = state.translation[freedom.scale_frame]
    row[freedom.scale_frame, 3:6] = t / max(float(np.linalg.norm(t)), 1e-12)
    return row[:, active].ravel()


def _reduced_system(
    state: State, problem: Problem, freedom: Freedom, prior: tuple[sparse.csr_matrix, Array] | None, damping: float,
    normal: Normal, active: Ints,
) -> tuple[Array, Array, Array, sparse.csr_matrix]:  # fmt: skip
    if freedom.points_move:
        matrix, right, inverse = schur(normal, problem, damping)
    else:
        matrix = linalg.block_diag(*normal.u)
        right, inverse = normal.camera_gradient.ravel(), np.zeros((0, 3, 3))
    if prior is not None:
        a, target = prior
        columns = (np.arange(len(state.rotation))[:, None] * CAMERA + active).ravel()
        part = a[:, columns]
        matrix = matrix + (part.T @ part).toarray()
        right = right + part.T @ (a @ _parameters(state).ravel() - target)
    spread = gather(freedom, active)
    matrix = spread.T @ (spread.T @ matrix).T
    right = spread.T @ right
    row = scale_row(state, freedom, active)
    if row is not None:
        row = spread.T @ row
        matrix = matrix + np.outer(row, row) * (1e3 * np.trace(matrix) / len(matrix))
    return matrix, right, inverse, spread


def _stepped(state: State, step: Array, points: Array) -> State:
    turn = exp_rotation(step[:, :3])
    rotation = turn @ state.rotation
    # One Newton step back to orthonormality keeps rounding from adding up over iterations.
    rotation = 1.5 * rotation - 0.5 * rotation @ np.swapaxes(rotation, 1, 2) @ rotation
    translation = np.einsum("nij,nj->ni", turn, state.translation) + step[:, 3:6]
    return State(rotation, translation, state.lens + step[:, 6:], state.points + points)


def adjust(
    state: State,
    problem: Problem,
    freedom: Freedom,
    prior: tuple[sparse.csr_matrix, Array] | None = None,
    iterations: int = 15,
    tolerance: float = 1e-6,
) -> tuple[State, float]:
    """Minimise E by Levenberg-Marquardt and return the best state and its energy.

    `prior` is (A, b) over the (n * 11) camera parameters, of which only the lens columns may be non-zero. Stops when
    E falls by less than `tolerance` relative, or when no damping helps.
    """
    active = np.flatnonzero((freedom.columns >= 0).any(0))
    cost = robust_cost(state, problem, prior)
    damping = 1e-4
    for _ in range(iterations):
        normal = normal_equations(state, problem, active)
        before = cost
        for _ in range(8):
            matrix, right, inverse, spread = _reduced_system(state, problem, freedom, prior, damping, normal, active)
            diagonal = np.einsum("ii->i", matrix)
            diagonal += damping * diagonal + 1e-9
            try:
                factor = linalg.cho_factor(matrix, lower=True, check_finite=True)
            except (linalg.LinAlgError, ValueError):
                damping *= 10.0
                continue
            camera = (spread @ -linalg.cho_solve(factor, right)).reshape(len(state.rotation), len(active))
            step = np.zeros((len(state.rotation), CAMERA))
            step[:, active] = camera
            moved = np.zeros_like(state.points)
            if freedom.points_move:
                pull = np.einsum("mcj,mc->mj", normal.w, camera[problem.frame])
                moved = -np.einsum(
                    "pij,pj->pi", inverse, normal.point_gradient + _sums(problem.point, len(moved)) @ pull
                )
            trial = _stepped(state, step, moved)
            trial_cost = robust_cost(trial, problem, prior)
            if trial_cost < cost:
                state, cost, damping = trial, trial_cost, max(damping * 0.2, 1e-9)
                break
            damping *= 6.0
        if before - cost <= tolerance * before:
            break
    return state, cost


def covariance(
    state: State, problem: Problem, freedom: Freedom, prior: tuple[sparse.csr_matrix, Array] | None = None
) -> Array:
    """Standard deviations (n, 11) of the camera parameters for a pixel noise of 1; nan for fixed ones.

    Multiply by the pixel noise. The points are integrated out; the gauge is the one of `freedom`.
    """
    active = np.flatnonzero((freedom.columns >= 0).any(0))
    normal = normal_equations(state, replace(problem, huber_px=np.inf), active)
    matrix, _, _, _ = _reduced_system(state, problem, freedom, prior, 1e-9, normal, active)
    out = np.full((len(state.rotation), CAMERA), np.nan)
    try:
        inverse = linalg.inv(matrix + np.eye(len(matrix)) * (1e-12 * np.trace(matrix) / len(matrix)))
    except (linalg.LinAlgError, ValueError):
        out[freedom.columns >= 0] = np.inf
        return out
    deviation = np.sqrt(np.maximum(np.einsum("ii->i", inverse), 0.0))
    moving = freedom.columns >= 0
    out[moving] = deviation[freedom.columns[moving]]
    return out
