"""Named sizes of the benchmarks: heads, latent frames, tokens a frame, head width."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """One benchmark shape; the batch is an option of its own."""

    heads: int
    frames: int
    tokens: int
    width: int


SIZES = {
    "tiny": Size(4, 9, 60, 32),
    "narrow": Size(4, 16, 220, 64),
    "quarter": Size(4, 16, 220, 112),
    "quarter-long": Size(4, 61, 220, 112),
    "short": Size(4, 16, 880, 112),
    "long": Size(4, 61, 880, 112),
}

# Times as fast as diffusers that the best CPU form of kernels.md section 4 was, on its machine: 1 thread, 2 threads.
WANTED = {
    ("narrow", "main"): (4.5, 2.9),
    ("quarter", "main"): (4.5, 2.5),
    ("quarter-long", "main"): (2.6, 2.2),
    ("quarter-long", "camera"): (3.6, 2.9),
    ("short", "main"): (2.8, 3.1),
    ("short", "camera"): (3.9, 5.1),
    ("long", "main"): (7.8, 8.5),
    ("long", "camera"): (7.2, 8.0),
}

# The model at 704 x 1280: a streaming chunk, 20 seconds, a minute.
GPU_SIZES = {
    "tiny": SIZES["tiny"],
    "chunk": Size(20, 3, 880, 112),
    "clip-20s": Size(20, 41, 880, 112),
    "clip-60s": Size(20, 121, 880, 112),
}
