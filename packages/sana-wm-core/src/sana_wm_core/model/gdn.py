"""Plain-torch recurrences the blocks run on until the kernels package offers them."""

from __future__ import annotations

import torch
from torch import Tensor


def short_conv(x: Tensor, weight: Tensor, frames: int) -> Tensor:
    x_btsc = x.unflatten(1, (frames, -1))
    taps = weight[:, 0].to(x.dtype)
    k = taps.shape[-1]
    out = x_btsc * taps[:, -1]
    for j in range(1, min(k, frames)):
        pad = torch.zeros_like(x_btsc[:, :j])
        near = torch.cat([pad, x_btsc[:, :-j]], 1) + torch.cat([x_btsc[:, j:], pad], 1)
        out = out + near * taps[:, k - 1 - j]
    return out.flatten(1, 2)


def _scan(step: Tensor, write: Tensor, gamma: Tensor) -> Tensor:
    """Sum of memory after frame t (forward) and before it (backward), (b, h, t, k, v)."""
    t = step.shape[2]
    state = torch.zeros_like(write[:, :, 0])
    ahead = []
    for i in range(t):
        state = gamma[:, :, i, None, None] * (state - step[:, :, i] @ state) + write[:, :, i]
        ahead.append(state)
    state = torch.zeros_like(state)
    behind = [state]
    for i in range(t - 1, 0, -1):
        state = gamma[:, :, i, None, None] * (state - step[:, :, i] @ state) + write[:, :, i]
        behind.append(state)
    return torch.stack(ahead, 2) + torch.stack(behind[::-1], 2)


def frame_gdn(q, k, v, beta, log_gamma, *, rope=None, eps=1e-8, chunk_starts=None):  # type: ignore[no-untyped-def]
    from sana_wm_core.model.layers import rotate

    with torch.autocast(q.device.type, enabled=False):
        t = log_gamma.shape[-1]
        gamma, beta = log_gamma.float().exp(), beta.float()[..., None]
        qr, kr = rotate(q.float(), rope), rotate(k.float(), rope)
        q, k, v, qr, kr = (x.float().unflatten(1, (t, -1)).permute(0, 3, 1, 2, 4) for x in (q, k, v, qr, kr))
        kv = _scan(kr.mT @ (kr * beta), kr.mT @ (v * beta), gamma)
        z = _scan(k.mT @ (k * beta), k.mT @ beta, gamma)
        out = (qr @ kv) / (q @ z + eps)
        return out.permute(0, 2, 3, 1, 4).flatten(1, 2)


def frame_gdn_camera(q, k, v, beta, log_gamma, *, chunk_starts=None):  # type: ignore[no-untyped-def]
    with torch.autocast(q.device.type, enabled=False):
        t = log_gamma.shape[-1]
        gamma, beta = log_gamma.float().exp(), beta.float()[..., None]
        q, k, v = (x.float().unflatten(1, (t, -1)).permute(0, 3, 1, 2, 4) for x in (q, k, v))
        out = q @ _scan(k.mT @ (k * beta), k.mT @ (v * beta), gamma)
        return out.permute(0, 2, 3, 1, 4).flatten(1, 2)
