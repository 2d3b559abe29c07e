"""The pocket video codec: 1 + 8k frames in, 1 + k latent frames out, causal in time.

A latent cell covers 8 x 16 x 16 pixels (1 x 16 x 16 in latent frame 0). The encoder is linear: the principal
components of such blocks, so it is fitted in closed form and never moves again; latents made once stay valid while the
decoder improves. The decoder starts from the linear inverse and learns what to add: a trunk at latent resolution looks
around and one latent frame back, then every frame is refined at 1/8 and 1/4 resolution. A prefix of the latents
decodes to a prefix of the video.
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

    latent_channels: int = Field(128, ge=1, le=768, description="Components kept of a block.")
    width: int = Field(192, ge=8, description="Channels of the decoder's trunk at latent resolution.")
    coarse_width: int = Field(96, ge=8, description="Channels per frame at 1/8 resolution.")
    fine_width: int = Field(64, ge=8, description="Channels per frame at 1/4 resolution.")
    trunk_blocks: int = Field(2, ge=0, description="Residual blocks at latent resolution.")
    frame_blocks: int = Field(2, ge=0, description="Residual blocks per frame and resolution.")


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


class Origin(nn.Module):
    """Tells features where their latent frame came from: a gain and an offset a channel for encoded, for sampled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(2, 2, channels))  # (encoded or sampled, gain or offset, channels)

    def forward(self, x_mcyx: Tensor, sampled_m: Tensor) -> Tensor:
        """Change features (b m, c, y, x) of m frames; sampled_m is True where a frame was sampled."""
        rows = self.table[sampled_m.long().repeat(x_mcyx.shape[0] // len(sampled_m))]
        gain, offset = rows[..., None, None].unbind(1)
        return torch.addcmul(offset, x_mcyx, 1 + gain)


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
    """A small video codec with the VideoCodec interface: principal components in, a learned decoder out.

    Pixels are in [-1, 1]; height and width are multiples of 16; the frame count is 1 + 8k. Latent channels are ordered
    by the picture energy they carry. Each is divided by the square root of its spread, not by the spread itself: fine
    detail stays smaller than the large shapes, so that a model trained on the latents learns the large shapes first.
    """

    temporal_stride = TEMPORAL_STRIDE
    latents_stand_alone = True  # a latent frame is encoded from its own pixels: clips can be cut between latent frames
    spatial_stride = SPATIAL_STRIDE

    def __init__(self, config: PocketCodecConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or PocketCodecConfig()
        c, w, d, f = config.latent_channels, config.width, config.coarse_width, config.fine_width
        block = 3 * SPATIAL_STRIDE**2
        for name, size in (("first", block), ("later", TEMPORAL_STRIDE * block)):
            self.register_buffer(f"{name}_basis", torch.zeros(size, c))  # orthonormal columns
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_scale", torch.ones(c))  # latent = projection / scale

        self.from_latent = nn.Conv2d(c, w, 3, padding=1)
        self.origins = nn.ModuleList(Origin(channels) for channels in (w, d, f))
        self.trunk = nn.ModuleList(TrunkBlock(w) for _ in range(config.trunk_blocks))
        self.split_first = nn.Conv2d(w, 4 * d, 1)
        self.split_later = nn.Conv2d(w, 4 * TEMPORAL_STRIDE * d, 1)
        self.coarse = nn.Sequential(*[ResidualBlock(d) for _ in range(config.frame_blocks)])
        self.refine = nn.Conv2d(d, 4 * f, 1)
        patch = 3 * (_PATCH // 2) ** 2
        self.see_linear = nn.Conv2d(patch, f, 3, padding=1)
        self.fine = nn.Sequential(*[ResidualBlock(f) for _ in range(config.frame_blocks)])
        self.frame_out = nn.Conv2d(f, patch, 3, padding=1)
        nn.init.zeros_(self.frame_out.weight)
        nn.init.zeros_(self.frame_out.bias)

    @property
    def latent_channels(self) -> int:
        """Channels of a latent cell."""
        return self.config.latent_channels

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the weights."""
        return self.from_latent.weight.dtype

    def encode(self, video: Tensor) -> Tensor:
        """Compress video (b, 3, 1 + 8k, H, W) in [-1, 1] to latents (b, c, 1 + k, H/16, W/16)."""
        _, _, frames, height, width = video.shape
        if frames % TEMPORAL_STRIDE != 1:
            raise ValueError(f"the pocket codec takes 1 + 8k frames, such as 65; got {frames}")
        if height % SPATIAL_STRIDE or width % SPATIAL_STRIDE:
            raise ValueError(f"height and width must be multiples of 16, such as 96x160; got {height}x{width}")
        video = video.to(self.dtype)
        with torch.autocast(video.device.type, enabled=False):
            first = (to_blocks(video[:, :, :1]) - self.first_mean) @ self.first_basis / self.first_scale
            parts = [first]
            if frames > 1:
                later = (to_blocks(video[:, :, 1:]) - self.later_mean) @ self.later_basis / self.later_scale
                parts.append(later)
        return torch.cat(parts, dim=1).permute(0, 4, 1, 2, 3)

    def encode_image(self, image: Tensor) -> Tensor:
        """Compress one picture (b, 3, H, W) in [-1, 1] to latent frame 0, (b, c, 1, H/16, W/16)."""
        return self.encode(image.unsqueeze(2))

    def decode(self, latents: Tensor, encoded: int = 1) -> Tensor:
        """Expand latents (b, c, 1 + k, y, x) to video (b, 3, 1 + 8k, 16 y, 16 x) in [-1, 1].

        The first `encoded` latent frames were made by `encode`, the others sampled by a world model: 1 for a video
        that grows out of a picture, all for a reconstruction. The decoder keeps to encoded latents and draws
        plausible detail where sampled ones leave it open.
        """
        latents = latents.to(self.dtype)
        return self.refined(latents, self.linear_decode(latents), encoded).clamp(-1, 1)

    @torch.no_grad()
    def decode_chunk(self, latents: Tensor, state: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Decode the next chunk of a video that grows out of a picture; see `codecs.chunked.chunk_decoder`."""
        past = state.get("latents")
        encoded = int(state["encoded"]) if "encoded" in state else 1
        latents = latents.to(self.dtype)
        whole = latents if past is None else torch.cat([past, latents], dim=2)
        known = whole.shape[2] - latents.shape[2]
        video = self.refined(whole, self.linear_decode(latents, begins=past is None), encoded, known).clamp(-1, 1)
        # The trunk looks back one latent frame a block; one is kept in any case: it tells a later chunk from the first.
        kept = whole[:, :, -max(1, self.config.trunk_blocks) :]
        left = max(0, encoded - (whole.shape[2] - kept.shape[2]))
        return video, {"latents": kept.clone(), "encoded": torch.tensor(left)}

    def linear_decode(self, latents: Tensor, begins: bool = True) -> Tensor:
        """The pixels nearest to the latents in the span of the components, (b, 3, f, H, W).

        `begins` says whether the first latent frame is a video's first, which stands for one raw frame.
        """
        with torch.autocast(latents.device.type, enabled=False):
            cells = latents.float().to(self.first_basis.dtype).permute(0, 2, 3, 4, 1)
            video = []
            if begins:
                first = (cells[:, :1] * self.first_scale) @ self.first_basis.mT + self.first_mean
                video, cells = [from_blocks(first, 1)], cells[:, 1:]
            if cells.shape[1]:
                later = (cells * self.later_scale) @ self.later_basis.mT + self.later_mean
                video.append(from_blocks(later, TEMPORAL_STRIDE))
        return torch.cat(video, dim=2)

    def refined(self, latents: Tensor, linear: Tensor, encoded: int, known: int = 0) -> Tensor:
        """The linear reconstruction plus what the decoder has learned to add; not clamped. Arguments as in decode.

        The first `known` latent frames are looked back at only; `linear` is of the frames after them.
        """
        b, _, t, _, _ = latents.shape
        sampled = torch.arange(t, device=latents.device) >= encoded
        begins = int(known == 0)
        new = sampled[known:]
        per_frame = torch.cat([new[:begins], new[begins:].repeat_interleave(TEMPORAL_STRIDE)])
        trunk, coarse, fine = self.origins
        x = trunk(self.from_latent(_last(latents.transpose(1, 2).flatten(0, 1))), sampled)
        for block in self.trunk:
            x = block(x, t)
        x = x.unflatten(0, (b, t))[:, known:]
        parts = [F.pixel_shuffle(self.split_first(x[:, 0]), 2).unsqueeze(1)] if begins else []
        if x.shape[1] > begins:
            later = self.split_later(x[:, begins:].flatten(0, 1)).unflatten(1, (TEMPORAL_STRIDE, -1))
            parts.append(F.pixel_shuffle(later.flatten(0, 1), 2).unflatten(0, (b, -1)))
        x = self.coarse(coarse(_last(torch.cat(parts, dim=1).flatten(0, 1)), per_frame))
        seen = F.pixel_unshuffle(linear.transpose(1, 2).flatten(0, 1), _PATCH // 2)
        x = _last(F.pixel_shuffle(self.refine(x), 2) + self.see_linear(_last(seen)))
        x = self.fine(fine(x, per_frame))
        added = F.pixel_shuffle(self.frame_out(x), _PATCH // 2).unflatten(0, (b, -1)).transpose(1, 2)
        return linear + added


def to_blocks(video: Tensor) -> Tensor:
    """Video (b, 3, f, H, W) cut into cells (b, t, y, x, values); f is 1, or a multiple of 8 (8 frames a cell)."""
    f = 1 if video.shape[2] == 1 else TEMPORAL_STRIDE
    cells = video.unflatten(2, (-1, f)).unflatten(4, (-1, SPATIAL_STRIDE)).unflatten(6, (-1, SPATIAL_STRIDE))
    # (b, 3, t, f, y, i, x, j) -> (b, t, y, x, f, i, j, 3)
    return cells.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)


def from_blocks(cells: Tensor, frames: int) -> Tensor:
    """The inverse of to_blocks, with `frames` frames a cell."""
    cells = cells.unflatten(4, (frames, SPATIAL_STRIDE, SPATIAL_STRIDE, 3))
    return cells.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(2, 3).flatten(3, 4).flatten(4, 5)


def _last(x: Tensor) -> Tensor:
    """channels_last memory: convolutions on a CPU are about twice as fast in it."""
    return x.contiguous(memory_format=torch.channels_last)
