"""Held keys that follow a camera path as well as a dialect can, for models that are driven by actions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from camera_control.actions import Actions, format_actions
from camera_control.dialects import CONTROLS, Dialect, get_dialect
from camera_control.rollout import roll_out
from numpy.typing import NDArray

from wm_bench.poses.errors import rotation_angle_deg

Array = NDArray[np.float64]
SEGMENT = 4
"""Raw frames between two decisions; a dialect's counting unit must divide it."""


class Keys(NamedTuple):
    """An action string, the speeds it must be rolled out with, and how far it ends up from the path.

    Errors are taken over all frames: metres between centres, degrees between rotations.
    """

    dialect: str
    text: str
    translation_speed: float
    rotation_speed_deg: float
    position_error_m: float
    position_error_worst_m: float
    angle_error_deg: float
    angle_error_worst_deg: float


def follow_with_keys(c2w: Array, dialect: str | Dialect) -> Keys:
    """Spell a path (n, 4, 4) in a dialect: every quarter second, hold what brings the camera back to the path.

    Speeds are the dialect's own where it fixes them, otherwise a quarter above the path's fast end (95th percentile),
    so that there is room to catch up; a dialect that holds one control at a time gets three times that. Keys cannot
    rise or sink; the errors say what that costs.
    """
    chosen = get_dialect(dialect)
    relative = np.linalg.inv(c2w[0]) @ np.asarray(c2w, np.float64)
    frames = len(relative) - 1
    step = float(np.percentile(np.linalg.norm(np.diff(relative[:, :3, 3], axis=0), axis=1), 95))
    yaw, pitch = _angles(relative)
    turn = float(np.percentile(np.degrees(np.hypot(np.diff(np.unwrap(yaw)), np.diff(pitch))), 95))
    fixed, room = chosen.fixed_speeds, 3.75 if chosen.words else 1.25
    move = chosen.translation_speed if fixed else round(max(room * step, 1e-3), 6)
    rotate = chosen.rotation_speed_deg if fixed else round(max(room * turn, 0.05), 6)
    held = np.zeros((frames, len(CONTROLS)), dtype=bool)
    for first in range(0, frames, SEGMENT):
        last = min(first + SEGMENT, frames)
        now = roll_out(held[:first], move, rotate, chosen.motion)[-1].astype(np.float64) if first else np.eye(4)
        wish = _wish(now, relative[last]) / (np.array([move, move, rotate, rotate]) * (last - first))
        pressed = np.abs(wish) >= 0.5
        if chosen.words:
            pressed &= np.arange(4) == int(np.abs(wish).argmax())
        for axis in np.flatnonzero(pressed):
            held[first:last, 2 * axis + (0 if wish[axis] > 0 else 1)] = True
    if chosen.words:
        held = held[: frames - frames % chosen.frames_per_unit]
    actions = Actions(held, move, rotate, chosen.motion)
    driven = roll_out(held, move, rotate, chosen.motion).astype(np.float64)
    wanted = relative[: len(driven)]
    off = np.linalg.norm(driven[:, :3, 3] - wanted[:, :3, 3], axis=1)
    angle = rotation_angle_deg(driven[:, :3, :3], wanted[:, :3, :3])
    return Keys(
        chosen.name,
        format_actions(actions, chosen),
        move,
        rotate,
        *(round(float(v), 4) for v in (off.mean(), off.max(), angle.mean(), angle.max())),
    )


def _angles(poses: Array) -> tuple[Array, Array]:
    forward = poses[..., :3, 2]
    return np.arctan2(forward[..., 0], forward[..., 2]), np.arcsin(np.clip(-forward[..., 1], -1.0, 1.0))


def _wish(now: Array, wanted: Array) -> Array:
    """Forward and right (units), yaw right and pitch up (degrees) from one pose to another."""
    (yaw0, pitch0), (yaw1, pitch1) = _angles(now), _angles(wanted)
    x, _, z = wanted[:3, 3] - now[:3, 3]
    turn = (float(yaw1 - yaw0) + np.pi) % (2.0 * np.pi) - np.pi
    ahead, aside = x * np.sin(yaw0) + z * np.cos(yaw0), x * np.cos(yaw0) - z * np.sin(yaw0)
    return np.array([ahead, aside, np.degrees(turn), np.degrees(pitch1 - pitch0)])
