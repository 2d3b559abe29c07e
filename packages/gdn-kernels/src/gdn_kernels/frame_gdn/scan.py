"""The sequential part in plain torch: short scans of d x d maps over the frames, their adjoints, and their composition.

Everything is written once for a matrix (b, h, d, e) and serves the denominator's vector as one column. P is symmetric,
so the adjoint scans use it as it is, and the reverse transition of a run is the transpose of the forward one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gdn_kernels.frame_gdn.parts import Adjoint, Composite, Memories, Summary
from gdn_kernels.frame_gdn.state import FrameState, kv_of


def scan(
    summary: Summary,
    log_gamma: Tensor,
    restart: Tensor | None,
    first: FrameState | None = None,
    last: FrameState | None = None,
    keep: bool = True,
) -> tuple[Memories, FrameState]:
    """Memory of every frame and the forward one after the last.

    With keep=False both directions come summed, and the summary's maps are overwritten.
    """
    gamma, stops = log_gamma.to(summary.a.dtype).exp(), stops_of(restart, log_gamma)
    # Half precision would lose too much in I - P.
    fold = not keep and summary.p.dtype in (torch.float32, torch.float64)
    p = _folded(summary.p, gamma) if fold else summary.p
    f, r, kv = _both_ways(_absorbing(p, summary.a, gamma, fold), summary.a, stops, kv_of(first), kv_of(last), keep)
    if summary.a_z is None:
        return Memories(f, r), FrameState(kv)
    if summary.p_z is not None:
        p = _folded(summary.p_z, gamma) if fold else summary.p_z
    a_z = summary.a_z[..., None]
    absorb = _absorbing(p, a_z, gamma, fold)
    zf, zr, z = _both_ways(absorb, a_z, stops, _column(first), _column(last), keep)
    return Memories(f, r, zf[..., 0], None if zr is None else zr[..., 0]), FrameState(kv, z[..., 0])


def scan_backward(
    summary: Summary,
    log_gamma: Tensor,
    restart: Tensor | None,
    memories: Memories,
    first: FrameState | None,
    read: FrameState,
    last_gradient: FrameState | None = None,
    first_gradient: FrameState | None = None,
) -> tuple[Adjoint, Tensor, FrameState, FrameState]:
    """Adjoint of scan.

    read holds the gradients of the memories as (b, h, t, d, e) and (b, h, t, d); last_gradient comes from the final
    forward memory, first_gradient from what the reverse scan handed to earlier frames. Returns the adjoint, the
    gradient of log_gamma, and the gradients of the first forward and the last reverse memory.
    """
    gamma, stops = log_gamma.to(read.kv.dtype).exp(), stops_of(restart, log_gamma)
    assert memories.r is not None
    g, h, d_log_gamma, left, right = _both_ways_back(
        summary.p, gamma, stops, memories.f, memories.r, kv_of(first), read.kv,
        kv_of(last_gradient), kv_of(first_gradient),
    )  # fmt: skip
    if read.z is None:
        return Adjoint(g, h), d_log_gamma, FrameState(left), FrameState(right)
    assert memories.zf is not None and memories.zr is not None
    g_z, h_z, more, left_z, right_z = _both_ways_back(
        summary.gram_z, gamma, stops, memories.zf[..., None], memories.zr[..., None], _column(first),
        read.z[..., None], _column(last_gradient), _column(first_gradient),
    )  # fmt: skip
    adjoint = Adjoint(g, h, g_z[..., 0], h_z[..., 0])
    return adjoint, d_log_gamma + more, FrameState(left, left_z[..., 0]), FrameState(right, right_z[..., 0])


def composite(
    summary: Summary, log_gamma: Tensor, restart: Tensor | None, first: FrameState | None = None
) -> Composite:
    """The whole run as one map. A first memory, if given, is taken into psi."""
    gamma, stops = log_gamma.to(summary.a.dtype).exp(), stops_of(restart, log_gamma)
    phi, kv, back = _run(summary.p, summary.a, gamma, stops, kv_of(first))
    passes = torch.tensor(float(not any(stops)), dtype=phi.dtype, device=phi.device)
    if summary.a_z is None:
        return Composite(phi, FrameState(kv), FrameState(back), None, passes)
    phi_z, z, back_z = _run(summary.gram_z, summary.a_z[..., None], gamma, stops, _column(first))
    return Composite(phi, FrameState(kv, z[..., 0]), FrameState(back, back_z[..., 0]), phi_z, passes)


def compose_prefix(
    runs: Sequence[Composite], index: int, adjoint: bool = False
) -> tuple[FrameState | None, FrameState | None]:
    """Memories that enter run number index: the forward one from the runs before it, the reverse one from those after.

    None stands for an empty memory. With adjoint, psi holds what the gradient of the reverse memory leaves to the
    right and psi_back what that of the forward memory leaves to the left; the same maps carry both.
    """
    ahead: FrameState | None = None
    for run in runs[:index]:
        ahead = _carry(run, run.open if adjoint else None, False, ahead, run.psi)
    behind: FrameState | None = None
    for run in reversed(runs[index + 1 :]):
        behind = _carry(run, None if adjoint else run.open, True, behind, run.psi_back)
    return ahead, behind


def _carry(run: Composite, gate: Tensor | None, back: bool, state: FrameState | None, psi: FrameState) -> FrameState:
    if state is None:
        return psi
    kv, z = state.kv if gate is None else state.kv * gate, None
    if psi.z is not None:
        assert run.phi_z is not None and state.z is not None
        column = (state.z if gate is None else state.z * gate)[..., None]
        z = ((run.phi_z.mT if back else run.phi_z) @ column)[..., 0] + psi.z
    return FrameState((run.phi.mT if back else run.phi) @ kv + psi.kv, z)


_Absorb = Callable[[int, Tensor | None, Tensor | None], Tensor]


def _both_ways(
    absorb: _Absorb, a: Tensor, stops: list[bool], first: Tensor | None, last: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor | None, Tensor]:
    f = torch.empty(a.shape, dtype=a.dtype, device=a.device)
    r = torch.empty_like(f) if keep else None
    ahead, behind = _frames(f), None if r is None else _frames(r)
    x, y = _heads(first), _heads(last)
    for t, target in enumerate(ahead):
        x = absorb(t, x, target)
    assert x is not None
    final = x.clone(memory_format=torch.contiguous_format).view(f[:, :, 0].shape)
    for t in range(len(stops) - 1, -1, -1):
        if behind is not None:
            behind[t].zero_() if y is None else behind[t].copy_(y)
        elif y is not None:
            ahead[t].add_(y)
        if stops[t]:
            y = None
        elif t:
            y = absorb(t, y, None)
    return f, r, final


def _folded(p: Tensor, gamma: Tensor) -> Tensor:
    """gamma (I - P), in the memory of P."""
    p.mul_(-gamma[..., None, None]).diagonal(dim1=-2, dim2=-1).add_(gamma[..., None])
    return p


def _absorbing(p: Tensor, a: Tensor, gamma: Tensor, folded: bool) -> _Absorb:
    """The memory after frame t, from the one before it or from none, into a buffer if given; p as it is or folded."""
    writes, maps, move = _frames(a), _frames(p), None if folded else _moves(p, gamma)

    def absorb(t: int, x: Tensor | None, into: Tensor | None) -> Tensor:
        if x is None:
            return writes[t] if into is None else into.copy_(writes[t])
        if move is not None:
            return torch.add(move(t, x), writes[t], out=into)
        if x.shape[-1] == 1:
            return torch.add(writes[t], _times_column(maps[t], x), out=into)
        return torch.baddbmm(writes[t], maps[t], x, out=into)

    return absorb


def _both_ways_back(
    p: Tensor, gamma: Tensor, stops: list[bool], f: Tensor, r: Tensor, first: Tensor | None, c: Tensor,
    last_gradient: Tensor | None, first_gradient: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    # moved holds what came of each frame's map: first of G, then of H. Its products give log gamma's gradient at once.
    g, h, moved = (torch.empty(c.shape, dtype=c.dtype, device=c.device) for _ in range(3))
    reads, into_g, into_h, into = (_frames(each) for each in (c, g, h, moved))
    maps = _frames(_folded(p.to(c.dtype, copy=True), gamma))
    x = _heads(last_gradient)
    for t in range(len(stops) - 1, -1, -1):
        into_g[t].copy_(reads[t]) if x is None else torch.add(x, reads[t], out=into_g[t])
        x = torch.bmm(maps[t], into_g[t], out=into[t])
    left, d_log_gamma = moved[:, :, 0].clone(), torch.zeros(gamma.shape, dtype=gamma.dtype, device=gamma.device)
    d_log_gamma[..., 1:] = (moved[:, :, 1:] * f[:, :, :-1]).sum((-2, -1))
    if first is not None:
        d_log_gamma[..., 0] = (left * first).sum((-2, -1))
    y = _heads(first_gradient)
    for t, target in enumerate(into_h):
        if stops[t] or y is None:
            target.zero_()
        elif t:
            torch.add(y, reads[t - 1], out=target)
        else:
            target.copy_(y)
        y = torch.bmm(maps[t], target, out=into[t])
    d_log_gamma += (moved * r).sum((-2, -1))
    return g, h, d_log_gamma, left, moved[:, :, -1] + c[:, :, -1]


def _run(p: Tensor, a: Tensor, gamma: Tensor, stops: list[bool], first: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    move, writes = _moves(p, gamma), _frames(a)
    (b, h), (d, e) = a.shape[:2], a.shape[-2:]
    start = torch.zeros_like(writes[0]) if first is None else first.flatten(0, 1)
    # Transition and offset in one product: the columns of [A | 0] started from [M | I].
    x = torch.cat([start, torch.eye(d, dtype=a.dtype, device=a.device).expand(b * h, d, d)], -1)
    y = torch.zeros_like(start)
    for t, write in enumerate(writes):
        x = move(t, x)
        x[..., :e] += write
    for t in range(len(writes) - 1, -1, -1):
        y = torch.zeros_like(y) if stops[t] else move(t, y) + writes[t]
    x, y = x.unflatten(0, (b, h)), y.unflatten(0, (b, h))
    return x[..., e:].contiguous(), x[..., :e].contiguous(), y


def _moves(p: Tensor, gamma: Tensor) -> Callable[[int, Tensor], Tensor]:
    """gamma (I - P) x of frame t, the identity kept out of the product."""
    maps, kept_share = _frames(p), _frames(gamma[..., None, None])

    def move(t: int, x: Tensor) -> Tensor:
        kept = kept_share[t] * x
        if x.shape[-1] == 1:
            return kept.sub_(_times_column(maps[t], kept))
        return torch.baddbmm(kept, maps[t], kept, alpha=-1)

    return move


def _times_column(p: Tensor, x: Tensor) -> Tensor:
    """P x. A one-column product is four times slower than multiply and sum on a CPU; P is symmetric."""
    return (p * x.mT).sum(-1, keepdim=True)


def _frames(x: Tensor) -> tuple[Tensor, ...]:
    """(b, h, t, ...) as (b h, ...) of every frame; views where x lies in order."""
    return x.flatten(0, 1).unbind(1)


def _heads(x: Tensor | None) -> Tensor | None:
    """(b, h, ...) as (b h, ...)."""
    return None if x is None else x.flatten(0, 1)


def _column(state: FrameState | None) -> Tensor | None:
    return None if state is None or state.z is None else state.z[..., None]


def stops_of(restart: Tensor | None, log_gamma: Tensor) -> list[bool]:
    """For every frame, whether the reverse scan restarts there."""
    return [False] * log_gamma.shape[-1] if restart is None else [bool(x) for x in restart.tolist()]
