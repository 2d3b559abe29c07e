"""The two operators gdn::forward and gdn::backward: phases put together, registered with torch.

As operators they are opaque to autograd and torch.compile: one node each, with shapes and gradients declared here.
Whatever the backward needs is an output of the forward, empty when save is off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gdn_kernels.backend import phases
from gdn_kernels.frame_gdn import by_head_backward, by_tile
from gdn_kernels.frame_gdn.parts import Memories, Rope, Summary
from gdn_kernels.frame_gdn.state import FrameState

# A backend has the phase functions of chunked.py; precision is part of its name, as in "triton:fp32".


def run_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    chunk_starts: Tensor | None,
    kv: Tensor | None,
    z: Tensor | None,
    eps: float | None,
    save: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """out, final kv, final z; then den, P, P_z, F, R, zf, zr for the backward, empty unless save."""
    run, rope = phases(backend), _rope(cos, sin)
    first = None if kv is None else FrameState(kv, z)
    kept: tuple[Tensor | None, ...] = (None,) * 7
    if backend == "torch" and not save and by_tile.suits(q):
        out, final = by_tile.forward(q, k, v, beta, log_gamma, rope, chunk_starts, first, eps)
    else:
        summary = run.summary(k, v, beta, rope, eps is not None)
        memories, final = run.scan(summary, log_gamma, chunk_starts, first, None, keep=save)
        out, den = run.readout(q, memories, rope, eps)
        if save:
            kept = (den, summary.p, summary.p_z, memories.f, memories.r, memories.zf, memories.zr)
    den, p, p_z, f, r, zf, zr = (final.kv.new_empty(0) if x is None else x for x in kept)
    return out, final.kv, final.kv.new_empty(0) if final.z is None else final.z, den, p, p_z, f, r, zf, zr


forward = torch.library.custom_op("gdn::forward", run_forward, mutates_args=())


@torch.library.custom_op("gdn::backward", mutates_args=())
def backward(
    grad: Tensor,
    grad_kv: Tensor | None,
    grad_z: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    cos: Tensor | None,
    sin: Tensor | None,
    chunk_starts: Tensor | None,
    kv: Tensor | None,
    z: Tensor | None,
    out: Tensor,
    kept: list[Tensor],
    divide: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v, beta, log_gamma, kv, z (the last two always in full)."""
    run, rope = phases(backend), _rope(cos, sin)
    den, p, p_z, f, r, zf, zr = (x if x.numel() else None for x in kept)
    assert p is not None and f is not None and r is not None
    memories, summary = Memories(f, r, zf, zr), Summary(p, f, p_z)  # A itself is not needed again
    first = None if kv is None else FrameState(kv, z)
    last = None if grad_kv is None else FrameState(grad_kv.contiguous(), grad_z if divide else None)
    if backend == "torch" and by_tile.suits(q):
        d_q, d_k, d_v, d_beta, d_log_gamma, d_first = by_head_backward.backward(
            grad.contiguous(), last, q, k, v, beta, log_gamma, rope, chunk_starts, first, out, den if divide else None,
            summary, memories,
        )  # fmt: skip
        d_z = d_first.kv.new_empty(0) if d_first.z is None else d_first.z
        return d_q, d_k, d_v, d_beta, d_log_gamma.to(log_gamma.dtype), d_first.kv, d_z
    d_q, read = run.readout_backward(grad.contiguous(), out, den if divide else None, q, memories, rope)
    adjoint, d_log_gamma, d_first, _ = run.scan_backward(
        summary, log_gamma, chunk_starts, memories, first, read, last, None
    )
    d_k, d_v, d_beta = run.summary_backward(k, v, beta, log_gamma, adjoint, memories, first, rope)
    d_z = d_first.kv.new_empty(0) if d_first.z is None else _plain(d_first.z)
    return d_q, d_k, d_v, d_beta, _plain(d_log_gamma.to(log_gamma.dtype)), _plain(d_first.kv), d_z


@forward.register_fake
def _forward_fake(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, cos: Tensor | None, sin: Tensor | None,
    chunk_starts: Tensor | None, kv: Tensor | None, z: Tensor | None, eps: float | None, save: bool, backend: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    (b, n, h, d), e, t = q.shape, v.shape[-1], log_gamma.shape[-1]
    work = torch.promote_types(q.dtype, torch.float32)
    divide = eps is not None

    def new(*shape: Any, when: bool = True, dtype: torch.dtype = work) -> Tensor:
        return q.new_empty(shape, dtype=dtype) if when else q.new_empty(0, dtype=work)

    states = (new(b, n, h, e, dtype=q.dtype), new(b, h, d, e), new(b, h, d, when=divide))
    store = phases(backend).storage(q)
    kept = (
        new(b, h, t, n // t, when=save and divide),
        new(b, h, t, d, d, when=save, dtype=store),
        new(b, h, t, d, d, when=save and divide and cos is not None, dtype=store),
        new(b, h, t, d, e, when=save, dtype=store),
        new(b, h, t, d, e, when=save, dtype=store),
        new(b, h, t, d, when=save and divide),
        new(b, h, t, d, when=save and divide),
    )
    return (*states, *kept)


@backward.register_fake
def _backward_fake(
    grad: Tensor, grad_kv: Tensor | None, grad_z: Tensor | None, q: Tensor, k: Tensor, v: Tensor, beta: Tensor,
    log_gamma: Tensor, cos: Tensor | None, sin: Tensor | None, chunk_starts: Tensor | None, kv: Tensor | None,
    z: Tensor | None, out: Tensor, kept: list[Tensor], divide: bool, backend: str,
) -> tuple[Tensor, ...]:  # fmt: skip
    (b, _, h, d), e = q.shape, v.shape[-1]
    work = torch.promote_types(q.dtype, torch.float32)
    like = [x.new_empty(x.shape) for x in (q, k, v, beta, log_gamma)]
    return (*like, q.new_empty((b, h, d, e), dtype=work), q.new_empty((b, h, d) if divide else (0,), dtype=work))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    q, k, v, beta, log_gamma, cos, sin, chunk_starts, kv, z, eps, save, backend = inputs
    out, _, _, *kept = output
    if not save:
        raise RuntimeError("gdn::forward was called with save=False on inputs that need a gradient")
    ctx.save_for_backward(q, k, v, beta, log_gamma, cos, sin, chunk_starts, kv, z, out, *kept)
    ctx.mark_non_differentiable(*kept)
    # Else autograd would make zeros of the size of P, F and R for every backward, to say that they have no gradient.
    ctx.set_materialize_grads(False)
    ctx.divide, ctx.backend = eps is not None, backend


def _backward(
    ctx: Any, grad: Tensor | None, grad_kv: Tensor | None, grad_z: Tensor | None, *_: Any
) -> tuple[Tensor | None, ...]:
    q, k, v, beta, log_gamma, cos, sin, chunk_starts, kv, z, out, *kept = ctx.saved_tensors
    if grad is None:
        grad = torch.zeros_like(out)
    if grad_kv is None and grad_z is not None:
        grad_kv = grad_z.new_zeros((*grad_z.shape, v.shape[-1]))
    elif grad_kv is not None and grad_z is None and ctx.divide:
        grad_z = grad_kv.new_zeros(grad_kv.shape[:-1])
    *gradients, d_kv, d_z = backward(
        grad, grad_kv, grad_z, q, k, v, beta, log_gamma, cos, sin, chunk_starts, kv, z, out, kept, ctx.divide,
        ctx.backend,
    )  # fmt: skip
    states = (None if kv is None else d_kv.to(kv.dtype), None if z is None else d_z.to(z.dtype))
    return (*gradients, None, None, None, *states, None, None, None)


forward.register_autograd(_backward, setup_context=_setup)


def _plain(x: Tensor) -> Tensor:
    """The strides that the fake promises. contiguous() is not enough: it lets those of axes of length 1 pass."""
    return x.clone(memory_format=torch.contiguous_format)


def _rope(cos: Tensor | None, sin: Tensor | None) -> Rope | None:
    return None if cos is None or sin is None else (cos, sin)
