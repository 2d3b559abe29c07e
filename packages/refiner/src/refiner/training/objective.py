"""The refiner's objective: flow matching on the last part of the way, from a noised first-stage latent to its target.

A pair is x_l, what the first stage made, and x_h, what it should have been. The walk starts at the level s (0.909375)
from x_1 = (1 - s) x_l + s e and ends in x_h at level 0. Between them, at level sigma and a = sigma / s,

    x = (1 - a) x_h + a x_1        v* = (x_1 - x_h) / s = (x - x_h) / sigma.

With x_l = x_h and s = 1 this is plain flow matching. One level and one direction for the whole clip.
Reference: training 6; SANA-WM (arXiv 2605.15178), refiner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from refiner.refine import SIGMAS

# Means of the law at two clip sizes; between them it is linear, beyond them constant.
_TOKENS, _MEANS = (1024, 4096), (0.95, 2.05)
_LOW, _HIGH = 0.005, 0.999  # quantiles that become 0 and 1


class NoisyPair(NamedTuple):
    """A pair on the path."""

    x: Tensor  # what the refiner sees
    target: Tensor  # v*
    start: Tensor  # x_1


@dataclass(frozen=True)
class TruncatedFlow:
    """The path from level `start` to 0.

    Attributes:
        start: Where it begins, in (0, 1]; the released refiner begins at 0.909375.

    Raises:
        ValueError: A start outside (0, 1].
    """

    start: float = SIGMAS[0]

    def __post_init__(self) -> None:
        if not 0 < self.start <= 1:
            raise ValueError(f"the refiner's path must start in (0, 1], such as 0.909375; got {self.start:g}")

    def put(self, low: Tensor, high: Tensor, noise: Tensor, sigma: float) -> NoisyPair:
        """Put a pair of latents (1, c, t, y, x) on the path at a level in [0, start]."""
        assert 0 <= sigma <= self.start, sigma
        start = (1 - self.start) * low + self.start * noise
        # lerp is exact at both ends.
        return NoisyPair(torch.lerp(high, start, sigma / self.start), (start - high) / self.start, start)


@dataclass(frozen=True)
class SigmaLaw:
    """How often each level is trained on.

    A logit-normal whose mean grows with the clip, stretched so that its 0.5 % and 99.9 % points become 0 and 1, with a
    uniform share; cut off at the start of the path.

    Attributes:
        std: Spread of the normal.
        uniform: Share of levels drawn uniformly.
        least: Lowest level; what falls below is reflected.
        clamp: Move levels above the start onto it, as published code does, instead of never drawing them.
    """

    std: float = 1.0
    uniform: float = 0.1
    least: float = 1e-3
    clamp: bool = False

    def __post_init__(self) -> None:
        if not self.std > 0 or not 0 <= self.uniform <= 1 or not 0 < self.least < 0.5:
            raise ValueError(
                f"refiner training: law.std={self.std:g} must be above 0, law.uniform={self.uniform:g} in [0, 1], "
                f"law.least={self.least:g} in (0, 0.5); for example 1, 0.1, 0.001"
            )

    def mean(self, tokens: int) -> float:
        """Mean of the normal for a clip of so many tokens, between 0.95 and 2.05 whatever their number."""
        share = (tokens - _TOKENS[0]) / (_TOKENS[1] - _TOKENS[0])
        return _MEANS[0] + min(max(share, 0.0), 1.0) * (_MEANS[1] - _MEANS[0])

    def draw(self, tokens: int, start: float, generator: torch.Generator) -> float:
        """A level in (0, start]."""
        mean = self.mean(tokens)
        low, high = (_sigmoid(mean + self.std * _normal_quantile(q)) for q in (_LOW, _HIGH))
        uniform, level = torch.rand(2, dtype=torch.float64, generator=generator).tolist()
        if uniform < self.uniform:
            return self.least + (start - self.least) * level
        share = 1.0
        if not self.clamp and start < 1:
            edge = low + start * (high - low)
            share = _normal_share((math.log(edge / (1 - edge)) - mean) / self.std)
        drawn = _sigmoid(mean + self.std * _normal_quantile(max(share * level, 1e-12)))
        stretched = (drawn - low) / (high - low)
        if stretched < self.least:
            stretched = 2 * self.least - stretched
        return min(max(stretched, self.least), start)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def _normal_share(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def _normal_quantile(share: float) -> float:
    return float(torch.special.ndtri(torch.tensor(share, dtype=torch.float64)))
