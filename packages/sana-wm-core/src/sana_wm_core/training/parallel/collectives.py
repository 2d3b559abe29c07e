"""Gathering along time with the right gradient, and the frames next door.

torch.distributed.nn.functional.all_gather returns wrong gradients on gloo when the gradient that arrives is dense but
permuted: its receive buffers inherit the permuted strides. Every buffer here is contiguous.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def gather(x: Tensor, group: dist.ProcessGroup, dim: int = 1) -> Tensor:
    """The shards of all ranks in rank order, joined along `dim`; the gradient of a shard is summed over the ranks."""
    return _Gather.apply(x, group, dim)


def halo(x: Tensor, left: int, right: int, group: dist.ProcessGroup) -> Tensor:
    """A shard (b, t, ...) with the `left` frames before it and the `right` frames after it; zeros beyond the ends.

    Shards may be shorter than the halo: it then reaches over several ranks. Gradients of halo frames go home.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    t = x.shape[1]
    tail, head = min(left, t), min(right, t)
    edges = gather(torch.cat([x[:, t - tail :], x[:, :head]], dim=1), group)
    parts = edges.split([tail, head] * size, dim=1)
    before = torch.cat([x[:, :0], *parts[: 2 * rank : 2]], dim=1)[:, -left:] if left else x[:, :0]
    after = torch.cat([*parts[2 * rank + 3 :: 2], x[:, :0]], dim=1)[:, :right]
    return torch.cat([_zeros(x, left - before.shape[1]), before, x, after, _zeros(x, right - after.shape[1])], dim=1)


def _zeros(x: Tensor, frames: int) -> Tensor:
    return x.new_zeros(x.shape[0], frames, *x.shape[2:])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup, dim: int) -> Tensor:
        ctx.group, ctx.dim, ctx.size = group, dim, dist.get_world_size(group)
        x = x.detach().contiguous()
        parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(ctx.size)]
        dist.all_gather(parts, x, group=group)
        return torch.cat(parts, dim)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None]:
        parts = [part.contiguous() for part in grads[0].chunk(ctx.size, ctx.dim)]
        if not parts[0].numel():
            return parts[0], None, None
        own = torch.empty_like(parts[0], memory_format=torch.contiguous_format)
        dist.reduce_scatter_tensor(own.view(-1), torch.cat([part.view(-1) for part in parts]), group=ctx.group)
        return own, None, None
