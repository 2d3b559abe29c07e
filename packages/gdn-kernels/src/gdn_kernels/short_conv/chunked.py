"""The same filter over all frames at once: one depthwise convolution on a processor, shifted sums elsewhere."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_ONEDNN = torch.backends.mkldnn.is_available()  # asked once: torch.compile cannot trace the question


def short_conv(x_btsc: Tensor, weight_ck: Tensor, chunk_starts: Tensor | None) -> Tensor:
    """Same function as reference.short_conv."""
    if chunk_starts is None and _onednn_serves(x_btsc):
        return _as_convolution(x_btsc, weight_ck)
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


def _onednn_serves(x: Tensor) -> bool:
    # PyTorch's own depthwise convolution, which other types get, is slower than the sums.
    return _ONEDNN and x.device.type == "cpu" and x.dtype in (torch.float32, torch.bfloat16)


def _as_convolution(x_btsc: Tensor, weight_ck: Tensor) -> Tensor:
    # Channels lie last in memory, as oneDNN likes them: forward and backward take a third of the shifted sums.
    taps = weight_ck.shape[1]
    both_ways = torch.cat([weight_ck, weight_ck[:, :-1].flip(1)], dim=1)[:, None, :, None]
    out = F.conv2d(x_btsc.permute(0, 3, 1, 2), both_ways, padding=(taps - 1, 0), groups=x_btsc.shape[-1])
    return out.permute(0, 2, 3, 1)
