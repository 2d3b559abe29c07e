"""Find small patches of one picture in another to a few hundredths of a pixel, however they were stretched.

A patch is matched by inverse-compositional Gauss-Newton over an affine warp; brightness and contrast are normalised
away, so that neither a lamp nor an automatic exposure moves a match. Nothing depends on chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pose_annotation.opencv import cv2

Floats = NDArray[np.float32]
_BLUR_PX = 0.8  # without it, noise and linear interpolation pull matches towards whole pixels
_LONGEST_STEP_PX = 1.0
_SETTLED_PX = 0.01


def smoothed(grey: NDArray[np.uint8]) -> Floats:
    """A picture (H, W) as patches want it: float and slightly blurred."""
    out: Floats = cv2.GaussianBlur(grey.astype(np.float32), (0, 0), _BLUR_PX)
    return out


class Match(NamedTuple):
    """Where patches were found: centres (n, 2) px, warps (n, 2, 2), and correlation (n,) with the original."""

    xy: Floats
    warp: Floats
    likeness: Floats


@dataclass(frozen=True, eq=False)
class Patches:
    """Square patches of 2 * reach + 1 pixels, ready to be matched.

    Args:
        reach: Pixels from the centre to the edge.
        values: (n, k) normalised brightness.
        solver: (n, 6, k) takes differences of brightness to warp parameters (shift x, y; shape xx, xy, yx, yy).
    """

    reach: int
    values: Floats
    solver: Floats

    @staticmethod
    def none(reach: int) -> Patches:
        """No patch yet."""
        side = (2 * reach + 1) ** 2
        return Patches(reach, np.zeros((0, side), np.float32), np.zeros((0, 6, side), np.float32))

    @staticmethod
    def cut(picture: Floats, xy: Floats, reach: int) -> Patches:
        """The patches around points xy (n, 2), in pixels with integer centres, of a `smoothed` picture."""
        if not len(xy):
            return Patches.none(reach)
        at, weight = _grid(reach)
        x, y = xy[:, :1] + at[0], xy[:, 1:] + at[1]
        values = _sample(picture, x, y)
        values -= _mean(values, weight)
        contrast = np.sqrt(_mean(values * values, weight)) + 1e-6
        values /= contrast
        gx = (_sample(picture, x + 1, y) - _sample(picture, x - 1, y)) / (2 * contrast)
        gy = (_sample(picture, x, y + 1) - _sample(picture, x, y - 1)) / (2 * contrast)
        slope = np.stack([gx, gy, gx * at[0], gx * at[1], gy * at[0], gy * at[1]], 1)
        # A change of brightness or contrast must not look like motion: take both directions out of the slopes.
        slope -= _mean(slope, weight)
        slope -= _mean(slope * values[:, None], weight) * values[:, None]
        weighted = slope * weight
        normal = np.einsum("nik,njk->nij", weighted, slope).astype(np.float64)
        normal += np.eye(6) * (1e-6 * np.einsum("nii->n", normal)[:, None, None] + 1e-12)
        solver = np.einsum("nij,njk->nik", np.linalg.inv(normal).astype(np.float32), weighted)
        return Patches(reach, values, solver)

    def keep(self, rows: NDArray[np.bool_] | NDArray[np.integer[Any]]) -> Patches:
        """The patches where `rows` (n,) is true, or with these numbers."""
        return Patches(self.reach, self.values[rows], self.solver[rows])

    def join(self, other: Patches) -> Patches:
        """These patches and then those."""
        return Patches(
            self.reach, np.concatenate([self.values, other.values]), np.concatenate([self.solver, other.solver])
        )

    def replaced(self, mask: NDArray[np.bool_], other: Patches) -> Patches:
        """These patches with those where mask (n,) is true exchanged for `other`."""
        values, solver = self.values.copy(), self.solver.copy()
        values[mask], solver[mask] = other.values, other.solver
        return Patches(self.reach, values, solver)

    def find(self, picture: Floats, xy: Floats, warp: Floats, rounds: int = 6) -> Match:
        """Find every patch near xy (n, 2) in a `smoothed` picture, starting with its warp (n, 2, 2)."""
        at, weight = _grid(self.reach)
        xy, warp = xy.astype(np.float32), warp.astype(np.float32)
        likeness = np.zeros(len(xy), np.float32)
        rows = np.arange(len(xy))
        for round_number in range(rounds + 1):
            offset = warp[rows] @ at
            found = _sample(picture, xy[rows, :1] + offset[:, 0], xy[rows, 1:] + offset[:, 1])
            found -= _mean(found, weight)
            found /= np.sqrt(_mean(found * found, weight)) + 1e-6
            error = found - self.values[rows]
            likeness[rows] = 1.0 - 0.5 * _mean(error * error, weight)[:, 0]
            if round_number == rounds or not len(rows):
                break
            change = np.einsum("nik,nk->ni", self.solver[rows], error)
            # The patch was moved; the warp takes the inverse of that.
            shape = warp[rows] @ _inverse(np.eye(2, dtype=np.float32) + change[:, 2:].reshape(-1, 2, 2))
            step = -np.einsum("nij,nj->ni", shape, change[:, :2])
            length = np.linalg.norm(step, axis=1)
            step *= np.minimum(1.0, _LONGEST_STEP_PX / np.maximum(length, 1e-9))[:, None]
            xy[rows] += step
            warp[rows] = shape
            rows = rows[(length > _SETTLED_PX) & np.isfinite(length)]
        return Match(xy, warp, np.where(np.isfinite(xy).all(1), likeness, np.float32(-1.0)))


def stretch(warp: Floats) -> Floats:
    """How much larger or smaller warps (n, 2, 2) make a patch in any direction (n,); 1 for none."""
    squares = np.sum(warp.astype(np.float64) ** 2, axis=(1, 2))
    product = np.abs(warp[:, 0, 0] * warp[:, 1, 1] - warp[:, 0, 1] * warp[:, 1, 0]).astype(np.float64)
    largest = np.sqrt(0.5 * (squares + np.sqrt(np.maximum(squares**2 - 4.0 * product**2, 0.0))))
    smallest = product / np.maximum(largest, 1e-9)
    return np.maximum(largest, 1.0 / np.maximum(smallest, 1e-9)).astype(np.float32)


def _grid(reach: int) -> tuple[Floats, Floats]:
    """Offsets (2, k) of a patch's pixels, and their weights (k,), which sum to 1 and fall off to the edge."""
    line = np.arange(-reach, reach + 1, dtype=np.float32)
    at = np.stack([np.tile(line, len(line)), np.repeat(line, len(line))])
    weight = np.exp(-np.sum(at**2, axis=0) / (2.0 * (0.7 * reach) ** 2))
    return at, (weight / weight.sum()).astype(np.float32)


def _mean(values: Floats, weight: Floats) -> Floats:
    out: Floats = (values * weight).sum(-1, keepdims=True)
    return out


def _inverse(shape: Floats) -> Floats:
    a, b, c, d = shape[:, 0, 0], shape[:, 0, 1], shape[:, 1, 0], shape[:, 1, 1]
    scale = a * d - b * c
    scale = np.where(np.abs(scale) < 1e-3, np.nan, scale)
    return (np.stack([np.stack([d, -b], -1), np.stack([-c, a], -1)], -2) / scale[:, None, None]).astype(np.float32)


def _sample(picture: Floats, x: Floats, y: Floats) -> Floats:
    """Linear interpolation at x, y (n, k); exact weights, where OpenCV's remap rounds them to 1/32 px."""
    height, width = picture.shape
    x = np.clip(np.nan_to_num(x), 0, width - 1.001)
    y = np.clip(np.nan_to_num(y), 0, height - 1.001)
    left, top = x.astype(np.int32), y.astype(np.int32)
    across, down = x - left, y - top
    flat, place = picture.ravel(), top * width + left
    above = flat[place] + (flat[place + 1] - flat[place]) * across
    below = flat[place + width] + (flat[place + width + 1] - flat[place + width]) * across
    out: Floats = above + (below - above) * down
    return out
