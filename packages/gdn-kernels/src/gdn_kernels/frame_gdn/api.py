"""The public calls: check the arguments, choose an implementation, run it outside autocast."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from gdn_kernels.backend import choose
from gdn_kernels.frame_gdn import chunked, reference
from gdn_kernels.frame_gdn.state import FrameState

Rope = tuple[Tensor, Tensor]


@overload
def frame_gdn(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, rope: Rope | None = ..., eps: float = ...,
    chunk_starts: Tensor | None = ..., initial_state: FrameState | None = ...,
    output_final_state: Literal[False] = ..., backend: str = ...,
) -> Tensor: ...  # fmt: skip
@overload
def frame_gdn(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, rope: Rope | None = ..., eps: float = ...,
    chunk_starts: Tensor | None = ..., initial_state: FrameState | None = ...,
    output_final_state: Literal[True], backend: str = ...,
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
        backend: "auto", "torch" or "reference".

    Returns:
        (b, n, h, e) in the type of q, and the FrameState if asked for.

    Raises:
        ValueError: Shapes that do not fit, named.

    Reference: SANA-WM (arXiv 2605.15178), hybrid linear attention; derivation in frame_gdn/README.md.
    """
    _check(q, k, v, beta, log_gamma, chunk_starts, initial_state)
    if rope is not None and any(part.shape != (q.shape[1], q.shape[-1] // 2) for part in rope):
        shapes = [tuple(part.shape) for part in rope]
        raise ValueError(f"rope has shapes {shapes}; expected two of (n, d / 2) = {(q.shape[1], q.shape[-1] // 2)}")
    if initial_state is not None and initial_state.z is None:
        raise ValueError("initial_state has no z; a state of frame_gdn carries kv and z")
    form = reference if choose(backend) == "reference" else chunked
    with torch.autocast(q.device.type, enabled=False):
        out, state = form.frame_gdn(q, k, v, beta, log_gamma, rope, eps, chunk_starts, initial_state)
    return (out, state) if output_final_state else out


@overload
def frame_gdn_camera(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, chunk_starts: Tensor | None = ...,
    initial_state: FrameState | None = ..., output_final_state: Literal[False] = ..., backend: str = ...,
) -> Tensor: ...  # fmt: skip
@overload
def frame_gdn_camera(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_gamma: Tensor, *, chunk_starts: Tensor | None = ...,
    initial_state: FrameState | None = ..., output_final_state: Literal[True], backend: str = ...,
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
) -> Tensor | tuple[Tensor, FrameState]:
    """The camera branch's recurrence: the numerator of frame_gdn for features already in their ray frames.

    Arguments as in frame_gdn; beta is the discounted one. There is no rotation and no division.

    Reference: SANA-WM (arXiv 2605.15178), camera control; frame_gdn/README.md.
    """
    _check(q, k, v, beta, log_gamma, chunk_starts, initial_state)
    form = reference if choose(backend) == "reference" else chunked
    with torch.autocast(q.device.type, enabled=False):
        out, state = form.frame_gdn_camera(q, k, v, beta, log_gamma, chunk_starts, initial_state)
    return (out, state) if output_final_state else out


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    chunk_starts: Tensor | None,
    state: FrameState | None,
) -> None:
    if q.ndim != 4:
        raise ValueError(f"q has shape {tuple(q.shape)}; expected (b, n, h, d), such as (1, 2640, 20, 112)")
    b, n, h, d = q.shape
    t = log_gamma.shape[-1] if log_gamma.ndim == 3 else 0
    if log_gamma.shape != (b, h, t) or t < 1:
        raise ValueError(f"log_gamma has shape {tuple(log_gamma.shape)}; expected (b, h, t) with b, h = {(b, h)}")
    if n % t:
        raise ValueError(f"q has {n} tokens, which {t} frames of log_gamma do not divide; n must be t * s")
    wanted = {"k": (k, (b, n, h, d)), "v": (v, (b, n, h, v.shape[-1])), "beta": (beta, (b, h, t, n // t))}
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}")
    if chunk_starts is not None and chunk_starts.shape != (t,):
        raise ValueError(f"chunk_starts has shape {tuple(chunk_starts.shape)}; expected (t,) = ({t},)")
    if state is not None and state.kv.shape != (b, h, d, v.shape[-1]):
        raise ValueError(f"initial_state.kv has shape {tuple(state.kv.shape)}; expected {(b, h, d, v.shape[-1])}")
