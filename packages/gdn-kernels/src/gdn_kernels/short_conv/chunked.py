"""The same filter as shifted sums over all frames at once."""

from __future__ import annotations

import torch
from torch import Tensor


def short_conv(x_btsc: Tensor, weight_ck: Tensor, chunk_starts: Tensor | None) -> Tensor:
    """Same function as reference.short_conv."""
    frames, taps = x_btsc.shape[1], weight_ck.shape[1]
    out = x_btsc * weight_ck[:, -1]
    chunk = None if chunk_starts is None else chunk_starts.long().cumsum(0)
    for j in range(1, min(taps, frames)):
        w = weight_ck[:, taps - 1 - j]
        none = torch.zeros_like(x_btsc[:, :j])
        later = x_btsc[:, j:]
        if chunk is not None:
            later = later * (chunk[j:] == chunk[:-j]).to(x_btsc.dtype)[None, :, None, None]
        near = torch.cat([none, x_btsc[:, :-j]], 1) + torch.cat([later, none], 1)
        out = out + w * near
    return out
