"""What each key of an action string means, for every tool that reads such strings.

Facts come from the inference specification (sections 3.1, 3.2) and the survey of peers (2.2, 2.3, 2.9).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

CONTROLS = ("forward", "back", "right", "left", "yaw_right", "yaw_left", "pitch_up", "pitch_down")
"""The eight neutral controls, in the column order of `Actions.held`."""

AXES = ("forward", "right", "yaw", "pitch")
"""The four signed axes; positive is forward, right, turn right, look up."""


@dataclass(frozen=True)
class Motion:
    """How held controls become motion; everything about a dialect except its spelling and speeds.

    `smooth` switches inertia on. `pitch_rule` says what happens at the pitch limit: "refuse" drops the whole step,
    "clamp" shortens it. `strafe_yaw` is the part of one yaw step that a strafe step adds. `heading_eps` is added to
    the length of the horizontal heading before dividing by it.
    """

    smooth: bool = False
    pitch_limit_deg: float = 85.0
    pitch_rule: Literal["refuse", "clamp"] = "refuse"
    strafe_yaw: float = 0.0
    heading_eps: float = 0.0


@dataclass(frozen=True)
class Dialect:
    """One spelling of the action language with the speeds and the motion rule that belong to it.

    `translation_speed` is in world units per raw frame, `rotation_speed_deg` in degrees per raw frame, and one
    counted unit of a segment lasts `frames_per_unit` raw frames. A dialect of `words` holds one control per segment.
    """

    name: str
    keys: Mapping[str, str]
    translation_speed: float
    rotation_speed_deg: float
    motion: Motion = field(default_factory=Motion)
    frames_per_unit: int = 1
    words: bool = False
    fixed_speeds: bool = False
    note: str = ""


_STRAFE_ON_AD = MappingProxyType(
    {
        "w": "forward",
        "s": "back",
        "d": "right",
        "a": "left",
        "l": "yaw_right",
        "j": "yaw_left",
        "i": "pitch_up",
        "k": "pitch_down",
    }
)
_STRAFE_ON_JL = MappingProxyType({**_STRAFE_ON_AD, "d": "yaw_right", "a": "yaw_left", "l": "right", "j": "left"})
_WORDS = MappingProxyType(
    {
        "w": "forward",
        "s": "back",
        "d": "right",
        "a": "left",
        "right": "yaw_right",
        "left": "yaw_left",
        "up": "pitch_up",
        "down": "pitch_down",
    }
)

DIALECTS: Mapping[str, Dialect] = MappingProxyType(
    {
        dialect.name: dialect
        for dialect in (
            Dialect("sana-v1", _STRAFE_ON_AD, 0.05, 1.2, note="First release: a/d strafe, j/l yaw. The default here."),
            Dialect(
                "sana-v2",
                _STRAFE_ON_JL,
                0.025,
                0.6,
                Motion(smooth=True, pitch_limit_deg=60.0, pitch_rule="clamp", heading_eps=1e-6),
                note="Newer release: a/d yaw, j/l strafe, inertia, pitch clamped at 60 degrees.",
            ),
            Dialect(
                "diffusers",
                _STRAFE_ON_AD,
                0.05,
                1.2,
                fixed_speeds=True,
                note="sana-v1 with speeds that the pipeline call cannot change.",
            ),
            Dialect(
                "sglang",
                _STRAFE_ON_AD,
                0.04,
                1.2,
                Motion(strafe_yaw=0.4, heading_eps=1e-6),
                note="sana-v1 keys; a strafe step also turns 0.4 of a yaw step to the same side.",
            ),
            Dialect(
                "worldplay",
                _WORDS,
                0.02,
                0.75,
                frames_per_unit=4,
                words=True,
                note="One word per segment, counted in latent frames of 4 raw frames; the speeds are our reading.",
            ),
        )
    }
)


def get_dialect(dialect: str | Dialect) -> Dialect:
    """Look up a dialect by name; a `Dialect` value passes through.

    Raises ValueError for a name that is not in `DIALECTS`.
    """
    if isinstance(dialect, Dialect):
        return dialect
    if dialect not in DIALECTS:
        raise ValueError(f"unknown dialect {dialect!r}; allowed: {', '.join(DIALECTS)}; example: dialect='sana-v1'")
    return DIALECTS[dialect]
