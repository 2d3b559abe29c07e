"""The whole mixer as one layer: projections, short filter, norms, gates, recurrence, output gate."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gdn_kernels.frame_gdn.api import frame_gdn
from gdn_kernels.frame_gdn.parts import Rope
from gdn_kernels.frame_gdn.state import FrameState
from gdn_kernels.short_conv import short_conv

_EPS = 1e-5


class MixerState(NamedTuple):
    """What later frames need of earlier ones.

    Attributes:
        memory: Of the recurrence.
        keys: (b, (taps - 1) s, c) unfiltered keys of the last frames, for the short filter; None without a filter.
    """

    memory: FrameState
    keys: Tensor | None


class FrameGDN(nn.Module):
    """Mix the tokens of a video through a memory that advances frame by frame; cost linear in the number of frames.

    A drop-in for self-attention over (b, n, c) tokens, n = frames * s, frame-major. Memory: heads (c / heads)^2 numbers
    a sample, however long the clip.

    Args:
        channels: c, a multiple of heads.
        heads: Independent memories.
        taps: Of the temporal filter on keys, which sees 2 taps - 1 frames; 0 for none.
        backend: As in frame_gdn.

    Raises:
        ValueError: Heads that do not divide the channels.

    Reference: SANA-WM (arXiv 2605.15178), hybrid linear attention, without its camera branch; README.md.
    """

    def __init__(self, channels: int, heads: int, *, taps: int = 4, backend: str = "auto") -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"heads = {heads} does not divide channels = {channels}; expected such as 4 of 128")
        self.heads, self.taps, self.backend = heads, taps, backend
        self.qkv = nn.Linear(channels, 3 * channels, bias=False)
        self.q_norm, self.k_norm = nn.RMSNorm(channels, eps=_EPS), nn.RMSNorm(channels, eps=_EPS)
        self.beta_proj, self.decay_proj = nn.Linear(channels, heads), nn.Linear(channels, heads)
        # Some heads forget in a few frames, some hardly ever.
        self.decay_rate = nn.Parameter(torch.empty(heads).uniform_(1e-3, 16).log())
        self.decay_bias = nn.Parameter(torch.full((heads,), -5.0))
        self.gate, self.out = nn.Linear(channels, channels), nn.Linear(channels, channels)
        self.filter = nn.Parameter(torch.zeros(channels, taps)) if taps else None
        if self.filter is not None:
            nn.init.ones_(self.filter[:, -1])  # begins as no filter

    def forward(
        self, x: Tensor, frames: int, *, rope: Rope | None = None, chunk_starts: Tensor | None = None
    ) -> Tensor:
        """Mix a whole clip.

        Args:
            x: (b, n, c).
            frames: t, which divides n.
            rope: cos and sin, each (n, c / heads / 2), of positions; None leaves order within a frame unseen.
            chunk_starts: (t,) bool; frames see earlier chunks and their own. None: all frames see all.

        Returns:
            (b, n, c).
        """
        return self._mix(x, frames, rope, chunk_starts, None)[0]

    def stream(
        self, x: Tensor, frames: int, state: MixerState | None = None, *, rope: Rope | None = None
    ) -> tuple[Tensor, MixerState]:
        """Mix the next chunk of a clip after the state of the previous ones; equals forward with chunk_starts.

        Args:
            x: (b, n, c) tokens of this chunk alone.
            frames: Of this chunk.
            state: From the previous call; None begins a clip.
            rope: For the positions of this chunk.
        """
        return self._mix(x, frames, rope, None, state)

    def _mix(
        self, x: Tensor, frames: int, rope: Rope | None, chunk_starts: Tensor | None, state: MixerState | None
    ) -> tuple[Tensor, MixerState]:
        if x.ndim != 3 or frames < 1 or x.shape[1] % frames:
            raise ValueError(f"x has shape {tuple(x.shape)}; expected (b, n, c) with n a multiple of frames = {frames}")
        s, width = x.shape[1] // frames, x.shape[2] // self.heads
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        k, keys = self._filter(k, frames, chunk_starts, None if state is None else state.keys)
        q, k = F.relu(self.q_norm(q)), F.relu(self.k_norm(k)) * (width * s) ** -0.5
        x_btsc = x.unflatten(1, (frames, s))
        beta = self.beta_proj(x_btsc).sigmoid().permute(0, 3, 1, 2)
        exact = torch.promote_types(x.dtype, torch.float32)  # half a digit lost in gamma is lost in every later frame
        speed = F.softplus(self.decay_proj(x_btsc.mean(2)).to(exact) + self.decay_bias.to(exact))
        log_gamma = (-self.decay_rate.to(exact).exp() * speed).transpose(1, 2)
        q, k, v = (part.unflatten(-1, (self.heads, width)) for part in (q, k, v))
        out, memory = frame_gdn(
            q,
            k,
            v,
            beta,
            log_gamma,
            rope=rope,
            chunk_starts=chunk_starts,
            initial_state=None if state is None else state.memory,
            output_final_state=True,
            backend=self.backend,
        )
        return self.out(out.flatten(2) * F.silu(self.gate(x))), MixerState(memory, keys)

    def _filter(
        self, k: Tensor, frames: int, chunk_starts: Tensor | None, before: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Filtered keys, and the unfiltered ones that the next chunk will see."""
        if self.filter is None:
            return k, None
        (b, _, c), s = k.shape, k.shape[1] // frames
        if before is not None and (before.ndim != 3 or before.shape[::2] != (b, c) or before.shape[1] % s):
            wanted = f"({b}, a multiple of {s}, {c})"
            raise ValueError(f"state.keys has shape {tuple(before.shape)}; expected {wanted}")
        seen = k if before is None else torch.cat([before, k], 1)
        earlier = seen.shape[1] // s - frames
        if earlier:
            own = torch.zeros(frames, dtype=torch.bool, device=k.device) if chunk_starts is None else chunk_starts
            # Frames of earlier chunks are done with: they must not see this one.
            chunk_starts = F.pad(own, (earlier, 0))
            chunk_starts[earlier] = True
        filtered = short_conv(seen, self.filter, earlier + frames, chunk_starts=chunk_starts)
        kept = min(self.taps - 1, earlier + frames) * s
        return filtered[:, earlier * s :], seen[:, seen.shape[1] - kept :]
