"""The definition: a loop over latent frames, in the data type of its inputs. Slow on purpose.

Per batch element and head, with K, V the s x d matrices of frame t and B = diag(beta):

    V~  = V - K (gamma_t M_{t-1})            what the memory does not predict yet
    M_t = gamma_t M_{t-1} + K' B V~          write it

The denominator is the same rule for the constant value 1 with unrotated keys. Reading is num = Q M and den = Q z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gdn_kernels.frame_gdn.state import FrameState, empty_state

Rope = tuple[Tensor, Tensor]


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
    """Numerator and denominator, forward inclusive plus reverse exclusive, one division."""
    t = log_gamma.shape[-1]
    state = state or empty_state(q, q.shape[-1], v.shape[-1], True, q.dtype)
    assert state.z is not None
    q_rot, k_rot = (_frames(rotate(x, rope), t) for x in (q, k))
    q, k, v = (_frames(x, t) for x in (q, k, v))
    gamma = log_gamma.to(q.dtype).exp()
    ones = torch.ones_like(v[..., :1])
    ahead, kv = _scan(q_rot, k_rot, v, beta, gamma, state.kv)
    ahead_z, z = _scan(q, k, ones, beta, gamma, state.z[..., None])
    behind = _reverse(q_rot, k_rot, v, beta, gamma, chunk_starts)
    behind_z = _reverse(q, k, ones, beta, gamma, chunk_starts)
    out = (ahead + behind) / (ahead_z + behind_z + eps)
    return _tokens(out), FrameState(kv, z[..., 0])


def frame_gdn_camera(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    chunk_starts: Tensor | None,
    state: FrameState | None,
) -> tuple[Tensor, FrameState]:
    """Numerator only, for features that already live in their ray frames."""
    t = log_gamma.shape[-1]
    state = state or empty_state(q, q.shape[-1], v.shape[-1], False, q.dtype)
    q, k, v = (_frames(x, t) for x in (q, k, v))
    gamma = log_gamma.to(q.dtype).exp()
    ahead, kv = _scan(q, k, v, beta, gamma, state.kv)
    return _tokens(ahead + _reverse(q, k, v, beta, gamma, chunk_starts)), FrameState(kv)


def rotate(x: Tensor, rope: Rope | None) -> Tensor:
    """Turn adjacent pairs (2i, 2i + 1) of (b, n, h, d) by the angles whose cos and sin are (n, d / 2)."""
    if rope is None:
        return x
    cos, sin = (part.to(x.dtype)[None, :, None, :] for part in rope)
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


def _scan(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, gamma: Tensor, memory: Tensor) -> tuple[Tensor, Tensor]:
    read = []
    for t in range(q.shape[2]):
        memory = _absorb(memory, k[:, :, t], v[:, :, t], beta[:, :, t], gamma[:, :, t])
        read.append(q[:, :, t] @ memory)
    return torch.stack(read, 2), memory


def _reverse(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, gamma: Tensor, chunk_starts: Tensor | None) -> Tensor:
    frames = q.shape[2]
    memory = torch.zeros_like(k[:, :, 0].mT @ v[:, :, 0])
    read = []
    for t in range(frames - 1, -1, -1):
        # Read before absorbing frame t: the forward scan has counted it already.
        read.append(q[:, :, t] @ memory)
        if chunk_starts is not None and bool(chunk_starts[t]):
            memory = torch.zeros_like(memory)
        else:
            memory = _absorb(memory, k[:, :, t], v[:, :, t], beta[:, :, t], gamma[:, :, t])
    return torch.stack(read[::-1], 2)


def _absorb(memory: Tensor, k: Tensor, v: Tensor, beta: Tensor, gamma: Tensor) -> Tensor:
    memory = gamma[..., None, None] * memory
    return memory + k.mT @ (beta[..., None].to(v.dtype) * (v - k @ memory))


def _frames(x_bnhd: Tensor, t: int) -> Tensor:
    return x_bnhd.unflatten(1, (t, -1)).permute(0, 3, 1, 2, 4)


def _tokens(x_bhtsd: Tensor) -> Tensor:
    return x_bhtsd.permute(0, 2, 3, 1, 4).flatten(1, 2)
