"""Randomness by address: what is drawn for a clip depends on the seed, the step and the clip's name, on nothing else.

Every quantity has a stream of its own, so that a new one does not move the others. Draws are made on the CPU for the
whole clip and cut afterwards; ranks, batch layout and restarts cannot change them. Reference: training 10.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def stream(seed: int, step: int, sample: str, purpose: str) -> torch.Generator:
    """A generator for one quantity of one clip in one step."""
    digest = hashlib.blake2b(f"{seed}\0{step}\0{sample}\0{purpose}".encode(), digest_size=8).digest()
    # 63 bits: manual_seed takes signed numbers.
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def coin(probability: float, generator: torch.Generator) -> bool:
    """True with the given probability; one draw is used whatever the probability is."""
    return bool(torch.rand((), dtype=torch.float64, generator=generator) < probability)


def choice(weights: Tensor, generator: torch.Generator) -> int:
    """Number of the entry drawn with probability proportional to its weight (k,), float64."""
    total = weights.cumsum(0)
    point = torch.rand((), dtype=torch.float64, generator=generator) * total[-1]
    return min(int(torch.searchsorted(total, point, right=True)), len(weights) - 1)
