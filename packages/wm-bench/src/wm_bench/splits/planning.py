"""Fitting a camera plan into a scene: travel, speed, collisions with retries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from camera_control.rollout import yaw_pitch_rotation
from numpy.typing import NDArray

from wm_bench.splits.splines import at_times, catmull_rom, even_times, laplacian_smooth, limit_turns, squad
from wm_bench.splits.splines import turn_angles_deg as turns_of
from wm_bench.splits.templates import Template

Array = NDArray[np.float64]
Distance = Callable[[NDArray[Any]], NDArray[Any]]


@dataclass(frozen=True)
class Rules:
    """What a benchmark path may do. The paper's values where it names them; `rise_m` and `smooth_rounds` are ours."""

    fps: float = 16.0
    duration_s: float = 60.0
    travel_of_depth: float = 0.6  # farthest from the start, as a part of the first frame's median depth
    max_speed_m_s: float = 0.4
    max_turn_deg_s: float = 12.0
    clearance_m: float = 0.3
    retry_speed: float = 0.7  # each retry keeps this part of the speed
    retries: int = 3
    rise_m: float = 1.0  # the most that 1 unit of height may become
    smooth_rounds: int = 24


class Plan(NamedTuple):
    """A path in the scene and how it came about."""

    c2w: Array  # (n, 4, 4) world poses; pose 0 is the start
    collision: dict[str, Any]


def plan_path(template: Template, start: Array, depth_m: float, distance: Distance, rules: Rules) -> Plan:
    """Lay a template into a scene from the start pose (4, 4).

    `distance(points (m, 3))` is the distance in metres to the nearest surface; `depth_m` the median depth of the first
    frame. On a collision the speed falls by 30 % and the path is made again, up to three times; then the plan is
    mirrored left to right and tried the same way; then it shrinks on. Raises ValueError when even a path of a few
    centimetres touches something.
    """
    speed, tried = rules.max_speed_m_s, []
    for mirrored, first, count in ((False, 0, rules.retries + 1), (True, 0, rules.retries + 1), (False, 4, 12)):
        for attempt in range(first, first + count):
            limit = speed * rules.retry_speed**attempt
            path, scale_m = _lay(template, start, depth_m * rules.travel_of_depth, limit, mirrored, rules)
            clear = float(np.min(distance(path[:, :3, 3].astype(np.float32))))
            tried.append({"max_speed_m_s": round(limit, 6), "mirrored": mirrored, "clearance_m": round(clear, 4)})
            if clear >= rules.clearance_m:
                return Plan(path, {"ok": True, "scale_m": round(scale_m, 6), "mirrored": mirrored, "attempts": tried})
    raise ValueError(
        f"{template.name} does not fit: {tried[-1]['clearance_m']} m from a surface after {len(tried)} attempts; "
        f"allowed: a start with {rules.clearance_m:g} m around it"
    )


def _lay(
    template: Template, start: Array, travel_m: float, max_speed: float, mirrored: bool, rules: Rules
) -> tuple[Array, float]:
    keys = template.keys * (np.array([-1.0, 1.0, 1.0, -1.0, 1.0]) if mirrored else 1.0)
    forward = start[:3, 2]
    yaw0, pitch0 = np.arctan2(forward[0], forward[2]), np.arcsin(np.clip(-forward[1], -1.0, 1.0))
    rotations = squad(yaw_pitch_rotation(np.radians(keys[:, 3]), pitch0 + np.radians(keys[:, 4])))
    turns = turns_of(rotations)
    # The largest scale whose even speed stays below the limit; speed grows in step with scale.
    scale = travel_m * max_speed / rules.max_speed_m_s
    for _ in range(6):
        points = catmull_rom(keys[:, :3] * np.array([scale, -min(scale, rules.rise_m), scale]))
        steps = np.linalg.norm(np.diff(points, axis=0), axis=1)
        # A little below the limit, so that the last clamp has next to nothing to do.
        times, speed = even_times(steps, turns, rules.duration_s, 0.97 * rules.max_turn_deg_s)
        if speed <= max_speed:
            break
        scale *= 0.999 * max_speed / speed
    frames = round(rules.duration_s * rules.fps) + 1
    placed, turned = at_times(times, points, rotations, np.arange(frames) / rules.fps)
    placed = laplacian_smooth(placed, rules.smooth_rounds)
    turned = limit_turns(turned, rules.max_turn_deg_s / rules.fps)
    path = np.tile(np.eye(4), (frames, 1, 1))
    level = yaw_pitch_rotation(np.asarray(yaw0), np.asarray(0.0))
    path[:, :3, :3] = level @ turned
    path[:, :3, 3] = start[:3, 3] + placed @ level.T
    return path, float(scale)


def smoothness(c2w: Array, fps: float) -> dict[str, float]:
    """Statistics of a path (n, 4, 4): lengths in metres, speeds per second, angles in degrees."""
    position = c2w[:, :3, 3]
    velocity = np.diff(position, axis=0) * fps
    speed = np.linalg.norm(velocity, axis=1)
    acceleration = np.diff(velocity, axis=0) * fps
    jerk = np.diff(acceleration, axis=0) * fps
    turn = turns_of(c2w[:, :3, :3]) * fps
    pitch = np.degrees(np.arcsin(np.clip(-c2w[:, 1, 2], -1.0, 1.0)))
    extent = np.ptp(position, axis=0)
    values = {
        "path_length_m": speed.sum() / fps,
        "net_displacement_m": np.linalg.norm(position[-1] - position[0]),
        "farthest_m": np.linalg.norm(position - position[0], axis=1).max(),
        "extent_right_m": extent[0],
        "extent_up_m": extent[1],
        "extent_ahead_m": extent[2],
        "speed_mean_m_s": speed.mean(),
        "speed_p95_m_s": np.percentile(speed, 95),
        "speed_max_m_s": speed.max(),
        "acceleration_rms_m_s2": np.sqrt(np.mean(np.sum(acceleration**2, axis=1))),
        "acceleration_max_m_s2": np.linalg.norm(acceleration, axis=1).max(),
        "jerk_rms_m_s3": np.sqrt(np.mean(np.sum(jerk**2, axis=1))),
        "turn_mean_deg_s": turn.mean(),
        "turn_p95_deg_s": np.percentile(turn, 95),
        "turn_max_deg_s": turn.max(),
        "pitch_min_deg": pitch.min(),
        "pitch_max_deg": pitch.max(),
        "step_max_m": speed.max() / fps,
        "turn_step_max_deg": turn.max() / fps,
    }
    return {name: round(float(value), 6) for name, value in values.items()}


def rules_record(rules: Rules) -> dict[str, float]:
    """The rules as plain numbers, for manifests and identities."""
    return asdict(rules)
