"""Smooth, collision-free camera paths through a scene, built like held keys: constant speeds with soft starts
and stops."""

from __future__ import annotations

import math

import numpy as np

from wm_bench.worlds.scene import Scene, look

CLEARANCE_M = 0.3
MAX_TURN_DEG = 75.0
# Per kind: forward, strafe right, yaw right, pitch up as signs; mixed kinds are built below.
_HELD: dict[str, tuple[float, float, float, float]] = {
    "forward": (1, 0, 0, 0),
    "backward": (-1, 0, 0, 0),
    "strafe-left": (0, -1, 0, 0),
    "strafe-right": (0, 1, 0, 0),
    "yaw-left": (0, 0, -1, 0),
    "yaw-right": (0, 0, 1, 0),
    "forward-yaw-left": (1, 0, -0.7, 0),
    "forward-yaw-right": (1, 0, 0.7, 0),
    "pitch": (0.5, 0, 0, 0.35),
}
KINDS = (*_HELD, "arc-left", "arc-right", "look-around", "mixture")
_WEIGHTS = np.array([2.0, 1, 1.2, 1.2, 1.3, 1.3, 1.7, 1.7, 0.6, 1.3, 1.3, 1.0, 3.4])
_MIXTURE = tuple(k for k in _HELD if k != "pitch")


def _smooth(rates: np.ndarray) -> np.ndarray:
    """Soften key presses with a 9-frame Hann window, holding the ends."""
    window = np.hanning(11)[1:-1]
    padded = np.pad(rates, ((4, 4), (0, 0)), mode="edge")
    return np.stack([np.convolve(padded[:, i], window / window.sum(), mode="valid") for i in range(rates.shape[1])], 1)


def _rates(kind: str, rng: np.random.Generator, steps: int, speed_m: float, turn_deg: float) -> np.ndarray:
    """Per-step (steps, 4) forward metres, strafe metres, yaw degrees, pitch degrees."""
    unit = np.array([speed_m, speed_m, turn_deg, turn_deg])
    rates = np.zeros((steps, 4))
    if kind in _HELD:
        rates[:] = np.array(_HELD[kind]) * unit
        if kind == "pitch":
            rates[:, 3] *= rng.choice([-1, 1])
            rates[steps // 2 :, 3] *= -1
    elif kind.startswith("arc"):
        side = -1.0 if kind == "arc-left" else 1.0
        radius = max(float(rng.uniform(3.0, 6.0)), speed_m * steps / math.radians(50))
        rates[:, 1] = side * speed_m
        rates[:, 2] = -side * math.degrees(speed_m / radius)
    elif kind == "look-around":
        side = float(rng.choice([-1, 1]))
        first, second = int(steps * 0.3), int(steps * 0.75)
        rates[:, 2] = side * turn_deg
        rates[first:second, 2] *= -1
        rates[:, 0] = speed_m * float(rng.choice([0.0, 0.6]))
    else:
        at = 0
        while at < steps:
            length = int(rng.integers(14, 33))
            # The last segment swallows a rest too short to be seen.
            if steps - at - length < 10:
                length = steps - at
            rates[at : at + length] = np.array(_HELD[str(rng.choice(_MIXTURE))]) * unit
            at += length
    return _smooth(rates)


def _integrate(start: np.ndarray, rates: np.ndarray) -> np.ndarray:
    """Camera-to-world poses (steps + 1, 4, 4) from local rates; translation stays on the world horizontal plane."""
    forward = start[:3, 2].astype(np.float64)
    yaw0 = math.degrees(math.atan2(forward[0], forward[2]))
    pitch0 = math.degrees(math.asin(float(np.clip(-forward[1], -1, 1))))
    yaw = yaw0 + np.concatenate(([0.0], np.cumsum(rates[:, 2])))
    pitch = np.clip(pitch0 + np.concatenate(([0.0], np.cumsum(rates[:, 3]))), -25, 25)
    x, y, z = (float(v) for v in start[:3, 3])
    poses = [start.astype(np.float64)]
    for i, (ahead, aside) in enumerate(rates[:, :2]):
        heading = math.radians((yaw[i] + yaw[i + 1]) / 2)
        x += ahead * math.sin(heading) + aside * math.cos(heading)
        z += ahead * math.cos(heading) - aside * math.sin(heading)
        poses.append(look(x, -y, z, float(yaw[i + 1]), float(pitch[i + 1])))
    return np.stack(poses).astype(np.float32)


def sample_path(scene: Scene, seed: int, frames: int, kind: str | None = None) -> np.ndarray:
    """A camera path (frames, 4, 4) float32 camera-to-world that starts at the scene's start pose and hits nothing.

    About 0.04-0.08 m (times the scene's scale) and 0.45-0.9 degrees a frame, meant for 16 frames/s; the yaw range stays
    within 75 degrees. `kind` is one of `KINDS` or None for a random one; when it does not fit the scene the
    path is slowed
    down and, failing that, replaced by another kind. Raises ValueError on an unknown kind or frames < 2.
    """
    if frames < 2:
        raise ValueError(f"frames is {frames}; allowed are integers >= 2, e.g. 65")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}, e.g. 'forward'")
    rng = np.random.default_rng([scene.seed, int(seed), 7919])
    wanted = kind
    start = scene.start_pose()
    for attempt in range(60):
        if kind is None or attempt >= 6:
            wanted = str(rng.choice(KINDS, p=_WEIGHTS / _WEIGHTS.sum()))
        assert wanted is not None
        slower = 1.0 if kind is None else 0.75 ** min(attempt, 6)
        speed_m = float(rng.uniform(0.04, 0.08)) * scene.scale * slower
        turn_deg = min(float(rng.uniform(0.45, 0.9)), 1.2) * min(1.0, 80.0 / frames)
        rates = _rates(wanted, rng, frames - 1, speed_m, turn_deg)
        path = _integrate(start, rates)
        turned = np.concatenate(([0.0], np.cumsum(rates[:, 2])))
        if np.ptp(turned) <= MAX_TURN_DEG and scene.distance(path[:, :3, 3]).min() > CLEARANCE_M:
            return path
    return _integrate(start, _rates("look-around", rng, frames - 1, 0.0, 0.6))
