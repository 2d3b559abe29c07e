"""The camera branch's recurrence over frames that lie on several ranks, exact in both directions.

The main branch has gdn_kernels.frame_gdn_cp; that call carries the camera branch only along with the main one, and a
block here runs them one after the other. Frame t is the affine map M <- W_t M + A_t with W_t = gamma_t (I - K' B K) and
A_t = K' B V, so the frames of a rank are one such map too: (phi, psi) forward and another backward, where phi is zero
if the reverse memory restarts inside. Every rank gathers all maps, composes those before it (and those after it, for
the reverse memory) into the memory that enters it, and scans its frames from there. Autograd runs through all of it;
the gather brings gradients home. Reference: training 3.2 and 3.3.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from sana_wm_core.training.parallel.collectives import gather


def frame_gdn_camera_cp(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    log_gamma: Tensor,
    group: dist.ProcessGroup,
    chunk_starts: Tensor | None = None,
) -> Tensor:
    """What gdn_kernels.frame_gdn_camera returns for this rank's frames of a clip.

    Args:
        q: (b, n, h, d) tokens of this rank's t frames, frame-major.
        k: Same shape.
        v: (b, n, h, e).
        beta: (b, h, t, s).
        log_gamma: (b, h, t).
        group: Ranks that hold the clip, in the order of time.
        chunk_starts: (t,) bool, where the reverse memory restarts.
    """
    with torch.autocast(q.device.type, enabled=False):
        given, work, t = q.dtype, torch.promote_types(q.dtype, torch.float32), log_gamma.shape[-1]
        q_f, k_f, v_f = (_frames(x.to(work), t) for x in (q, k, v))
        keep = [True] * t if chunk_starts is None else [not stop for stop in chunk_starts.tolist()]
        memories = _memories(*_maps(k_f, v_f, beta.to(work), log_gamma.to(work).exp()), keep, group)
        return (q_f @ memories).permute(0, 2, 3, 1, 4).flatten(1, 2).to(given)


def _maps(k_bhtsd: Tensor, v_bhtse: Tensor, beta_bhts: Tensor, gamma_bht: Tensor) -> tuple[Tensor, Tensor]:
    """W and A of every frame: (b, h, t, d, d) and (b, h, t, d, e)."""
    weighted = (k_bhtsd * beta_bhts[..., None]).transpose(-1, -2)
    one = torch.eye(k_bhtsd.shape[-1], dtype=k_bhtsd.dtype, device=k_bhtsd.device)
    return gamma_bht[..., None, None] * (one - weighted @ k_bhtsd), weighted @ v_bhtse


def _memories(w: Tensor, a: Tensor, keep: list[bool], group: dist.ProcessGroup) -> Tensor:
    """Forward plus reverse memory that every frame of this rank reads, (b, h, t, d, e)."""
    d, e = a.shape[-2:]
    one = torch.eye(d, dtype=a.dtype, device=a.device).expand(*a.shape[:2], d, d)
    # Offset and transition of the whole run in one product: the columns of [psi | phi].
    start = torch.cat([torch.zeros_like(a[:, :, 0]), one], dim=-1)
    offset = torch.cat([a, a.new_zeros(*a.shape[:-1], d)], dim=-1)
    ahead, behind = start, start
    for t in range(a.shape[2]):
        ahead = w[:, :, t] @ ahead + offset[:, :, t]
    for t in range(a.shape[2] - 1, -1, -1):
        behind = w[:, :, t] @ behind + offset[:, :, t] if keep[t] else torch.zeros_like(start)
    runs = gather(torch.cat([ahead, behind], dim=-1)[None], group, dim=0)
    x = y = torch.zeros_like(a[:, :, 0])
    rank = dist.get_rank(group)
    for run in runs[:rank]:
        x = run[..., e : e + d] @ x + run[..., :e]
    for run in runs[rank + 1 :].flip(0):
        y = run[..., 2 * e + d :] @ y + run[..., e + d : 2 * e + d]
    forward: list[Tensor] = []
    reverse: list[Tensor] = []
    for t in range(a.shape[2]):
        x = w[:, :, t] @ x + a[:, :, t]
        forward.append(x)
    for t in range(a.shape[2] - 1, -1, -1):
        reverse.append(y)
        y = w[:, :, t] @ y + a[:, :, t] if keep[t] else torch.zeros_like(y)
    return torch.stack(forward, 2) + torch.stack(reverse[::-1], 2)


def _frames(x_bnhd: Tensor, t: int) -> Tensor:
    return x_bnhd.unflatten(1, (t, -1)).permute(0, 3, 1, 2, 4)
