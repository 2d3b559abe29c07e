"""What is believed about a lens before looking: focal length changes smoothly, pixels are square, the axis is central;
and about depth maps: their scale is nearly right.

The rows are linear in (l, a, cx, cy); second differences, because first differences pull a zoom towards a constant
focal length (annotate.md 2.3, measured).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from pose_annotation.adjust import CAMERA, Freedom
from pose_annotation.types import Array, Ints

LEVELS = ("fixed", "shared_f", "per_frame_f", "per_frame_f_pp", "full")
_FREE = {"fixed": (), "shared_f": (6,), "per_frame_f": (6,), "per_frame_f_pp": (6, 8, 9), "full": (6, 7, 8, 9)}


@dataclass(frozen=True)
class LensPrior:
    """Weights of the beliefs, in units of squared pixels.

    `smooth_f` weighs second differences of log focal length per sixteenth of a second squared, `smooth_c` those of the
    principal point in image widths; `fps` is the frame rate, so that a zoom is as likely however fast the frames come.
    `focal` is the weight of `log_f`, a belief about the mean log focal length (None: no belief).
    `depth_scale` weighs the log scale by which the depth map of a frame may be wrong, the same for all its pixels.
    """

    smooth_f: float = 1e6
    smooth_c: float = 1e6
    aspect: float = 1e4
    centre: float = 1.0
    focal: float = 0.0
    log_f: float | None = None
    depth_scale: float = 16.0
    fps: float = 16.0


def lens_rows(
    prior: LensPrior, times: Array, centre: Array, size: tuple[int, int], level: str, *, depth: bool = False
) -> tuple[sparse.csr_matrix, Array]:
    """Rows (A, b) over (n * 11) camera parameters for frames at `times` (n,) in frames, around centre (2,) px."""
    n, unit = len(times), 0.02 * max(size)
    times = times * (16.0 / prior.fps)
    rows: list[tuple[list[int], list[float], float]] = []
    free = _FREE[level]
    smooth = {6: np.sqrt(prior.smooth_f), 7: np.sqrt(prior.smooth_f)}
    smooth |= {8: np.sqrt(prior.smooth_c) / max(size), 9: np.sqrt(prior.smooth_c) / max(size)}
    if level != "shared_f":
        for column in free:
            for i in range(1, n - 1):
                a, b = float(times[i] - times[i - 1]), float(times[i + 1] - times[i])
                # Second derivative by divided differences, weighted by the time it stands for.
                size_i = smooth[column] * np.sqrt((a + b) / 2.0)
                values = [2 / (a * (a + b)), -2 / (a * b), 2 / (b * (a + b))]
                places = [(i - 1) * CAMERA + column, i * CAMERA + column, (i + 1) * CAMERA + column]
                rows.append((places, [size_i * v for v in values], 0.0))
    if 7 in free:
        rows += [([i * CAMERA + 7], [float(np.sqrt(prior.aspect))], 0.0) for i in range(n)]
    for column, middle in ((8, centre[0]), (9, centre[1])):
        if column in free:
            weight = float(np.sqrt(prior.centre)) / unit
            rows += [([i * CAMERA + column], [weight], weight * float(middle)) for i in range(n)]
    if depth:
        rows += [([i * CAMERA + 10], [float(np.sqrt(prior.depth_scale))], 0.0) for i in range(n)]
    if prior.log_f is not None and prior.focal > 0 and free:
        weight = float(np.sqrt(prior.focal))
        rows.append(([i * CAMERA + 6 for i in range(n)], [weight / n] * n, weight * prior.log_f))
    matrix = sparse.lil_matrix((len(rows), n * CAMERA))
    for number, (places, values, _) in enumerate(rows):
        matrix[number, places] = values
    return sparse.csr_matrix(matrix), np.array([row[2] for row in rows])


def freedom(
    frames: int, level: str, *, fixed_poses: Ints | None = None, scale_frame: int | None = None,
    translations: bool = True, points: bool = True, depth: bool = False,
) -> Freedom:  # fmt: skip
    """Free parameters of `frames` cameras: poses except `fixed_poses` (default frame 0), the lens by `level`, and with
    `depth` the scale of every depth map.

    Raises ValueError for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"lens level is {level!r}; allowed: {', '.join(LEVELS)}; example: 'per_frame_f'")
    columns = np.full((frames, CAMERA), -1)
    held = np.array([0]) if fixed_poses is None else fixed_poses
    moving = np.setdiff1d(np.arange(frames), held)
    width = 6 if translations else 3
    columns[moving, :width] = np.arange(len(moving) * width).reshape(-1, width)
    used = len(moving) * width
    for column in _FREE[level]:
        if level == "shared_f":
            columns[:, column] = used
            used += 1
        else:
            columns[:, column] = used + np.arange(frames)
            used += frames
    if depth:
        columns[:, 10] = used + np.arange(frames)
    return Freedom(columns, scale_frame, points)
