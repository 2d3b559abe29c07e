"""The pocket video codec: 1 + 8k frames in, 1 + k latent frames out, causal in time.

Each frame is cut into 8 x 8 patches and looked at by a small convolution; eight frames (or the first one alone) and
2 x 2 patches are then merged into one latent cell, so a cell covers 8 x 16 x 16 pixels (1 x 16 x 16 in latent
frame 0). The decoder walks the same road back. Only causal_shift looks at another latent frame, and only at the one
before, so a prefix of the latents decodes to a prefix of the video.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

TEMPORAL_STRIDE = 8
SPATIAL_STRIDE = 16
_PATCH = 8


class PocketCodecConfig(BaseModel):
    """Sizes of the pocket codec."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    latent_channels: int = Field(48, ge=1, le=1024, description="Channels of a latent cell.")
    width: int = Field(256, ge=8, description="Channels of the trunk at latent resolution.")
    encoder_width: int = Field(96, ge=8, description="Channels of the encoder's frame stage (1/8 resolution).")
    decoder_width: int = Field(96, ge=8, description="Channels of the decoder's frame stage at 1/8 resolution.")
    fine_width: int = Field(48, ge=8, description="Channels of the decoder's frame stage at 1/4 resolution.")
    trunk_blocks: int = Field(2, ge=0, description="Residual blocks at latent resolution, on each side.")
    frame_blocks: int = Field(2, ge=0, description="Residual blocks per frame and resolution in the decoder.")
    noise: float = Field(0.1, ge=0, le=1, description="Noise added to unit-variance latents in training.")


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions around a SiLU, added to the input; starts as the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(self.norm(x)))))


class TrunkBlock(nn.Module):
    """A residual block that also reads the previous latent frame (zeros before the first)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.past = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.past.weight)
        self.block = ResidualBlock(channels)

    def forward(self, x: Tensor, frames: int) -> Tensor:
        return self.block(x + self.past(causal_shift(x, frames)))


def causal_shift(x: Tensor, frames: int) -> Tensor:
    """Latent frame t - 1 in the place of t for x ((b t), c, y, x)."""
    x = x.unflatten(0, (-1, frames))
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1).flatten(0, 1)


class PocketCodec(nn.Module):
    """A small learned video codec with the VideoCodec interface.

    Pixels are in [-1, 1]; height and width are multiples of 16; the frame count is 1 + 8k. Latents leave with zero
    mean and unit variance per channel over the training set.
    """

    temporal_stride = TEMPORAL_STRIDE
    spatial_stride = SPATIAL_STRIDE

    def __init__(self, config: PocketCodecConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PocketCodecConfig()
        c, w, e, d, f = (
            config.latent_channels,
            config.width,
            config.encoder_width,
            config.decoder_width,
            config.fine_width,
        )
        patch = 3 * _PATCH**2
        self.frame_in = nn.Conv2d(patch, e, 3, padding=1)
        self.frame_block = ResidualBlock(e)
        self.merge_first = nn.Conv2d(4 * e, w, 1)
        self.merge_later = nn.Conv2d(4 * TEMPORAL_STRIDE * e, w, 1)
        self.encoder = nn.ModuleList(TrunkBlock(w) for _ in range(config.trunk_blocks))
        self.to_latent = nn.Conv2d(w, c, 1)

        self.from_latent = nn.Conv2d(c, w, 3, padding=1)
        self.decoder = nn.ModuleList(TrunkBlock(w) for _ in range(config.trunk_blocks))
        self.split_first = nn.Conv2d(w, 4 * d, 1)
        self.split_later = nn.Conv2d(w, 4 * TEMPORAL_STRIDE * d, 1)
        self.coarse = nn.Sequential(*[ResidualBlock(d) for _ in range(config.frame_blocks)])
        self.refine = nn.Conv2d(d, 4 * f, 1)
        self.fine = nn.Sequential(*[ResidualBlock(f) for _ in range(config.frame_blocks)])
        self.frame_out = nn.Conv2d(f, 3 * (_PATCH // 2) ** 2, 3, padding=1)

        self.register_buffer("latent_mean", torch.zeros(c))
        self.register_buffer("latent_std", torch.ones(c))

    @property
    def latent_channels(self) -> int:
        """Channels of a latent cell."""
        return self.config.latent_channels

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.to_latent.weight.dtype

    def encode(self, video: Tensor) -> Tensor:
        """Compress video (b, 3, 1 + 8k, H, W) in [-1, 1] to normalised latents (b, c, 1 + k, H/16, W/16)."""
        self._check(video)
        z = self.raw_latents(video)
        return (z - _spread(self.latent_mean)) / _spread(self.latent_std)

    def encode_image(self, image: Tensor) -> Tensor:
        """Compress one picture (b, 3, H, W) in [-1, 1] to latent frame 0, (b, c, 1, H/16, W/16)."""
        return self.encode(image.unsqueeze(2))

    def decode(self, latents: Tensor) -> Tensor:
        """Expand normalised latents (b, c, 1 + k, y, x) to video (b, 3, 1 + 8k, 16 y, 16 x) in [-1, 1]."""
        return self.raw_decode(latents).clamp(-1, 1)

    def raw_latents(self, video: Tensor) -> Tensor:
        """Latents before normalisation, (b, c, t, y, x)."""
        b, _, frames, _, _ = video.shape
        patches = F.pixel_unshuffle(video.transpose(1, 2).flatten(0, 1), _PATCH)
        x = self.frame_block(self.frame_in(_last(patches)))
        x = F.pixel_unshuffle(x, 2).unflatten(0, (b, frames))
        first = self.merge_first(x[:, 0]).unsqueeze(1)
        later = x[:, 1:].unflatten(1, (-1, TEMPORAL_STRIDE)).flatten(2, 3).flatten(0, 1)
        if frames > 1:
            first = torch.cat([first, self.merge_later(later).unflatten(0, (b, -1))], dim=1)
        t = first.shape[1]
        x = _last(first.flatten(0, 1))
        for block in self.encoder:
            x = block(x, t)
        return self.to_latent(x).unflatten(0, (b, t)).transpose(1, 2)

    def raw_decode(self, latents: Tensor) -> Tensor:
        """Video without the clamp, for training."""
        b, _, t, _, _ = latents.shape
        x = self.from_latent(_last(latents.transpose(1, 2).flatten(0, 1).to(self.dtype)))
        for block in self.decoder:
            x = block(x, t)
        x = x.unflatten(0, (b, t))
        frames = F.pixel_shuffle(self.split_first(x[:, 0]), 2).unsqueeze(1)
        if t > 1:
            later = self.split_later(x[:, 1:].flatten(0, 1)).unflatten(1, (TEMPORAL_STRIDE, -1))
            later = F.pixel_shuffle(later.flatten(0, 1), 2).unflatten(0, (b, -1))
            frames = torch.cat([frames, later], dim=1)
        f = frames.shape[1]
        x = self.coarse(_last(frames.flatten(0, 1)))
        x = self.fine(_last(F.pixel_shuffle(self.refine(x), 2)))
        return F.pixel_shuffle(self.frame_out(x), _PATCH // 2).unflatten(0, (b, f)).transpose(1, 2)

    def _check(self, video: Tensor) -> None:
        _, _, frames, height, width = video.shape
        if frames % TEMPORAL_STRIDE != 1:
            raise ValueError(f"the pocket codec takes 1 + 8k frames, such as 65; got {frames}")
        if height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
            raise ValueError(f"height and width must be multiples of 16, such as 96x160; got {height}x{width}")


def _spread(stat: Tensor) -> Tensor:
    return stat.view(1, -1, 1, 1, 1)


def _last(x: Tensor) -> Tensor:
    """channels_last memory: convolutions on a CPU are about twice as fast in it."""
    return x.contiguous(memory_format=torch.channels_last)
