"""The action language: parse `w-80,jw-40,none-20`, print it again, in any dialect."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from camera_control.dialects import CONTROLS, Dialect, Motion, get_dialect
from camera_control.rollout import roll_out

MAX_FRAMES = 1_000_000
"""Longest path an action string may ask for; far beyond any clip, small enough never to fill the memory."""


@dataclass(frozen=True, eq=False)
class Actions:
    """What is held on every raw frame, in neutral terms: no key letters, explicit speeds, explicit motion rule.

    `held` is (f, 8) booleans with columns `CONTROLS`; `translation_speed` is in world units per frame and
    `rotation_speed_deg` in degrees per frame.
    """

    held: NDArray[np.bool_]
    translation_speed: float
    rotation_speed_deg: float
    motion: Motion

    def __post_init__(self) -> None:
        for name in ("translation_speed", "rotation_speed_deg"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; allowed: a finite number >= 0; example: {name}=0.05")
        if self.rotation_speed_deg >= 90:
            raise ValueError(f"rotation_speed_deg is {self.rotation_speed_deg}; allowed: below 90; example: 1.2")

    def __len__(self) -> int:
        return len(self.held)

    @property
    def commands(self) -> NDArray[np.float64]:
        """(f, 4) commanded steps on the axes forward, right (world units) and yaw, pitch (degrees), per frame."""
        signs = self.held[:, 0::2].astype(np.float64) - self.held[:, 1::2]
        speed, turn = self.translation_speed, self.rotation_speed_deg
        return signs * np.array([speed, speed, turn, turn])

    def to_c2w(self) -> NDArray[np.float32]:
        """Roll the actions out to (f + 1, 4, 4) camera-to-world poses, the identity first."""
        return roll_out(self.held, self.translation_speed, self.rotation_speed_deg, self.motion)


def parse_actions(
    text: str,
    dialect: str | Dialect = "sana-v1",
    *,
    translation_speed: float | None = None,
    rotation_speed_deg: float | None = None,
    smooth: bool | None = None,
) -> Actions:
    """Read an action string such as `w-80,jw-40,none-20`.

    White space is ignored, keys may be upper case, and the full-width comma counts as a comma. Speeds and `smooth`
    (inertia) come from the dialect when left out.

    Raises ValueError that quotes the segment: empty string, missing count, count not a whole number > 0, unknown key.
    Reference: inference specification 3.
    """
    chosen = get_dialect(dialect)
    cleaned = "".join(text.replace(chr(0xFF0C), ",").split())
    if not cleaned:
        raise ValueError("action string is empty; allowed: segments '<keys>-<frames>'; example: 'w-80,jw-40'")
    rows: list[NDArray[np.bool_]] = []
    total = 0
    for segment in cleaned.split(","):
        row, count = _parse_segment(segment, chosen)
        total += count
        if total > MAX_FRAMES:
            raise ValueError(f"action string asks for {total} frames at {segment!r}; allowed: at most {MAX_FRAMES}")
        rows.append(np.repeat(row[None], count, axis=0))
    motion = chosen.motion if smooth is None else replace(chosen.motion, smooth=smooth)
    return Actions(
        np.concatenate(rows),
        chosen.translation_speed if translation_speed is None else float(translation_speed),
        chosen.rotation_speed_deg if rotation_speed_deg is None else float(rotation_speed_deg),
        motion,
    )


def _parse_segment(segment: str, dialect: Dialect) -> tuple[NDArray[np.bool_], int]:
    unit = "latent frames" if dialect.frames_per_unit > 1 else "frames"
    if "-" not in segment:
        raise ValueError(f"Invalid action segment {segment!r}: expected '<keys>-<duration>'; example: 'w-80'.")
    keys, duration = segment.rsplit("-", 1)
    # isdecimal() also accepts other scripts' digits, so ASCII is asked for; the length check keeps int() fast.
    if not (duration.isascii() and duration.isdecimal() and len(duration) <= 12 and int(duration) > 0):
        raise ValueError(
            f"Action segment {segment!r} has a non-positive duration {duration!r}; "
            f"allowed: a whole number of {unit} from 1; example: 'w-80'."
        )
    keys = keys.lower()
    tokens: list[str] = [] if keys in ("", "none") else [keys] if dialect.words else sorted(set(keys))
    unknown = [token for token in tokens if token not in dialect.keys]
    if unknown:
        allowed = ", ".join(dialect.keys) if dialect.words else "".join(sorted(dialect.keys))
        raise ValueError(
            f"Action segment {segment!r} contains unknown keys {unknown}; allowed: {allowed}, or none; example: 'w-80'."
        )
    row = np.zeros(len(CONTROLS), dtype=bool)
    for token in tokens:
        row[CONTROLS.index(dialect.keys[token])] = True
    return row, int(duration) * dialect.frames_per_unit


def format_actions(actions: Actions, dialect: str | Dialect = "sana-v1") -> str:
    """Print held controls as an action string; speeds and motion rule are not part of the text.

    Raises ValueError where the dialect has no spelling: two controls at once in a dialect of words, or a duration that
    is not a whole number of its units.
    """
    chosen = get_dialect(dialect)
    spelling = {control: key for key, control in chosen.keys.items()}
    segments: list[str] = []
    start = 0
    for row, run in itertools.groupby(map(tuple, actions.held.tolist())):
        frames = len(list(run))
        keys = [spelling[control] for control, on in zip(CONTROLS, row, strict=True) if on]
        where = f"frames {start}-{start + frames - 1} hold {'+'.join(keys) or 'none'}"
        if chosen.words and len(keys) > 1:
            raise ValueError(f"{where}; dialect {chosen.name!r} allows one control at a time; example: 'w-3, right-1'")
        if frames % chosen.frames_per_unit:
            raise ValueError(
                f"{where} for {frames} frames; dialect {chosen.name!r} counts in units of {chosen.frames_per_unit} "
                f"frames, so a duration must be a multiple of that; example: {4 * chosen.frames_per_unit}"
            )
        segments.append(f"{''.join(keys) or 'none'}-{frames // chosen.frames_per_unit}")
        start += frames
    return ",".join(segments)


def action_string_to_c2w(
    action: str,
    translation_speed: float | None = None,
    rotation_speed_deg: float | None = None,
    dialect: str | Dialect = "sana-v1",
) -> NDArray[np.float32]:
    """Turn an action string into (F + 1, 4, 4) camera-to-world poses; the first pose is the identity.

    Speeds are per raw frame, in world units and degrees; left out, they are the dialect's (0.05 and 1.2 for the
    default, "sana-v1"). Raises ValueError for a malformed string. Reference: inference specification 3.
    """
    return parse_actions(
        action, dialect, translation_speed=translation_speed, rotation_speed_deg=rotation_speed_deg
    ).to_c2w()
