"""Twenty camera plans, ten simple and ten hard, as key poses that later become smooth one-minute paths.

A plan is (k, 5) with 11 to 15 rows: right, up, ahead (1 = the farthest a path may go from its start), yaw and pitch in
degrees (right and up positive). Every plan starts at zero and comes back to places it has been, which is what makes
revisit pairs. The kinds follow the paper's benchmark section; names known from the released set keep their numbers;
all amplitudes are ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Template(NamedTuple):
    """A camera plan and its name, such as traj_02_s_curve or traj_hard_10_crane_shot."""

    name: str
    keys: Array  # (k, 5) right, up, ahead, yaw_deg, pitch_deg


def _out_and_back(half: int) -> Array:
    """0 to 1 and back to 0 in 2 half + 1 equal steps."""
    return 1.0 - np.abs(np.linspace(-1.0, 1.0, 2 * half + 1))


def _there_and_back(rows: list[tuple[float, ...]]) -> Array:
    """Rows, then the same rows in reverse."""
    return np.array(rows + rows[-2::-1], dtype=np.float64)


def _keys(right: Array | float, up: Array | float, ahead: Array | float, yaw: Array | float, pitch: Array | float):
    columns = np.broadcast_arrays(*(np.asarray(c, np.float64) for c in (right, up, ahead, yaw, pitch)))
    return np.stack(columns, axis=1)


def _turn(keys: int) -> Array:
    """Angles of a full turn, both ends included."""
    return np.linspace(0.0, 2.0 * np.pi, keys)


def _circle(angle_deg: Array, radius: Array | float, up: Array | float, pitch: Array | float) -> Array:
    """Around the point one radius ahead of the start, facing it; a positive angle moves left and turns right."""
    a = np.radians(angle_deg)
    reach = np.broadcast_to(np.asarray(radius, np.float64), a.shape)
    return _keys(-reach * np.sin(a), up, reach[0] - reach * np.cos(a), angle_deg, pitch)


def _gentle_arc() -> Array:
    t = _out_and_back(5)
    return _keys(0.35 * t**2, 0, 0.9 * t, 30 * t, 0)


def _s_curve() -> Array:
    t = _out_and_back(6)
    return _keys(0.25 * np.sin(2 * np.pi * t), 0, 0.95 * t, 20 * np.sin(2 * np.pi * t), 0)


def _backtrack() -> Array:
    t = _out_and_back(5)
    return _keys(0.15 * np.sin(np.pi * t), 0, 0.95 * t, 10 * t, 0)


def _figure_eight() -> Array:
    a = _turn(13)
    return _keys(0.42 * np.sin(2 * a), 0, 0.48 * (1 - np.cos(a)), 25 * np.sin(2 * a), 0)


def _side_detour() -> Array:
    right = [0, 0.01, 0.15, 0.4, 0.42, 0.2, 0, -0.12, -0.08, 0.02, 0.01, 0]
    ahead = [0, 0.2, 0.35, 0.45, 0.65, 0.8, 0.9, 0.75, 0.55, 0.38, 0.18, 0]
    yaw = [0, 0, 12, 20, 5, -15, -20, -10, 0, 0, 0, 0]
    return _keys(np.array(right), 0, np.array(ahead), np.array(yaw), 0)


def _l_return() -> Array:
    return _there_and_back(
        [
            (0, 0, 0, 0, 0),
            (0, 0, 0.2, 0, 0),
            (0.01, 0, 0.4, 3, 0),
            (0.05, 0, 0.58, 15, 0),
            (0.2, 0, 0.68, 40, 0),
            (0.4, 0, 0.7, 55, 0),
            (0.6, 0, 0.71, 60, 0),
        ]
    )


def _room_loop() -> Array:
    a = 1.12 * _turn(13)
    return _keys(0.42 * np.sin(a), 0, 0.45 * (1 - np.cos(a)), 20 * np.sin(a), 0)


def _look_around() -> Array:
    a = _turn(13)
    return _keys(0.15 * np.sin(2 * a), 0, 0.15 * (1 - np.cos(a)), 60 * np.sin(a), 4 * np.sin(2 * a))


def _orbit() -> Array:
    return _circle(40 * np.sin(_turn(13)), 0.9, 0, 0)


def _room_explorer() -> Array:
    right = [0, 0.2, 0.45, 0.6, 0.45, 0.1, -0.25, -0.4, -0.25, 0, 0.16, 0.1, 0]
    ahead = [0, 0.25, 0.35, 0.55, 0.8, 0.85, 0.7, 0.45, 0.25, 0.18, 0.24, 0.1, 0]
    yaw = [0, 20, 40, 10, -30, -60, -40, 0, 25, 20, 20, 10, 0]
    return _keys(np.array(right), 0, np.array(ahead), np.array(yaw), 0)


def _full_orbit() -> Array:
    return _circle(np.linspace(0, 395, 15), 0.5, 0, 0)


def _staircase_ascent() -> Array:
    return _there_and_back(
        [
            (0, 0, 0, 0, 0),
            (0.02, 0.01, 0.18, 8, 0),
            (0.03, 0.18, 0.22, 8, -8),
            (0.05, 0.19, 0.4, -8, -8),
            (0.04, 0.36, 0.44, -8, -16),
            (0.02, 0.37, 0.62, 5, -16),
            (0.0, 0.54, 0.66, 5, -24),
            (-0.03, 0.55, 0.8, 0, -24),
        ]
    )


def _whip_pan() -> Array:
    t = _out_and_back(6)
    yaw = [0, 0, 90, 90, 0, 0, -90, -90, 0, 0, 45, 45, 0]
    return _keys(0.1 * np.sin(2 * np.pi * t) + 0.02 * np.linspace(0, 1, 13) * t, 0, 0.5 * t, np.array(yaw), 0)


def _double_loop() -> Array:
    a = np.linspace(0, 4 * np.pi, 15)
    yaw = 270 * _out_and_back(7)
    return _keys(0.38 * np.sin(a), 0, 0.4 * (1 - np.cos(a)), yaw, 0)


def _zigzag() -> Array:
    side = np.array([0, 1, -1, 1, -1, 1, 0, 1, -1, 1, -1, 1, 0], np.float64)
    return _keys(0.28 * side, 0, 0.85 * _out_and_back(6), 20 * side, 0)


def _elevator() -> Array:
    t = _out_and_back(3)
    twice = np.concatenate([t, t[1:]])
    return _keys(0.05 * np.sin(_turn(13)), 0.85 * twice, 0.1 * twice, 30 * np.sin(_turn(13)), -35 * twice)


def _spiral() -> Array:
    t = _out_and_back(7)
    return _circle(240 * t, 0.42, 0.55 * t, -30 * t)


def _spiral_orbit() -> Array:
    t = _out_and_back(7)
    return _circle(-230 * t, 0.5 - 0.2 * t, 0.25 * t, -15 * t)


def _extreme_pitch() -> Array:
    a = _turn(13)
    return _keys(0.12 * np.sin(2 * a), 0, 0.3 * (1 - np.cos(a)), 20 * np.sin(a), 50 * np.sin(2 * a))


def _crane_shot() -> Array:
    t = _out_and_back(6)
    return _keys(0.2 * np.sin(np.pi * t), 0.85 * t**1.5, 0.45 * t, 35 * np.sin(np.pi * t), -40 * t)


_SIMPLE: dict[str, Callable[[], Array]] = {
    "gentle_arc": _gentle_arc,
    "s_curve": _s_curve,
    "backtrack": _backtrack,
    "figure_eight": _figure_eight,
    "side_detour": _side_detour,
    "l_return": _l_return,
    "room_loop": _room_loop,
    "look_around": _look_around,
    "orbit": _orbit,
    "room_explorer": _room_explorer,
}
_HARD: dict[str, Callable[[], Array]] = {
    "full_orbit": _full_orbit,
    "staircase_ascent": _staircase_ascent,
    "whip_pan": _whip_pan,
    "double_loop": _double_loop,
    "zigzag": _zigzag,
    "elevator": _elevator,
    "spiral": _spiral,
    "spiral_orbit": _spiral_orbit,
    "extreme_pitch": _extreme_pitch,
    "crane_shot": _crane_shot,
}

SIMPLE = tuple(Template(f"traj_{i:02d}_{name}", keys()) for i, (name, keys) in enumerate(_SIMPLE.items(), 1))
HARD = tuple(Template(f"traj_hard_{i:02d}_{name}", keys()) for i, (name, keys) in enumerate(_HARD.items(), 1))
