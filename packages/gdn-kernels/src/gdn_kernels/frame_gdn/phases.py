"""The steps of the recurrence on their own, for callers that put them together in another way.

summary turns tokens into a d x d map per frame; scan carries a memory through the maps, both ways; readout answers
queries from the memories; composite makes one map of a run of frames, and compose_prefix joins such maps across runs.
No gradients: frame_gdn and frame_gdn_cp have those.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gdn_kernels import backend as backends
from gdn_kernels.frame_gdn import checks
from gdn_kernels.frame_gdn.parts import Composite, Memories, Rope, Summary
from gdn_kernels.frame_gdn.scan import compose_prefix
from gdn_kernels.frame_gdn.state import FrameState

__all__ = ["Composite", "Memories", "Summary", "compose_prefix", "composite", "readout", "scan", "summary"]


@torch.no_grad()
def summary(
    k: Tensor, v: Tensor, beta: Tensor, *, rope: Rope | None = None, divide: bool = True, backend: str = "auto"
) -> Summary:
    """Every frame as an affine map of the memory.

    Args:
        k: (b, n, h, d) keys, n = t s, scaled by 1 / sqrt(d s).
        v: (b, n, h, e).
        beta: (b, h, t, s) in [0, 1].
        rope: cos and sin, each (n, d / 2).
        divide: Also make the denominator's map.
        backend: "auto", "triton" or "torch".

    Raises:
        ValueError: Shapes, types or devices that do not fit, named.
    """
    if beta.ndim != 4:
        raise ValueError(f"beta has shape {tuple(beta.shape)}; expected (b, h, t, s)")
    checks.tokens(None, k, v, beta, beta[..., 0], None)
    checks.rotation(k, rope)
    return _run(backend, k, v.shape[-1]).summary(k, v, beta, rope, divide)


@torch.no_grad()
def scan(
    maps: Summary,
    log_gamma: Tensor,
    *,
    chunk_starts: Tensor | None = None,
    first: FrameState | None = None,
    last: FrameState | None = None,
    backend: str = "auto",
) -> tuple[Memories, FrameState]:
    """The memory each frame reads, and the forward one after the last frame.

    Args:
        maps: From summary.
        log_gamma: (b, h, t), at most 0.
        chunk_starts: (t,) bool, where the reverse scan restarts.
        first: Forward memory before the first frame.
        last: Reverse memory after the last frame, from later frames.
        backend: As in summary.
    """
    _gates(maps, log_gamma, chunk_starts)
    return _run(backend, maps.a).scan(maps, log_gamma, chunk_starts, first, last, True)


@torch.no_grad()
def composite(
    maps: Summary, log_gamma: Tensor, *, chunk_starts: Tensor | None = None, backend: str = "auto"
) -> Composite:
    """A run of frames as one map, both ways; compose_prefix joins those of several runs. Arguments as in scan."""
    _gates(maps, log_gamma, chunk_starts)
    return _run(backend, maps.a).composite(maps, log_gamma, chunk_starts, None)


@torch.no_grad()
def readout(
    q: Tensor, memories: Memories, *, rope: Rope | None = None, eps: float | None = 1e-8, backend: str = "auto"
) -> tuple[Tensor, Tensor | None]:
    """Answers (b, n, h, e) to queries (b, n, h, d) from the memories of scan, and denominators (b, h, t, s).

    eps None reads the numerator alone, and the second result is None.
    """
    checks.rotation(q, rope)
    b, h, t, d, _ = memories.f.shape
    if q.ndim != 4 or (q.shape[0], q.shape[2], q.shape[3]) != (b, h, d) or q.shape[1] % t:
        raise ValueError(f"q has shape {tuple(q.shape)}; expected (b, n, h, d) = ({b}, a multiple of {t}, {h}, {d})")
    if eps is not None and memories.zf is None:
        raise ValueError(
            "eps is a number but the memories have no denominator; expected eps=None, or divide=True before"
        )
    return _run(backend, q, memories.f.shape[-1]).readout(q, memories, rope, eps)


def _run(backend: str, like: Tensor, width: int = 0) -> Any:
    if backend == "reference":
        raise ValueError("backend 'reference' has no steps; expected 'auto', 'triton' or 'torch'")
    return backends.phases(backends.choose(backend, like, max(width, like.shape[-1])))


def _gates(maps: Summary, log_gamma: Tensor, chunk_starts: Tensor | None) -> None:
    if log_gamma.shape != maps.a.shape[:3]:
        raise ValueError(
            f"log_gamma has shape {tuple(log_gamma.shape)}; expected (b, h, t) = {tuple(maps.a.shape[:3])}"
        )
    checks.starts(chunk_starts, log_gamma.shape[-1])
