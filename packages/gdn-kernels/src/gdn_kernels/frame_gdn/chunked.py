"""The parallel form in plain torch: all frames summarised by batched products, then a short scan of d x d matrices.

With P_t = K' B K and A_t = K' B V one frame is the affine map M <- gamma (M - P M) + A, and the reverse scan reuses the
same P, A, gamma. Two schedules: whole tensors at once (differentiable, best for small clips) and cache-sized tiles per
head (no gradient, best for large ones). Memory and decay are float32 at least, whatever comes in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gdn_kernels.frame_gdn.reference import Rope
from gdn_kernels.frame_gdn.state import FrameState, empty_state

# About 3.5k tokens of 112 floats are 1.6 MB: a tile and its rotated copy stay in the second-level cache.
_TILE_TOKENS = 3520
_WHOLE_BELOW = 1 << 21  # elements of a token tensor


class Summary(NamedTuple):
    """What the scans need of every frame: P (b, h, t, d, d) and A (b, h, t, d, e)."""

    p: Tensor
    a: Tensor


def frame_gdn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    rope: Rope | None,
    eps: float,
    chunk_starts: Tensor | None,
    state: FrameState | None,
) -> tuple[Tensor, FrameState]:
    """Same function as reference.frame_gdn."""
    work = torch.promote_types(q.dtype, torch.float32)
    gamma = log_gamma.to(work).exp()
    state = (state or empty_state(q, q.shape[-1], v.shape[-1], True, work)).to(work)
    assert state.z is not None
    turns = None if rope is None else torch.complex(rope[0].to(work), rope[1].to(work))
    if _tiled(q, k, v, beta, log_gamma):
        return _tiled_gdn(q, k, v, beta.to(work), gamma, turns, eps, chunk_starts, state)
    t = gamma.shape[-1]
    q_rot, k_rot = (_frames(_turn(x.to(work), turns), t) for x in (q, k))
    q_bhtsd, k_bhtsd, v_bhtsd = (_frames(x.to(work), t) for x in (q, k, v))
    weight = beta.to(work)[..., None]
    memory, kv = _scans(_summarise(k_rot, k_rot * weight, v_bhtsd), gamma, chunk_starts, state.kv)
    weighted = k_bhtsd * weight
    plain = Summary(weighted.mT @ k_bhtsd, weighted.sum(3)[..., None])
    memory_z, z = _scans(plain, gamma, chunk_starts, state.z[..., None])
    out = (q_rot @ memory) / (q_bhtsd @ memory_z + eps)
    return _tokens(out, q.dtype), FrameState(kv, z[..., 0])


def frame_gdn_camera(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    chunk_starts: Tensor | None,
    state: FrameState | None,
) -> tuple[Tensor, FrameState]:
    """Same function as reference.frame_gdn_camera."""
    work = torch.promote_types(q.dtype, torch.float32)
    gamma = log_gamma.to(work).exp()
    state = (state or empty_state(q, q.shape[-1], v.shape[-1], False, work)).to(work)
    if _tiled(q, k, v, beta, log_gamma):
        return _tiled_gdn(q, k, v, beta.to(work), gamma, None, None, chunk_starts, state)
    t = gamma.shape[-1]
    q_bhtsd, k_bhtsd, v_bhtsd = (_frames(x.to(work), t) for x in (q, k, v))
    summary = _summarise(k_bhtsd, k_bhtsd * beta.to(work)[..., None], v_bhtsd)
    memory, kv = _scans(summary, gamma, chunk_starts, state.kv)
    return _tokens(q_bhtsd @ memory, q.dtype), FrameState(kv)


def _scans(summary: Summary, gamma: Tensor, chunk_starts: Tensor | None, first: Tensor) -> tuple[Tensor, Tensor]:
    """Forward inclusive plus reverse exclusive memory of every frame (b, h, t, d, e), and the last forward one."""
    p, a = summary.p.unbind(2), summary.a.unbind(2)
    g = gamma[..., None, None].unbind(2)
    frames = len(p)
    restart = [False] * frames if chunk_starts is None else [bool(s) for s in chunk_starts.tolist()]
    memory, ahead = first, []
    for t in range(frames):
        kept = g[t] * memory
        memory = kept - p[t] @ kept + a[t]
        ahead.append(memory)
    total = list(ahead)
    back: Tensor | None = None
    for t in range(frames - 1, 0, -1):
        if restart[t]:
            back = None
            continue
        if back is None:
            back = a[t]
        else:
            kept = g[t] * back
            back = kept - p[t] @ kept + a[t]
        total[t - 1] = ahead[t - 1] + back
    return torch.stack(total, 2), memory


def _tiled_gdn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    gamma: Tensor,
    turns: Tensor | None,
    eps: float | None,
    chunk_starts: Tensor | None,
    state: FrameState,
) -> tuple[Tensor, FrameState]:
    """One head and a few frames at a time, so that keys are rotated, weighted and multiplied while in cache."""
    b, n, h, d = q.shape
    e, t, work = v.shape[-1], gamma.shape[-1], gamma.dtype
    s = n // t
    step = max(1, _TILE_TOKENS // s)
    p = torch.empty(b, h, t, d, d, dtype=work, device=q.device)
    a = torch.empty(b, h, t, d, e, dtype=work, device=q.device)
    divide = eps is not None
    p_z = torch.empty_like(p) if divide else p
    a_z = torch.empty(b, h, t, d, 1, dtype=work, device=q.device) if divide else a
    tiles = [(i, j, f, min(f + step, t)) for i in range(b) for j in range(h) for f in range(0, t, step)]
    for i, j, f, g in tiles:
        part = slice(f * s, g * s)
        keys = k[i, part, j].to(work).contiguous()
        rotated = _turn_rows(keys, turns, part).view(g - f, s, d)
        weight = beta[i, j, f:g, :, None]
        weighted = rotated * weight
        torch.bmm(weighted.mT, rotated, out=p[i, j, f:g])
        torch.bmm(weighted.mT, v[i, part, j].to(work).view(g - f, s, e), out=a[i, j, f:g])
        if divide:
            plain = keys.view(g - f, s, d)
            if turns is not None:
                weighted = plain * weight
                torch.bmm(weighted.mT, plain, out=p_z[i, j, f:g])
            else:
                p_z[i, j, f:g] = p[i, j, f:g]
            a_z[i, j, f:g, :, 0] = weighted.sum(1)
    memory, kv = _scans(Summary(p, a), gamma, chunk_starts, state.kv)
    del p, a
    z: Tensor | None = None
    if divide:
        assert state.z is not None
        memory_z, last = _scans(Summary(p_z, a_z), gamma, chunk_starts, state.z[..., None])
        z = last[..., 0]
    out = torch.empty(b, n, h, e, dtype=q.dtype, device=q.device)
    for i, j, f, g in tiles:
        part = slice(f * s, g * s)
        queries = q[i, part, j].to(work).contiguous()
        read = torch.bmm(_turn_rows(queries, turns, part).view(g - f, s, d), memory[i, j, f:g])
        if eps is not None:
            # A one-column matrix product is four times slower here than multiply and sum.
            total = (queries.view(g - f, s, d) * memory_z[i, j, f:g].mT).sum(-1, keepdim=True)
            read.mul_(total.add_(eps).reciprocal_())
        out[i, part, j] = read.view(-1, e).to(q.dtype)
    return out, FrameState(kv, z)


def _summarise(k: Tensor, weighted: Tensor, v: Tensor) -> Summary:
    return Summary(weighted.mT @ k, weighted.mT @ v)


def _tiled(*tensors: Tensor) -> bool:
    needs_gradient = torch.is_grad_enabled() and any(x.requires_grad for x in tensors)
    return not needs_gradient and tensors[0].device.type == "cpu" and tensors[0].numel() > _WHOLE_BELOW


def _turn(x_bnhd: Tensor, turns_nf: Tensor | None) -> Tensor:
    """Rotate pairs by unit complex numbers."""
    if turns_nf is None:
        return x_bnhd
    pairs = torch.view_as_complex(x_bnhd.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * turns_nf[:, None, :]).flatten(-2)


def _turn_rows(x_nd: Tensor, turns_nf: Tensor | None, part: slice) -> Tensor:
    if turns_nf is None:
        return x_nd
    pairs = torch.view_as_complex(x_nd.view(len(x_nd), -1, 2))
    return torch.view_as_real(pairs * turns_nf[part]).view_as(x_nd)


def _frames(x_bnhd: Tensor, t: int) -> Tensor:
    return x_bnhd.unflatten(1, (t, -1)).permute(0, 3, 1, 2, 4)


def _tokens(x_bhtsd: Tensor, dtype: torch.dtype) -> Tensor:
    return x_bhtsd.to(dtype).permute(0, 2, 3, 1, 4).flatten(1, 2)
