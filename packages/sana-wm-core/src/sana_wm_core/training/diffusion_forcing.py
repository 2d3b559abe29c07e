"""Noise levels chunk by chunk: which index each chunk of a clip gets, for models that generate in order.

A chunk-causal model sees a past that is clearer than the present. Its training therefore draws levels that do not fall
from chunk to chunk: one chunk is the anchor and gets its level from the usual law; the others are drawn uniformly from
all non-decreasing sequences through the anchor. Reference: training 2.3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from sana_wm_core.training.draws import choice

LEVELS = 1000
Mode = Literal["same_t", "incremental", "last_chunk_anchor", "teacher_forcing_clean"]
MODES: tuple[Mode, ...] = ("same_t", "incremental", "last_chunk_anchor", "teacher_forcing_clean")


def draw_index(mean: float, std: float, generator: torch.Generator) -> int:
    """A logit-normal index in 0..999."""
    normal = torch.randn((), dtype=torch.float64, generator=generator)
    return min(int(torch.sigmoid(mean + std * normal) * LEVELS), LEVELS - 1)


def log_completions(chunk: int, chunks: int, levels: int = LEVELS) -> Tensor:
    """Log of how many non-decreasing tails start with each level at this chunk: C(L-1-t + K-1-f, K-1-f), (levels,)."""
    t = torch.arange(levels, dtype=torch.float64)
    return _log_binomial(levels - 1 - t + chunks - 1 - chunk, chunks - 1 - chunk)


def log_prefixes(chunk: int, levels: int = LEVELS) -> Tensor:
    """Log of how many non-decreasing heads end with each level at this chunk: C(t + f, f), (levels,)."""
    return _log_binomial(torch.arange(levels, dtype=torch.float64) + chunk, chunk)


def draw_monotone(chunks: int, anchor: int, level: int, generator: torch.Generator, levels: int = LEVELS) -> list[int]:
    """A non-decreasing sequence of `chunks` levels through (anchor, level), uniform over all of them."""
    out = [0] * chunks
    out[anchor] = level
    for f in range(anchor + 1, chunks):
        low = out[f - 1]
        out[f] = low + choice(_weights(log_completions(f, chunks, levels)[low:]), generator)
    for f in range(anchor - 1, -1, -1):
        out[f] = choice(_weights(log_prefixes(f, levels)[: out[f + 1] + 1]), generator)
    return out


def draw_mode(mixture: Mapping[str, float], generator: torch.Generator) -> Mode:
    """One of the four modes, by the weights of the mixture."""
    weights = torch.tensor([mixture.get(mode, 0.0) for mode in MODES], dtype=torch.float64)
    return MODES[choice(weights, generator)]


def draw_chunk_levels(chunks: int, mode: Mode, mean: float, std: float, generator: torch.Generator) -> list[int]:
    """Index of every chunk of a clip in a mode."""
    level = draw_index(mean, std, generator)
    if mode == "same_t" or chunks == 1:
        return [level] * chunks
    anchor = chunks - 1
    if mode == "incremental":
        anchor = int(torch.randint(chunks, (), generator=generator))
    out = draw_monotone(chunks, anchor, level, generator)
    if mode == "teacher_forcing_clean":
        clean = int(torch.randint(1, chunks, (), generator=generator))
        out[:clean] = [0] * clean
    return out


def _log_binomial(n: Tensor, k: int) -> Tensor:
    return torch.lgamma(n + 1) - math.lgamma(k + 1) - torch.lgamma(n - k + 1)


def _weights(logs: Tensor) -> Tensor:
    return (logs - logs.max()).exp()
