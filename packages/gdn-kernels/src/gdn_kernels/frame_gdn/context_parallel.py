"""Context parallel: each process holds a run of frames, and one all-gather of d x d maps stands for all the others.

A run of frames is an affine map of the memory (scan.composite). Every process summarises its own run, all exchange
those maps once, for both branches and both directions together, and each composes the memories that enter its run. The
backward is the same with the gradients the runs hand to each other. Tokens never travel, and runs may differ in length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from gdn_kernels.backend import choose, phases
from gdn_kernels.frame_gdn import checks
from gdn_kernels.frame_gdn.parts import Composite, Memories, Rope, Summary
from gdn_kernels.frame_gdn.scan import compose_prefix
from gdn_kernels.frame_gdn.state import FrameState, typed

_BRANCH_INPUTS = 9


class CameraTokens(NamedTuple):
    """Arguments of frame_gdn_camera that the main branch does not have: q, k, v (b, n, h, d), beta (b, h, t, s)."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    initial_state: FrameState | None = None


class Mixed(NamedTuple):
    """This process's share of the result.

    Attributes:
        out: (b, n, h, e) as from frame_gdn.
        state: Forward memory after this process's last frame.
        camera_out: The same of the camera branch, None without one.
        camera_state: Likewise.
    """

    out: Tensor
    state: FrameState
    camera_out: Tensor | None = None
    camera_state: FrameState | None = None


def frame_gdn_cp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    *,
    camera: CameraTokens | None = None,
    rope: Rope | None = None,
    eps: float = 1e-8,
    chunk_starts: Tensor | None = None,
    initial_state: FrameState | None = None,
    group: dist.ProcessGroup | None = None,
    backend: str = "auto",
    precision: str = "auto",
) -> Mixed:
    """frame_gdn, and frame_gdn_camera with it, over a clip whose frames are spread over processes.

    Every process of the group calls it with its own consecutive frames, rank order being frame order; lengths may
    differ. Results and gradients are those of one process that holds the whole clip. One all-gather forward, one
    backward. Not for torch.compile.

    Args:
        q: This process's tokens; it and the next four are as in frame_gdn, for the local frames.
        camera: The camera branch's tokens, which share log_gamma; every process gives them or none does.
        rope: cos and sin of the local tokens, cut from those of the whole clip.
        chunk_starts: (t,) bool of the local frames. Every process gives it or none does.
        initial_state: Memory before the clip's first frame; read on the first process only.
        group: None is the default group.
        backend: "auto", "triton" or "torch".
        precision: As in frame_gdn.

    Raises:
        ValueError: As frame_gdn, and where torch.distributed is not running.

    Reference: derivation in frame_gdn/README.md, "Runs of frames".
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise ValueError("frame_gdn_cp needs torch.distributed; call init_process_group first, or use frame_gdn")
    if backend == "reference":
        raise ValueError("backend 'reference' runs in one process; for frame_gdn_cp choose 'auto', 'triton' or 'torch'")
    checks.tokens(q, k, v, beta, log_gamma, chunk_starts)
    checks.rotation(q, rope)
    checks.state("initial_state", initial_state, q, v, True)
    first = dist.get_rank(group) == 0
    tensors = _inputs(q, k, v, beta, log_gamma, rope, initial_state if first else None, True)
    widths = [q.shape[-1], v.shape[-1]]
    if camera is not None:
        checks.tokens(camera.q, camera.k, camera.v, camera.beta, log_gamma, chunk_starts)
        checks.state("camera.initial_state", camera.initial_state, camera.q, camera.v, False)
        start = camera.initial_state if first else None
        tensors += _inputs(camera.q, camera.k, camera.v, camera.beta, log_gamma, None, start, False)
        widths += [camera.q.shape[-1], camera.v.shape[-1]]
    chosen = choose(backend, q, max(widths), precision)
    with torch.autocast(q.device.type, enabled=False):
        out, kv, z, *more = _ContextParallel.apply((eps, chunk_starts, group, chosen), *tensors)
    mixed = Mixed(out.to(q.dtype), FrameState(kv, z))
    if camera is None:
        return mixed
    camera_out, camera_kv = more
    return mixed._replace(camera_out=camera_out.to(camera.q.dtype), camera_state=FrameState(camera_kv))


class _Branch(NamedTuple):
    """Inputs of one branch on this process."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor
    log_gamma: Tensor
    rope: Rope | None
    first: FrameState | None
    eps: float | None


class _Kept(NamedTuple):
    """What the backward of one branch needs besides inputs and output."""

    summary: Summary
    memories: Memories
    den: Tensor | None
    first: FrameState | None
    runs: list[Composite]


class _ContextParallel(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, settings: tuple[Any, ...], *tensors: Tensor | None) -> tuple[Tensor, ...]:
        eps, starts, group, backend = settings
        run, rank = phases(backend), dist.get_rank(group)
        branches = _branches(tensors, eps)
        summaries = [run.summary(x.k, x.v, x.beta, x.rope, x.eps is not None) for x in branches]
        maps = [run.composite(s, x.log_gamma, starts, x.first) for s, x in zip(summaries, branches, strict=True)]
        ctx.kept, outputs = [], []
        for x, summary, runs in zip(branches, summaries, _exchange(maps, group), strict=True):
            ahead, behind = compose_prefix(runs, rank)
            first = x.first if ahead is None else ahead
            memories, final = run.scan(summary, x.log_gamma, starts, first, behind, keep=True)
            out, den = run.readout(x.q, memories, x.rope, x.eps)
            # Only the maps are wanted again; A and what the runs leave are not.
            ctx.kept.append(_Kept(summary._replace(a=memories.f), memories, den, first, runs))
            outputs += [out, final.kv] if final.z is None else [out, final.kv, final.z]
        ctx.settings = settings
        ctx.save_for_backward(*tensors, outputs[0], outputs[-2] if len(branches) > 1 else None)
        return tuple(outputs)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        eps, starts, group, backend = ctx.settings
        run, rank = phases(backend), dist.get_rank(group)
        *tensors, out, camera_out = ctx.saved_tensors
        branches = _branches(tensors, eps)
        arrived = [(out, grads[0], FrameState(grads[1], grads[2]))]
        if len(branches) > 1:
            arrived.append((camera_out, grads[3], FrameState(grads[4])))
        reads, maps = [], []
        for x, kept, (result, grad, last) in zip(branches, ctx.kept, arrived, strict=True):
            d_q, read = run.readout_backward(grad.contiguous(), result, kept.den, x.q, kept.memories, x.rope)
            # What this run alone hands to its neighbours, its own read gradients propagated to both ends.
            *_, left, right = run.scan_backward(
                kept.summary, x.log_gamma, starts, kept.memories, kept.first, read, last, None
            )
            reads.append((d_q, read))
            maps.append(kept.runs[rank]._replace(psi=right, psi_back=left))
        gradients: list[Tensor | None] = []
        for x, kept, (d_q, read), runs, (_, _, last) in zip(
            branches, ctx.kept, reads, _exchange(maps, group), arrived, strict=True
        ):
            ahead, behind = compose_prefix(runs, rank, adjoint=True)
            adjoint, d_log_gamma, d_first, _ = run.scan_backward(
                kept.summary, x.log_gamma, starts, kept.memories, kept.first, read, _sum(last, behind), ahead
            )
            d_k, d_v, d_beta = run.summary_backward(
                x.k, x.v, x.beta, x.log_gamma, adjoint, kept.memories, kept.first, x.rope
            )
            states = (None, None) if x.first is None else (d_first.kv, d_first.z)
            gradients += [d_q, d_k, d_v, d_beta, d_log_gamma.to(x.log_gamma.dtype), None, None, *states]
        return (None, *gradients)


def _inputs(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, rope: Rope | None, state: FrameState | None,
    with_z: bool,
) -> list[Tensor | None]:  # fmt: skip
    q, k, v, log_gamma, kv, z = typed(q, k, v, log_gamma, state, with_z)
    return [q, k, v, beta, log_gamma, *((None, None) if rope is None else rope), kv, z]


def _branches(tensors: Any, eps: float) -> list[_Branch]:
    """The main branch, and the camera's if it is there."""
    found = []
    for i in range(0, len(tensors), _BRANCH_INPUTS):
        q, k, v, beta, log_gamma, cos, sin, kv, z = tensors[i : i + _BRANCH_INPUTS]
        rope = None if cos is None else (cos, sin)
        first = None if kv is None else FrameState(kv, z)
        found.append(_Branch(q, k, v, beta, log_gamma, rope, first, None if i else eps))
    return found


def _exchange(mine: list[Composite], group: dist.ProcessGroup | None) -> list[list[Composite]]:
    """For every branch, the maps of all processes in rank order; one all-gather."""
    own = [x for run in mine for x in _flat(run)]
    packed = torch.cat([x.reshape(-1) for x in own])
    everyone = [torch.empty_like(packed) for _ in range(dist.get_world_size(group))]
    dist.all_gather(everyone, packed, group=group)
    by_rank = [
        [x.view(y.shape) for x, y in zip(row.split([x.numel() for x in own]), own, strict=True)] for row in everyone
    ]
    found, at = [], 0
    for run in mine:
        size = len(_flat(run))
        found.append([_run_of(row[at : at + size]) for row in by_rank])
        at += size
    return found


def _flat(run: Composite) -> list[Tensor]:
    parts = [run.phi, run.psi.kv, run.psi_back.kv, run.open]
    if run.phi_z is not None:
        assert run.psi.z is not None and run.psi_back.z is not None
        parts += [run.phi_z, run.psi.z, run.psi_back.z]
    return parts


def _run_of(parts: list[Tensor]) -> Composite:
    phi, kv, kv_back, passes, *more = parts
    phi_z, z, z_back = more or (None, None, None)
    return Composite(phi, FrameState(kv, z), FrameState(kv_back, z_back), phi_z, passes)


def _sum(a: FrameState, b: FrameState | None) -> FrameState:
    if b is None:
        return a
    return FrameState(a.kv + b.kv, None if a.z is None or b.z is None else a.z + b.z)
