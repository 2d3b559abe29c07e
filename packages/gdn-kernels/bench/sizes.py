"""Named sizes of the benchmarks: batch 1, heads, latent frames, tokens a frame, head width."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """One benchmark shape."""

    heads: int
    frames: int
    tokens: int
    width: int


SIZES = {
    "tiny": Size(4, 9, 60, 32),
    "quarter": Size(4, 16, 220, 112),
    "quarter-long": Size(4, 61, 220, 112),
    "short": Size(4, 16, 880, 112),
    "long": Size(4, 61, 880, 112),
}
