"""Norms, embeddings, rotary positions and the feed-forward layer."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sana_wm_core.config import TransformerConfig
from sana_wm_core.model.clip import Clip

ROPE_BASE = 10000.0
_ACTIVATIONS = {"silu": F.silu, "gelu": F.gelu, "relu": F.relu, None: lambda x: x}
# Inner feed-forward numbers held at once when no gradient is needed: 64 MB. A frame of the large model at a time would
# hold less, but the product would read its 30 million weights anew for every frame.
_FFN_BUDGET = 1 << 24


def _activate(name: str | None, x: Tensor) -> Tensor:
    """Apply an activation; without gradients a SiLU overwrites its argument: fresh memory costs more than the sums."""
    if name == "silu" and not torch.is_grad_enabled():
        return F.silu(x, inplace=True)
    return _ACTIVATIONS[name](x)


class _DivideByRMS(torch.autograd.Function):
    """x / rms(x) * gain with its backward pass written out: half the passes over memory that autograd makes of it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, eps: float) -> Tensor:
        # F.rms_norm writes out the squares on a processor; the norm reads x once.
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse_rms = (length.square() / x.shape[-1] + eps).rsqrt()
        ctx.save_for_backward(x, gain, inverse_rms)
        return (x * inverse_rms).mul_(gain)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, gain, inverse_rms = ctx.saved_tensors
        unit, along = x * inverse_rms, grad * gain
        grad_gain = (grad * unit).flatten(0, -2).sum(0)
        mean = (along * unit).sum(-1, keepdim=True) / -x.shape[-1]
        return along.addcmul_(unit, mean).mul_(inverse_rms), grad_gain, None


def _divide_by_rms(x: Tensor, gain: Tensor, eps: float) -> Tensor:
    out: Tensor = _DivideByRMS.apply(x, gain, eps)
    return out


class RMSNorm(nn.Module):
    """Divides by the root mean square over the last axis, then applies a gain per channel."""

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype == torch.float32:
            if x.device.type == "cpu":
                return _divide_by_rms(x, self.weight, self.eps)
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        normed = F.rms_norm(x.float(), self.weight.shape, None, self.eps)
        # The published model rounds before the gain is applied.
        return normed.to(x.dtype) * self.weight.to(x.dtype)


def layer_norm(x: Tensor) -> Tensor:
    """LayerNorm over the last axis without gain or bias."""
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


def modulate(x_bnc: Tensor, shift_btc: Tensor, scale_btc: Tensor) -> Tensor:
    """Normalised tokens, scaled and shifted by their own latent frame's conditioning."""
    x_btsc = layer_norm(x_bnc).to(shift_btc.dtype).unflatten(1, (shift_btc.shape[1], -1))
    return torch.addcmul(shift_btc[:, :, None], x_btsc, 1 + scale_btc[:, :, None]).flatten(1, 2)


class PatchEmbed(nn.Module):
    """Cuts (b, c, t, y, x) into patches and projects each to a token: (b, n, hidden), frame-major."""

    def __init__(self, channels: int, hidden: int, patch: tuple[int, int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(channels, hidden, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        b, c, t, y, w = x.shape
        _, p, q = self.patch
        tokens = x.reshape(b, c, t, y // p, p, w // q, q).permute(0, 2, 3, 5, 1, 4, 6)
        return F.linear(tokens.reshape(b, -1, c * p * q), self.proj.weight.flatten(1), self.proj.bias)


class TimestepEmbed(nn.Module):
    """Diffusion time in 0..1000 to a vector: 256 cosines and sines, then two linears."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(256, hidden)
        self.linear_2 = nn.Linear(hidden, hidden)

    def forward(self, timestep: Tensor, dtype: torch.dtype) -> Tensor:
        steps = torch.arange(128, dtype=torch.float32, device=timestep.device)
        # The published model was fed whole numbers.
        angles = timestep.long().float()[..., None] * torch.exp(-math.log(10000.0) * steps / 128)
        waves = torch.cat([angles.cos(), angles.sin()], dim=-1).to(dtype)
        return self.linear_2(F.silu(self.linear_1(waves)))


class MLP(nn.Module):
    """Two linears with a tanh-GELU between."""

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor, clip: Clip | None = None) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))


class CaptionEmbed(nn.Module):
    """Text features to the width of the token stream."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.y_proj = MLP(channels, hidden, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return self.y_proj(x)


class _Conv(nn.Module):
    """Holds a convolution under the published name `conv`."""

    def __init__(self, channels: int, out: int, kernel: int, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply a filter of one cell to the last dimension; an nn.Linear can take its place."""
        return F.linear(x, self.conv.weight.flatten(1), self.conv.bias)


class GatedConvFFN(nn.Module):
    """Feed-forward that also looks around: 3x3 within a latent frame, then a few frames along time.

    widen -> activation -> 3x3 depthwise -> value * act(gate) -> narrow = y;  y + temporal filter of y.
    Reference: architecture 7; published as GLUMBConvTemp.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        c, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)
        self.acts = config.mlp_acts
        self.inverted_conv = _Conv(c, 2 * inner, 1)
        self.depth_conv = _Conv(2 * inner, 2 * inner, 3, groups=2 * inner)
        self.point_conv = _Conv(inner, c, 1, bias=False)
        kernel = config.t_kernel_size
        self.t_conv = nn.Conv2d(c, c, (kernel, 1), padding=(kernel // 2, 0), bias=False)

    def forward(self, x: Tensor, clip: Clip) -> Tensor:
        b, n, c = x.shape
        images = x.reshape(b * clip.frames, clip.height, clip.width, c)
        per_image = clip.height * clip.width * self.depth_conv.conv.out_channels
        step = images.shape[0] if torch.is_grad_enabled() else max(1, _FFN_BUDGET // per_image)
        parts = [self._within_frames(part) for part in images.split(step)]
        y = parts[0] if len(parts) == 1 else torch.cat(parts)
        return self._along_time(y.reshape(b, clip.frames, n // clip.frames, c), clip).reshape(b, n, c)

    def _within_frames(self, images: Tensor) -> Tensor:
        first, gate_act, last = self.acts
        depth = self.depth_conv.conv
        inner = _activate(first, self.inverted_conv(images))
        # channels-last memory, seen as (f, c, y, x): the layout both the linears and the depthwise filter like
        inner = depth(inner.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        value, gate = inner.chunk(2, dim=-1)
        gate = _activate(gate_act, gate)
        gated = value * gate if torch.is_grad_enabled() else value.mul_(gate)
        return _activate(last, self.point_conv(gated))

    def _along_time(self, y_btsc: Tensor, clip: Clip) -> Tensor:
        weight = self.t_conv.weight[..., 0]  # (out, in, taps)
        reach = weight.shape[-1] // 2
        whole, before = clip.with_past_frames("feed_tail", y_btsc, reach)
        t = whole.shape[1]
        starts = clip.starts(y_btsc.device, before)
        chunk = None if starts is None else starts.cumsum(0)
        out = whole + F.linear(whole, weight[..., reach])
        for offset in range(1, min(reach, t - 1) + 1):
            earlier = F.linear(whole[:, :-offset], weight[..., reach - offset])
            later = F.linear(whole[:, offset:], weight[..., reach + offset])
            if chunk is not None:
                later = later * (chunk[offset:] == chunk[:-offset]).to(later.dtype)[:, None, None]
            out[:, offset:] += earlier
            out[:, :-offset] += later
        return out[:, before:]


def rotary_table(
    frames: int, height: int, width: int, head_width: int, device: torch.device, first_frame: int = 0
) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the position angles, each (n, head_width / 2): time, row, column pairs in this order.

    Time counts from `first_frame`. Angle of pair i of an axis with d channels: position * 10000^(-2 i / d).
    Reference: architecture 4.4.
    """
    d_space = 2 * (head_width // 6)
    shape = (frames, height, width)
    parts = []
    for axis, d_axis in enumerate((head_width - 2 * d_space, d_space, d_space)):
        rate = ROPE_BASE ** (-torch.arange(0, d_axis, 2, dtype=torch.float64, device=device) / d_axis)
        first = first_frame if axis == 0 else 0
        angle = (first + torch.arange(shape[axis], dtype=torch.float64, device=device))[:, None] * rate
        view = [1, 1, 1, -1]
        view[axis] = shape[axis]
        parts.append(angle.view(view).expand(*shape, -1))
    angles = torch.cat(parts, dim=-1).flatten(0, 2)
    return angles.cos().float(), angles.sin().float()


def camera_rotary(table: Tensor, head_width: int) -> Tensor:
    """The pairs of the full table that the camera branch uses for its rotary half: (n, head_width / 4)."""
    full_time, full_space = head_width // 2 - 2 * (head_width // 6), head_width // 6
    half = head_width // 2
    time, space = half // 2 - 2 * (half // 6), half // 6
    starts = ((0, time), (full_time, space), (full_time + full_space, space))
    return torch.cat([table[..., start : start + size] for start, size in starts], dim=-1)


def rotate(x_bnhd: Tensor, rope: tuple[Tensor, Tensor] | None) -> Tensor:
    """Rotate adjacent channel pairs by the angle of their token, in float32."""
    if rope is None:
        return x_bnhd
    pairs = torch.view_as_complex(x_bnhd.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.complex(*rope)[:, None]).flatten(-2).to(x_bnhd.dtype)
