"""An independent roll-out for the tests: one matrix product per frame, straight from the prose of the specification.

Run as a script it rewrites `golden/trajectories.json`; it never imports the code under test.
"""

import json
import math
from pathlib import Path

import numpy as np

ROLES_V1 = {"w": (0, 1), "s": (0, -1), "d": (1, 1), "a": (1, -1), "l": (2, 1), "j": (2, -1), "i": (3, 1), "k": (3, -1)}
ROLES_V2 = {**ROLES_V1, "d": (2, 1), "a": (2, -1), "l": (1, 1), "j": (1, -1)}
RULES = {  # roles, speed, degrees, inertia, pitch limit, clamp, strafe-yaw coupling, epsilon
    "sana-v1": (ROLES_V1, 0.05, 1.2, False, 85.0, False, 0.0, 0.0),
    "diffusers": (ROLES_V1, 0.05, 1.2, False, 85.0, False, 0.0, 0.0),
    "sglang": (ROLES_V1, 0.04, 1.2, False, 85.0, False, 0.4, 1e-6),
    "sana-v2": (ROLES_V2, 0.025, 0.6, True, 60.0, True, 0.0, 1e-6),
}
WORDS = {"right": "l", "left": "j", "up": "i", "down": "k", **{key: key for key in "wasd"}}
SCRIPTS = {
    "w-80,jw-40,w-40,lw-60,w-100": [0, 1, 80, 81, 120, 160, 220, 320],
    "wd-10,none-6,sal-12,ik-3,wi-100,k-30,jdws-9": [1, 10, 13, 16, 17, 28, 31, 60, 80, 131, 161, 170],
    "w-5,wl-5,wa-5,i-5,none-20": [5, 6, 11, 16, 20, 24, 40],
}
WORLDPLAY = {"w-3, right-1": [1, 12, 13, 16], "a-2,up-3,none-1,s-2,left-2,down-1,d-1": [8, 20, 24, 32, 40, 44, 48]}


def rot_x(angle):
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]])


def rot_y(angle):
    c, s = math.cos(angle), math.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])


def stepwise(text, dialect, speed=None, degrees=None, smooth=None):
    """(F + 1, 4, 4) float64 poses of a well-formed script."""
    if dialect == "worldplay":
        frames = [{WORDS[k]} - {"none"} if k != "none" else set() for k, n in _split(text) for _ in range(4 * n)]
        rule = (ROLES_V1, 0.02, 0.75, False, 85.0, False, 0.0, 0.0)
    else:
        frames = [set() if k == "none" else set(k) for k, n in _split(text) for _ in range(n)]
        rule = RULES[dialect]
    roles, rule_speed, rule_degrees, inertia, limit, clamp, coupling, eps = rule
    speed = rule_speed if speed is None else speed
    turn = math.radians(rule_degrees if degrees is None else degrees)
    inertia = inertia if smooth is None else smooth
    limit = math.radians(limit)
    size = [speed, speed, turn, turn]
    rotation, position, pitch = np.eye(3), np.zeros(3), 0.0
    velocity, before = [0.0] * 4, set()
    poses = [np.eye(4)]
    for held in frames:
        target = [0.0] * 4
        for key in held:
            axis, sign = roles[key]
            target[axis] += sign * size[axis]
            if axis == 1:
                target[2] += sign * coupling * turn
        if not inertia or held - before:
            velocity = target
        else:
            for axis in range(4):
                tau = 0.45 if abs(target[axis]) > 1e-12 else 1.0
                velocity[axis] += (1 - math.exp(-1 / 16 / tau)) * (target[axis] - velocity[axis])
        velocity, before = list(velocity), held
        wanted = pitch + velocity[3]
        if clamp:
            wanted = min(max(wanted, -limit), limit)
        elif not -limit <= wanted <= limit:
            wanted = pitch
        rotation, pitch = rot_y(velocity[2]) @ rotation @ rot_x(wanted - pitch), wanted
        for column, pace in ((2, velocity[0]), (0, velocity[1])):
            flat = rotation[:, column] * [1, 0, 1]
            position = position + pace * flat / (np.linalg.norm(flat) + eps)
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = rotation, position
        poses.append(pose)
    return np.stack(poses)


def _split(text):
    for segment in text.replace(" ", "").split(","):
        keys, count = segment.rsplit("-", 1)
        yield keys, int(count)


if __name__ == "__main__":
    golden = {
        dialect: {
            script: {str(f): stepwise(script, dialect)[f, :3].round(9).tolist() for f in frames}
            for script, frames in (WORLDPLAY if dialect == "worldplay" else SCRIPTS).items()
        }
        for dialect in [*RULES, "worldplay"]
    }
    lines = [
        json.dumps(d) + ": {\n" + ",\n".join(f"  {json.dumps(s)}: {json.dumps(p)}" for s, p in scripts.items()) + "\n}"
        for d, scripts in golden.items()
    ]
    target = Path(__file__).parent / "golden" / "trajectories.json"
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
