"""Inputs and the error measure that the tests of the recurrence share."""

import math

import torch
from torch import Tensor


def inputs(
    b: int, h: int, t: int, s: int, d: int, dtype: torch.dtype = torch.float32, seed: int = 0, e: int = 0
) -> dict[str, Tensor]:
    """Arguments of frame_gdn in the ranges the model gives them."""
    g = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(b, t * s, h, w, generator=g, dtype=torch.float64) for w in (d, d, e or d))
    out = {
        "q": q.relu() + 0.05,
        "k": k.relu() / math.sqrt(d * s),
        "v": v,
        "beta": torch.rand(b, h, t, s, generator=g, dtype=torch.float64),
        "log_gamma": -torch.rand(b, h, t, generator=g, dtype=torch.float64),
    }
    return {name: x.to(dtype) for name, x in out.items()}


def rope(n: int, d: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """cos and sin (n, d / 2)."""
    angle = torch.arange(n, dtype=torch.float64)[:, None] * torch.logspace(0, -2, d // 2, dtype=torch.float64)
    return angle.cos().to(dtype), angle.sin().to(dtype)


def error(a: Tensor, b: Tensor) -> float:
    """Norm of the difference over the norm of b."""
    a, b = a.detach().double(), b.detach().double()
    return float((a - b).norm() / b.norm())
