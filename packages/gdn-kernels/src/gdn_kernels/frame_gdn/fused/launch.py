"""Host side of the Triton kernels: the same phases as chunked.py, for one precision.

Per-frame matrices are kept in bfloat16 for "bf16" and in float32 otherwise; memories that outlive a call, vectors of
the denominator and everything about gates are float32. Only small batched products of d x d matrices are left to torch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from gdn_kernels.frame_gdn.fused import scans, tokens, tokens_backward
from gdn_kernels.frame_gdn.fused.table import Launch, launch, split_sums
from gdn_kernels.frame_gdn.parts import Adjoint, Composite, Memories, Rope, Summary
from gdn_kernels.frame_gdn.state import FrameState, kv_of, z_of

PRODUCTS = {"bf16": "tf32", "tf32": "tf32", "fp32": "tf32x3"}


class Phases:
    """The phase functions at one precision: "bf16", "tf32" or "fp32" (three tf32 products that make up a float32)."""

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def storage(self, x: Tensor) -> torch.dtype:
        """Type of the per-frame matrices."""
        return torch.bfloat16 if self.precision == "bf16" else torch.float32

    def summary(self, k: Tensor, v: Tensor, beta: Tensor, rope: Rope | None, divide: bool) -> Summary:
        """See chunked.summary."""
        (b, n, h, d), e, t = k.shape, v.shape[-1], beta.shape[2]
        k, v = _rows(k), _rows(v)
        store = self.storage(k)
        p, a = k.new_empty(b, h, t, d, d, dtype=store), k.new_empty(b, h, t, d, e, dtype=store)
        two = divide and rope is not None
        p_z = torch.empty_like(p) if two else None
        a_z = k.new_empty(b, h, t, d, dtype=torch.float32) if divide else None
        split, how = split_sums(self.precision), self._how("summary", k)
        with _on(k):
            tokens.summary_kernel[(b * h * t * (1 + split + two),)](
                k, v, beta.contiguous(), *_angles(rope, k), p, a, _or(p_z, p), _or(a_z, p),
                t, h, n // t, *k.stride()[:3], *v.stride()[:3],
                D=d, E=e, BD=padded(d), BE=padded(e), BS=how.tile, ROPE=rope is not None, DIVIDE=divide,
                SPLIT=split, **self._options(how),
            )  # fmt: skip
        return Summary(p, a, p_z, a_z)

    def scan(
        self,
        summary: Summary,
        log_gamma: Tensor,
        restart: Tensor | None,
        first: FrameState | None = None,
        last: FrameState | None = None,
        keep: bool = True,
    ) -> tuple[Memories, FrameState]:
        """See scan.scan; the two directions always come apart."""
        f, r = torch.empty_like(summary.a), torch.empty_like(summary.a)
        zf, zr = (None, None) if summary.a_z is None else (torch.empty_like(summary.a_z) for _ in range(2))
        final, _ = self._scan(summary, log_gamma, restart, first, last, Memories(f, r, zf, zr))
        return Memories(f, r, zf, zr), final

    def composite(
        self, summary: Summary, log_gamma: Tensor, restart: Tensor | None, first: FrameState | None = None
    ) -> Composite:
        """See scan.composite. Transition and offset are the columns of [A | 0] started from [M | I]."""
        (b, h, t, d, e), a_z = summary.a.shape, summary.a_z
        eye = torch.eye(d, device=summary.a.device).expand(b, h, d, d)
        widened = Summary(summary.p, torch.cat([summary.a, torch.zeros_like(summary.p)], -1))
        start = summary.a.new_zeros(b, h, d, e, dtype=torch.float32) if first is None else first.kv
        final, back = self._scan(widened, log_gamma, restart, FrameState(torch.cat([start, eye], -1)), None, None)
        phi, kv, kv_back = final.kv[..., e:].contiguous(), final.kv[..., :e].contiguous(), back.kv[..., :e].contiguous()
        opened = torch.ones((), device=phi.device) if restart is None else (~restart.any()).to(torch.float32)
        if a_z is None:
            return Composite(phi, FrameState(kv), FrameState(kv_back), None, opened)
        column = torch.cat([a_z[..., None], a_z.new_zeros(b, h, t, d, d)], -1)
        start = a_z.new_zeros(b, h, d, 1) if first is None or first.z is None else first.z[..., None]
        vector = Summary(summary.gram_z, column)
        final, back = self._scan(vector, log_gamma, restart, FrameState(torch.cat([start, eye], -1)), None, None)
        phi_z, z, z_back = final.kv[..., 1:].contiguous(), final.kv[..., 0].contiguous(), back.kv[..., 0].contiguous()
        return Composite(phi, FrameState(kv, z), FrameState(kv_back, z_back), phi_z, opened)

    def readout(
        self, q: Tensor, memories: Memories, rope: Rope | None, eps: float | None
    ) -> tuple[Tensor, Tensor | None]:
        """See chunked.readout."""
        (b, n, h, d), (t, e) = q.shape, memories.f.shape[2::2]
        q, f, how = _rows(q), memories.f, self._how("readout", q)
        out = q.new_empty(b, n, h, e)
        den = None if eps is None else q.new_empty(b, h, t, n // t, dtype=torch.float32)
        with _on(q):
            tokens.readout_kernel[(b * h * t,)](
                q, *_angles(rope, q), f, _or(memories.r, f), _or(memories.zf, f), _or(memories.zr, f), out,
                _or(den, f), t, h, n // t, *q.stride()[:3], 0.0 if eps is None else eps,
                D=d, E=e, BD=padded(d), BE=padded(e), BS=how.tile, ROPE=rope is not None, DIVIDE=eps is not None,
                **self._options(how),
            )  # fmt: skip
        return out, den

    def readout_backward(
        self, grad: Tensor, out: Tensor, den: Tensor | None, q: Tensor, memories: Memories, rope: Rope | None
    ) -> tuple[Tensor, FrameState]:
        """See chunked.readout_backward."""
        (b, n, h, d), (t, e) = q.shape, memories.f.shape[2::2]
        q, f, how = _rows(q), memories.f, self._how("readout_backward", q)
        d_q, d_kv = q.new_empty(b, n, h, d), torch.empty_like(f)
        d_z = None if den is None else q.new_empty(b, h, t, d, dtype=torch.float32)
        with _on(q):
            tokens_backward.readout_backward_kernel[(b * h * t * 2,)](
                grad.contiguous(), out, _or(den, f), q, *_angles(rope, q), f, _or(memories.r, f),
                _or(memories.zf, f), _or(memories.zr, f), d_q, d_kv, _or(d_z, f), t, h, n // t, *q.stride()[:3],
                D=d, E=e, BD=padded(d), BE=padded(e), BS=how.tile, ROPE=rope is not None, DIVIDE=den is not None,
                **self._options(how),
            )  # fmt: skip
        return d_q, FrameState(d_kv, d_z)

    def scan_backward(
        self,
        summary: Summary,
        log_gamma: Tensor,
        restart: Tensor | None,
        memories: Memories,
        first: FrameState | None,
        read: FrameState,
        last_gradient: FrameState | None = None,
        first_gradient: FrameState | None = None,
    ) -> tuple[Adjoint, Tensor, FrameState, FrameState]:
        """See scan.scan_backward."""
        (b, h, t, d, e), c, how = read.kv.shape, read.kv, self._how("scan_backward", read.kv)
        g, hh, left = torch.empty_like(c), torch.empty_like(c), c.new_empty(b, h, d, e, dtype=torch.float32)
        right, divide = torch.empty_like(left), read.z is not None
        g_z, h_z = (torch.empty_like(read.z) if read.z is not None else None for _ in range(2))
        left_z, right_z = (left.new_empty(b, h, d) if divide else None for _ in range(2))
        columns = triton.cdiv(e, how.tile)
        numbers = columns + divide
        shares = left.new_empty(b, h, t, numbers, 2)
        with _on(c):
            scans.scan_backward_kernel[(b * h, numbers, 2)](
                summary.p, c, summary.gram_z, _or(read.z, c), log_gamma.float().contiguous(), _stops(restart, c),
                memories.f, _or(memories.r, c), _or(memories.zf, c), _or(memories.zr, c),
                *_pair(first, left), *_pair(last_gradient, left), *_pair(first_gradient, left),
                g, hh, _or(g_z, c), _or(h_z, c), left, _or(left_z, left), right, _or(right_z, left), shares,
                t, columns, numbers, D=d, E=e, BD=padded(d), BJ=how.tile, STOPS=restart is not None,
                FIRST=first is not None, FINAL=last_gradient is not None, BACK=first_gradient is not None,
                **self._options(how),
            )  # fmt: skip
        adjoint = Adjoint(g, hh, g_z, h_z)
        return adjoint, shares.sum((-2, -1)), FrameState(left, left_z), FrameState(right, right_z)

    def summary_backward(
        self,
        k: Tensor,
        v: Tensor,
        beta: Tensor,
        log_gamma: Tensor,
        adjoint: Adjoint,
        memories: Memories,
        first: FrameState | None,
        rope: Rope | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See chunked.summary_backward."""
        (b, n, h, d), e, t = k.shape, v.shape[-1], beta.shape[2]
        k, v, how = _rows(k), _rows(v), self._how("summary_backward", k)
        gamma = log_gamma.float().exp()[..., None]
        assert memories.r is not None
        before = _before(memories.f, kv_of(first))
        # P is a quadratic form of the keys: both of its sides get the gradient.
        d_p = (adjoint.g @ before.mT + adjoint.h @ memories.r.mT).float() * -gamma[..., None]
        d_p = (d_p + d_p.mT).to(adjoint.g.dtype).contiguous()
        d_a = adjoint.g + adjoint.h
        g_z, h_z, z, r_z = adjoint.g_z, adjoint.h_z, None, None
        if memories.zf is not None and memories.zr is not None:
            z, r_z = gamma * _before(memories.zf, z_of(first)), gamma * memories.zr
        d_k, d_v = k.new_empty(b, n, h, d), v.new_empty(b, n, h, e)
        d_beta = k.new_empty(2, b, h, t, n // t, dtype=torch.float32)
        with _on(k):
            tokens_backward.summary_backward_kernel[(b * h * t * 2,)](
                k, v, beta.contiguous(), *_angles(rope, k), d_p, d_a, _or(g_z, d_a), _or(z, d_a), _or(h_z, d_a),
                _or(r_z, d_a), d_k, d_v, d_beta, t, h, n // t, *k.stride()[:3], *v.stride()[:3], b * h * t,
                D=d, E=e, BD=padded(d), BE=padded(e), BS=how.tile, ROPE=rope is not None, DIVIDE=z is not None,
                SPLIT=split_sums(self.precision), **self._options(how),
            )  # fmt: skip
        return d_k, d_v, d_beta.sum(0).to(beta.dtype)

    def _scan(
        self,
        summary: Summary,
        log_gamma: Tensor,
        restart: Tensor | None,
        first: FrameState | None,
        last: FrameState | None,
        memories: Memories | None,
    ) -> tuple[FrameState, FrameState]:
        """Fill the memories, if any; return the forward one after the clip and the reverse one before it."""
        (b, h, t, d, e), a, divide = summary.a.shape, summary.a, summary.a_z is not None
        how = self._how("scan", a)
        final = a.new_empty(b, h, d, e, dtype=torch.float32)
        back = torch.empty_like(final)
        final_z, back_z = (final.new_empty(b, h, d) if divide else None for _ in range(2))
        into = memories or Memories(a)
        columns = triton.cdiv(e, how.tile)
        with _on(a):
            scans.scan_kernel[(b * h, columns + divide, 2)](
                summary.p, a, summary.gram_z, _or(summary.a_z, a), log_gamma.float().contiguous(), _stops(restart, a),
                *_pair(first, final), *_pair(last, final), into.f, _or(into.r, a), _or(into.zf, a), _or(into.zr, a),
                final, _or(final_z, final), back, _or(back_z, final), t, columns,
                D=d, E=e, BD=padded(d), BJ=how.tile, STOPS=restart is not None, FIRST=first is not None,
                LAST=last is not None, STORE=memories is not None, **self._options(how),
            )  # fmt: skip
        return FrameState(final, final_z), FrameState(back, back_z)

    def _how(self, kernel: str, like: Tensor) -> Launch:
        capability = 80
        if like.device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(like.device)
            capability = 10 * major + minor
        return launch(kernel, capability, self.precision)

    def _options(self, how: Launch) -> dict[str, Any]:
        # The interpreter multiplies the raw bits of bfloat16 operands, so there they stay float32.
        narrow = self.precision == "bf16" and not triton.knobs.runtime.interpret
        return {
            "DOT": tl.bfloat16 if narrow else tl.float32,
            "PRECISION": PRODUCTS[self.precision],
            "num_warps": how.warps,
            "num_stages": how.stages,
            "enable_fp_fusion": True,
        }


def padded(width: int) -> int:
    """Width of the tile that holds a head."""
    return max(16, triton.next_power_of_2(width))


def _rows(x: Tensor) -> Tensor:
    """Tokens whose channels are neighbours in memory; every other stride is free."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _or(x: Tensor | None, filler: Tensor) -> Tensor:
    """A pointer for an argument that the kernel's flags leave unread."""
    return filler if x is None else x


def _pair(state: FrameState | None, filler: Tensor) -> tuple[Tensor, Tensor]:
    if state is None:
        return filler, filler
    return state.kv.contiguous(), filler if state.z is None else state.z.contiguous()


def _angles(rope: Rope | None, filler: Tensor) -> tuple[Tensor, Tensor]:
    return (filler, filler) if rope is None else (rope[0].contiguous(), rope[1].contiguous())


def _stops(restart: Tensor | None, filler: Tensor) -> Tensor:
    return filler if restart is None else restart.to(torch.int8)


def _before(x: Tensor, first: Tensor | None) -> Tensor:
    head = torch.zeros_like(x[:, :, :1]) if first is None else first[:, :, None].to(x.dtype)
    return torch.cat([head, x[:, :, :-1]], 2)


def _on(x: Tensor) -> AbstractContextManager[Any]:
    return torch.cuda.device(x.device) if x.device.type == "cuda" else nullcontext()
