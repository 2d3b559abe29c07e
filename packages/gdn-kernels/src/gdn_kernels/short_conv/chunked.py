"""The same filter as shifted sums over all frames at once."""

from __future__ import annotations

from torch import Tensor


def short_conv(x_btsc: Tensor, weight_ck: Tensor, chunk_starts: Tensor | None) -> Tensor:
    """Same function as reference.short_conv."""
    frames, taps = x_btsc.shape[1], weight_ck.shape[1]
    out = x_btsc * weight_ck[:, -1]
    chunk = None if chunk_starts is None else chunk_starts.long().cumsum(0)
    for j in range(1, min(taps, frames)):
        w = weight_ck[:, taps - 1 - j]
        later = x_btsc[:, j:]
        if chunk is not None:
            later = later * (chunk[j:] == chunk[:-j]).to(x_btsc.dtype)[None, :, None, None]
        out[:, j:].addcmul_(x_btsc[:, :-j], w)
        out[:, :-j].addcmul_(later, w)
    return out
