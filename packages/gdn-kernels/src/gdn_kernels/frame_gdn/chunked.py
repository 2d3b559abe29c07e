"""The parallel part in plain torch: per frame, products over all its tokens; forward and closed-form backward.

Large clips on a CPU are cut into blocks of one head and a few frames, so that a tile of keys is rotated, weighted and
multiplied while it is in cache; anything else is one block. Sums are float32 at least, whatever comes in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gdn_kernels.frame_gdn.parts import Adjoint, Memories, Rope, Summary
from gdn_kernels.frame_gdn.scan import compose_prefix, composite, scan, scan_backward
from gdn_kernels.frame_gdn.state import FrameState, kv_of, z_of

__all__ = [
    "compose_prefix",
    "composite",
    "readout",
    "readout_backward",
    "scan",
    "scan_backward",
    "summary",
    "summary_backward",
]

# About 3.5k tokens of 112 floats are 1.6 MB: a tile and its rotated copy stay in the second-level cache.
_TILE_TOKENS = 3520
_WHOLE_BELOW = 1 << 21  # elements of a token tensor


class _Block(NamedTuple):
    """Which batch elements, heads and frames are worked on together."""

    b: slice
    h: slice
    f: slice
    tokens: slice


def summary(k: Tensor, v: Tensor, beta: Tensor, rope: Rope | None, divide: bool) -> Summary:
    """P, A and, for the denominator, P and A of unrotated keys and the value 1."""
    (b, _, h, d), e, t = k.shape, v.shape[-1], beta.shape[2]
    work, turns = working_type(k), turns_of(rope, k)
    p = torch.empty(b, h, t, d, d, dtype=work, device=k.device)
    a = torch.empty(b, h, t, d, e, dtype=work, device=k.device)
    p_z = torch.empty_like(p) if divide and turns is not None else None
    a_z = torch.empty(b, h, t, d, dtype=work, device=k.device) if divide else None
    for at in _blocks(k, beta):
        keys, weight = _tile(k, at, t, work), _gates(beta, at, work)
        rotated = _turn(keys, turns, at)
        weighted = rotated * weight
        torch.bmm(weighted.mT, rotated, out=p[at.b, at.h, at.f].view(-1, d, d))
        torch.bmm(weighted.mT, _tile(v, at, t, work), out=a[at.b, at.h, at.f].view(-1, d, e))
        if a_z is None:
            continue
        if p_z is not None:
            weighted = keys * weight
            torch.bmm(weighted.mT, keys, out=p_z[at.b, at.h, at.f].view(-1, d, d))
        a_z[at.b, at.h, at.f] = weighted.sum(1).view(a_z[at.b, at.h, at.f].shape)
    return Summary(p, a, p_z, a_z)


def readout(q: Tensor, memories: Memories, rope: Rope | None, eps: float | None) -> tuple[Tensor, Tensor | None]:
    """Q (F + R), divided by Q (z + r) + eps unless eps is None; and that denominator (b, h, t, s)."""
    (b, n, h, d), (t, e) = q.shape, memories.f.shape[2::2]
    work, turns, s = working_type(q), turns_of(rope, q), n // t
    total, total_z = memories.total, memories.total_z
    out = torch.empty(b, n, h, e, dtype=q.dtype, device=q.device)
    den = None if eps is None else torch.empty(b, h, t, s, dtype=work, device=q.device)
    for at in _blocks(q, memories.f):
        queries = _tile(q, at, t, work)
        read = torch.bmm(_turn(queries, turns, at), total[at.b, at.h, at.f].reshape(-1, d, e))
        if den is not None and eps is not None:
            assert total_z is not None
            part = (queries * total_z[at.b, at.h, at.f].reshape(-1, 1, d)).sum(-1)
            part.add_(eps)
            read.mul_(part.reciprocal()[..., None])
            den[at.b, at.h, at.f] = part.view(den[at.b, at.h, at.f].shape)
        _put(out, read, at)
    return out, den


def readout_backward(
    grad: Tensor, out: Tensor, den: Tensor | None, q: Tensor, memories: Memories, rope: Rope | None
) -> tuple[Tensor, FrameState]:
    """Gradients of q and of the memories each frame read (kv (b, h, t, d, e), z (b, h, t, d))."""
    (b, _, h, d), (t, e) = q.shape, memories.f.shape[2::2]
    work, turns, back = working_type(q), turns_of(rope, q), turns_of(rope, q, back=True)
    total, total_z = memories.total, memories.total_z
    d_q = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    d_kv = torch.empty(b, h, t, d, e, dtype=work, device=q.device)
    d_z = None if den is None else torch.empty(b, h, t, d, dtype=work, device=q.device)
    for at in _blocks(q, memories.f):
        queries, d_num = _tile(q, at, t, work), _tile(grad, at, t, work)
        if den is not None:
            inverse = den[at.b, at.h, at.f].reshape(len(queries), -1, 1).reciprocal()
            d_num = d_num * inverse
            d_den = -(d_num * _tile(out, at, t, work)).sum(-1, keepdim=True)
        d_queries = torch.bmm(d_num, total[at.b, at.h, at.f].reshape(-1, d, e).mT)
        torch.bmm(_turn(queries, turns, at).mT, d_num, out=d_kv[at.b, at.h, at.f].view(-1, d, e))
        d_queries = _turn(d_queries, back, at)
        if den is not None:
            assert total_z is not None and d_z is not None
            d_queries.addcmul_(d_den, total_z[at.b, at.h, at.f].reshape(-1, 1, d))
            d_z[at.b, at.h, at.f] = (queries * d_den).sum(1).view(d_z[at.b, at.h, at.f].shape)
        _put(d_q, d_queries, at)
    return d_q, FrameState(d_kv, d_z)


def summary_backward(
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    adjoint: Adjoint,
    memories: Memories,
    first: FrameState | None,
    rope: Rope | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of k, v and beta from those that reached every frame's map."""
    (_, _, _, d), e, t = k.shape, v.shape[-1], beta.shape[2]
    work, turns, back = working_type(k), turns_of(rope, k), turns_of(rope, k, back=True)
    gamma = log_gamma.to(work).exp()[..., None]
    d_k, d_v, d_beta = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (k, v, beta))
    assert memories.r is not None
    vectors = None
    if adjoint.g_z is not None and adjoint.h_z is not None and memories.zf is not None and memories.zr is not None:
        # z is a rank-one case: no d x d gradient is formed, and the four vectors of a frame share its keys.
        before = _shifted(memories.zf, z_of(first))
        vectors = torch.stack([adjoint.g_z, adjoint.h_z, gamma * before, gamma * memories.zr], -2)
    for at in _blocks(k, beta):
        keys, values, weight = _tile(k, at, t, work), _tile(v, at, t, work), _gates(beta, at, work)
        rotated = _turn(keys, turns, at)
        g, h, r = (x[at.b, at.h, at.f].reshape(-1, d, e) for x in (adjoint.g, adjoint.h, memories.r))
        f = _before(memories.f, kv_of(first), at).reshape(-1, d, e)
        d_a = g + h
        d_p = torch.bmm(g, f.mT).baddbmm_(h, r.mT).mul_(-gamma[at.b, at.h, at.f].reshape(-1, 1, 1))
        # P is a quadratic form of the keys, so both sides of it get the gradient.
        d_keys = torch.bmm(rotated, d_p + d_p.mT).baddbmm_(values, d_a.mT)
        d_values = torch.bmm(rotated, d_a)
        d_gates = ((d_keys * rotated).sum(-1) + (d_values * values).sum(-1)) / 2
        _put(d_v, d_values.mul_(weight), at)
        d_keys = _turn(d_keys.mul_(weight), back, at)
        if vectors is not None:
            four = vectors[at.b, at.h, at.f].reshape(-1, 4, d)
            along, kept = torch.bmm(keys, four.mT).split(2, -1)
            missing = 1 - kept
            d_gates += (along * missing).sum(-1)
            d_keys.baddbmm_(torch.cat([missing, -along], -1).mul_(weight), four)
        _put(d_k, d_keys, at)
        d_beta[at.b, at.h, at.f] = d_gates.view(d_beta[at.b, at.h, at.f].shape).to(beta.dtype)
    return d_k, d_v, d_beta


def storage(x: Tensor) -> torch.dtype:
    """Type of the per-frame matrices."""
    return working_type(x)


def working_type(x: Tensor) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(x.dtype, torch.float32)


def _blocks(x_bnhd: Tensor, per_frame: Tensor) -> list[_Block]:
    b, n, h, _ = x_bnhd.shape
    t = per_frame.shape[2]
    if x_bnhd.device.type != "cpu" or x_bnhd.numel() <= _WHOLE_BELOW:
        return [_Block(slice(0, b), slice(0, h), slice(0, t), slice(0, n))]
    s = n // t
    step = max(1, _TILE_TOKENS // s)
    runs = [(f, min(f + step, t)) for f in range(0, t, step)]
    return [
        _Block(slice(i, i + 1), slice(j, j + 1), slice(f, g), slice(f * s, g * s))
        for i in range(b)
        for j in range(h)
        for f, g in runs
    ]


def _tile(x_bnhd: Tensor, at: _Block, t: int, work: torch.dtype) -> Tensor:
    """The block's tokens as (frames of all its heads, s, d); may be a view of the input."""
    part = x_bnhd[at.b, at.tokens, at.h].permute(0, 2, 1, 3).to(work)
    if part.shape[0] * part.shape[1] > 1 or part.stride(-1) != 1:
        part = part.contiguous()
    # A block of one head is read where it lies: the products take rows at any distance.
    return part.flatten(0, 1).flatten(0, 1).unflatten(0, (-1, x_bnhd.shape[1] // t))


def _put(out_bnhd: Tensor, tile_msd: Tensor, at: _Block) -> None:
    target = out_bnhd[at.b, at.tokens, at.h]
    b, n, h, d = target.shape
    target.copy_(tile_msd.view(b, h, n, d).permute(0, 2, 1, 3))


def _gates(beta: Tensor, at: _Block, work: torch.dtype) -> Tensor:
    return beta[at.b, at.h, at.f].to(work).reshape(-1, beta.shape[-1], 1)


def turns_of(rope: Rope | None, x: Tensor, back: bool = False) -> Tensor | None:
    """Unit complex numbers (n, d / 2). Never a lazy conj(): AOTDispatcher runs operators with that bit ignored."""
    if rope is None:
        return None
    cos, sin = (part.to(working_type(x)) for part in rope)
    return torch.complex(cos, -sin if back else sin)


def _turn(tile_msd: Tensor, turns_nf: Tensor | None, at: _Block) -> Tensor:
    """Rotate pairs by unit complex numbers."""
    if turns_nf is None:
        return tile_msd
    turns = turns_nf[at.tokens].unflatten(0, (-1, tile_msd.shape[1]))
    turned = pairs(tile_msd).unflatten(0, (-1, len(turns))) * turns
    return torch.view_as_real(turned).reshape(tile_msd.shape)


def pairs(tile_msd: Tensor) -> Tensor:
    """Neighbouring channels as complex numbers; copied where they do not lie side by side at an even place."""
    tile_msd = tile_msd if in_pairs(tile_msd) else tile_msd.clone(memory_format=torch.contiguous_format)
    return torch.view_as_complex(tile_msd.unflatten(-1, (-1, 2)))


def in_pairs(x: Tensor) -> bool:
    """Whether pairs(x) is a view."""
    return x.stride(-1) == 1 and not any(y % 2 for y in (x.storage_offset(), *x.stride()[:-1]))


def _shifted(x: Tensor, first: Tensor | None) -> Tensor:
    head = torch.zeros_like(x[:, :, :1]) if first is None else first[:, :, None]
    return torch.cat([head, x[:, :, :-1]], 2)


def _before(f: Tensor, first: Tensor | None, at: _Block) -> Tensor:
    """Memories before the frames of a block, without shifting the whole tensor."""
    if at.f.start:
        return f[at.b, at.h, at.f.start - 1 : at.f.stop - 1]
    return _shifted(f[at.b, at.h, at.f], None if first is None else first[at.b, at.h])
