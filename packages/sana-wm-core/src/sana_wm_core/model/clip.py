"""What a block needs to know besides its tokens: the grid, the rays, where chunks begin, and what came before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from gdn_kernels import FrameState, short_conv
from torch import Tensor

BlockMemory = dict[str, Tensor]


class Rays(NamedTuple):
    """Per token: the world-to-ray matrix P, its inverse, and the rotary table of the other half of a head."""

    matrix_bn44: Tensor
    inverse_bn44: Tensor
    cos_nf: Tensor | None
    sin_nf: Tensor | None


@dataclass(frozen=True)
class Clip:
    """The clip, or the chunk of one, that a block works on.

    Attributes:
        frames: Latent frames t.
        height: Token rows of a latent frame.
        width: Token columns.
        rope: Cosines and sines of the tokens' positions.
        rays: Camera rays; None switches the camera branch off.
        frame_mask_bt: 1 for valid latent frames, 0 for padding.
        chunks: First frames of the chunks, starting with 0. A frame sees its own chunk and all earlier ones.
        causal: The clip is cut into chunks or goes on from a memory; softmax blocks then use the streaming scale.
        past: What this block remembers of the frames before the clip.
        kept: Receives what this block should remember of the clip.
    """

    frames: int
    height: int
    width: int
    rope: tuple[Tensor, Tensor] | None = None
    rays: Rays | None = None
    frame_mask_bt: Tensor | None = None
    chunks: tuple[int, ...] = (0,)
    causal: bool = False
    past: BlockMemory | None = None
    kept: BlockMemory | None = None

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """First frame of every chunk, and the frame after its last."""
        return list(zip(self.chunks, (*self.chunks[1:], self.frames), strict=True))

    @property
    def token_mask_bn(self) -> Tensor | None:
        """1 for tokens of valid latent frames, 0 for padding."""
        if self.frame_mask_bt is None:
            return None
        return self.frame_mask_bt.repeat_interleave(self.height * self.width, dim=1)

    def mask_tokens(self, x: Tensor) -> Tensor:
        """Zero the tokens (b, n, ...) of invalid latent frames."""
        mask = self.token_mask_bn
        return x if mask is None else x * mask.to(x.dtype).view(*mask.shape, *[1] * (x.ndim - 2))

    def key_scale(self, head_width: int) -> float:
        """Factor on GDN keys that keeps the recurrence a contraction."""
        return (head_width * self.height * self.width) ** -0.5

    def starts(self, device: torch.device, before: int = 0) -> Tensor | None:
        """Mask (before + t,) of the frames that begin a chunk, with `before` remembered frames in front.

        None when there is one chunk and nothing in front: then there is no border to mark.
        """
        if len(self.chunks) == 1 and not before:
            return None
        # Made there: to bring it from here would have the GPU's queue run empty, in every block.
        mask = torch.zeros(before + self.frames, dtype=torch.bool, device=device)
        for start in self.chunks:
            mask[before + start] = True
        return mask

    def recall(self, name: str) -> Tensor | None:
        """A remembered tensor, if there is one."""
        return None if self.past is None else self.past.get(name)

    def remember(self, name: str, tensor: Tensor) -> None:
        """Hand a tensor over to the next chunk; copied, so that it does not keep a larger one alive."""
        if self.kept is not None:
            self.kept[name] = tensor.detach().clone(memory_format=torch.contiguous_format)

    def recur(self, name: str, recurrence: Callable[..., Any], *args: Tensor, **options: Any) -> Tensor:
        """Run a recurrence over the clip from its remembered state, and remember the one it ends in."""
        kv = self.recall(name)
        before = None if kv is None else FrameState(kv, self.recall(name + "_z"))
        options |= {"chunk_starts": self.starts(args[0].device), "initial_state": before}
        if self.kept is None:
            return recurrence(*args, **options)
        out, after = recurrence(*args, output_final_state=True, **options)
        self.remember(name, after.kv)
        if after.z is not None:
            self.remember(name + "_z", after.z)
        return out

    def with_past_frames(self, name: str, x_btsc: Tensor, count: int) -> tuple[Tensor, int]:
        """Put up to `count` remembered frames in front of (b, t, s, c); remember the last ones for the next chunk."""
        tail = self.recall(name)
        whole = x_btsc if tail is None else torch.cat([tail.to(x_btsc.dtype), x_btsc], dim=1)
        if count:
            self.remember(name, whole[:, -count:])
        return whole, whole.shape[1] - x_btsc.shape[1]

    def filter(self, name: str, x_bnc: Tensor, weight: Tensor, carried: bool = True) -> Tensor:
        """Short temporal filter: backward across chunks if carried, forward inside the own chunk only.

        Reference: streaming 2.2 and 2.4.
        """
        x_btsc = x_bnc.unflatten(1, (self.frames, -1))
        if not carried:
            if len(self.chunks) == 1:
                return short_conv(x_bnc, weight, self.frames)
            parts = [short_conv(x_btsc[:, a:b].flatten(1, 2), weight, b - a) for a, b in self.bounds]
            return torch.cat(parts, dim=1)
        whole, before = self.with_past_frames(name, x_btsc, weight.shape[-1] - 1)
        starts = self.starts(x_bnc.device, before)
        out = short_conv(whole.flatten(1, 2), weight, before + self.frames, chunk_starts=starts)
        return out[:, before * x_btsc.shape[2] :]
