"""How a clip is cut along time, and a transformer that works on its own piece of one.

The model is the same, weights and names included: `shard_along_time` gives its parts classes that look beyond their
own frames where the plain ones look at neighbours in time. Everything else a block does stays inside a frame.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.distributed as dist
from gdn_kernels import frame_gdn, frame_gdn_cp, short_conv
from torch import Tensor

from sana_wm_core.model import SanaWMTransformer
from sana_wm_core.model.attention import attention
from sana_wm_core.model.clip import Clip
from sana_wm_core.model.dit import chunk_bounds
from sana_wm_core.model.layers import GatedConvFFN
from sana_wm_core.model.mixers import SoftmaxAttention
from sana_wm_core.training.parallel.collectives import gather, halo
from sana_wm_core.training.parallel.recurrence import frame_gdn_camera_cp


@dataclass(frozen=True)
class Shard:
    """This rank's piece of a clip of `frames` latent frames.

    Pieces are equal and in the order of time; the last ones are filled with padding frames.

    Attributes:
        frames: Latent frames of the whole clip, without padding.
        group: The ranks that share it.
    """

    frames: int
    group: dist.ProcessGroup

    @property
    def rank(self) -> int:
        """Place of this rank in the group."""
        return dist.get_rank(self.group)

    @property
    def size(self) -> int:
        """Ranks of the group."""
        return dist.get_world_size(self.group)

    @property
    def local(self) -> int:
        """Latent frames of a piece, padding included."""
        return -(-self.frames // self.size)

    @property
    def first(self) -> int:
        """Number of the piece's first frame in the clip."""
        return self.rank * self.local

    @property
    def padding(self) -> int:
        """Padding frames behind the clip."""
        return self.local * self.size - self.frames

    def cut(self, x: Tensor, dim: int, repeat_last: bool = False) -> Tensor:
        """This rank's frames of a tensor of the whole clip; padding is zero, or the last frame again."""
        if self.padding:
            fill = x.narrow(dim, self.frames - 1, 1)
            shape = list(x.shape)
            shape[dim] = self.padding
            x = torch.cat([x, fill.expand(shape) if repeat_last else x.new_zeros(shape)], dim)
        return x.narrow(dim, self.first, self.local)

    def valid(self, device: torch.device | str = "cpu") -> Tensor | None:
        """(1, local) 1 for frames of the clip, 0 for padding; None if there is no padding anywhere."""
        if not self.padding:
            return None
        number = torch.arange(self.first, self.first + self.local, device=device)
        return (number < self.frames).float()[None]


@dataclass(frozen=True)
class ShardedClip(Clip):
    """A piece of a clip, as blocks see it.

    Attributes:
        shard: Which piece.
        all_chunks: First frames of all chunks of the whole clip, made for its true length; padding is one chunk more.
    """

    shard: Shard | None = None
    all_chunks: tuple[int, ...] = (0,)

    @property
    def piece(self) -> Shard:
        """The shard, which is always there."""
        assert self.shard is not None
        return self.shard

    def local_starts(self, before: int = 0, after: int = 0) -> list[int]:
        """Chunk starts within the piece and its halo, counted from the halo's first frame, without that one itself."""
        origin = self.piece.first - before
        inside = (start - origin for start in self.all_chunks)
        return [start for start in inside if 0 < start < before + self.frames + after]

    def starts(self, device: torch.device, before: int = 0) -> Tensor | None:
        """Mask (before + t,) of frames that begin a chunk; None when the clip is one chunk."""
        assert before == 0
        if len(self.all_chunks) == 1:
            return None
        mask = torch.zeros(self.frames, dtype=torch.bool)
        first = [0] if self.piece.first in self.all_chunks else []
        mask[first + self.local_starts()] = True
        return mask.to(device)

    def recur(self, name: str, recurrence: Callable[..., Any], *args: Tensor, **options: Any) -> Tensor:
        """Run a recurrence over the whole clip; every rank gets its own frames."""
        assert self.past is None and self.kept is None, "a sharded clip has no memory to go on from"
        starts, group = self.starts(args[0].device), self.piece.group
        if recurrence is frame_gdn:
            return frame_gdn_cp(*args, **options, chunk_starts=starts, group=group).out
        q, k, v, beta, log_gamma = args
        return frame_gdn_camera_cp(q, k, v, beta, log_gamma, group, starts)

    def filter(self, name: str, x_bnc: Tensor, weight: Tensor, carried: bool = True) -> Tensor:
        """Short temporal filter over the piece and its halo."""
        reach = weight.shape[-1] - 1
        x_btsc = x_bnc.unflatten(1, (self.frames, -1))
        whole = halo(x_btsc, reach, reach, self.piece.group)
        frames, cuts = whole.shape[1], self.local_starts(reach, reach)
        if carried or not cuts:
            starts = None
            if cuts:
                starts = torch.zeros(frames, dtype=torch.bool)
                starts[cuts] = True
            out = short_conv(whole.flatten(1, 2), weight, frames, chunk_starts=starts)
        else:
            edges = [0, *cuts, frames]
            pieces = [short_conv(whole[:, a:b].flatten(1, 2), weight, b - a) for a, b in itertools.pairwise(edges)]
            out = torch.cat(pieces, dim=1)
        s = x_btsc.shape[2]
        return out[:, reach * s : (reach + self.frames) * s]


class ShardedAttention(SoftmaxAttention):
    """Softmax attention of a piece's queries to the keys of the whole clip."""

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, clip: Clip, name: str, scale: float, bias: Tensor | None = None
    ) -> Tensor:
        """As SoftmaxAttention.attend; padding keys are cut off, so the bias of padding is not needed."""
        if not isinstance(clip, ShardedClip):
            return super().attend(q, k, v, clip, name, scale, bias)
        dtype, piece = self.attention_dtype(q), clip.piece
        s = q.shape[1] // clip.frames
        k_bhnd, v_bhnd = (gather(x.to(dtype), piece.group)[:, : piece.frames * s].transpose(1, 2) for x in (k, v))
        q_bhnd = q.to(dtype).transpose(1, 2)
        ends = [*clip.all_chunks[1:], piece.local * piece.size]
        parts = []
        for a, b in zip(clip.all_chunks, ends, strict=True):
            lo, hi = max(a, piece.first) - piece.first, min(b, piece.first + piece.local) - piece.first
            if lo < hi:
                seen = min(b, piece.frames) * s
                asking = q_bhnd[:, :, lo * s : hi * s]
                parts.append(attention(asking, k_bhnd[:, :, :seen], v_bhnd[:, :, :seen], scale=scale))
        return torch.cat(parts, dim=2).transpose(1, 2).to(q.dtype)


class ShardedFFN(GatedConvFFN):
    """The feed-forward layer with its temporal filter reaching into the neighbours' pieces."""

    def _along_time(self, y_btsc: Tensor, clip: Clip) -> Tensor:
        if not isinstance(clip, ShardedClip):
            return super()._along_time(y_btsc, clip)
        reach = self.t_conv.weight.shape[2] // 2
        if clip.frame_mask_bt is not None:
            # The inner layers have biases, so a padding frame is not zero here.
            y_btsc = y_btsc * clip.frame_mask_bt.to(y_btsc.dtype)[..., None, None]
        whole = halo(y_btsc, reach, reach, clip.piece.group)
        chunks = (0, *clip.local_starts(reach, reach))
        wide = Clip(whole.shape[1], clip.height, clip.width, chunks=chunks)
        return super()._along_time(whole, wide)[:, reach : reach + clip.frames]


class ShardedTransformer(SanaWMTransformer):
    """SanaWMTransformer whose inputs may be one rank's piece of a clip."""

    _shard: Shard | None = None
    _chunks: tuple[int, ...] = (0,)

    def forward(self, *args: Any, shard: Shard | None = None, **options: Any) -> Any:
        """As SanaWMTransformer.forward, for the frames of `shard` if one is given.

        Tensors with a time axis are the shard's own; chunk_index counts frames of the whole clip.
        """
        if shard is None:
            return super().forward(*args, **options)
        chunk_index: Sequence[int] | None = options.get("chunk_index")
        padding = [shard.frames] if shard.padding and chunk_index is not None else []
        self._chunks = (*chunk_bounds(chunk_index, shard.frames), *padding)
        self._shard = shard
        try:
            # An empty list: chunk by chunk, and where chunks begin is known to the clip.
            options["chunk_index"] = None if chunk_index is None else []
            options["frame_valid_mask"] = shard.valid(self.device)
            return super().forward(*args, **options)
        finally:
            self._shard, self._chunks = None, (0,)

    def _clip(self, grid: tuple[int, int, int], *rest: Any) -> Clip:
        if self._shard is None:
            return super()._clip(grid, *rest)
        before = [*rest[:-1], rest[-1] + self._shard.first]
        plain = super()._clip(grid, *before)
        values = {field.name: getattr(plain, field.name) for field in fields(Clip)}
        return ShardedClip(**values, shard=self._shard, all_chunks=self._chunks)


def shard_along_time(model: SanaWMTransformer) -> None:
    """Let a transformer accept pieces of clips, in place; weights, names and whole clips stay as they are."""
    for module in model.modules():
        if type(module) is SoftmaxAttention:
            module.__class__ = ShardedAttention
        elif type(module) is GatedConvFFN:
            module.__class__ = ShardedFFN
    model.__class__ = ShardedTransformer
