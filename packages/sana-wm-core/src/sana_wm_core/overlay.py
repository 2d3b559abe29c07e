"""Shows what the camera does: lit WASD keys and a joystick drawn over every frame.

The keys come from the poses, not from an action string, so any trajectory can be shown. Thresholds and look are this
project's own; upstream's overlay was never published.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

_OVERSAMPLE = 4
_INK = (255, 255, 255)
_LIT = (255, 196, 61)
_SHADE = (16, 20, 28)
_KEYS = {"W": (1, 0), "A": (0, 1), "S": (1, 1), "D": (2, 1)}
_DIRECTION = {"W": (2, 1), "S": (2, -1), "D": (0, 1), "A": (0, -1)}


@dataclass(frozen=True)
class Controls:
    """What the camera does in each frame.

    Attributes:
        keys: Letters of "wasd" lit per frame, upper case.
        stick: (f, 2) joystick deflection: yaw (right positive) and pitch (up positive), length at most 1.
    """

    keys: list[str]
    stick: np.ndarray


def read_controls(c2w: np.ndarray) -> Controls:
    """Tell from camera poses which movement keys and which stick deflection explain them.

    A key is lit when its part of a step is over a quarter of the clip's usual step (90th percentile); the stick is
    scaled by the clip's usual turn (95th percentile, at least 0.1 degrees). The last frame repeats the one before.

    Args:
        c2w: (f, 4, 4) camera-to-world poses, OpenCV axes.
    """
    c2w = np.asarray(c2w, dtype=np.float64)
    if len(c2w) < 2:
        return Controls([""] * len(c2w), np.zeros((len(c2w), 2)))
    rotation, position = c2w[:, :3, :3], c2w[:, :3, 3]
    step = np.einsum("fji,fj->fi", rotation[:-1], position[1:] - position[:-1])
    usual_step = np.percentile(np.linalg.norm(step, axis=1), 90)
    turn = np.einsum("fji,fjk->fik", rotation[:-1], rotation[1:])
    rates = np.stack([np.arctan2(turn[:, 0, 2], turn[:, 2, 2]), -np.arcsin(turn[:, 1, 2].clip(-1, 1))], axis=1)
    usual_turn = max(np.percentile(np.abs(rates).max(axis=1), 95), np.radians(0.1))
    stick = rates / usual_turn
    stick /= np.maximum(1.0, np.linalg.norm(stick, axis=1, keepdims=True))

    def lit(frame: np.ndarray) -> str:
        if usual_step < 1e-6:
            return ""
        return "".join(key for key, (axis, sign) in _DIRECTION.items() if sign * frame[axis] > 0.25 * usual_step)

    keys = [lit(frame) for frame in step]
    return Controls([*keys, keys[-1]], np.concatenate([stick, stick[-1:]]))


def apply_overlay(video: np.ndarray, c2w: np.ndarray) -> np.ndarray:
    """Draw keys (bottom left) and joystick (bottom right) over a video.

    Args:
        video: (f, H, W, 3) uint8; not changed.
        c2w: (f, 4, 4) pose of every frame.

    Returns:
        A new (f, H, W, 3) uint8 video.
    """
    if len(video) != len(c2w):
        raise ValueError(f"the overlay needs one pose per frame; got {len(video)} frames and {len(c2w)} poses")
    controls = read_controls(c2w)
    out = video.copy()
    height, width = video.shape[1:3]
    side = max(9, round(0.085 * min(height, width * 0.6)))
    margin = max(2, side // 2)
    for frame, keys, (yaw, pitch) in zip(out, controls.keys, controls.stick, strict=True):
        # Quantised so that the cache holds a few dozen drawings instead of one per frame.
        cluster = _draw_keys(keys, side)
        stick = _draw_stick(round(float(yaw) * 24), round(float(pitch) * 24), side)
        _blend(frame, cluster, margin, height - margin - cluster.shape[0])
        _blend(frame, stick, width - margin - stick.shape[1], height - margin - stick.shape[0])
    return out


def _blend(frame: np.ndarray, drawing: np.ndarray, left: int, top: int) -> None:
    """Lay an RGBA drawing over a frame in place, cut off at the edges."""
    left, top = max(0, left), max(0, top)
    patch = frame[top : top + drawing.shape[0], left : left + drawing.shape[1]]
    drawing = drawing[: patch.shape[0], : patch.shape[1]].astype(np.float32)
    alpha = drawing[..., 3:] / 255
    patch[:] = (patch * (1 - alpha) + drawing[..., :3] * alpha + 0.5).astype(np.uint8)


@lru_cache(maxsize=256)
def _draw_keys(lit: str, side: int) -> np.ndarray:
    big = side * _OVERSAMPLE
    gap = max(_OVERSAMPLE, big // 8)
    image = Image.new("RGBA", (3 * big + 2 * gap, 2 * big + gap), (*_SHADE, 0))
    draw = ImageDraw.Draw(image)
    for key, (column, row) in _KEYS.items():
        x, y = column * (big + gap), row * (big + gap)
        on = key in lit
        draw.rounded_rectangle(
            (x, y, x + big - 1, y + big - 1),
            radius=big // 5,
            fill=(*_LIT, 225) if on else (*_SHADE, 120),
            outline=(*(_LIT if on else _INK), 240 if on else 130),
            width=max(1, big // 16),
        )
        _draw_letter(draw, key, x, y, big, (*_SHADE, 255) if on else (*_INK, 200))
    return _shrink(image)


# Strokes on a unit square: letters stay crisp at any key size and need no font file.
_STROKES = {
    "W": [(0.24, 0.28), (0.37, 0.72), (0.5, 0.42), (0.63, 0.72), (0.76, 0.28)],
    "A": [(0.28, 0.73), (0.5, 0.27), (0.72, 0.73)],
    "S": [(0.68, 0.33), (0.56, 0.27), (0.4, 0.29), (0.33, 0.39), (0.4, 0.48), (0.6, 0.53), (0.67, 0.62)]
    + [(0.6, 0.71), (0.44, 0.73), (0.32, 0.67)],
    "D": [(0.34, 0.27), (0.34, 0.73), (0.5, 0.73), (0.65, 0.63), (0.69, 0.5), (0.65, 0.37), (0.5, 0.27), (0.34, 0.27)],
}


def _draw_letter(draw: ImageDraw.ImageDraw, letter: str, x: int, y: int, big: int, ink: tuple[int, ...]) -> None:
    points = [(x + u * big, y + v * big) for u, v in _STROKES[letter]]
    width = max(2, big // 9)
    draw.line(points, fill=ink, width=width, joint="curve")
    if letter == "A":
        draw.line([(x + 0.37 * big, y + 0.58 * big), (x + 0.63 * big, y + 0.58 * big)], fill=ink, width=width)


@lru_cache(maxsize=512)
def _draw_stick(yaw_24: int, pitch_24: int, side: int) -> np.ndarray:
    size = 2 * side * _OVERSAMPLE + max(_OVERSAMPLE, side * _OVERSAMPLE // 8)
    image = Image.new("RGBA", (size, size), (*_SHADE, 0))
    draw = ImageDraw.Draw(image)
    line = max(_OVERSAMPLE // 2, size // 40)
    draw.ellipse((0, 0, size - 1, size - 1), fill=(*_SHADE, 120), outline=(*_INK, 150), width=line)
    middle, travel, knob = size / 2, 0.27 * size, 0.19 * size
    for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        tip, base = 0.45 * size, 0.39 * size
        wing = 0.045 * size
        draw.polygon(
            [
                (middle + dx * tip, middle + dy * tip),
                (middle + dx * base + dy * wing, middle + dy * base + dx * wing),
                (middle + dx * base - dy * wing, middle + dy * base - dx * wing),
            ],
            fill=(*_INK, 130),
        )
    x, y = middle + yaw_24 / 24 * travel, middle - pitch_24 / 24 * travel
    moving = bool(yaw_24 or pitch_24)
    draw.line([(middle, middle), (x, y)], fill=(*_LIT, 200), width=2 * line)
    draw.ellipse((x - knob, y - knob, x + knob, y + knob), fill=(*(_LIT if moving else _INK), 230))
    return _shrink(image)


def _shrink(image: Image.Image) -> np.ndarray:
    size = (max(1, image.width // _OVERSAMPLE), max(1, image.height // _OVERSAMPLE))
    return np.array(image.resize(size, Image.Resampling.BOX))
