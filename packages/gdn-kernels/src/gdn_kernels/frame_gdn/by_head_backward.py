"""The backward of large clips on a CPU, head by head.

The gradients of maps and memories exist for one head a thread only; tokens are read where they lie, and their gradients
are written while the products they come from are in cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

from gdn_kernels.frame_gdn import memory
from gdn_kernels.frame_gdn.chunked import pairs, turns_of
from gdn_kernels.frame_gdn.parts import Memories, Rope, Summary
from gdn_kernels.frame_gdn.scan import stops_of
from gdn_kernels.frame_gdn.state import FrameState
from gdn_kernels.frame_gdn.workers import workers

TILE_TOKENS = 3520  # of 112 channels a megabyte and a half


def backward(
    grad: Tensor,
    last: FrameState | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    rope: Rope | None,
    restart: Tensor | None,
    first: FrameState | None,
    out: Tensor,
    den: Tensor | None,
    summary: Summary,
    memories: Memories,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, FrameState]:
    """Gradients of q, k, v, beta, log_gamma and the first memory; last is that of the final forward memory."""
    (b, _, h, d), e, (t, s) = k.shape, v.shape[-1], beta.shape[2:]
    work = torch.promote_types(k.dtype, torch.float32)
    runs = _runs_of(t, s)
    longest = runs[0].stop
    d_q, d_k, d_v, d_beta = (memory.empty(*x.shape, dtype=x.dtype) for x in (q, k, v, beta))
    d_log_gamma = torch.zeros(b, h, t, dtype=work)
    d_first = FrameState(torch.empty(b, h, d, e, dtype=work), None if den is None else torch.empty(b, h, d, dtype=work))
    turns, back = (turns_of(rope, q, inverse) for inverse in (False, True))
    if turns is not None and back is not None:
        turns, back = turns.unflatten(0, (t, s)), back.unflatten(0, (t, s))
    clip = _Clip(
        q, k, v, beta, log_gamma.to(work).exp(), stops_of(restart, log_gamma), turns, back, runs,
        grad, last, out, den, summary, memories, first, d_q, d_k, d_v, d_beta, d_log_gamma, d_first,
    )  # fmt: skip

    shapes = (
        (t, d, d), (2, t, d, e), (2, t, d), (t, d, d), (longest, d, e), (3, longest, s, d), (2, longest, s, e),
    )  # fmt: skip
    with workers(d_q.numel()) as threads:
        parts = memory.workspace(*shapes * threads.count, dtype=work)
        buffers = [_Scratch(*parts[i : i + len(shapes)]) for i in range(0, len(parts), len(shapes))]

        def answer(at: tuple[int, int], worker: int) -> None:
            own = buffers[worker]
            _through_the_readout(clip, at, own)
            _through_the_scan(clip, at, own)
            if den is not None:
                _through_the_scan_z(clip, at, own)
            _through_the_summary(clip, at, own)

        def fresh() -> None:
            for x in (d_q, d_k, d_v):
                memory.populate(x)

        threads.each(product(range(b), range(h)), answer, first=fresh)
    return d_q, d_k, d_v, d_beta, d_log_gamma, d_first


@dataclass(frozen=True)
class _Clip:
    """What all heads share: inputs, what the forward kept, and the gradients to fill."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    gamma: Tensor
    stops: list[bool]
    turns: Tensor | None
    back: Tensor | None
    runs: list[slice]
    grad: Tensor
    last: FrameState | None
    out: Tensor
    den: Tensor | None
    summary: Summary
    memories: Memories
    first: FrameState | None
    d_q: Tensor
    d_k: Tensor
    d_v: Tensor
    d_beta: Tensor
    d_log_gamma: Tensor
    d_first: FrameState

    def frames(self, x_bnhd: Tensor, at: tuple[int, int]) -> Tensor:
        """(t, s, d) of a head, where they lie."""
        return x_bnhd[at[0], :, at[1]].unflatten(0, self.beta.shape[2:])


class _Scratch(NamedTuple):
    """Buffers of one head.

    Attributes:
        maps: (t, d, d) gamma (I - P), later dP + dP'.
        adjoints: (2, t, d, e) G and H.
        adjoints_z: (2, t, d) the same for the denominator.
        square: (t, d, d) dP.
        memory: What a run of frames reads.
        wide: Three tiles of key width.
        narrow: Two tiles of value width.
    """

    maps: Tensor
    adjoints: Tensor
    adjoints_z: Tensor
    square: Tensor
    memory: Tensor
    wide: Tensor
    narrow: Tensor


def _through_the_readout(clip: _Clip, at: tuple[int, int], own: _Scratch) -> None:
    """d_q, and what arrives at the memory that each frame read, in the place of G (and of g)."""
    f, r, z = clip.memories.f[at], clip.memories.r, clip.memories.total_z
    assert r is not None
    grads, queries, d_queries = (clip.frames(x, at) for x in (clip.grad, clip.q, clip.d_q))
    for run in clip.runs:
        rows, d_num = queries[run].to(f.dtype), grads[run].to(f.dtype)
        size = len(rows)
        read = torch.add(f[run], r[at][run], out=own.memory[:size])
        if clip.den is not None:
            inverse = clip.den[at][run].reciprocal()
            tile = own.narrow[0, :size]
            d_den = torch.mul(d_num, clip.frames(clip.out, at)[run], out=tile).sum(-1).mul_(-inverse)
            d_num = torch.mul(d_num, inverse[..., None], out=tile)
        rotated = _turned(rows, clip.turns, run, own.wide[0])
        torch.bmm(rotated.mT, d_num, out=own.adjoints[0, run])
        if rotated is rows and clip.den is None and clip.d_q.dtype == f.dtype:
            torch.bmm(d_num, read.mT, out=d_queries[run])
            continue
        d_rows = torch.bmm(d_num, read.mT, out=own.wide[1, :size])
        d_rows = _turned(d_rows, clip.back, run, own.wide[1])
        if clip.den is not None:
            assert z is not None
            d_rows.addcmul_(d_den[..., None], z[at][run][:, None])
            for t, x, y in zip(range(run.start, run.stop), rows, d_den, strict=True):
                torch.mv(x.T, y, out=own.adjoints_z[0, t])
        d_queries[run] = d_rows


def _through_the_scan(clip: _Clip, at: tuple[int, int], own: _Scratch) -> None:
    """Both adjoints: G_t = C_t + W_{t+1} G_{t+1} in the place of C, H_t = C_{t-1} + W_{t-1} H_{t-1}."""
    gamma = clip.gamma[at]
    torch.mul(clip.summary.p[at], -gamma[:, None, None], out=own.maps).diagonal(dim1=1, dim2=2).add_(gamma[:, None])
    maps, g, h = own.maps.unbind(), own.adjoints[0].unbind(), own.adjoints[1].unbind()
    empty = True
    for t, target in enumerate(h):
        if not t or clip.stops[t]:
            target.zero_()
        elif empty:
            target.copy_(g[t - 1])
        else:
            torch.addmm(g[t - 1], maps[t - 1], h[t - 1], out=target)
        empty = not t or clip.stops[t]
    if clip.last is not None:
        g[-1].add_(clip.last.kv[at])
    for t in range(len(g) - 2, -1, -1):
        g[t].addmm_(maps[t + 1], g[t + 1])
    torch.mm(maps[0], g[0], out=clip.d_first.kv[at])


def _through_the_scan_z(clip: _Clip, at: tuple[int, int], own: _Scratch) -> None:
    """The same for the denominator, and its share in the gradient of log gamma."""
    zf, zr, d_z = clip.memories.zf, clip.memories.zr, clip.d_first.z
    assert zf is not None and zr is not None and d_z is not None
    maps, gamma, shares = clip.summary.gram_z[at].unbind(), clip.gamma[at].unbind(), clip.d_log_gamma[at].unbind()
    ahead, behind, g, h = zf[at].unbind(), zr[at].unbind(), own.adjoints_z[0].unbind(), own.adjoints_z[1].unbind()

    def move(t: int, x: Tensor) -> Tensor:
        kept = gamma[t] * x
        return torch.addmv(kept, maps[t], kept, alpha=-1)

    y: Tensor | None = None
    for t, target in enumerate(h):
        if clip.stops[t]:
            y = None
        if y is None:
            target.zero_()
            y = g[t]
        else:
            moved = move(t, target.copy_(y))
            shares[t].add_(torch.dot(moved, behind[t]))
            y = moved.add_(g[t])
    if clip.last is not None and clip.last.z is not None:
        g[-1].add_(clip.last.z[at])
    for t in range(len(g) - 1, -1, -1):
        moved = move(t, g[t])
        before = ahead[t - 1] if t else _z_before(clip, at)
        if before is not None:
            shares[t].add_(torch.dot(moved, before))
        (g[t - 1].add_ if t else d_z[at].copy_)(moved)


def _through_the_summary(clip: _Clip, at: tuple[int, int], own: _Scratch) -> None:
    """d_k, d_v, d_beta and the numerator's share of d_log_gamma, from the adjoints."""
    keys, values, d_keys, d_values = (clip.frames(x, at) for x in (clip.k, clip.v, clip.d_k, clip.d_v))
    d_writes, d_maps = _through_the_maps(clip, at, own)
    for run in clip.runs:
        d_a, d_p = d_writes[run], d_maps[run]
        (spare, d_rows, rows), (d_written, written) = own.wide[:, : len(d_a)], own.narrow[:, : len(d_a)]
        # Read three times each: copies in order are in cache, and rows of one head lie apart.
        rows.copy_(keys[run])
        written.copy_(values[run])
        weight = clip.beta[at][run][..., None].to(d_a.dtype)
        rotated = _turned(rows, clip.turns, run, spare)
        torch.bmm(rotated, d_a, out=d_written)
        torch.mul(d_written, weight, out=d_values[run])
        d_gates = d_written.mul_(written).sum(-1)
        torch.bmm(rotated, d_p, out=d_rows).baddbmm_(written, d_a.mT)
        # The rotated keys are wanted no more: their tile takes the product.
        d_gates.add_(torch.mul(d_rows, rotated, out=spare).sum(-1)).mul_(0.5)
        if rotated is rows and clip.den is None:
            torch.mul(d_rows, weight, out=d_keys[run])
        else:
            d_rows = _turned(d_rows.mul_(weight), clip.back, run, own.wide[1])
            if clip.den is not None:
                d_gates.add_(_from_z(clip, at, own, run, rows, weight, d_rows))
            d_keys[run] = d_rows
        clip.d_beta[at][run] = d_gates


def _through_the_maps(clip: _Clip, at: tuple[int, int], own: _Scratch) -> tuple[Tensor, Tensor]:
    """dA, and dP + dP' since P is a quadratic form of the keys; in the places of G and W."""
    f, r, gamma, (g, h), d_p = clip.memories.f[at], clip.memories.r, clip.gamma[at], own.adjoints, own.square
    assert r is not None
    torch.bmm(g[1:], f[:-1].mT, out=d_p[1:])
    d_p[0] = 0 if clip.first is None else g[0] @ clip.first.kv[at].mT
    d_p.baddbmm_(h, r[at].mT)
    # dP is this times -gamma, and W = gamma (I - P): nothing is divided by gamma.
    clip.d_log_gamma[at].add_(torch.mul(d_p, own.maps, out=own.maps).sum((1, 2)))
    d_p.mul_(-gamma[:, None, None])
    return g.add_(h), torch.add(d_p, d_p.mT, out=own.maps)


def _from_z(
    clip: _Clip, at: tuple[int, int], own: _Scratch, run: slice, rows: Tensor, weight: Tensor, d_rows: Tensor
) -> Tensor:
    """The denominator's part of d_beta; that of d_k is added to d_rows. No d x d gradient: its maps get rank one."""
    zf, zr, gamma = clip.memories.zf, clip.memories.zr, clip.gamma[at][run][:, None]
    assert zf is not None and zr is not None
    before = torch.empty_like(zr[at][run])
    later = 0 if run.start else 1
    before[later:] = zf[at][run.start + later - 1 : run.stop - 1]
    if later:
        start = _z_before(clip, at)
        before[0] = 0 if start is None else start
    g_z, h_z = own.adjoints_z[:, run]
    four = torch.stack([g_z, h_z, gamma * before, gamma * zr[at][run]], -2)
    along, kept = torch.bmm(rows, four.mT).split(2, -1)
    missing = 1 - kept
    d_rows.baddbmm_(torch.cat([missing, -along], -1).mul_(weight), four)
    return (along * missing).sum(-1)


def _z_before(clip: _Clip, at: tuple[int, int]) -> Tensor | None:
    return None if clip.first is None or clip.first.z is None else clip.first.z[at]


def _runs_of(t: int, s: int) -> list[slice]:
    """Frames that are worked on together; the first run is the longest."""
    step = max(1, TILE_TOKENS // s)
    return [slice(i, min(i + step, t)) for i in range(0, t, step)]


def _turned(tile_fsd: Tensor, turns: Tensor | None, at: slice, to: Tensor) -> Tensor:
    """Pairs rotated by unit complex numbers, into a buffer."""
    if turns is None:
        return tile_fsd
    to = to[: len(tile_fsd)]
    torch.mul(pairs(tile_fsd), turns[at], out=pairs(to))
    return to
