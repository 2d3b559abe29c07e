"""Say the same motion in another dialect, and prove that it is the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from camera_control.actions import Actions, format_actions, parse_actions
from camera_control.dialects import Dialect, get_dialect

_ANGLE_TOLERANCE_DEG = 0.01
_POSITION_TOLERANCE = 1e-4  # of the path length; the heading rules of the dialects differ by 1e-6


@dataclass(frozen=True)
class Conversion:
    """An action string in a new dialect, with the settings that it must be rolled out with.

    `position_error` (world units) and `angle_error_deg` compare the poses of both strings over all frames.
    """

    text: str
    dialect: str
    translation_speed: float
    rotation_speed_deg: float
    smooth: bool
    position_error: float
    angle_error_deg: float
    loss_free: bool


def convert_actions(
    text: str,
    source: str | Dialect,
    target: str | Dialect,
    *,
    translation_speed: float | None = None,
    rotation_speed_deg: float | None = None,
    smooth: bool | None = None,
    allow_loss: bool = False,
) -> Conversion:
    """Translate an action string between dialects without changing a single pose.

    The speeds of the source travel along, because no dialect writes them into its text; so does inertia where the
    target knows it. Both strings are rolled out and compared.

    Raises ValueError when the poses differ (inertia, strafe-yaw coupling, pitch limits, fixed speeds), with numbers;
    `allow_loss` returns the nearest string instead. A motion that the target cannot spell is always an error.
    """
    before, after = get_dialect(source), get_dialect(target)
    actions = parse_actions(
        text,
        before,
        translation_speed=translation_speed,
        rotation_speed_deg=rotation_speed_deg,
        smooth=smooth,
    )
    written = format_actions(actions, after)
    carried = {
        "translation_speed": after.translation_speed if after.fixed_speeds else actions.translation_speed,
        "rotation_speed_deg": after.rotation_speed_deg if after.fixed_speeds else actions.rotation_speed_deg,
    }
    with_inertia = actions.motion.smooth and after.motion.smooth
    again = parse_actions(written, after, smooth=with_inertia, **carried)

    old, new = actions.to_c2w().astype(np.float64), again.to_c2w().astype(np.float64)
    position_error = float(np.linalg.norm(old[:, :3, 3] - new[:, :3, 3], axis=-1).max())
    chord = np.linalg.norm(old[:, :3, :3] - new[:, :3, :3], axis=(-2, -1)) / (2.0 * np.sqrt(2.0))
    angle_error_deg = float(np.degrees(2.0 * np.arcsin(np.clip(chord, 0.0, 1.0))).max())
    length = float(np.linalg.norm(np.diff(old[:, :3, 3], axis=0), axis=-1).sum())
    loss_free = angle_error_deg <= _ANGLE_TOLERANCE_DEG and position_error <= _POSITION_TOLERANCE * max(length, 1.0)
    if not loss_free and not allow_loss:
        reasons = _differences(before, after, actions, again)
        raise ValueError(
            f"{text!r} cannot go from {before.name!r} to {after.name!r} without loss: poses differ by up to "
            f"{position_error:.4g} units and {angle_error_deg:.4g} degrees ({', '.join(reasons)}); "
            "allowed: loss-free conversions, or allow_loss=True"
        )
    return Conversion(
        text=written,
        dialect=after.name,
        smooth=with_inertia,
        position_error=position_error,
        angle_error_deg=angle_error_deg,
        loss_free=loss_free,
        **carried,
    )


def _differences(before: Dialect, after: Dialect, actions: Actions, again: Actions) -> list[str]:
    reasons = []
    if actions.motion.smooth != again.motion.smooth:
        reasons.append(f"{after.name!r} has no inertia")
    if before.motion.strafe_yaw != after.motion.strafe_yaw:
        reasons.append(f"a strafe turns by {after.motion.strafe_yaw:g} of a yaw step, not {before.motion.strafe_yaw:g}")
    if (actions.translation_speed, actions.rotation_speed_deg) != (again.translation_speed, again.rotation_speed_deg):
        reasons.append(f"speeds are fixed at {after.translation_speed:g} and {after.rotation_speed_deg:g} degrees")
    limits = [(motion.pitch_limit_deg, motion.pitch_rule) for motion in (before.motion, after.motion)]
    if limits[0] != limits[1] and actions.commands[:, 3].any():
        reasons.append(f"pitch limit {limits[1][0]:g} degrees, not {limits[0][0]:g}")
    return reasons
