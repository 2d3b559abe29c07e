"""Self-attention of a block, in two kinds with the same call and the same parameter names.

`FrameGDN` carries a memory from latent frame to latent frame, at a cost linear in time; `SoftmaxAttention` lets every
token see every other. Both add a camera branch (`camera.py`) and share one output gate and projection.
Reference: architecture 4 to 6.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from gdn_kernels import frame_gdn
from torch import Tensor, nn

from sana_wm_core.config import TransformerConfig
from sana_wm_core.model.attention import attention
from sana_wm_core.model.camera import gdn_camera, softmax_camera
from sana_wm_core.model.clip import Clip
from sana_wm_core.model.layers import RMSNorm, rotate


class Gates(NamedTuple):
    """Writing strength per token, and log of what a latent frame leaves of the memory."""

    beta_bhts: Tensor
    log_gamma_bht: Tensor


class ShortConv(nn.Module):
    """Weight of a depthwise temporal filter."""

    def __init__(self, channels: int, taps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, taps))


class Mixer(nn.Module):
    """Parameters and frame common to both kinds of self-attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c, heads = config.hidden_size, config.heads
        self.heads, self.head_width = heads, config.linear_head_dim
        self.qkv = nn.Linear(c, 3 * c, bias=False)
        self.q_norm, self.k_norm = _norms(c, config.qk_norm)
        # Softmax blocks carry the gate parameters too; the published files have them.
        self.beta_proj = nn.Linear(c, heads)
        self.gate_proj = nn.Linear(c, heads)
        self.A_log = nn.Parameter(_first_decay(heads))
        self.dt_bias = nn.Parameter(torch.full((heads,), -5.0))
        self.register_buffer("recall_gate", torch.zeros(1))
        self.output_gate = nn.Linear(c, c)
        self.proj = nn.Linear(c, c)
        self.q_proj_cam, self.k_proj_cam, self.v_proj_cam, self.out_proj_cam = (nn.Linear(c, c) for _ in range(4))
        self.q_norm_cam, self.k_norm_cam = _norms(c, config.qk_norm)

    def forward(self, u_bnc: Tensor, clip: Clip) -> Tensor:
        """Mix tokens (b, n, c) across the clip."""
        mixed = self.mix(u_bnc, clip)
        gated = mixed * F.silu(self.output_gate(u_bnc).float())
        return self.proj(gated.to(u_bnc.dtype))

    def mix(self, u_bnc: Tensor, clip: Clip) -> Tensor:
        """Main branch plus camera branch, before gate and projection."""
        raise NotImplementedError

    def split_heads(self, x_bnc: Tensor) -> Tensor:
        """(b, n, c) to (b, n, h, d)."""
        return x_bnc.unflatten(-1, (self.heads, self.head_width))


def _first_decay(heads: int) -> Tensor:
    rates = torch.empty(heads).uniform_(1e-3, 16)
    # Not on the meta device, where a file will fill them: a logarithm there imports PyTorch's compiler, seconds of it.
    return rates if rates.is_meta else rates.log()


class FrameGDN(Mixer):
    """Gated delta rule over latent frames, both ways in time. Reference: architecture 4."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.cam_rms_downscale = config.cam_rms_downscale_gdn
        self.cam_conv_carried = config.cam_conv_context == "carried"
        for name in ("conv_q", "conv_k", "conv_v", "conv_q_cam", "conv_k_cam", "conv_v_cam"):
            wanted = config.conv_kernel_size > 0 and (name[5] == "k" or not config.k_conv_only)
            setattr(self, name, ShortConv(config.hidden_size, config.conv_kernel_size) if wanted else None)

    def mix(self, u_bnc: Tensor, clip: Clip) -> Tensor:
        gates = self._gates(u_bnc, clip)
        q, k, v = self.qkv(clip.mask_tokens(u_bnc)).chunk(3, dim=-1)
        if self.conv_k is not None:
            k = clip.filter("key_tail", k, self.conv_k.weight)
        if self.conv_q is not None and self.conv_v is not None:
            q = clip.filter("query_tail", q, self.conv_q.weight)
            v = clip.filter("value_tail", v, self.conv_v.weight)
        q = F.relu(self.q_norm(q))
        k = F.relu(self.k_norm(k)) * clip.key_scale(self.head_width)
        q, k, v = (self.split_heads(clip.mask_tokens(part)) for part in (q, k, v))
        out = clip.recur("state", frame_gdn, q, k, v, gates.beta_bhts, gates.log_gamma_bht, rope=clip.rope, eps=1e-8)
        out = clip.mask_tokens(out.to(u_bnc.dtype)).flatten(2)
        if clip.rays is not None:
            out = out + self.out_proj_cam(gdn_camera(self, u_bnc, gates, clip, clip.rays))
        return out

    def _gates(self, u_bnc: Tensor, clip: Clip) -> Gates:
        u_btsc = u_bnc.unflatten(1, (clip.frames, -1))
        beta = self.beta_proj(u_btsc).sigmoid().permute(0, 3, 1, 2)
        speed = F.softplus(self.gate_proj(u_btsc.mean(2)).float() + self.dt_bias.float())
        log_gamma = (-self.A_log.float().exp() * speed).transpose(1, 2)
        if clip.frame_mask_bt is not None:
            valid = clip.frame_mask_bt[:, None]
            beta = beta * valid[..., None].to(beta.dtype)
            log_gamma = log_gamma * valid.float()
        return Gates(beta, log_gamma)


class SoftmaxAttention(Mixer):
    """Full attention over all tokens of the clip, or of the chunks so far. Reference: architecture 6."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config)
        self.cam_rms_downscale = config.cam_rms_downscale_softmax
        self.round_to_bfloat16 = config.softmax_dtype == "bfloat16"
        padded, width = _padded_width(self.head_width) ** -0.5, self.head_width**-0.5
        self.cam_scale = padded if config.cam_softmax_scale == "padded" else width
        self.whole_scale = width
        self.chunk_scale = padded if config.chunk_softmax_scale == "padded" else width

    def mix(self, u_bnc: Tensor, clip: Clip) -> Tensor:
        q, k, v = self.qkv(clip.mask_tokens(u_bnc)).chunk(3, dim=-1)
        q, k, v = (clip.mask_tokens(self.split_heads(part)) for part in (self.q_norm(q), self.k_norm(k), v))
        scale = self.chunk_scale if clip.causal else self.whole_scale
        out = self.attend(rotate(q, clip.rope), rotate(k, clip.rope), v, clip, "", scale)
        out = clip.mask_tokens(out).flatten(2)
        if clip.rays is not None:
            out = out + self.out_proj_cam(softmax_camera(self, u_bnc, clip, clip.rays))
        return out

    def attention_dtype(self, x: Tensor) -> torch.dtype:
        """Type to which queries, keys and values are rounded."""
        return torch.bfloat16 if self.round_to_bfloat16 and x.dtype == torch.float32 else x.dtype

    def attend(
        self, q: Tensor, k: Tensor, v: Tensor, clip: Clip, name: str, scale: float, bias: Tensor | None = None
    ) -> Tensor:
        """Softmax attention of (b, n, h, d) tensors, returned in the type they came in.

        Keys and values are remembered as `name` + "key" and "value"; remembered ones are seen by every query, those of
        the clip by the queries of their own chunk and of later ones.
        """
        dtype, before = self.attention_dtype(q), 0
        k, v = k.to(dtype), v.to(dtype)
        past_k, past_v = clip.recall(name + "key"), clip.recall(name + "value")
        clip.remember(name + "key", k)
        clip.remember(name + "value", v)
        if past_k is not None and past_v is not None:
            before = past_k.shape[1]
            k, v = torch.cat([past_k.to(dtype), k], dim=1), torch.cat([past_v.to(dtype), v], dim=1)
        q_bhnd, k_bhnd, v_bhnd = (part.to(dtype).transpose(1, 2) for part in (q, k, v))
        bias = None if bias is None else F.pad(bias, (before, 0))
        s = q.shape[1] // clip.frames
        parts = []
        for first, end in clip.bounds:
            seen = slice(0, before + end * s)
            asking = q_bhnd[:, :, first * s : end * s]
            part_bias = None if bias is None else bias[..., seen]
            parts.append(attention(asking, k_bhnd[:, :, seen], v_bhnd[:, :, seen], mask=part_bias, scale=scale))
        out = parts[0] if len(parts) == 1 else torch.cat(parts, dim=2)
        return out.transpose(1, 2).to(q.dtype)


def _norms(channels: int, wanted: bool) -> tuple[nn.Module, nn.Module]:
    return (RMSNorm(channels, 1e-5), RMSNorm(channels, 1e-5)) if wanted else (nn.Identity(), nn.Identity())


def _padded_width(head_width: int) -> int:
    if head_width in (32, 64, 128) or head_width >= 256:
        return head_width
    return 128 if head_width < 128 else 256
