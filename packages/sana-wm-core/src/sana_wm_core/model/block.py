"""One transformer block: mix the clip, add the camera rays, read the text, feed forward."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sana_wm_core.config import TransformerConfig
from sana_wm_core.model.attention import attention
from sana_wm_core.model.clip import Clip
from sana_wm_core.model.layers import MLP, GatedConvFFN, RMSNorm, modulate
from sana_wm_core.model.mixers import FrameGDN, SoftmaxAttention


class CrossAttention(nn.Module):
    """Video tokens read the text. Reference: architecture 3."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c = config.hidden_size
        self.heads = config.num_attention_heads
        self.q_linear = nn.Linear(c, c)
        self.kv_linear = nn.Linear(c, 2 * c)
        self.proj = nn.Linear(c, c)
        self.q_norm = RMSNorm(c, 1e-6) if config.cross_norm else nn.Identity()
        self.k_norm = RMSNorm(c, 1e-6) if config.cross_norm else nn.Identity()

    def read(self, text_blc: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the text, each (b, h, l, d); they depend on nothing else."""
        k, v = self.kv_linear(text_blc).chunk(2, dim=-1)
        return self._split_heads(self.k_norm(k)), self._split_heads(v)

    def forward(self, x_bnc: Tensor, text: tuple[Tensor, Tensor], keep_bl: Tensor) -> Tensor:
        q = self._split_heads(self.q_norm(self.q_linear(x_bnc)))
        out = attention(q, *text, mask=keep_bl[:, None, None])
        return self.proj(out.transpose(1, 2).flatten(2).to(q.dtype))

    def _split_heads(self, x_bnc: Tensor) -> Tensor:
        return x_bnc.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(nn.Module):
    """Self-attention, Pluecker rays, cross-attention and feed-forward, each added to the token stream."""

    def __init__(self, config: TransformerConfig, index: int) -> None:
        super().__init__()
        c = config.hidden_size
        self.attn = SoftmaxAttention(config) if config.is_softmax(index) else FrameGDN(config)
        self.cross_attn = CrossAttention(config)
        self.mlp: nn.Module
        if config.ffn_type == "mlp":
            self.mlp = MLP(c, int(c * config.mlp_ratio), c)
        else:
            self.mlp = GatedConvFFN(config)
        self.scale_shift_table = shift_table(6, c)
        self.plucker_proj = nn.Linear(c, c) if config.has_plucker(index) else None

    def forward(
        self,
        x: Tensor,
        text: Tensor | tuple[Tensor, Tensor],
        keep_bl: Tensor,
        time_bt6c: Tensor,
        rays_bnc: Tensor | None,
        clip: Clip,
    ) -> Tensor:
        """Pass tokens (b, n, c) through the block.

        Args:
            x: Token stream, frame-major.
            text: Projected text (b, l, c), or what `cross_attn.read` made of it.
            keep_bl: True for real text tokens.
            time_bt6c: Diffusion-time conditioning per latent frame: shift, scale, gate of attention, then of the
                feed-forward.
            rays_bnc: Embedded Pluecker rays.
            clip: Grid, positions, rays and masks, and this block's memory.
        """
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = (
            self.scale_shift_table.to(time_bt6c.dtype) + time_bt6c
        ).unbind(2)
        x = clip.mask_tokens(x)
        mixed = self.attn(clip.mask_tokens(modulate(x, shift_msa, scale_msa)), clip)
        x = _add_gated(x, clip.mask_tokens(mixed), gate_msa)
        if self.plucker_proj is not None and rays_bnc is not None:
            x = x + self.plucker_proj(rays_bnc)
        read = self.cross_attn.read(text) if isinstance(text, Tensor) else text
        x = clip.mask_tokens(x + self.cross_attn(x, read, keep_bl))
        fed = self.mlp(clip.mask_tokens(modulate(x, shift_mlp, scale_mlp)), clip)
        return _add_gated(x, clip.mask_tokens(fed), gate_mlp)


def _add_gated(x_bnc: Tensor, update_bnc: Tensor, gate_btc: Tensor) -> Tensor:
    shape = (gate_btc.shape[1], -1)
    return torch.addcmul(x_bnc.unflatten(1, shape), update_bnc.unflatten(1, shape), gate_btc[:, :, None]).flatten(1, 2)


def shift_table(rows: int, c: int) -> nn.Parameter:
    """Shifts, scales and gates (rows, c) that a block adds to those of the timestep, as they are first drawn."""
    # Not on the meta device, where a file will fill them: drawing there imports PyTorch's compiler, seconds of it.
    empty = torch.empty(rows, c)
    return nn.Parameter(empty if empty.is_meta else torch.randn(rows, c) / c**0.5)
