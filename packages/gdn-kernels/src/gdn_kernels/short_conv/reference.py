"""The definition: the causal filter run both ways in time, the doubly counted centre taken off."""

from __future__ import annotations

import torch
from torch import Tensor


def short_conv(x_btsc: Tensor, weight_ck: Tensor, chunk_starts: Tensor | None) -> Tensor:
    """y[t] = sum_j w[K-1-j] x[t-j] + sum_j w[K-1-j] x[t+j] - w[K-1] x[t]; t+j stays inside the chunk of t."""
    frames, taps = x_btsc.shape[1], weight_ck.shape[1]
    starts = [False] * frames if chunk_starts is None else [bool(s) for s in chunk_starts.tolist()]
    out = []
    for t in range(frames):
        y = -weight_ck[:, -1] * x_btsc[:, t]
        for j in range(taps):
            if t - j >= 0:
                y = y + weight_ck[:, taps - 1 - j] * x_btsc[:, t - j]
            if t + j < frames and not any(starts[t + 1 : t + j + 1]):
                y = y + weight_ck[:, taps - 1 - j] * x_btsc[:, t + j]
        out.append(y)
    return torch.stack(out, 1)
