"""VBench's scores put together from their dimensions. Reference: benchmark specification 3.2; VBench (2311.17982)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Range(NamedTuple):
    """Raw values at which a dimension counts 0 and 1, and its weight in the quality score."""

    low: float
    high: float
    weight: float


QUALITY = {
    "subject_consistency": Range(0.1462, 1.0, 1.0),
    "background_consistency": Range(0.2615, 1.0, 1.0),
    "temporal_flickering": Range(0.6293, 1.0, 1.0),
    "motion_smoothness": Range(0.7060, 0.9975, 1.0),
    "aesthetic_quality": Range(0.0, 1.0, 1.0),
    "imaging_quality": Range(0.0, 1.0, 1.0),
    "dynamic_degree": Range(0.0, 1.0, 0.5),
}
SEMANTIC = ("overall_consistency", "temporal_style")
DIMENSIONS = (*QUALITY, *SEMANTIC)


def normalised(dimension: str, raw: float) -> float:
    """A dimension's raw value (0 to 1) on VBench's own scale, clipped to [0, 1] as the released script does."""
    scale = QUALITY[dimension]
    return min(1.0, max(0.0, (raw - scale.low) / (scale.high - scale.low)))


def quality_score(raw: Mapping[str, float]) -> float | None:
    """What the paper's table prints as "VBench Overall", over 100: the weighted mean of seven normalised dimensions.

    None when a dimension is missing; a mean over fewer is another number. Rounded to four decimals, as published.
    """
    if any(name not in raw for name in QUALITY):
        return None
    total = sum(scale.weight for scale in QUALITY.values())
    return round(sum(scale.weight * normalised(name, raw[name]) for name, scale in QUALITY.items()) / total, 4)


def i2v_scores(raw: Mapping[str, float]) -> tuple[float, float, float]:
    """VBench-I2V's quality, image-to-video and total score from dimensions in 0 to 1.

    Also reads camera_motion, i2v_subject and i2v_background; temporal flickering has no part in it.
    """
    parts = [name for name in QUALITY if name != "temporal_flickering"]
    weight = sum(QUALITY[name].weight for name in parts)
    quality = sum(QUALITY[name].weight * normalised(name, raw[name]) for name in parts) / weight
    subject = normalised("subject_consistency", raw["i2v_subject"])
    background = normalised("background_consistency", raw["i2v_background"])
    i2v = (0.1 * raw["camera_motion"] + subject + background) / 2.1
    return quality, i2v, (quality + i2v) / 2.0
