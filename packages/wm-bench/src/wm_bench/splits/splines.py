"""From key poses to a smooth path with even speed: Catmull-Rom positions, SQUAD rotations, re-timing, smoothing.

Reference: paper notes, Benchmark section: centripetal Catmull-Rom; quaternion SQUAD; arc-length reparametrisation for
near-uniform speed; Laplacian position smoothing; angular velocity at most 12 degrees a second.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation, Slerp

Array = NDArray[np.float64]

FINE = 64
"""Samples between two key poses before re-timing."""


def catmull_rom(points: Array, fine: int = FINE) -> Array:
    """Centripetal Catmull-Rom curve through points (k, 3): ((k - 1) fine + 1, 3), key points hit exactly.

    Consecutive points must differ. The ends use points mirrored about the first and last.
    """
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).min() > 1e-9, "consecutive key points are equal"
    p = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    # Knot distances are the square roots of the chords: no cusps and no loops within a segment.
    knots = np.concatenate([[0.0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(p, axis=0), axis=1)))])
    h = np.arange(fine)[:, None] / fine
    pieces = []
    for i in range(1, len(p) - 2):
        t0, t1, t2, t3 = knots[i - 1 : i + 3]
        p0, p1, p2, p3 = p[i - 1 : i + 3]
        t = t1 + (t2 - t1) * h
        a1 = ((t1 - t) * p0 + (t - t0) * p1) / (t1 - t0)
        a2 = ((t2 - t) * p1 + (t - t1) * p2) / (t2 - t1)
        a3 = ((t3 - t) * p2 + (t - t2) * p3) / (t3 - t2)
        b1 = ((t2 - t) * a1 + (t - t0) * a2) / (t2 - t0)
        b2 = ((t3 - t) * a2 + (t - t1) * a3) / (t3 - t1)
        pieces.append(((t2 - t) * b1 + (t - t1) * b2) / (t2 - t1))
    return np.concatenate([*pieces, points[-1:]])


def squad(rotations: Array, fine: int = FINE) -> Array:
    """Spherical cubic through rotations (k, 3, 3): ((k - 1) fine + 1, 3, 3), key rotations hit exactly.

    Neighbouring rotations must lie less than 180 degrees apart; the path between them is the short one.
    """
    keys = Rotation.from_matrix(rotations)
    steps = (keys[:-1].inv() * keys[1:]).as_rotvec()  # (k - 1, 3), log(q_i^-1 q_i+1)
    bend = np.zeros((len(rotations), 3))  # at the ends the control rotation is the key itself
    bend[1:-1] = (steps[:-1] - steps[1:]) / 4.0
    inner = keys * Rotation.from_rotvec(bend)
    h = np.tile(np.arange(fine) / fine, len(steps))[:, None]
    first = np.repeat(np.arange(len(steps)), fine)
    outer = _slerp(keys[first], keys[first + 1], h)
    middle = _slerp(inner[first], inner[first + 1], h)
    curve = _slerp(outer, middle, 2.0 * h * (1.0 - h)).as_matrix()
    return np.concatenate([curve, rotations[-1:]])


def _slerp(a: Rotation, b: Rotation, h: Array) -> Rotation:
    return a * Rotation.from_rotvec(h * (a.inv() * b).as_rotvec())


def turn_angles_deg(rotations: Array) -> Array:
    """Angles (n - 1,) between consecutive rotations (n, 3, 3), in degrees."""
    chord = np.linalg.norm(np.diff(rotations, axis=0), axis=(1, 2)) / (2.0 * np.sqrt(2.0))
    return np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0)))


def even_times(steps: Array, turns_deg: Array, duration_s: float, max_turn_deg_s: float) -> tuple[Array, float]:
    """Instants (n + 1,) for n small steps and turns, and the speed: as even as the turning limit lets it be.

    Every piece takes the longer of its length over the speed and its turn over the limit; the speed is the one that
    fills `duration_s` exactly. Raises ValueError when the turning alone takes longer.
    """
    least = turns_deg / max_turn_deg_s
    if least.sum() >= duration_s:
        raise ValueError(
            f"the path turns {turns_deg.sum():.0f} degrees in {duration_s:g} s; allowed: less than "
            f"{max_turn_deg_s * duration_s:.0f}"
        )
    low, high = steps.sum() / duration_s, steps.sum() / duration_s
    while np.maximum(steps / high, least).sum() > duration_s:
        high *= 2.0
    for _ in range(80):
        middle = (low + high) / 2.0
        if np.maximum(steps / middle, least).sum() > duration_s:
            low = middle
        else:
            high = middle
    times = np.concatenate([[0.0], np.cumsum(np.maximum(steps / high, least))])
    return times * (duration_s / times[-1]), high


def laplacian_smooth(points: Array, rounds: int) -> Array:
    """Pull every point (n, 3) half-way to the middle of its neighbours, `rounds` times; the ends stay."""
    out = points.copy()
    for _ in range(rounds):
        out[1:-1] += 0.25 * (out[:-2] - 2.0 * out[1:-1] + out[2:])
    return out


def limit_turns(rotations: Array, max_turn_deg: float) -> Array:
    """Follow rotations (n, 3, 3) turning at most max_turn_deg a frame; what is too fast arrives later."""
    if turn_angles_deg(rotations).max() <= max_turn_deg:
        return rotations
    keys = Rotation.from_matrix(rotations)
    out = [keys[0]]
    for wanted in keys[1:]:
        step = (out[-1].inv() * wanted).as_rotvec()
        size = np.degrees(np.linalg.norm(step))
        out.append(out[-1] * Rotation.from_rotvec(step * min(1.0, max_turn_deg / max(size, 1e-12))))
    return np.stack([r.as_matrix() for r in out])


def at_times(times: Array, points: Array, rotations: Array, wanted: Array) -> tuple[Array, Array]:
    """Points (n, 3) and rotations (n, 3, 3) at wanted instants of a finely sampled curve."""
    keep = np.concatenate([[True], np.diff(times) > 1e-12])
    turned = Slerp(times[keep], Rotation.from_matrix(rotations[keep]))(np.clip(wanted, times[0], times[-1]))
    placed = np.stack([np.interp(wanted, times, column) for column in points.T], axis=1)
    return placed, turned.as_matrix()
