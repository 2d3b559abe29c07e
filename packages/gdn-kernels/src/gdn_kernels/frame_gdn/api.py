"""The public calls: check the arguments, choose an implementation, run it outside autocast."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from gdn_kernels.backend import choose
from gdn_kernels.frame_gdn import checks, ops, reference
from gdn_kernels.frame_gdn.parts import Rope
from gdn_kernels.frame_gdn.state import FrameState, typed


@overload
def frame_gdn(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, rope: Rope | None = ..., eps: float = ...,
    chunk_starts: Tensor | None = ..., initial_state: FrameState | None = ...,
    output_final_state: Literal[False] = ..., backend: str = ..., precision: str = ...,
    checked: bool = ...,
) -> Tensor: ...  # fmt: skip
@overload
def frame_gdn(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, rope: Rope | None = ..., eps: float = ...,
    chunk_starts: Tensor | None = ..., initial_state: FrameState | None = ...,
    output_final_state: Literal[True], backend: str = ..., precision: str = ...,
    checked: bool = ...,
) -> tuple[Tensor, FrameState]: ...  # fmt: skip
def frame_gdn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    *,
    rope: Rope | None = None,
    eps: float = 1e-8,
    chunk_starts: Tensor | None = None,
    initial_state: FrameState | None = None,
    output_final_state: bool = False,
    backend: str = "auto",
    precision: str = "auto",
    checked: bool = False,
) -> Tensor | tuple[Tensor, FrameState]:
    """Mix tokens through a memory that advances one latent frame at a time, both ways in time.

    Per head, with K, V the s x d matrices of frame t, B = diag(beta) and K rotated:

        M_t = gamma_t (I - K' B K) M_{t-1} + K' B V         z_t = gamma_t (I - K' B K) z_{t-1} + K' beta (K unrotated)
        out = (Q (M + R)) / (Q (z + r) + eps)

    R, r are the same recurrences run from the end and read before they absorb frame t.

    Args:
        q: (b, n, h, d) with n = t s tokens, frame-major; normalised and non-negative, not rotated.
        k: Same shape, scaled by 1 / sqrt(d s): this keeps the transition a contraction.
        v: (b, n, h, e).
        beta: (b, h, t, s) writing strength in [0, 1].
        log_gamma: (b, h, t) log of what survives a frame, at most 0.
        rope: cos and sin, each (n, d / 2), of the rotation of adjacent pairs of q and k in the numerator.
        eps: Added to the denominator.
        chunk_starts: (t,) bool, where the reverse scan restarts; None = bidirectional, all True = forward only.
        initial_state: Memory after the previous frames; None starts empty.
        output_final_state: Also return the forward memory after the last frame.
        backend: "auto" (triton on an NVIDIA GPU, else torch), or one of "triton", "torch", "reference", required.
        precision: Of the products on triton: "bf16", "tf32" or "fp32"; "auto" is bf16 for bfloat16 tokens, else fp32.
            torch always computes in float32, or float64 for float64 tokens.
        checked: Also look at values: finite gates in range and a transition that contracts. Slow, for debugging.

    Returns:
        (b, n, h, e) in the type of q, and the FrameState if asked for. Gradients flow to q, k, v, beta,
        log_gamma and the initial state, not to rope.

    Raises:
        ValueError: An argument of a wrong shape, type or device, or a backend that cannot run; named, before any work.

    Reference: SANA-WM (arXiv 2605.15178), hybrid linear attention; derivation in frame_gdn/README.md.
    """
    checks.tokens(q, k, v, beta, log_gamma, chunk_starts)
    checks.rotation(q, rope)
    checks.state("initial_state", initial_state, q, v, True)
    if checked:
        checks.gates(k, beta, log_gamma)
    out, state = _run(q, k, v, beta, log_gamma, rope, eps, chunk_starts, initial_state, backend, precision)
    return (out, state) if output_final_state else out


@overload
def frame_gdn_camera(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, chunk_starts: Tensor | None = ...,
    initial_state: FrameState | None = ..., output_final_state: Literal[False] = ..., backend: str = ...,
    checked: bool = ...,
) -> Tensor: ...  # fmt: skip
@overload
def frame_gdn_camera(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, chunk_starts: Tensor | None = ...,
    initial_state: FrameState | None = ..., output_final_state: Literal[True], backend: str = ..., precision: str = ...,
    checked: bool = ...,
) -> tuple[Tensor, FrameState]: ...  # fmt: skip
def frame_gdn_camera(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    *,
    chunk_starts: Tensor | None = None,
    initial_state: FrameState | None = None,
    output_final_state: bool = False,
    backend: str = "auto",
    precision: str = "auto",
    checked: bool = False,
) -> Tensor | tuple[Tensor, FrameState]:
    """The camera branch's recurrence: the numerator of frame_gdn for features already in their ray frames.

    Arguments as in frame_gdn; beta is the discounted one. There is no rotation and no division.

    Reference: SANA-WM (arXiv 2605.15178), camera control; frame_gdn/README.md.
    """
    checks.tokens(q, k, v, beta, log_gamma, chunk_starts)
    checks.state("initial_state", initial_state, q, v, False)
    if checked:
        checks.gates(k, beta, log_gamma)
    out, state = _run(q, k, v, beta, log_gamma, None, None, chunk_starts, initial_state, backend, precision)
    return (out, state) if output_final_state else out


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    rope: Rope | None,
    eps: float | None,
    chunk_starts: Tensor | None,
    state: FrameState | None,
    backend: str,
    precision: str,
) -> tuple[Tensor, FrameState]:
    chosen = choose(backend, q, max(q.shape[-1], v.shape[-1]), precision)
    with torch.autocast(q.device.type, enabled=False):
        if chosen == "reference":
            if eps is None:
                return reference.frame_gdn_camera(q, k, v, beta, log_gamma, chunk_starts, state)
            return reference.frame_gdn(q, k, v, beta, log_gamma, rope, eps, chunk_starts, state)
        given = q.dtype
        q, k, v, log_gamma, kv, z = typed(q, k, v, log_gamma, state, eps is not None)
        cos, sin = (None, None) if rope is None else rope
        inputs = (q, k, v, beta, log_gamma)
        save = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in (*inputs, kv, z))
        # An operator call costs more than a small clip; where nothing traces or differentiates, it buys nothing.
        run = ops.forward if save or torch.compiler.is_compiling() else ops.run_forward
        out, kv, z, *_ = run(*inputs, cos, sin, chunk_starts, kv, z, eps, save, chosen)
    return out.to(given), FrameState(kv, None if eps is None else z)
